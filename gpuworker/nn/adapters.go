package nn

import (
	"reflect"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
)

// LinearAdapter changes what a Linear computes.
type LinearAdapter interface {
	// Forward computes the layer's output for x, plus residual when it is valid.
	Forward(t *Tape, l *Linear, x, residual Value) Value
	// Params are the adapter's own parameters.
	Params() []*Param
}

// HeadAdapter is a LinearAdapter that can also adapt an output head, whose product a fused loss computes by itself.
type HeadAdapter interface {
	LinearAdapter
	// Operands gives x' [n, d'] and W' [vocab, d'] with x' W'^T = the adapted head's logits without bias.
	Operands(t *Tape, l *Linear, x Value) (x2, w2 Value)
}

// EmbeddingAdapter changes what an Embedding looks up.
type EmbeddingAdapter interface {
	// Forward computes [n, dim] for ids (i32 [n]); learn is ids with -1 where a lookup gives no gradient.
	Forward(t *Tape, e *Embedding, ids, learn autograd.Tensor) Value
	// Params are the adapter's own parameters.
	Params() []*Param
}

// Operands gives the two operands of an output head's product x W^T, for fused losses: those of the layer itself, or what its adapter
// makes of them.
func (l *Linear) Operands(t *Tape, x Value) (x2, w2 Value) {
	if a, ok := l.Adapter.(HeadAdapter); ok {
		return a.Operands(t, l, x)
	}
	return x, t.Param(l.Weight)
}

// WalkFields calls visit for every parameter field below module with its checkpoint key, so that a transform can put another parameter
// in its place. Nil parameters are left out.
func WalkFields(module any, visit func(key string, field **Param)) {
	walkFields(reflect.ValueOf(module), "", visit)
}

// WalkEmbeddings calls visit for every Embedding below module with its module path.
func WalkEmbeddings(module any, visit func(path string, e *Embedding)) {
	walkStructs(reflect.ValueOf(module), "", func(path string, v any) {
		if e, ok := v.(*Embedding); ok {
			visit(path, e)
		}
	})
}

// WalkModules calls visit for the path of every module below module that has a place in the checkpoint, parameters left out.
func WalkModules(module any, visit func(path string)) {
	last := ""
	walkStructs(reflect.ValueOf(module), "", func(path string, v any) {
		if _, isParam := v.(*Param); !isParam && path != "" && path != last {
			visit(path)
			last = path
		}
	})
}

// children calls visit for the addressable parts of a module that have a place in the checkpoint.
func children(v reflect.Value, key string, visit func(key string, f reflect.Value)) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if tag, ok := v.Type().Field(i).Tag.Lookup("hf"); ok {
				visit(joinKey(key, tag), v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			visit(joinKey(key, strconv.Itoa(i)), v.Index(i))
		}
	}
}

func walkFields(v reflect.Value, key string, visit func(string, **Param)) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		if _, ok := v.Interface().(*Param); ok {
			if v.CanAddr() {
				visit(key, v.Addr().Interface().(**Param))
			}
			return
		}
		v = v.Elem()
	}
	children(v, key, func(key string, f reflect.Value) { walkFields(f, key, visit) })
}

func walkStructs(v reflect.Value, key string, visit func(string, any)) {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	if v.Kind() == reflect.Struct && v.CanAddr() {
		visit(key, v.Addr().Interface())
	}
	children(v, key, func(key string, f reflect.Value) { walkStructs(f, key, visit) })
}
