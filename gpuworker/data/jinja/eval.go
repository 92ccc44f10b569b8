package jinja

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// scope is a frame of variables.
type scope struct {
	vars  map[string]any
	outer *scope
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.outer {
		if v, ok := s.vars[name]; ok {
			return v, true
		}
	}
	return nil, false
}

// env is the state of a rendering.
type env struct {
	opts  *Options
	scope *scope
	// top is the scope of the template itself.
	top *scope
	out *strings.Builder
	// written are the bytes of all outputs, steps the statements and calls so far, depth the macros within each other.
	written, steps, depth int
}

const (
	maxOutput = 64 << 20
	maxSteps  = 5_000_000
	maxDepth  = 100
)

func (e *env) step() error {
	if e.steps++; e.steps > maxSteps {
		return fmt.Errorf("more than %d steps", maxSteps)
	}
	return nil
}

func (e *env) push() func() {
	before := e.scope
	e.scope = &scope{map[string]any{}, before}
	return func() { e.scope = before }
}

// capture runs statements and returns what they wrote.
func (e *env) capture(body []stmt) (string, error) {
	before := e.out
	e.out = &strings.Builder{}
	defer func() { e.out = before }()
	err := e.run(body)
	return e.out.String(), err
}

func (l *literal) eval(*env) (any, error) { return l.value, nil }

func (n *name) eval(e *env) (any, error) {
	if v, ok := e.scope.get(n.name); ok {
		return v, nil
	}
	if v, ok := global(n.name); ok {
		return v, nil
	}
	return undefined{"'" + n.name + "'"}, nil
}

func (l *list) eval(e *env) (any, error) {
	out := make([]any, len(l.items))
	for i, x := range l.items {
		var err error
		if out[i], err = x.eval(e); err != nil {
			return nil, err
		}
	}
	if l.tuple {
		return tuple(out), nil
	}
	return out, nil
}

func (d *dict) eval(e *env) (any, error) {
	o := &pyjson.Object{}
	for i := range d.keys {
		k, err := d.keys[i].eval(e)
		if err != nil {
			return nil, err
		}
		s, ok := k.(string)
		if !ok {
			return nil, fmt.Errorf("keys other than strings are not built")
		}
		v, err := d.values[i].eval(e)
		if err != nil {
			return nil, err
		}
		o.Set(s, v)
	}
	return o, nil
}

func (f *field) eval(e *env) (any, error) {
	v, err := f.of.eval(e)
	if err != nil {
		return nil, err
	}
	return getattr(v, f.name)
}

// getattr is environment.getattr: an attribute, else an item.
func getattr(v any, name string) (any, error) {
	if g, ok := v.(groupTuple); ok {
		switch name {
		case "grouper":
			return g.grouper, nil
		case "list":
			return g.list, nil
		}
	}
	v = unmarked(v)
	if u, ok := v.(undefined); ok {
		return nil, errUndefined(u)
	}
	if strings.HasPrefix(name, "__") {
		return undefined{fmt.Sprintf("access to the attribute '%s' is unsafe: it", name)}, nil
	}
	if m := method(v, name); m != nil {
		return m, nil
	}
	switch x := v.(type) {
	case *pyjson.Object:
		if w, ok := x.Get(name); ok {
			return w, nil
		}
	case *namespace:
		if w, ok := x.vars.Get(name); ok {
			return w, nil
		}
	case *loop:
		if w, ok := x.attr(name); ok {
			return w, nil
		}
	case *function:
		if w, ok := x.vars.Get(name); ok {
			return w, nil
		}
	case int64, bool, *big.Int, float64:
		if name == "real" {
			return v, nil
		}
	}
	return undefined{fmt.Sprintf("'%s object' has no attribute '%s'", typeName(v), name)}, nil
}

func (i *item) eval(e *env) (any, error) {
	v, err := i.of.eval(e)
	if err != nil {
		return nil, err
	}
	k, err := i.key.eval(e)
	if err != nil {
		return nil, err
	}
	return getitem(v, k)
}

// getitem is environment.getitem: an item, else an attribute.
func getitem(v, k any) (any, error) {
	whole := v // with the names of its parts
	v, k = unmarked(v), unmarked(k)
	if u, ok := v.(undefined); ok {
		return nil, errUndefined(u)
	}
	if s, ok := k.(string); ok {
		if o, ok := v.(*pyjson.Object); ok {
			if w, ok := o.Get(s); ok {
				return w, nil
			}
		}
		return getattr(whole, s)
	}
	if _, n, whole, ok := number(k); ok && whole {
		var list []any
		switch x := v.(type) {
		case []any, tuple:
			list, _ = items(x)
		case string:
			list, _ = iterate(x)
		}
		if n < 0 {
			n += int64(len(list))
		}
		if n >= 0 && n < int64(len(list)) {
			return list[n], nil
		}
	}
	return undefined{fmt.Sprintf("%s object has no element %s", typeName(v), repr(k))}, nil
}

func (s *slice) eval(e *env) (any, error) {
	v, err := s.of.eval(e)
	if err != nil {
		return nil, err
	}
	var bounds [3]*int64
	for i, x := range []expr{s.from, s.to, s.step} {
		if x == nil {
			continue
		}
		k, err := x.eval(e)
		if err != nil {
			return nil, err
		}
		if k == nil {
			continue
		}
		_, n, whole, ok := number(k)
		if !ok || !whole {
			return nil, fmt.Errorf("a slice needs whole numbers, not %s", typeName(k))
		}
		bounds[i] = &n
	}
	if r, ok := v.(span); ok {
		return r.cut(bounds)
	}
	switch x := unmarked(v).(type) {
	case string:
		list, _ := iterate(x)
		list, err := cut(list, bounds)
		var b strings.Builder
		for _, c := range list {
			b.WriteString(str(c))
		}
		return b.String(), err
	case []any:
		return cut(x, bounds)
	case tuple:
		list, err := cut(x, bounds)
		return tuple(list), err
	case undefined:
		return nil, errUndefined(x)
	}
	return undefined{"a slice of " + typeName(v)}, nil
}

// places are the first index of list[from:to:step], the one it stops at, and the step.
func places(length int, bounds [3]*int64) (from, to, step int64, err error) {
	n := int64(length)
	step = 1
	if bounds[2] != nil {
		step = *bounds[2]
	}
	if step == 0 {
		return 0, 0, 0, fmt.Errorf("the step of a slice cannot be zero")
	}
	low, high := int64(0), n
	if step < 0 {
		low, high = -1, n-1
	}
	place := func(b *int64, def int64) int64 {
		if b == nil {
			return def
		}
		k := *b
		if k < 0 {
			k += n
		}
		return min(max(k, low), high)
	}
	from, to = place(bounds[0], 0), place(bounds[1], n)
	if step < 0 {
		from, to = place(bounds[0], n-1), place(bounds[1], -1)
	}
	return from, to, step, nil
}

// cut is Python's list[from:to:step].
func cut(list []any, bounds [3]*int64) ([]any, error) {
	from, to, step, err := places(len(list), bounds)
	if err != nil {
		return nil, err
	}
	most := int64(len(list)) + 1
	step = min(max(step, -most), most) // a larger one ends as soon, and does not overflow
	out := []any{}
	for i := from; step > 0 && i < to || step < 0 && i > to; i += step {
		out = append(out, list[i])
	}
	return out, nil
}

// cut is a slice of a range, which is a range.
func (r span) cut(bounds [3]*int64) (any, error) {
	list, err := cut(r.list, bounds)
	if err != nil {
		return nil, err
	}
	from, to, step, err := places(len(r.list), bounds)
	return span{r.from + from*r.step, r.from + to*r.step, r.step * step, list}, err
}

func (a *args) eval(e *env) (values, error) {
	var v values
	for _, x := range a.pos {
		w, err := x.eval(e)
		if err != nil {
			return v, err
		}
		v.pos = append(v.pos, w)
	}
	if a.star != nil {
		w, err := a.star.eval(e)
		if err != nil {
			return v, err
		}
		list, err := iterate(w)
		if err != nil {
			return v, err
		}
		v.pos = append(v.pos, list...)
	}
	for i, x := range a.named {
		w, err := x.eval(e)
		if err != nil {
			return v, err
		}
		v.names, v.named = append(v.names, a.names[i]), append(v.named, w)
	}
	if a.dict != nil {
		w, err := a.dict.eval(e)
		if err != nil {
			return v, err
		}
		o, ok := w.(*pyjson.Object)
		if !ok {
			return v, fmt.Errorf("** needs a dict")
		}
		for _, k := range o.Keys() {
			v.names, v.named = append(v.names, k), append(v.named, o.Value(k))
		}
	}
	return v, nil
}

func (c *call) eval(e *env) (any, error) {
	fn, err := c.fn.eval(e)
	if err != nil {
		return nil, err
	}
	v, err := c.args.eval(e)
	if err != nil {
		return nil, err
	}
	return e.call(fn, v)
}

func (e *env) call(fn any, v values) (any, error) {
	if err := e.step(); err != nil {
		return nil, err
	}
	switch f := fn.(type) {
	case *function:
		return f.call(e, v)
	case *loop:
		if f.again != nil {
			return f.again.call(e, v)
		}
	case undefined:
		return nil, errUndefined(f)
	}
	return nil, fmt.Errorf("%s cannot be called", typeName(fn))
}

func (f *filter) eval(e *env) (any, error) {
	var v any
	if f.of != nil {
		var err error
		if v, err = f.of.eval(e); err != nil {
			return nil, err
		}
	}
	return f.apply(e, v)
}

func (f *filter) apply(e *env, v any) (any, error) {
	a, err := f.args.eval(e)
	if err != nil {
		return nil, err
	}
	return e.filter(f.name, v, a)
}

func (e *env) filter(name string, v any, a values) (any, error) {
	if err := e.step(); err != nil {
		return nil, err
	}
	fn := filterByName(name)
	if fn == nil {
		return nil, fmt.Errorf("there is no filter %q", name)
	}
	return fn(e, v, a)
}

func (t *test) eval(e *env) (any, error) {
	v, err := t.of.eval(e)
	if err != nil {
		return nil, err
	}
	a, err := t.args.eval(e)
	if err != nil {
		return nil, err
	}
	ok, err := e.test(t.name, v, a)
	return ok != t.not, err
}

func (u *unary) eval(e *env) (any, error) {
	v, err := u.of.eval(e)
	if err != nil {
		return nil, err
	}
	if u.op == "not" {
		return !truthy(v), nil
	}
	if n := integer(v); n != nil {
		if u.op == "-" {
			n = new(big.Int).Neg(n)
		}
		return small(n), nil
	}
	f, ok := v.(float64)
	switch {
	case !ok:
		return nil, fmt.Errorf("cannot compute %s%s", u.op, typeName(v))
	case u.op == "-":
		return -f, nil
	}
	return f, nil
}

func (b *binary) eval(e *env) (any, error) {
	x, err := b.a.eval(e)
	if err != nil {
		return nil, err
	}
	y, err := b.b.eval(e)
	if err != nil {
		return nil, err
	}
	var v any
	if b.op == "~" {
		v = str(x) + str(y)
	} else if v, err = arith(b.op, x, y); err != nil {
		return nil, err
	}
	return v, e.size(v)
}

// size counts the work of making a value: what grows without being written is bounded, too.
func (e *env) size(v any) error {
	n := 0
	switch x := v.(type) {
	case string:
		n = len(x) / 64
	case markup:
		n = len(x) / 64
	case []any:
		n = len(x)
	case tuple:
		n = len(x)
	}
	if n > maxText/64 {
		return fmt.Errorf("a value of more than %d bytes or %d items", maxText, maxText/64)
	}
	e.steps += n
	return e.step()
}

func (l *logic) eval(e *env) (any, error) {
	v, err := l.a.eval(e)
	if err != nil || truthy(v) == l.or {
		return v, err
	}
	return l.b.eval(e)
}

func (c *choice) eval(e *env) (any, error) {
	v, err := c.cond.eval(e)
	switch {
	case err != nil:
		return nil, err
	case truthy(v):
		return c.yes.eval(e)
	case c.no != nil:
		return c.no.eval(e)
	}
	return undefined{"the inline if-expression evaluated to false and has no else, it"}, nil
}

func (c *compare) eval(e *env) (any, error) {
	a, err := c.first.eval(e)
	if err != nil {
		return nil, err
	}
	for i, op := range c.ops {
		b, err := c.rest[i].eval(e)
		if err != nil {
			return nil, err
		}
		ok, err := compareOne(op, a, b)
		if err != nil || !ok {
			return false, err
		}
		a = b
	}
	return true, nil
}

func compareOne(op string, a, b any) (bool, error) {
	switch op {
	case "==":
		return equal(a, b), nil
	case "!=":
		return !equal(a, b), nil
	case "in", "not in":
		ok, err := contains(b, a)
		return ok == (op == "in"), err
	}
	for _, v := range []any{a, b} {
		if u, ok := v.(undefined); ok {
			return false, errUndefined(u)
		}
	}
	n, err := order(a, b)
	switch op {
	case "<":
		return n < 0, err
	case "<=":
		return n <= 0, err
	case ">":
		return n > 0, err
	}
	return n >= 0, err
}
