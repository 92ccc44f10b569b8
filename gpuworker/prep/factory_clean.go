package prep

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// cleaning is the cleaning of some sets together, so that a row which repeats another set's is found. Repaired rows lie in scratch files. Memory holds
// what across does, and the labels that people set.
type cleaning struct {
	c        *curator
	spec     schemas.CleanSpec
	first, n int
	// repaired are the sets' rows, all of them, also those that no converter takes; ids count over them.
	repaired []*source.Spool
	ids      int
	read     int
	stream   *clean.Stream
	across   *across // of all ids, with empty rows for those that are gone already
	rep      *clean.Report
	labels   map[int]string // that people set
}

// clean cleans the sets from the first-th on together.
func (c *curator) clean(ctx context.Context, first, n int) (err error) {
	if n == 0 || reflect.ValueOf(c.prep.Clean).IsZero() {
		return nil
	}
	k := &cleaning{c: c, spec: c.prep.Clean, first: first, n: n, rep: clean.NewReport(), labels: map[int]string{}}
	defer func() {
		for _, s := range k.repaired {
			err = errors.Join(err, s.Close())
		}
		if k.across != nil {
			err = errors.Join(err, k.across.close())
		}
	}()
	before := c.rep.Changed
	changed, err := k.repair(ctx)
	if err != nil {
		return err
	}
	c.rep.Changed = before + changed
	if err := k.across.decide(); err != nil {
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
	var reviewed *clean.Verdicts
	if k.first == 0 {
		if reviewed, err = readVerdicts(ctx, c.t, &k.spec); err != nil {
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
	if k.across, err = newAcross(c.t.Dir, &k.spec, c.t.Spec.Seed, reviewed, k.rep); err != nil {
		return 0, err
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
				if reviewed != nil {
					seen := x.row(0, false)
					name = k.across.name(&seen) // before it is repaired
				}
				if x.repair(repair) {
					changed++
				}
				x.convert() // it converted before, and texts are still texts
				if r, err = k.judge(x, name); err != nil {
					return changed, err
				}
			}
			if err := k.across.compare(&r); err != nil {
				return changed, err
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
		k.across.drop(k.ids)
		return data.Row{}, nil
	}
	before := r.Label
	if k.across.review(k.ids, name, &r); r.Label != before {
		k.labels[k.ids] = r.Label
	}
	if !k.stream.Dedup() {
		return r, nil
	}
	return r, k.across.key(k.ids, &r)
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
			if id++; k.across.dropped(id - 1) {
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
