package prep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
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
// Rows stream through scratch files. Beside buffers, and what minhash.Spilled holds, memory has a byte and a bit a row; 4 bytes more where labels
// are judged, 8 where rows are repeated or labels permuted, 12 where they are permuted, 24 where rows are sampled.
type planner struct {
	t    *consume.Task
	prep *schemas.PrepStage
	bad  source.Bad
	rep  *clean.Report
	// kept are the rows that the steps of each row left, by their places; across tells which of them were dropped later. splits are theirs,
	// once they are known.
	kept   *data.RowFile
	across *across
	splits []uint8
	// offsets are where the rows begin in the file, from where the labels of each come (-1: its own); nil where they are not needed.
	offsets []int64
	from    []int32
	// extra are files of copies, which stand behind all rows.
	extra []*data.RowFile
	// sampled is by how many rows sampling and balancing changed the training split, augmented how many copies were added.
	sampled, augmented int
	// phase counts what was done for phaseRows.
	phase int64
}

func (m *planner) close() (err error) {
	for _, f := range append(m.extra, m.kept) {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// advance tells the agent about one more row.
func (m *planner) advance(ctx context.Context) error {
	if m.phase++; m.phase%phaseRows != 0 {
		return nil
	}
	m.t.Phase("plan", m.phase, 0)
	return ctx.Err()
}

// deal makes the plan.
func (m *planner) deal(ctx context.Context, p *plan) error {
	h := &p.planHead
	h.Version = 1
	if err := m.decide(ctx); err != nil {
		return err
	}
	h.Read, h.Kept, h.Counters = int64(m.rep.Read), int64(m.rep.Kept+m.sampled+m.augmented), m.rep.Counters()
	h.Counters["sampled_rows"], h.Counters["augmented_rows"] = int64(m.sampled), int64(m.augmented)
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
	before, first := *n, error(nil)
	err = data.EachRecord(ctx, in, &m.bad, func(rec data.Record) error {
		r, err := rec.Row(m.prep.Columns)
		if err != nil {
			if first == nil {
				first = err
			}
			return m.unmapped(&rec, err)
		}
		r.Index = *n
		*n++
		if err := m.advance(ctx); err != nil {
			return err
		}
		return f(&r)
	})
	if err == nil && *n == before && first != nil {
		return fmt.Errorf("no row of %s can be used: %w", file.Path, first) // columns that no row has are a mistake of the configuration
	}
	return err
}

// unmapped applies on_bad_row to a row that has no value for the columns of the configuration: nil when it is left out.
func (m *planner) unmapped(rec *data.Record, err error) error {
	var told *schemas.ErrorInfo
	if m.bad.Policy == "" || m.bad.Policy == source.PolicyFail || !errors.As(err, &told) || told.Code != schemas.CodeData {
		return err
	}
	text, merr := json.Marshal(rec.Fields)
	if merr != nil {
		return fmt.Errorf("cannot keep a bad row: %w", merr)
	}
	return m.bad.Take(&source.BadRowError{Place: rec.Place, Reason: told.Message, Text: string(text)})
}
