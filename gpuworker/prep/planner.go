package prep

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

const (
	// openShares is for how many parts rows are dealt out at a time: each has an open file and a buffer.
	openShares = 128
	// shareBuffer is the buffer of such a file.
	shareBuffer = 64 << 10
	// sortedInMemory is how many keys of rows are sorted in memory at a time.
	sortedInMemory = 1 << 17
	// phaseRows is after how many rows the agent hears that a plan advances.
	phaseRows = 1 << 12
)

// planner reads the rows of a data set, decides on every one and deals them out to the parts.
//
// Rows stream through scratch files: beside buffers, memory holds one byte and one bit a row. Steps that look at all rows together (see whole)
// hold the rows themselves in memory, once, in the part that makes the plan.
type planner struct {
	t    *consume.Task
	prep *schemas.PrepStage
	bad  source.Bad
	// kept are the rows that cleaning left, before duplicates are dropped; gone has a bit for each that is one, or contaminated.
	kept   *data.RowFile
	gone   []uint64
	splits []uint8
	rep    *clean.Report
	// all are the rows where they had to be looked at together.
	all []data.Row
	// phase counts what was done for phaseRows.
	phase int64
}

func (m *planner) close() error {
	if m.kept == nil {
		return nil
	}
	return m.kept.Close()
}

// advance tells the agent about one more row.
func (m *planner) advance(ctx context.Context, name string) error {
	if m.phase++; m.phase%phaseRows != 0 {
		return nil
	}
	m.t.Phase(name, m.phase, 0)
	return ctx.Err()
}

// whole reports whether a step looks at all rows together.
func whole(p *schemas.PrepStage) bool {
	return clean.NeedsAll(&p.Clean) || p.Sample != nil || p.Augment != nil || p.Split.PermuteLabels
}

// deal makes the plan.
func (m *planner) deal(ctx context.Context, p *plan) error {
	h := &p.planHead
	h.Version = 1
	if whole(m.prep) {
		if err := m.together(ctx, h); err != nil {
			return err
		}
	} else if err := m.stream(ctx, h); err != nil {
		return err
	}
	if m.bad.Skipped > 0 {
		h.Counters["bad_rows"] = m.bad.Skipped
	}
	h.Bad = m.bad.Quarantined
	h.Shares = map[string][]planShare{}
	for _, split := range splits(m.prep) {
		h.Shares[split] = make([]planShare, m.prep.Parts)
	}
	for first := 0; first < m.prep.Parts; first += openShares {
		if err := m.share(ctx, p, first, min(m.prep.Parts, first+openShares)); err != nil {
			return err
		}
	}
	if m.prep.Parts == 1 {
		return nil
	}
	key, err := planKey(m.t, "plan.json")
	if err != nil {
		return err
	}
	body, err := json.Marshal(h)
	if err != nil {
		return fmt.Errorf("cannot encode the plan: %w", err)
	}
	if _, err := m.t.Objects.Put(ctx, key, body, store.Condition{}); err != nil {
		return fmt.Errorf("cannot store the plan: %w", err)
	}
	return nil
}

// together decides with all rows in memory.
func (m *planner) together(ctx context.Context, h *planHead) error {
	err := m.read(ctx, func(r *data.Row) error {
		m.all = append(m.all, *r)
		return nil
	})
	if err != nil {
		return err
	}
	c, err := decide(ctx, m.t, m.all)
	if err != nil {
		return err
	}
	m.all = c.rows
	h.Read, h.Kept, h.Counters = int64(c.report.Read), int64(len(c.rows)), c.counters()
	return nil
}

// stream decides row by row: repaired and filtered while they are read, duplicates found by sorting keys, splits by sorting groups.
func (m *planner) stream(ctx context.Context, h *planHead) (err error) {
	m.rep = clean.NewReport()
	cleaner, err := clean.NewStream(m.prep.Clean, m.t.Spec.Seed, m.rep)
	if err != nil {
		return err
	}
	if m.kept, err = data.NewRowFile(m.t.Dir, 1<<20); err != nil {
		return err
	}
	split := data.NewSplitter(m.t.Dir, m.prep.Split, m.t.Spec.Seed)
	defer func() { err = errors.Join(err, split.Close()) }()
	keys := extsort.New(m.t.Dir, 24, sortedInMemory)
	defer func() { err = errors.Join(err, keys.Close()) }()
	var near *minhash.Spilled
	if m.prep.Clean.NearDup > 0 {
		if near, err = minhash.NewSpilled(m.t.Dir, m.prep.Clean.NearDup, m.prep.Clean.Shingle, m.t.Spec.Seed); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, near.Close()) }()
	}
	err = m.read(ctx, func(r *data.Row) error {
		if !cleaner.Row(r, m.rep.Read) {
			return nil
		}
		r.Index = int(m.kept.Len())
		if cleaner.Dedup() {
			// Duplicates are told by 128 bits of the key.
			k := clean.Key(r)
			if err := keys.Add(binary.BigEndian.AppendUint64(k[:16:16], uint64(r.Index))); err != nil {
				return err
			}
		}
		if near != nil {
			if err := near.Add(clean.Compared(r)); err != nil {
				return err
			}
		}
		if near == nil && !cleaner.Dedup() {
			if err := split.Add(r); err != nil {
				return err
			}
		}
		return m.kept.Add(r)
	})
	if err != nil {
		return err
	}
	if _, _, err := m.kept.Finish(); err != nil {
		return err
	}
	if m.rep.Kept = int(m.kept.Len()); m.rep.Kept > 0 && (near != nil || cleaner.Dedup()) {
		if err := m.drop(keys, near); err != nil {
			return err
		}
		if err := m.each(ctx, split.Add); err != nil {
			return err
		}
	}
	if m.rep.Kept == 0 {
		return droppedAll(m.t, m.rep)
	}
	if m.splits, err = split.Splits(); err != nil {
		return err
	}
	if m.prep.Clean.Contamination > 0 {
		if err := m.decontaminate(ctx); err != nil {
			return err
		}
	}
	h.Read, h.Kept, h.Counters = int64(m.rep.Read), int64(m.rep.Kept), (&choice{report: m.rep}).counters()
	return nil
}

// drop marks exact duplicates, and near ones (nil: not looked for) among the rest.
func (m *planner) drop(keys *extsort.Sorter, near *minhash.Spilled) error {
	n, err := m.duplicates(keys)
	if err != nil {
		return err
	}
	m.count(clean.Duplicate, n)
	if near == nil {
		return nil
	}
	n = 0
	err = near.Each(m.isGone, func(x minhash.Match) error {
		m.gone[x.Row/64] |= 1 << (x.Row % 64)
		n++
		return nil
	})
	m.count(clean.NearDup, n)
	return err
}

// count reports n rows that are gone.
func (m *planner) count(reason string, n int64) {
	if m.rep.Kept -= int(n); n > 0 {
		m.rep.Dropped[reason] = int(n)
	}
}

func (m *planner) isGone(i int) bool { return m.gone != nil && m.gone[i/64]>>(i%64)&1 != 0 }

// decontaminate drops the training rows that are similar to one that was held out.
func (m *planner) decontaminate(ctx context.Context) (err error) {
	f, err := minhash.NewSpilled(m.t.Dir, m.prep.Clean.Contamination, m.prep.Clean.Shingle, m.t.Spec.Seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, train := range []bool{false, true} {
		err := m.each(ctx, func(r *data.Row) error {
			if (r.Split == "train") != train {
				return nil
			}
			return f.Add(clean.Compared(r))
		})
		if err == nil && !train {
			err = f.Others()
		}
		if err != nil {
			return err
		}
	}
	if m.gone == nil {
		m.gone = make([]uint64, (m.kept.Len()+63)/64)
	}
	// Matches come in the order of the training rows; i is where they are stored, n their place among those that are left, t among these.
	splits := make([]uint8, 0, len(m.splits))
	i, n, t, dropped := -1, -1, -1, int64(0)
	next := func() bool { // comes to the next training row
		for i++; i < int(m.kept.Len()); i++ {
			if m.isGone(i) {
				continue
			}
			if n++; data.SplitName(m.splits[n]) == "train" {
				t++
				return true
			}
			splits = append(splits, m.splits[n])
		}
		return false
	}
	err = f.Each(nil, func(x minhash.Match) error {
		for next() && t < x.Row {
			splits = append(splits, m.splits[n])
		}
		m.gone[i/64] |= 1 << (i % 64)
		dropped++
		return nil
	})
	for next() {
		splits = append(splits, m.splits[n])
	}
	m.splits = splits
	m.count(clean.Contaminated, dropped)
	return err
}

// duplicates marks every row with the key of an earlier one and returns their number.
func (m *planner) duplicates(keys *extsort.Sorter) (n int64, err error) {
	m.gone = make([]uint64, (m.kept.Len()+63)/64)
	var last []byte
	err = keys.Each(func(r []byte) error {
		if last != nil && bytes.Equal(last, r[:16]) {
			i := binary.BigEndian.Uint64(r[16:])
			m.gone[i/64] |= 1 << (i % 64)
			n++
		}
		last = append(last[:0], r[:16]...)
		return nil
	})
	return n, err
}

// each gives the rows that are left, numbered in their order and each with its split once that is known.
func (m *planner) each(ctx context.Context, f func(*data.Row) error) error {
	if m.kept == nil {
		for i := range m.all {
			if err := errors.Join(m.advance(ctx, "plan"), f(&m.all[i])); err != nil {
				return err
			}
		}
		return nil
	}
	n := 0
	return data.EachStoredRow(m.kept.Reader(), "scratch file", func(r *data.Row) error {
		if m.isGone(r.Index) {
			return nil
		}
		if r.Index = n; m.splits != nil {
			r.Split = data.SplitName(m.splits[n])
		}
		n++
		if err := m.advance(ctx, "plan"); err != nil {
			return err
		}
		return f(r)
	})
}

// share writes the rows of the parts in [from, to), stores them for others and keeps this part's.
func (m *planner) share(ctx context.Context, p *plan, from, to int) (err error) {
	files := map[string][]*data.RowFile{}
	defer func() {
		for _, list := range files {
			for _, f := range list {
				if f != nil {
					err = errors.Join(err, f.Close())
				}
			}
		}
	}()
	for _, split := range splits(m.prep) {
		for range to - from {
			f, err := data.NewRowFile(m.t.Dir, shareBuffer)
			if err != nil {
				return err
			}
			files[split] = append(files[split], f)
		}
	}
	next := map[string]int{}
	err = m.each(ctx, func(r *data.Row) error {
		list := files[r.Split]
		if list == nil {
			return nil
		}
		part := next[r.Split] % m.prep.Parts
		next[r.Split]++
		if part < from || part >= to {
			return nil
		}
		return list[part-from].Add(r)
	})
	if err != nil {
		return err
	}
	for split, list := range files {
		for i, f := range list {
			size, sum, err := f.Finish()
			if err != nil {
				return err
			}
			s := &p.Shares[split][from+i]
			if s.Rows = f.Len(); s.Rows == 0 {
				continue
			}
			if m.prep.Parts > 1 {
				name := fmt.Sprintf("%s-%05d", split, from+i)
				if s.Object, err = m.upload(ctx, name, f, size, sum); err != nil {
					return err
				}
			}
			if from+i == p.part {
				p.own[split], list[i] = f, nil
			}
		}
	}
	return nil
}

func (m *planner) upload(ctx context.Context, name string, f *data.RowFile, size int64, sum string) (schemas.Object, error) {
	key, err := planKey(m.t, name)
	if err != nil {
		return schemas.Object{}, err
	}
	m.t.Phase(consume.PhaseCommit, 0, size)
	if err := m.t.Objects.Upload(ctx, key, f.Reader(), size); err != nil {
		return schemas.Object{}, fmt.Errorf("cannot store the rows of a part: %w", err)
	}
	return schemas.Object{Name: name, Key: key, Bytes: size, SHA256: sum}, nil
}

// read gives every row of the data files, in the order of the spec.
func (m *planner) read(ctx context.Context, f func(*data.Row) error) error {
	if m.prep.Data.URI != "" {
		return schemas.Errorf(schemas.CodeUnsupported, m.prep.Data.URI, "data of another stage cannot be read yet").WithHint("give data files")
	}
	var total, done int64
	for _, file := range m.prep.Data.Files {
		total += file.Bytes
	}
	if total == 0 {
		return schemas.Errorf(schemas.CodeData, m.t.Stage.Name, "the data set is empty")
	}
	n := 0
	for _, file := range m.prep.Data.Files {
		if err := m.readFile(ctx, file, &n, f); err != nil {
			return err
		}
		done += file.Bytes
		m.t.Phase(consume.PhaseLoad, done, total)
	}
	return nil
}

func (m *planner) readFile(ctx context.Context, file schemas.File, n *int, f func(*data.Row) error) (err error) {
	local, err := fetchInput(ctx, m.t, file)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, local.Close(), os.Remove(local.Name())) }()
	in := data.File{Name: file.Path, Format: m.prep.Format, Dir: m.t.Dir, In: local, Size: file.Bytes}
	return data.EachRecord(ctx, in, &m.bad, func(rec data.Record) error {
		r, err := rec.Row(m.prep.Columns)
		if err != nil {
			return err
		}
		r.Index = *n
		*n++
		if err := m.advance(ctx, "plan"); err != nil {
			return err
		}
		return f(&r)
	})
}
