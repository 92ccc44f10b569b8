package prep

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"reflect"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// cleaning is the cleaning of some sets together, so that a row which repeats another set's is found. Repaired rows lie in scratch files. Memory holds
// a bit a row, what minhash.Spilled does, and 4 bytes a row where labels are judged.
type cleaning struct {
	c        *curator
	spec     schemas.CleanSpec
	first, n int
	// repaired are the sets' rows, all of them, also those that no converter takes; ids count over them.
	repaired []*source.Spool
	ids      int
	gone     []uint64
	read     int
	stream   *clean.Stream
	keys     *extsort.Sorter
	near     *minhash.Spilled // of all ids, with "" for those that are gone already
	votes    *clean.Consensus // of all ids, too
	rep      *clean.Report
	// review has people's decisions (nil: none), verdicts are those on rows that are there, labels what they set.
	review   *clean.Verdicts
	verdicts map[int]verdict
	labels   map[int]string
}

// drop marks a row as gone.
func (k *cleaning) drop(id int) {
	for id/64 >= len(k.gone) {
		k.gone = append(k.gone, 0)
	}
	k.gone[id/64] |= 1 << (id % 64)
}

func (k *cleaning) dropped(id int) bool { return id/64 < len(k.gone) && k.gone[id/64]>>(id%64)&1 != 0 }

// clean cleans the sets from the first-th on together.
func (c *curator) clean(ctx context.Context, first, n int) (err error) {
	if n == 0 || reflect.ValueOf(c.prep.Clean).IsZero() {
		return nil
	}
	k := &cleaning{c: c, spec: c.prep.Clean, first: first, n: n, rep: clean.NewReport(), verdicts: map[int]verdict{}, labels: map[int]string{}}
	defer func() {
		for _, s := range k.repaired {
			err = errors.Join(err, s.Close())
		}
		if k.keys != nil {
			err = errors.Join(err, k.keys.Close())
		}
		if k.near != nil {
			err = errors.Join(err, k.near.Close())
		}
		if k.votes != nil {
			err = errors.Join(err, k.votes.Close())
		}
	}()
	before := c.rep.Changed
	changed, err := k.repair(ctx)
	if err != nil {
		return err
	}
	c.rep.Changed = before + changed
	if err := k.judged(); err != nil {
		return err
	}
	if k.rep.Kept == 0 && k.read > 0 {
		return schemas.Errorf(schemas.CodeData, c.t.Stage.Name, "cleaning dropped all %d rows", k.read).WithHint("dropped: %s", k.rep.Summary())
	}
	c.rep.Read += k.rep.Read
	c.rep.Kept += k.rep.Kept
	c.rep.Relabelled += k.rep.Relabelled
	for reason, v := range k.rep.Dropped {
		c.rep.Dropped[reason] += v
	}
	return k.rewrite(ctx)
}

// repair reads every row, repairs its texts and stores it. Rows are judged as they come where no step looks at all of them together.
func (k *cleaning) repair(ctx context.Context) (changed int, err error) {
	c := k.c
	repair, err := clean.NewRepairer(k.spec, c.t.Spec.Seed, c.rep)
	if err != nil {
		return 0, err
	}
	if k.first == 0 {
		if k.review, err = readVerdicts(ctx, c.t, &k.spec); err != nil {
			return 0, err
		}
	}
	// What is repaired already is not repaired again.
	k.spec.Normalize, k.spec.Boilerplate = false, false
	if k.spec.PII != "drop" {
		k.spec.PII = ""
	}
	if k.stream, err = clean.NewStream(k.spec, c.t.Spec.Seed, k.rep); err != nil {
		return 0, err
	}
	k.keys = extsort.New(c.t.Dir, 24, sortedInMemory)
	if k.spec.NearDup > 0 {
		if k.near, err = minhash.NewSpilled(c.t.Dir, k.spec.NearDup, k.spec.Shingle, c.t.Spec.Seed); err != nil {
			return 0, err
		}
	}
	if k.spec.Mislabelled == "drop" {
		if k.votes, err = clean.NewConsensus(c.t.Dir, c.t.Spec.Seed); err != nil {
			return 0, err
		}
	}
	for set := k.first; set < k.first+k.n; set++ {
		if r := c.plan.sets[set].remote; r != nil {
			if err := r.fetch(c.t.Dir); err != nil {
				return changed, err
			}
		}
		spool, err := source.NewSpool(c.t.Dir)
		if err != nil {
			return changed, err
		}
		k.repaired = append(k.repaired, spool)
		for i := range c.plan.sets[set].len() {
			if err := ctx.Err(); err != nil {
				return changed, err
			}
			x, ok, err := c.read(source.Pick{Set: int32(set), Row: int32(i)})
			if err != nil {
				return changed, err
			}
			r := data.Row{} // like no other
			if ok {
				name := ""
				if k.review != nil {
					seen := x.row(0, false)
					name = clean.RowID(&seen) // of the row as reviewers saw it
				}
				if x.repair(repair) {
					changed++
				}
				x.convert() // it converted before, and texts are still texts
				if r, err = k.judge(x, name); err != nil {
					return changed, err
				}
			}
			if k.near != nil {
				if err := k.near.Add(clean.Compared(&r)); err != nil {
					return changed, err
				}
			}
			if k.votes != nil {
				if err := k.votes.Add(&r); err != nil {
					return changed, err
				}
			}
			if err := x.store(spool); err != nil {
				return changed, err
			}
			k.ids++
		}
		if err := spool.Flush(); err != nil {
			return changed, err
		}
	}
	return changed, nil
}

// judge decides about a row by itself and returns what is compared with other rows: nothing of a row that goes.
func (k *cleaning) judge(x *conversation, name string) (data.Row, error) {
	r := x.row(k.ids, k.c.labelled())
	r.Group = "" // which is its number
	k.read++
	if !k.stream.Row(&r) {
		k.drop(k.ids)
		return data.Row{}, nil
	}
	if k.review != nil {
		drop, label := k.review.Judge(name, r.Label)
		if drop || label != r.Label {
			k.verdicts[k.ids] = verdict{drop, label != r.Label}
		}
		if label != r.Label {
			r.Label, k.labels[k.ids] = label, label
		}
	}
	if !k.stream.Dedup() {
		return r, nil
	}
	key := clean.Key(&r) // 128 bits of it tell duplicates
	return r, k.keys.Add(binary.BigEndian.AppendUint64(key[:16:16], uint64(k.ids)))
}

// drops returns a function that drops rows for a reason.
func (k *cleaning) drops(reason string) func(id int) error {
	return func(id int) error {
		k.drop(id)
		k.rep.Drop(reason, 1)
		return nil
	}
}

// judged drops what repeats other rows, what people dropped, and what is outvoted.
func (k *cleaning) judged() error {
	if err := errors.Join(k.duplicates(), k.nearDuplicates()); err != nil {
		return err
	}
	for id, v := range k.verdicts {
		switch {
		case k.dropped(id):
		case v.drop:
			_ = k.drops(clean.Reviewed)(id) // marking does not fail
		case v.relabelled:
			k.rep.Relabelled++
		}
	}
	if k.votes == nil {
		return nil
	}
	return k.votes.Each(k.dropped, k.drops(clean.Mislabelled))
}

// nearDuplicates drops every row that is similar to an earlier one that is kept.
func (k *cleaning) nearDuplicates() error {
	if k.near == nil {
		return nil
	}
	drop := k.drops(clean.NearDup)
	return k.near.Each(k.dropped, func(m minhash.Match) error { return drop(m.Row) })
}

// duplicates drops every row with the key of an earlier one.
func (k *cleaning) duplicates() error {
	var last []byte
	drop := k.drops(clean.Duplicate)
	return k.keys.Each(func(r []byte) error {
		if last != nil && bytes.Equal(last, r[:16]) {
			if err := drop(int(binary.BigEndian.Uint64(r[16:]))); err != nil {
				return err
			}
		}
		last = append(last[:0], r[:16]...)
		return nil
	})
}

// rewrite makes the sets anew of the rows that are kept and of those that could not be converted, in their order.
func (k *cleaning) rewrite(ctx context.Context) error {
	c, id := k.c, 0
	for i, from := range k.repaired {
		into, err := source.NewSpool(c.t.Dir)
		if err != nil {
			return err
		}
		old := &c.plan.sets[k.first+i]
		if err := old.close(); err != nil {
			return errors.Join(err, into.Close())
		}
		*old = factorySet{set: old.set, spool: into, shapes: old.shapes}
		for row := range from.Len() {
			if err := ctx.Err(); err != nil {
				return err
			}
			if id++; k.dropped(id - 1) {
				continue
			}
			r, err := from.Row(row)
			if err != nil {
				return err
			}
			if label, ok := k.labels[id-1]; ok {
				if r, err = relabel(r, old.set, label); err != nil {
					return err
				}
			}
			if err := into.Append(r); err != nil {
				return err
			}
		}
		if err := into.Flush(); err != nil {
			return err
		}
	}
	return nil
}

// relabel sets the only answer of a row.
func relabel(r source.Row, set *schemas.DataSet, label string) (source.Row, error) {
	o, err := pyjson.ParseObject(string(r.Raw))
	if err != nil {
		return r, schemas.Errorf(schemas.CodeData, r.Place, "%v", err)
	}
	x := &conversation{raw: o, attr: attrOf(set), place: r.Place}
	x.answer(label)
	r.Raw = json.RawMessage(pyjson.Dumps(x.raw))
	return r, nil
}
