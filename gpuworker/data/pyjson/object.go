package pyjson

import (
	"math/big"
	"slices"
)

// Object is a JSON object that keeps the order in which keys were first set, as Python's dict does. The zero value is empty and usable.
type Object struct {
	keys   []string
	values map[string]any
}

// NewObject makes an object of alternating keys and values: NewObject("a", 1, "b", nil). A key that is no string is skipped with its value.
func NewObject(pairs ...any) *Object {
	o := &Object{}
	for i := 0; i+1 < len(pairs); i += 2 {
		if k, ok := pairs[i].(string); ok {
			o.Set(k, pairs[i+1])
		}
	}
	return o
}

// Len is the number of keys.
func (o *Object) Len() int {
	if o == nil {
		return 0
	}
	return len(o.keys)
}

// Keys returns the keys in order; the caller must not change the slice.
func (o *Object) Keys() []string {
	if o == nil {
		return nil
	}
	return o.keys
}

// Get returns the value of a key and whether there is one.
func (o *Object) Get(key string) (any, bool) {
	if o == nil {
		return nil, false
	}
	v, ok := o.values[key]
	return v, ok
}

// Value returns the value of a key, nil when there is none.
func (o *Object) Value(key string) any {
	v, _ := o.Get(key)
	return v
}

// Set sets a key, at the end when it is new.
func (o *Object) Set(key string, v any) {
	if o.values == nil {
		o.values = map[string]any{}
	}
	if _, ok := o.values[key]; !ok {
		o.keys = append(o.keys, key)
	}
	o.values[key] = v
}

// Delete removes a key.
func (o *Object) Delete(key string) {
	if _, ok := o.Get(key); !ok {
		return
	}
	delete(o.values, key)
	o.keys = slices.DeleteFunc(o.keys, func(k string) bool { return k == key })
}

// Clone copies the object, not the values in it.
func (o *Object) Clone() *Object {
	c := &Object{}
	for _, k := range o.Keys() {
		c.Set(k, o.values[k])
	}
	return c
}

// Equal reports whether two values are the same for Python's ==, except that key order of objects does not matter, true is not 1, and an
// integer equals a float only when it is one exactly.
func Equal(a, b any) bool {
	switch x := a.(type) {
	case *Object:
		y, ok := b.(*Object)
		if !ok || x.Len() != y.Len() {
			return false
		}
		for _, k := range x.Keys() {
			v, ok := y.Get(k)
			if !ok || !Equal(x.values[k], v) {
				return false
			}
		}
		return true
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, Equal)
	case *big.Int:
		y, ok := b.(*big.Int)
		return ok && x.Cmp(y) == 0
	case int64:
		if f, ok := b.(float64); ok {
			return float64(x) == f
		}
	case float64:
		if i, ok := b.(int64); ok {
			return float64(i) == x
		}
	}
	switch b.(type) {
	case *Object, []any, *big.Int:
		return false
	}
	return a == b
}
