package prep

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

// decide cleans, splits, decontaminates, samples, balances and augments, in this order, so that copies are of training rows only and nothing
// of a held-out row comes into training.
func (m *planner) decide(ctx context.Context) error {
	if err := m.clean(ctx); err != nil {
		return err
	}
	if m.rep.Kept == 0 {
		return droppedAll(m.t, m.rep)
	}
	if err := m.split(ctx); err != nil {
		return err
	}
	if m.prep.Clean.Contamination > 0 {
		if err := m.decontaminate(ctx); err != nil {
			return err
		}
	}
	if m.prep.Sample != nil {
		if err := m.sample(ctx); err != nil {
			return err
		}
	}
	if m.prep.Augment != nil {
		return m.augment(ctx)
	}
	return nil
}

// clean reads the rows, repairs and filters each, and drops those that repeat others, that people dropped, or whose label is outvoted.
func (m *planner) clean(ctx context.Context) (err error) {
	spec, dir, seed := &m.prep.Clean, m.t.Dir, m.t.Spec.Seed
	m.rep = clean.NewReport()
	rows, err := clean.NewStream(*spec, seed, m.rep)
	if err != nil {
		return err
	}
	if m.kept, err = data.NewRowFile(dir, 1<<20); err != nil {
		return err
	}
	reviewed, err := readVerdicts(ctx, m.t, spec)
	if err != nil {
		return err
	}
	if m.across, err = newAcross(dir, spec, seed, reviewed, m.rep); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.across.close()) }()
	placed := m.prep.Split.PermuteLabels || m.prep.Sample != nil && m.prep.Sample.Balance != ""
	err = m.read(ctx, func(r *data.Row) error {
		name := m.across.name(r)
		if !rows.Row(r) {
			return nil
		}
		r.Index = int(m.kept.Len())
		m.across.review(r.Index, name, r)
		if rows.Dedup() {
			if err := m.across.key(r.Index, r); err != nil {
				return err
			}
		}
		if err := m.across.compare(r); err != nil {
			return err
		}
		if placed {
			m.offsets = append(m.offsets, m.kept.Offset())
		}
		return m.kept.Add(r)
	})
	if err != nil {
		return err
	}
	if _, _, err := m.kept.Finish(); err != nil {
		return err
	}
	return m.across.decide()
}

// left gives the rows of the file that are left, by their places, with split and labels as far as they are decided.
func (m *planner) left(ctx context.Context, f func(at int, r *data.Row) error) error {
	at := -1
	return data.EachStoredRow(m.kept.Reader(), "scratch file", func(r *data.Row) error {
		if at++; m.across.dropped(at) {
			return nil
		}
		if err := m.decided(at, r); err != nil {
			return err
		}
		if err := m.advance(ctx); err != nil {
			return err
		}
		return f(at, r)
	})
}

// decided gives a row the split, and the labels of the row that it takes them from.
func (m *planner) decided(at int, r *data.Row) error {
	if m.splits != nil {
		r.Split = data.SplitName(m.splits[at])
	}
	if m.from == nil || m.from[at] < 0 {
		return nil
	}
	other, err := m.kept.At(m.offsets[m.from[at]])
	if err != nil {
		return err
	}
	r.Label, r.Response, r.Explanation = other.Label, other.Response, other.Explanation
	return nil
}

// each gives all rows in their order, numbered anew: what is left, then the copies.
func (m *planner) each(ctx context.Context, f func(*data.Row) error) error {
	n := 0
	give := func(r *data.Row) error {
		r.Index = n
		n++
		return f(r)
	}
	if err := m.left(ctx, func(_ int, r *data.Row) error { return give(r) }); err != nil {
		return err
	}
	for _, x := range m.extra {
		err := data.EachStoredRow(x.Reader(), "scratch file", func(r *data.Row) error { return cmp.Or(m.advance(ctx), give(r)) })
		if err != nil {
			return err
		}
	}
	return nil
}

// copies opens a file of copies; the function that is returned ends it.
func (m *planner) copies() (*data.RowFile, func() error, error) {
	f, err := data.NewRowFile(m.t.Dir, 1<<20)
	if err != nil {
		return nil, nil, err
	}
	return f, func() error {
		_, _, err := f.Finish()
		m.extra = append(m.extra, f)
		return err
	}, nil
}

func (m *planner) isTrain(at int) bool { return data.SplitName(m.splits[at]) == "train" }

// split assigns the rows to splits, and permutes labels where that is asked for.
func (m *planner) split(ctx context.Context) (err error) {
	s := data.NewSplitter(m.t.Dir, m.prep.Split, m.t.Spec.Seed)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := m.left(ctx, func(_ int, r *data.Row) error { return s.Add(r) }); err != nil {
		return err
	}
	dense, err := s.Splits()
	if err != nil {
		return err
	}
	m.splits = make([]uint8, m.kept.Len())
	n := 0
	for at := range m.splits {
		if !m.across.dropped(at) {
			m.splits[at] = dense[n]
			n++
		}
	}
	if m.prep.Split.PermuteLabels {
		return m.permute(ctx)
	}
	return nil
}

// permute gives training rows each other's labels: the control experiment.
func (m *planner) permute(ctx context.Context) (err error) {
	order := extsort.New(m.t.Dir, 16, sortedInMemory)
	defer func() { err = errors.Join(err, order.Close()) }()
	var train []int32
	err = m.left(ctx, func(at int, r *data.Row) error {
		if !m.isTrain(at) {
			return nil
		}
		train = append(train, int32(at))
		record := binary.BigEndian.AppendUint64(nil, data.PermutationKey(r, m.t.Spec.Seed))
		return order.Add(binary.BigEndian.AppendUint64(record, uint64(at)))
	})
	if err != nil {
		return err
	}
	m.from = make([]int32, m.kept.Len())
	for i := range m.from {
		m.from[i] = -1
	}
	k := 0
	return order.Each(func(r []byte) error {
		m.from[train[k]] = int32(binary.BigEndian.Uint64(r[8:]))
		k++
		return nil
	})
}

// decontaminate drops the training rows that are similar to one that was held out.
func (m *planner) decontaminate(ctx context.Context) (err error) {
	f, err := minhash.NewSpilled(m.t.Dir, m.prep.Clean.Contamination, m.prep.Clean.Shingle, m.t.Spec.Seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	for _, train := range []bool{false, true} {
		err := m.left(ctx, func(at int, r *data.Row) error {
			if m.isTrain(at) != train {
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
	// Matches come in the order of the training rows; t counts them, at is where they are.
	drop := m.across.drops(clean.Contaminated)
	at, t := -1, -1
	return f.Each(nil, func(x minhash.Match) error {
		for t < x.Row {
			if at++; !m.across.dropped(at) && m.isTrain(at) {
				t++
			}
		}
		return drop(at)
	})
}

// sample keeps some of the training rows, and repeats others.
func (m *planner) sample(ctx context.Context) error {
	s := m.prep.Sample
	c := labels.NewChoice(m.t.Spec.Seed)
	var places []int32 // of the training rows
	err := m.left(ctx, func(at int, r *data.Row) error {
		if m.isTrain(at) {
			c.Add(r)
			places = append(places, int32(at))
		}
		return nil
	})
	if err != nil {
		return err
	}
	c.Sample(s.MaxRows)
	repeated := c.Balance(s.Balance)
	for t, at := range places {
		if !c.Keeps(t) {
			m.across.drop(int(at))
			m.sampled--
		}
	}
	if len(repeated) == 0 {
		return nil
	}
	// Copies name the rows that they are of by their numbers.
	numbers, n, t := make([]int32, len(places)), int32(0), 0
	for at := range m.splits {
		gone := m.across.dropped(at)
		if t < len(places) && int(places[t]) == at {
			numbers[t] = n
			t++
		}
		if !gone {
			n++
		}
	}
	out, done, err := m.copies()
	if err != nil {
		return err
	}
	for _, t := range repeated {
		if err := m.advance(ctx); err != nil {
			return err
		}
		at := int(places[t])
		r, err := m.kept.At(m.offsets[at])
		if err == nil {
			err = m.decided(at, r)
		}
		if err != nil {
			return err
		}
		r.Origin = &data.Origin{Row: int(numbers[t]), Method: "oversample"}
		if err := out.Add(r); err != nil {
			return err
		}
		m.sampled++
	}
	return done()
}

// augment adds changed copies of the training rows.
func (m *planner) augment(ctx context.Context) error {
	a, err := newAugmenter(ctx, m.t)
	if err != nil {
		return err
	}
	words, seen := map[string]bool{}, map[string]bool{}
	err = m.each(ctx, func(r *data.Row) error {
		if !seen[r.Label] {
			seen[r.Label] = true
			a.LabelWords(words, r.Label)
		}
		return nil
	})
	if err != nil {
		return err
	}
	out, done, err := m.copies()
	if err != nil {
		return err
	}
	err = m.each(ctx, func(r *data.Row) error {
		if r.Split != "train" {
			return nil
		}
		for _, c := range a.Copies(r, words) {
			if err := out.Add(&c); err != nil {
				return err
			}
			m.augmented++
		}
		return nil
	})
	return errors.Join(err, done())
}
