package jinja

import (
	"fmt"
	"math/big"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/data/pytext"
)

// test is the "is" of a value.
func (e *env) test(name string, v any, a values) (bool, error) {
	if err := e.step(); err != nil {
		return false, err
	}
	if _, ok := v.(markup); ok && name == "escaped" {
		return true, nil
	}
	v = unmarked(v)
	arg := a.get(0, "", nil)
	switch name {
	case "defined":
		_, u := v.(undefined)
		return !u, nil
	case "undefined":
		_, u := v.(undefined)
		return u, nil
	case "none":
		return v == nil, nil
	case "true", "false":
		b, ok := v.(bool)
		return ok && b == (name == "true"), nil
	case "eq", "equalto", "==":
		return equal(v, arg), nil
	case "ne", "!=":
		return !equal(v, arg), nil
	case "lt", "lessthan", "<":
		return compareOne("<", v, arg)
	case "le", "<=":
		return compareOne("<=", v, arg)
	case "gt", "greaterthan", ">":
		return compareOne(">", v, arg)
	case "ge", ">=":
		return compareOne(">=", v, arg)
	case "in":
		return contains(arg, v)
	case "sameas":
		return typeName(v) == typeName(arg) && equal(v, arg), nil
	case "test":
		return isTest(str(v)), nil
	case "filter":
		return filterByName(str(v)) != nil, nil
	case "odd", "even", "divisibleby":
		return divides(name, v, arg)
	case "lower", "upper":
		s := str(v)
		return pytext.Is("is"+name, s), nil
	}
	if ok, known := isType(name, v); known {
		return ok, nil
	}
	return false, fmt.Errorf("there is no test %q", name)
}

// isTest reports whether there is a test of that name.
func isTest(name string) bool {
	switch name {
	case "defined", "undefined", "none", "true", "false", "eq", "equalto", "==", "ne", "!=", "lt", "lessthan", "<", "le", "<=", "gt", "greaterthan", ">", "ge", ">=",
		"in", "sameas", "test", "filter", "odd", "even", "divisibleby", "lower", "upper":
		return true
	}
	_, known := isType(name, nil)
	return known
}

// isType is a test of what a value is.
func isType(name string, v any) (ok, known bool) {
	switch name {
	case "string":
		_, ok = v.(string)
	case "boolean":
		_, ok = v.(bool)
	case "integer":
		switch v.(type) {
		case int64, *big.Int:
			ok = true
		}
	case "float":
		_, ok = v.(float64)
	case "number":
		_, _, _, ok = number(v)
	case "mapping":
		_, ok = v.(*pyjson.Object)
	case "sequence":
		switch v.(type) {
		case string, []any, tuple, *pyjson.Object, undefined:
			ok = true
		}
	case "iterable":
		_, err := iterate(v)
		ok = err == nil
	case "callable":
		switch x := v.(type) {
		case *function:
			ok = true
		case *loop:
			ok = x.again != nil
		}
	case "escaped":
	default:
		return false, false
	}
	return ok, true
}

func divides(name string, v, arg any) (bool, error) {
	f, n, whole, ok := number(v)
	if !ok {
		return false, fmt.Errorf("%s is no number", typeName(v))
	}
	if !whole {
		n = int64(f)
		if f != float64(n) {
			return false, nil
		}
	}
	by := int64(2)
	if name == "divisibleby" {
		if _, by, whole, ok = number(arg); !ok || !whole || by == 0 {
			return false, fmt.Errorf("cannot divide by %s", repr(arg))
		}
	}
	return (n%by == 0) == !strings.HasPrefix(name, "o"), nil
}
