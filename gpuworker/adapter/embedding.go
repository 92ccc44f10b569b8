package adapter

import (
	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// embedding is the low-rank adapter of an embedding: y = W[id] + scale * A[id] B^T. A is kept as [vocab, r], so that rows are gathered;
// PEFT's file holds it transposed. As in PEFT, A starts at zero and B is drawn from N(0, 1).
type embedding struct {
	path  string
	layer *nn.Embedding
	unit  *nn.Unit
	a, b  *nn.Param
	scale float32
}

func (a *Adapters) newEmbedding(path string, e *nn.Embedding, u *nn.Unit) (*embedding, error) {
	c := a.Config
	if c.DoRA || c.PiSSA {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "lora.targets", "DoRA and PiSSA are not supported for the embedding %s", path).
			WithHint("name it in modules_to_save, or leave it out of the targets")
	}
	rank, s := c.of(path)
	return &embedding{path: path, layer: e, unit: u, scale: float32(s),
		a: &nn.Param{Name: Prefix + path + ".lora_embedding_A", Shape: []int64{e.Weight.Shape[0], int64(rank)}, Role: autograd.RoleLoRAEmbedding},
		b: &nn.Param{Name: Prefix + path + ".lora_embedding_B", Shape: []int64{e.Weight.Shape[1], int64(rank)}, Role: autograd.RoleLoRAEmbedding,
			Init: autograd.Init{Kind: autograd.InitNormal, Std: 1}}}, nil
}

func (e *embedding) where() (string, *nn.Unit) { return e.path, e.unit }

func (e *embedding) params() []*nn.Param { return []*nn.Param{e.a, e.b} }

func (e *embedding) attach(on bool) {
	e.layer.Adapter = nil
	if on {
		e.layer.Adapter = e
	}
}

// Params implements nn.EmbeddingAdapter.
func (e *embedding) Params() []*nn.Param { return e.params() }

// Forward implements nn.EmbeddingAdapter.
func (e *embedding) Forward(t *nn.Tape, layer *nn.Embedding, ids, learn autograd.Tensor) nn.Value {
	y := ops.Embedding(t, ids, learn, t.Param(layer.Weight), 1)
	h := ops.Embedding(t, ids, learn, t.Param(e.a), e.scale)
	out := ops.Linear(t, h, t.Param(e.b), nn.Value{}, y)
	t.Release(y, h)
	return out
}
