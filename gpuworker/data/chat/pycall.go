package chat

import (
	"errors"
	"math"
	"math/big"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

var (
	// errLiteral says that an expression is no literal: Python's ValueError, which the reference takes as "no calls".
	errLiteral = errors.New("not a literal")
	// errNoJSON says that an argument is a Python value that JSON does not have, or none that Python can make: its TypeError.
	errNoJSON = errors.New("an argument has no JSON form")
)

// pyOdd is a value that JSON does not have.
type pyOdd struct{ name string }

// tupleValue is a tuple: tuples are lists in JSON; unlike those they may be keys.
type tupleValue []any

// parsePythonCalls reads "f(a=1)" or "[f(a=1), g(b='x')]": calls of plain names whose keyword arguments are literals (or true, false, null).
// Positional arguments are read and left out. The error is errNoJSON where the reference fails, else the text has no calls.
func parsePythonCalls(s string) ([]Call, error) {
	if strings.Contains(s, "\x00") {
		return nil, errSyntax
	}
	tree, err := parsePython(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s))
	if err != nil {
		return nil, err
	}
	nodes := []*pyNode{tree}
	if tree.kind == pyList {
		nodes = tree.items
	}
	var out []Call
	for _, n := range nodes {
		if n.kind != pyCall || n.callee.kind != pyName {
			return nil, errLiteral
		}
		args := &pyjson.Object{}
		for _, k := range n.keywords {
			v, err := argumentValue(k.value)
			if err != nil {
				return nil, err
			}
			if k.name == "" {
				k.name = "null" // the key None, which ** leaves
			}
			args.Set(k.name, v)
		}
		plain, err := jsonValue(args)
		if err != nil {
			return nil, err
		}
		out = append(out, call(n.callee.name, plain))
	}
	return out, nil
}

// argumentValue is the value of an argument: a literal or one of JSON's words.
func argumentValue(n *pyNode) (any, error) {
	if n.kind != pyName {
		return literal(n)
	}
	switch n.name {
	case "true":
		return true, nil
	case "false":
		return false, nil
	case "null":
		return nil, nil
	}
	return nil, errLiteral
}

// literal is ast.literal_eval.
func literal(n *pyNode) (any, error) {
	switch n.kind {
	case pyConst:
		return n.value, nil
	case pyList, pyTuple, pySet:
		list := []any{}
		for _, x := range n.items {
			v, err := literal(x)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return collection(n.kind, list)
	case pyDict:
		return literalDict(n)
	case pyCall:
		if n.callee.kind == pyName && n.callee.name == "set" && len(n.items) == 0 && len(n.keywords) == 0 {
			return pyOdd{"set"}, nil
		}
		return nil, errLiteral
	case pySum:
		// Only a real number and an imaginary one make a literal.
		left, err := signed(n.items[0])
		if err != nil {
			return nil, err
		}
		right := n.items[1]
		if _, odd := left.(pyOdd); odd || right.kind != pyConst || right.value != (pyOdd{"complex"}) {
			return nil, errLiteral
		}
		return right.value, nil
	}
	return signed(n)
}

func collection(kind pyKind, list []any) (any, error) {
	switch kind {
	case pyTuple:
		return tupleValue(list), nil
	case pySet:
		for _, v := range list {
			if !hashable(v) {
				return nil, errNoJSON
			}
		}
		return pyOdd{"set"}, nil
	}
	return list, nil
}

// literalDict evaluates keys before values, as Python does.
func literalDict(n *pyNode) (any, error) {
	keys := make([]any, len(n.keys))
	for i, k := range n.keys {
		if k == nil {
			return nil, errLiteral
		}
		var err error
		if keys[i], err = literal(k); err != nil {
			return nil, err
		}
		if !hashable(keys[i]) {
			return nil, errNoJSON
		}
	}
	out := &pyjson.Object{}
	odd := false
	first := map[string]string{} // of numbers that are equal, 1, 1.0 and True, the first is the key
	for i, x := range n.items {
		v, err := literal(x)
		if err != nil {
			return nil, err
		}
		switch k := keys[i].(type) {
		case string:
			out.Set(k, v)
		case pyOdd, tupleValue:
			odd = true
		default:
			same := sameNumber(k)
			if _, ok := first[same]; !ok {
				first[same] = dumps(k)
			}
			out.Set(first[same], v)
		}
	}
	if odd { // keys that JSON does not have
		return pyOdd{"dict"}, nil
	}
	return out, nil
}

// sameNumber is a text that keys have in common which are equal in Python.
func sameNumber(v any) string {
	switch x := v.(type) {
	case bool:
		if x {
			return "1"
		}
		return "0"
	case float64:
		if n, acc := big.NewFloat(x).Int(nil); x == math.Trunc(x) && !math.IsInf(x, 0) && acc == big.Exact {
			return n.String()
		}
	}
	return dumps(v)
}

func hashable(v any) bool {
	switch x := v.(type) {
	case []any, *pyjson.Object:
		return false
	case pyOdd:
		return x.name != "set" && x.name != "dict"
	case tupleValue:
		for _, e := range x {
			if !hashable(e) {
				return false
			}
		}
	}
	return true
}

// signed is a number with a sign or without.
func signed(n *pyNode) (any, error) {
	if n.kind != pySign {
		return numeric(n)
	}
	v, err := numeric(n.items[0])
	if err != nil || n.name == "+" {
		return v, err
	}
	switch x := v.(type) {
	case int64:
		if x == -x && x != 0 {
			return new(big.Int).Neg(big.NewInt(x)), nil
		}
		return -x, nil
	case float64:
		return -x, nil
	case *big.Int:
		if m := new(big.Int).Neg(x); m.IsInt64() {
			return m.Int64(), nil
		}
		return new(big.Int).Neg(x), nil
	}
	return v, nil
}

func numeric(n *pyNode) (any, error) {
	if n.kind == pyConst {
		switch n.value.(type) {
		case int64, float64, *big.Int:
			return n.value, nil
		case pyOdd:
			if n.value == (pyOdd{"complex"}) {
				return n.value, nil
			}
		}
	}
	return nil, errLiteral
}

// jsonValue turns tuples into lists; errNoJSON for what JSON does not have.
func jsonValue(v any) (any, error) {
	switch x := v.(type) {
	case pyOdd:
		return nil, errNoJSON
	case tupleValue:
		return jsonValue([]any(x))
	case []any:
		out := make([]any, len(x))
		for i, e := range x {
			var err error
			if out[i], err = jsonValue(e); err != nil {
				return nil, err
			}
		}
		return out, nil
	case *pyjson.Object:
		out := &pyjson.Object{}
		for _, k := range x.Keys() {
			e, err := jsonValue(x.Value(k))
			if err != nil {
				return nil, err
			}
			out.Set(k, e)
		}
		return out, nil
	}
	return v, nil
}
