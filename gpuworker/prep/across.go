package prep

import (
	"bytes"
	"encoding/binary"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/schemas"
)

// across drops rows for what other rows, or people, say: those that repeat one, are near one, are outvoted, or were dropped in a review. Rows have
// numbers from 0 on, in the order in which they come: review, key and compare each (as far as it is to be judged so), then decide once. Memory
// holds a bit a row, what minhash.Spilled does, 4 bytes a row where labels are judged, and what people decided; the rest lies in scratch files
// until close.
type across struct {
	rep *clean.Report
	// gone has a bit for each row that is dropped, up to the last one.
	gone []uint64
	keys *extsort.Sorter
	// near and votes are nil where near duplicates are not looked for and labels not judged.
	near  *minhash.Spilled
	votes *clean.Consensus
	// reviewed is what people decided (nil: nothing), verdicts that on rows that are there.
	reviewed *clean.Verdicts
	verdicts map[int]verdict
}

// verdict is what people decided on a row: it goes, or has got another label.
type verdict struct{ drop, relabelled bool }

// newAcross prepares what the spec asks for, with scratch files in dir. The report counts what decide drops.
func newAcross(dir string, spec *schemas.CleanSpec, seed uint64, reviewed *clean.Verdicts, rep *clean.Report) (*across, error) {
	a := &across{rep: rep, keys: extsort.New(dir, 24, sortedInMemory), reviewed: reviewed, verdicts: map[int]verdict{}}
	var err error
	if spec.NearDup > 0 {
		a.near, err = minhash.NewSpilled(dir, spec.NearDup, spec.Shingle, seed)
	}
	if err == nil && spec.Mislabelled == "drop" {
		a.votes, err = clean.NewConsensus(dir, seed)
	}
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	return a, nil
}

// close removes the scratch files; which rows are gone is known further on.
func (a *across) close() error {
	err := a.keys.Close()
	if a.near != nil {
		err = errors.Join(err, a.near.Close())
	}
	if a.votes != nil {
		err = errors.Join(err, a.votes.Close())
	}
	return err
}

// name is what reviewers knew a row by, as it was in the file; "" without a review.
func (a *across) name(r *data.Row) string {
	if a.reviewed == nil {
		return ""
	}
	return clean.RowID(r)
}

// review notes what people decided on a row, by its name, and gives it their label.
func (a *across) review(id int, name string, r *data.Row) {
	if a.reviewed == nil {
		return
	}
	drop, label := a.reviewed.Judge(name, r.Label)
	if drop || label != r.Label {
		a.verdicts[id] = verdict{drop, label != r.Label}
	}
	r.Label = label
}

// key lets a row be compared with those of the same key, of which 128 bits tell them apart.
func (a *across) key(id int, r *data.Row) error {
	k := clean.Key(r)
	return a.keys.Add(binary.BigEndian.AppendUint64(k[:16:16], uint64(id)))
}

// compare takes the next row for near duplicates and votes. They count rows by themselves: every number up to the last has to come, one that is dropped
// already as an empty row, which is like no other.
func (a *across) compare(r *data.Row) error {
	if a.near != nil {
		if err := a.near.Add(clean.Compared(r)); err != nil {
			return err
		}
	}
	if a.votes != nil {
		return a.votes.Add(r)
	}
	return nil
}

// drop marks a row as gone.
func (a *across) drop(id int) {
	for id/64 >= len(a.gone) {
		a.gone = append(a.gone, 0)
	}
	a.gone[id/64] |= 1 << (id % 64)
}

func (a *across) dropped(id int) bool { return id/64 < len(a.gone) && a.gone[id/64]>>(id%64)&1 != 0 }

// drops returns a function that drops rows for a reason; it does not fail.
func (a *across) drops(reason string) func(id int) error {
	return func(id int) error {
		a.drop(id)
		a.rep.Drop(reason, 1)
		return nil
	}
}

// decide drops exact duplicates, near ones among the rest, rows by people's word, and those that are outvoted.
func (a *across) decide() error {
	if err := a.duplicates(); err != nil {
		return err
	}
	if a.near != nil {
		drop := a.drops(clean.NearDup)
		if err := a.near.Each(a.dropped, func(m minhash.Match) error { return drop(m.Row) }); err != nil {
			return err
		}
	}
	for id, v := range a.verdicts {
		switch {
		case a.dropped(id):
		case v.drop:
			_ = a.drops(clean.Reviewed)(id)
		case v.relabelled:
			a.rep.Relabelled++
		}
	}
	if a.votes == nil {
		return nil
	}
	return a.votes.Each(a.dropped, a.drops(clean.Mislabelled))
}

// duplicates drops every row with the key of an earlier one.
func (a *across) duplicates() error {
	var last []byte
	drop := a.drops(clean.Duplicate)
	return a.keys.Each(func(r []byte) error {
		if last != nil && bytes.Equal(last, r[:16]) {
			if err := drop(int(binary.BigEndian.Uint64(r[16:]))); err != nil {
				return err
			}
		}
		last = append(last[:0], r[:16]...)
		return nil
	})
}
