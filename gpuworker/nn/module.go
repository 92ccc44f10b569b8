// Package nn holds the modules that architectures are made of, and binds their parameters to checkpoints by struct tags.
//
// A module is a struct whose fields are parameters (*Param) or modules, each with a tag `hf:"name"`: the path of tags is the checkpoint
// key. Walk lists the parameters in order of definition; checkpoint loading, adapters, weight-decay groups and shards all derive from it.
package nn

import (
	"errors"
	"fmt"
	"reflect"
	"sort"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/schemas"
)

// The tape's own types under the names that modules use; see package autograd.
type (
	// Param is one parameter tensor.
	Param = autograd.Param
	// Unit is a group of parameters that is gathered and reduced together.
	Unit = autograd.Unit
	// Hooks are called around the uses of a unit.
	Hooks = autograd.Hooks
	// Value is a tensor on the tape.
	Value = autograd.Value
	// Tape records operations.
	Tape = autograd.Tape
)

// Walk calls visit for every parameter below module (a pointer to a struct) in order of definition, with its checkpoint key. Nil
// parameters (no bias) are left out. Fields without an hf tag are not part of the model.
func Walk(module any, visit func(key string, p *Param)) {
	walk(reflect.ValueOf(module), "", visit, nil)
}

// WalkLinears calls visit for every Linear below module with its module path ("model.layers.0.self_attn.q_proj").
func WalkLinears(module any, visit func(path string, l *Linear)) {
	walk(reflect.ValueOf(module), "", nil, visit)
}

func walk(v reflect.Value, key string, visit func(string, *Param), linear func(string, *Linear)) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		switch m := v.Interface().(type) {
		case *Param:
			if visit != nil {
				visit(key, m)
			}
			return
		case *Linear:
			if linear != nil {
				linear(key, m)
				return
			}
		}
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			tag, ok := v.Type().Field(i).Tag.Lookup("hf")
			if !ok {
				continue
			}
			f := v.Field(i)
			if f.Kind() == reflect.Struct {
				f = f.Addr()
			}
			walk(f, joinKey(key, tag), visit, linear)
		}
	case reflect.Slice:
		for i := range v.Len() {
			f := v.Index(i)
			if f.Kind() == reflect.Struct {
				f = f.Addr()
			}
			walk(f, joinKey(key, strconv.Itoa(i)), visit, linear)
		}
	}
}

func joinKey(a, b string) string {
	switch {
	case a == "":
		return b
	case b == "":
		return a
	}
	return a + "." + b
}

// Name sets every parameter's Name to its checkpoint key.
func Name(module any) {
	Walk(module, func(key string, p *Param) { p.Name = key })
}

// Params lists the parameters of a module in order of definition.
func Params(module any) []*Param {
	var out []*Param
	Walk(module, func(_ string, p *Param) { out = append(out, p) })
	return out
}

// Check compares parameters with a checkpoint both ways: every missing, misshapen and unused tensor is reported in one joined error.
// allow, when not nil, reports checkpoint tensors that may be left unused.
func Check(params []*Param, set *safetensors.Set, allow func(key string) bool) error {
	var errs []error
	known := make(map[string]bool, len(params))
	for _, p := range params {
		known[p.Name] = true
		info, ok := set.Info(p.Name)
		if !ok {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, p.Name, "tensor is missing from the checkpoint"))
			continue
		}
		if want := p.FileShape(); !sameShape(info.Shape, want) {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, p.Name, "tensor has shape %v, the model needs %v", info.Shape, want))
		}
	}
	for _, n := range set.Names() {
		if !known[n] && (allow == nil || !allow(n)) {
			errs = append(errs, schemas.Errorf(schemas.CodeModel, n, "tensor is not part of the model"))
		}
	}
	sort.SliceStable(errs, func(a, b int) bool { return errs[a].Error() < errs[b].Error() })
	const most = 40
	if n := len(errs); n > most {
		errs = append(errs[:most], fmt.Errorf("and %d more", n-most))
	}
	return errors.Join(errs...)
}

func sameShape(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
