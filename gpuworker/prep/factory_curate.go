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
	out, err := c.sample(ctx)
	if err != nil {
		return err
	}
	if len(out) == 0 {
		return c.noneLeft()
	}
	if c.prep.Augment != nil {
		if out, err = c.augment(ctx, out); err != nil {
			return err
		}
	}
	c.plan.train = source.Listed(out)
	return nil
}

// sample lists the training rows, after sampling and balancing: repeated ones are behind all others.
func (c *curator) sample(ctx context.Context) ([]source.Pick, error) {
	train := c.plan.train
	out := make([]source.Pick, 0, train.Len())
	s := c.prep.Sample
	if s == nil {
		for i := range train.Len() {
			out = append(out, train.At(i))
		}
		return out, nil
	}
	choice := labels.NewChoice(c.t.Spec.Seed)
	for i := range train.Len() {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		x, _, err := c.read(train.At(i))
		if err != nil {
			return nil, err
		}
		r := x.row(i, c.labelled())
		choice.Add(&r)
	}
	choice.Sample(s.MaxRows)
	repeated := choice.Balance(s.Balance)
	for i := range train.Len() {
		if choice.Keeps(i) {
			out = append(out, train.At(i))
		}
	}
	for _, i := range repeated {
		out = append(out, train.At(int(i)))
	}
	c.sampled = len(out) - train.Len()
	return out, nil
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
	a, err := newAugmenter(ctx, c.t)
	if err != nil {
		return nil, err
	}
	words, seen := map[string]bool{}, map[string]bool{}
	each := func(f func(i int, x *conversation, label string) error) error {
		for i, k := range picks {
			if err := ctx.Err(); err != nil {
				return err
			}
			x, _, err := c.read(k)
			if err != nil {
				return err
			}
			if err := f(i, x, x.row(i, true).Label); err != nil {
				return err
			}
		}
		return nil
	}
	err = each(func(_ int, _ *conversation, label string) error {
		if !seen[label] {
			seen[label] = true
			a.LabelWords(words, label)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	copies := map[int]int{} // set of copies by the set of the rows
	out := slices.Clone(picks)
	err = each(func(i int, x *conversation, label string) error {
		text, set, ok := x.question()
		if !ok {
			return nil
		}
		for _, changed := range a.Copies(&data.Row{Index: i, Prompt: text, Label: label, Split: "train"}, words) {
			k, err := c.copied(x, set, &changed, copies)
			if err != nil {
				return err
			}
			out = append(out, k)
			c.augmented++
		}
		return nil
	})
	for _, into := range copies {
		err = errors.Join(err, c.plan.sets[into].spool.Flush())
	}
	return out, err
}

// copied stores a changed copy of a row.
func (c *curator) copied(x *conversation, set func(row *pyjson.Object, text string), changed *data.Row, copies map[int]int) (source.Pick, error) {
	into, ok := copies[x.set]
	if !ok {
		spool, err := source.NewSpool(c.t.Dir)
		if err != nil {
			return source.Pick{}, err
		}
		into = len(c.plan.sets)
		copies[x.set] = into
		c.plan.sets = append(c.plan.sets, factorySet{set: c.plan.sets[x.set].set, spool: spool})
	}
	row := x.raw.Clone()
	set(row, changed.Prompt)
	spool := c.plan.sets[into].spool
	if err := spool.Append(source.Row{Place: x.place, Raw: json.RawMessage(pyjson.Dumps(row))}); err != nil {
		return source.Pick{}, err
	}
	o := changed.Origin
	err := c.plan.note(map[string]any{"of": x.place, "method": o.Method, "changes": o.Changes, "text": changed.Prompt})
	return source.Pick{Set: int32(into), Row: int32(spool.Len() - 1)}, err
}

// counters are those of the report and of what came after.
func (c *curator) counters() map[string]int64 {
	out := c.rep.Counters()
	out["sampled_rows"], out["augmented_rows"] = int64(c.sampled), int64(c.augmented)
	return out
}
