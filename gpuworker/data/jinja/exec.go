package jinja

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

var (
	errBreak    = errors.New("break outside of a loop")
	errContinue = errors.New("continue outside of a loop")
)

func (e *env) run(body []stmt) error {
	for _, s := range body {
		if err := e.step(); err != nil {
			return err
		}
		if err := s.exec(e); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) write(s string) error {
	if e.written += len(s); e.written > maxOutput {
		return fmt.Errorf("more than %d bytes of output", maxOutput)
	}
	e.out.WriteString(s)
	return nil
}

func (d *data) exec(e *env) error { return e.write(d.text) }

func (o *output) exec(e *env) error {
	v, err := o.of.eval(e)
	if err != nil {
		return err
	}
	return e.write(str(v))
}

func (g *group) exec(e *env) error { return e.run(g.body) }

func (b *blockStmt) exec(e *env) error {
	defer e.push()()
	if !b.scoped {
		e.scope.outer = e.top
	}
	return e.run(b.body)
}

func (l *loopSignal) exec(*env) error {
	if l.stop {
		return errBreak
	}
	return errContinue
}

func (s *ifStmt) exec(e *env) error {
	for i, c := range s.conds {
		v, err := c.eval(e)
		if err != nil {
			return err
		}
		if truthy(v) {
			return e.run(s.bodies[i])
		}
	}
	return e.run(s.other)
}

// assign sets a target in the present scope.
func (e *env) assign(t target, v any) error {
	switch {
	case t.parts != nil:
		list, err := iterate(v)
		if err != nil {
			return err
		}
		if len(list) != len(t.parts) {
			return fmt.Errorf("cannot unpack %d values into %d names", len(list), len(t.parts))
		}
		for i, p := range t.parts {
			if err := e.assign(p, list[i]); err != nil {
				return err
			}
		}
	case t.attr != "":
		o, _ := e.scope.get(t.name)
		n, ok := o.(*namespace)
		if !ok {
			return fmt.Errorf("cannot assign an attribute on what is no namespace")
		}
		n.vars.Set(t.attr, v)
	default:
		e.scope.vars[t.name] = v
	}
	return nil
}

func (s *setStmt) exec(e *env) error {
	if s.value != nil {
		v, err := s.value.eval(e)
		if err != nil {
			return err
		}
		return e.assign(s.target, v)
	}
	text, err := e.block(s.body, s.filters)
	if err != nil {
		return err
	}
	return e.assign(s.target, text)
}

// block is the output of statements in a scope of their own, filtered.
func (e *env) block(body []stmt, filters []filter) (any, error) {
	pop := e.push()
	text, err := e.capture(body)
	pop()
	var v any = text
	for i := range filters {
		if err != nil {
			return nil, err
		}
		v, err = filters[i].apply(e, v)
	}
	return v, err
}

func (s *filterStmt) exec(e *env) error {
	v, err := e.block(s.body, s.filters)
	if err != nil {
		return err
	}
	return e.write(str(v))
}

func (s *withStmt) exec(e *env) error {
	var vals []any
	for _, x := range s.values {
		v, err := x.eval(e)
		if err != nil {
			return err
		}
		vals = append(vals, v)
	}
	defer e.push()()
	for i, t := range s.targets {
		if err := e.assign(t, vals[i]); err != nil {
			return err
		}
	}
	return e.run(s.body)
}

func (s *macroStmt) exec(e *env) error {
	e.scope.vars[s.name] = s.function(e.scope)
	return nil
}

// function makes a macro callable; it sees the variables of the scope it was defined in.
func (s *macroStmt) function(defined *scope) *function {
	params := make([]any, len(s.params))
	for i, p := range s.params {
		params[i] = p
	}
	return &function{name: s.name, vars: pyjson.NewObject("name", s.name, "arguments", tuple(params), "catch_kwargs", s.uses["kwargs"],
		"catch_varargs", s.uses["varargs"], "caller", s.uses["caller"]), call: func(e *env, a values) (any, error) {
		if e.depth++; e.depth > maxDepth {
			return nil, fmt.Errorf("macros deeper than %d", maxDepth)
		}
		before := e.scope
		e.scope = &scope{map[string]any{}, defined}
		defer func() { e.scope, e.depth = before, e.depth-1 }()
		if err := s.bind(e, a); err != nil {
			return nil, err
		}
		return e.capture(s.body)
	}}
}

// bind sets the parameters of a macro to the arguments of a call. What the macro neither declares nor uses is an error.
func (s *macroStmt) bind(e *env, a values) error {
	extra := &pyjson.Object{}
	vars := e.scope.vars
	if s.uses["caller"] {
		vars["caller"] = undefined{"no caller is defined, it"}
	}
	for i, n := range a.names {
		switch at := slices.Index(s.params, n); {
		case at >= 0 && at < len(a.pos):
			return fmt.Errorf("macro %q got two values for %q", s.name, n)
		case at >= 0:
		case n == "caller" && s.uses["caller"]:
			vars["caller"] = a.named[i]
		case s.uses["kwargs"]:
			extra.Set(n, a.named[i])
		default:
			return fmt.Errorf("macro %q takes no keyword argument %q", s.name, n)
		}
	}
	if len(a.pos) > len(s.params) && !s.uses["varargs"] {
		return fmt.Errorf("macro %q takes not more than %d arguments", s.name, len(s.params))
	}
	first := len(s.params) - len(s.defaults)
	for i, p := range s.params {
		v := a.get(i, p, nil)
		if given := i < len(a.pos) || slices.Contains(a.names, p); !given {
			v = undefined{"parameter '" + p + "' was not provided, it"}
			if i >= first {
				var err error
				if v, err = s.defaults[i-first].eval(e); err != nil {
					return err
				}
			}
		}
		vars[p] = v
	}
	if s.uses["varargs"] {
		vars["varargs"] = tuple(a.pos[min(len(a.pos), len(s.params)):])
	}
	if s.uses["kwargs"] {
		vars["kwargs"] = extra
	}
	return nil
}

func (s *callStmt) exec(e *env) error {
	fn, err := s.call.fn.eval(e)
	if err != nil {
		return err
	}
	v, err := s.call.args.eval(e)
	if err != nil {
		return err
	}
	v.names, v.named = append(v.names, "caller"), append(v.named, s.caller.function(e.scope))
	out, err := e.call(fn, v)
	if err != nil {
		return err
	}
	return e.write(str(out))
}

// loop is the state of a for loop.
type loop struct {
	list    []any
	at      int
	depth   int
	changed any
	again   *function
}

func (s *forStmt) exec(e *env) error { return s.loop(e, nil, 0) }

func (s *forStmt) loop(e *env, over *[]any, depth int) error {
	var list []any
	if over != nil {
		list = *over
	} else {
		v, err := s.in.eval(e)
		if err != nil {
			return err
		}
		if list, err = iterate(v); err != nil {
			return err
		}
	}
	if s.cond != nil {
		var err error
		if list, err = s.filtered(e, list); err != nil {
			return err
		}
	}
	l := &loop{list: list, depth: depth}
	if s.recursive {
		l.again = &function{name: "loop", call: func(e *env, a values) (any, error) {
			inner, err := iterate(a.get(0, "", nil))
			if err != nil {
				return nil, err
			}
			if e.depth++; e.depth > maxDepth {
				return nil, fmt.Errorf("loops deeper than %d", maxDepth)
			}
			defer func() { e.depth-- }()
			return e.capture([]stmt{&again{s, inner, depth + 1}})
		}}
	}
	whole := false // an item's body ran to its end: as in Jinja's compiled code, only then the loop counts as entered
	for i, v := range list {
		l.at = i
		pop := e.push()
		e.scope.vars["loop"] = l
		err := e.assign(s.target, v)
		if err == nil {
			err = e.run(s.body)
		}
		pop()
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
		whole = whole || err == nil
	}
	if !whole {
		defer e.push()()
		return e.run(s.other)
	}
	return nil
}

// again runs a recursive loop over other values.
type again struct {
	s     *forStmt
	list  []any
	depth int
}

func (a *again) exec(e *env) error { return a.s.loop(e, &a.list, a.depth) }

func (s *forStmt) filtered(e *env, list []any) ([]any, error) {
	var out []any
	for _, v := range list {
		if err := e.step(); err != nil {
			return nil, err
		}
		pop := e.push()
		err := e.assign(s.target, v)
		var ok any
		if err == nil {
			ok, err = s.cond.eval(e)
		}
		pop()
		if err != nil {
			return nil, err
		}
		if truthy(ok) {
			out = append(out, v)
		}
	}
	return out, nil
}

// attr is an attribute of a loop; false when there is none of that name.
func (l *loop) attr(name string) (any, bool) {
	n, at := len(l.list), l.at
	switch name {
	case "index":
		return int64(at + 1), true
	case "index0":
		return int64(at), true
	case "revindex":
		return int64(n - at), true
	case "revindex0":
		return int64(n - at - 1), true
	case "first":
		return at == 0, true
	case "last":
		return at == n-1, true
	case "length":
		return int64(n), true
	case "depth":
		return int64(l.depth + 1), true
	case "depth0":
		return int64(l.depth), true
	case "previtem":
		if at > 0 {
			return l.list[at-1], true
		}
		return undefined{"there is no previous item, it"}, true
	case "nextitem":
		if at+1 < n {
			return l.list[at+1], true
		}
		return undefined{"there is no next item, it"}, true
	case "cycle":
		return &function{name: "cycle", call: func(_ *env, a values) (any, error) {
			if len(a.pos) == 0 {
				return nil, fmt.Errorf("no items for cycling given")
			}
			return a.pos[at%len(a.pos)], nil
		}}, true
	case "changed":
		return &function{name: "changed", call: func(_ *env, a values) (any, error) {
			now := tuple(a.pos)
			if l.changed != nil && equal(l.changed, now) {
				return false, nil
			}
			l.changed = now
			return true, nil
		}}, true
	}
	return nil, false
}
