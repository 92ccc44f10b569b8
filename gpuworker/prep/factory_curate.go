package prep

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/labels"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// curator cleans, samples and augments the conversations of a LLaMA-Factory preparation. Texts are changed in the rows themselves, before
// converters see them; what is compared, filtered and balanced is the conversation as one text.
type curator struct {
	t    *consume.Task
	prep *schemas.PrepStage
	plan *factoryPlan
	rep  *clean.Report
	// sampled is by how many rows sampling changed the training rows, augmented how many copies were added.
	sampled, augmented int
}

// curates reports whether a stage cleans, samples or augments.
func curates(p *schemas.PrepStage) bool {
	return !reflect.ValueOf(p.Clean).IsZero() || p.Sample != nil || p.Augment != nil
}

// labelled reports whether short answers are taken for labels.
func (c *curator) labelled() bool {
	s := c.prep.Clean
	return len(s.Labels) > 0 || s.Mislabelled != "" || s.Review != nil || c.prep.Sample != nil
}

// maxLabel is the longest answer, in bytes, that is taken for a label.
const maxLabel = 100

// conversation is one row of a set.
type conversation struct {
	raw  *pyjson.Object
	attr *align.Attr
	// place is the row's own; set and example are what it was read from and converted to.
	place   string
	set     int
	example process.Example
}

// read converts a row; false for one that converters refuse, which stays as it is.
func (c *curator) read(k source.Pick) (*conversation, bool, error) {
	s := &c.plan.sets[k.Set]
	row, err := s.spool.Row(s.at(k.Row))
	if err != nil {
		return nil, false, err
	}
	x := &conversation{attr: attrOf(s.set), place: row.Place, set: int(k.Set)}
	if x.raw, err = pyjson.ParseObject(string(row.Raw)); err != nil {
		return nil, false, schemas.Errorf(schemas.CodeData, row.Place, "%v", err)
	}
	return x, x.convert(), nil
}

// attrOf says how the rows of a set are read.
func attrOf(s *schemas.DataSet) *align.Attr {
	return &align.Attr{Formatting: s.Formatting, Ranking: s.Ranking, Columns: s.Columns, Tags: s.Tags}
}

func (x *conversation) convert() bool {
	r, err := align.Convert(x.raw, x.attr)
	if err != nil {
		return false
	}
	e, err := r.Example()
	if err != nil {
		return false
	}
	x.example = *e
	return true
}

// row is the conversation as cleaning compares it: the turns before the answer as the prompt, the answers behind.
func (x *conversation) row(id int, labelled bool) data.Row {
	var prompt, answer []string
	for _, m := range x.example.Prompt {
		prompt = append(prompt, m.Content)
	}
	for _, m := range x.example.Response {
		answer = append(answer, m.Content)
	}
	r := data.Row{Index: id, Group: strconv.Itoa(id), System: x.example.System, Prompt: strings.Join(prompt, "\n"), Response: strings.Join(answer, "\n")}
	if labelled && len(answer) == 1 && len(answer[0]) <= maxLabel && !strings.Contains(answer[0], "\n") {
		r.Label, r.Response = answer[0], ""
	}
	return r
}

// repair changes every text of the row: contents, not names of roles.
func (x *conversation) repair(f func(string) string) (changed bool) {
	one := func(s string) string {
		n := f(s)
		changed = changed || n != s
		return n
	}
	for _, role := range []string{"prompt", "query", "response", "system", "chosen", "rejected", "history", "messages"} {
		name := x.attr.Columns[role]
		if name == "" {
			continue
		}
		if v, ok := x.raw.Get(name); ok {
			x.raw.Set(name, mapTexts(v, x.attr.Tags["content_tag"], one))
		}
	}
	return changed
}

// mapTexts changes texts, lists of texts, and the contents of messages.
func mapTexts(v any, content string, f func(string) string) any {
	switch v := v.(type) {
	case string:
		return f(v)
	case []any:
		for i := range v {
			v[i] = mapTexts(v[i], content, f)
		}
	case *pyjson.Object:
		if s, ok := v.Value(content).(string); ok {
			v.Set(content, f(s))
		}
	}
	return v
}

// question finds the text that the last user's turn has, and sets another one.
func (x *conversation) question() (text string, set func(row *pyjson.Object, text string), ok bool) {
	for _, role := range []string{"query", "prompt"} {
		if name := x.attr.Columns[role]; x.attr.Formatting == "alpaca" && name != "" {
			if s, ok := x.raw.Value(name).(string); ok && s != "" {
				return s, func(row *pyjson.Object, text string) { row.Set(name, text) }, true
			}
		}
	}
	name, tag, content := x.attr.Columns["messages"], x.attr.Tags["role_tag"], x.attr.Tags["content_tag"]
	list, _ := x.raw.Value(name).([]any)
	for i, v := range slices.Backward(list) {
		m, ok := v.(*pyjson.Object)
		if !ok || m.Value(tag) != x.attr.Tags["user_tag"] {
			continue
		}
		if s, ok := m.Value(content).(string); ok {
			return s, func(row *pyjson.Object, text string) {
				changed := slices.Clone(list)
				n := m.Clone()
				n.Set(content, text)
				changed[i] = n
				row.Set(name, changed)
			}, true
		}
	}
	return "", nil, false
}

// answer sets the only answer.
func (x *conversation) answer(text string) {
	if x.attr.Formatting == "alpaca" {
		x.raw.Set(x.attr.Columns["response"], text)
		return
	}
	if list, ok := x.raw.Value(x.attr.Columns["messages"]).([]any); ok && len(list) > 0 {
		if m, ok := list[len(list)-1].(*pyjson.Object); ok {
			m.Set(x.attr.Tags["content_tag"], text)
		}
	}
}

func (x *conversation) store(s *source.Spool) error {
	return s.Append(source.Row{Place: x.place, Raw: json.RawMessage(pyjson.Dumps(x.raw))})
}

// choose decontaminates, samples, balances and augments the training rows, after rows were held out.
func (c *curator) choose(ctx context.Context) error {
	if c.plan.train == nil || c.prep.Clean.Contamination == 0 && c.prep.Sample == nil && c.prep.Augment == nil {
		return nil
	}
	for i := range c.plan.sets {
		if r := c.plan.sets[i].remote; r != nil {
			if err := r.fetch(c.t.Dir); err != nil {
				return err
			}
		}
	}
	if c.prep.Clean.Contamination > 0 {
		if err := c.decontaminate(ctx); err != nil || c.prep.Sample == nil && c.prep.Augment == nil {
			return err
		}
	}
	var picks []source.Pick // of the rows, by their Group
	var rows []data.Row
	add := func(o source.Order, split string) error {
		for i := range o.Len() {
			if err := ctx.Err(); err != nil {
				return err
			}
			k := o.At(i)
			x, _, err := c.read(k)
			if err != nil {
				return err
			}
			r := x.row(len(picks), c.labelled())
			r.Split = split
			rows, picks = append(rows, r), append(picks, k)
		}
		return nil
	}
	if err := add(c.plan.train, "train"); err != nil {
		return err
	}
	for _, o := range c.plan.eval {
		if err := add(o, "eval"); err != nil {
			return err
		}
	}
	seed := c.t.Spec.Seed
	if s := c.prep.Sample; s != nil {
		before := len(rows)
		rows = number(labels.Balance(number(labels.Sample(rows, s.MaxRows, seed)), s.Balance, seed))
		c.sampled = len(rows) - before
	}
	var out []source.Pick
	for i := range rows {
		if rows[i].Split != "train" {
			continue
		}
		id, err := strconv.Atoi(rows[i].Group)
		if err != nil {
			return schemas.Errorf(schemas.CodeInternal, c.t.Stage.Name, "row %q is lost", rows[i].Group)
		}
		out = append(out, picks[id])
	}
	if len(out) == 0 {
		return c.noneLeft()
	}
	if c.prep.Augment != nil {
		var err error
		if out, err = c.augment(ctx, out); err != nil {
			return err
		}
	}
	c.plan.train = source.Listed(out)
	return nil
}

func (c *curator) noneLeft() error {
	return schemas.Errorf(schemas.CodeData, c.t.Stage.Name, "no row is left for training").WithHint("dropped: %s", c.rep.Summary())
}

// decontaminate drops the training rows that are similar to a row to evaluate on.
func (c *curator) decontaminate(ctx context.Context) (err error) {
	f, err := minhash.NewSpilled(c.t.Dir, c.prep.Clean.Contamination, c.prep.Clean.Shingle, c.t.Spec.Seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	kept := 0
	add := func(o source.Order) error {
		for i := range o.Len() {
			if err := ctx.Err(); err != nil {
				return err
			}
			x, _, err := c.read(o.At(i))
			if err != nil {
				return err
			}
			r := x.row(i, c.labelled())
			if err := f.Add(clean.Compared(&r)); err != nil {
				return err
			}
		}
		kept += o.Len()
		return nil
	}
	for _, o := range c.plan.eval {
		if err := add(o); err != nil {
			return err
		}
	}
	if err := errors.Join(f.Others(), add(c.plan.train)); err != nil {
		return err
	}
	var left []int32
	next := 0
	err = f.Each(nil, func(m minhash.Match) error {
		left = append(left, rowRange(next, m.Row)...)
		next = m.Row + 1
		c.rep.Dropped[clean.Contaminated]++
		return nil
	})
	left = append(left, rowRange(next, c.plan.train.Len())...)
	if c.rep.Kept = kept - c.plan.train.Len() + len(left); len(left) == 0 {
		return errors.Join(err, c.noneLeft())
	}
	c.plan.train = source.Choose(c.plan.train, left)
	return err
}

// augment adds copies with a changed question behind the rows. Copies lie in sets of their own.
func (c *curator) augment(ctx context.Context, picks []source.Pick) ([]source.Pick, error) {
	rows := make([]data.Row, len(picks))
	for i, k := range picks {
		x, _, err := c.read(k)
		if err != nil {
			return nil, err
		}
		text, _, _ := x.question()
		rows[i] = data.Row{Index: i, Group: strconv.Itoa(i), Prompt: text, Label: x.row(i, true).Label, Split: "train"}
	}
	all, n, err := augmentRows(ctx, c.t, rows)
	if err != nil {
		return nil, err
	}
	c.augmented = n
	copies := map[int]int{} // set of copies by the set of the rows
	var out []source.Pick
	for i := range all {
		from, err := strconv.Atoi(all[i].Group)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeInternal, c.t.Stage.Name, "row %q is lost", all[i].Group)
		}
		if all[i].Origin == nil {
			out = append(out, picks[from])
			continue
		}
		x, _, err := c.read(picks[from]) // read again: parsed rows are several times as large as their texts
		if err != nil {
			return nil, err
		}
		_, set, ok := x.question()
		if !ok {
			out = append(out, picks[from])
			continue
		}
		into, ok := copies[x.set]
		if !ok {
			spool, err := source.NewSpool(c.t.Dir)
			if err != nil {
				return nil, err
			}
			into = len(c.plan.sets)
			copies[x.set] = into
			c.plan.sets = append(c.plan.sets, factorySet{set: c.plan.sets[x.set].set, spool: spool})
		}
		row := x.raw.Clone()
		set(row, all[i].Prompt)
		spool := c.plan.sets[into].spool
		if err := spool.Append(source.Row{Place: x.place, Raw: json.RawMessage(pyjson.Dumps(row))}); err != nil {
			return nil, err
		}
		o := all[i].Origin
		if err := c.plan.note(map[string]any{"of": x.place, "method": o.Method, "changes": o.Changes, "text": all[i].Prompt}); err != nil {
			return nil, err
		}
		out = append(out, source.Pick{Set: int32(into), Row: int32(spool.Len() - 1)})
	}
	for _, into := range copies {
		if err := c.plan.sets[into].spool.Flush(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// counters are those of the report and of what came after.
func (c *curator) counters() map[string]int64 {
	out := c.rep.Counters()
	out["sampled_rows"], out["augmented_rows"] = int64(c.sampled), int64(c.augmented)
	return out
}
