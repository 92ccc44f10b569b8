package autograd

import (
	"context"
	"fmt"

	"github.com/tunefleet/tunefleet/kernels"
)

// ChunkLen is the number of elements of a chunk, counted from each tensor's start: gradient norms are summed by chunks, and shards of
// parameters are cut at chunk boundaries only.
const ChunkLen = 4096

// flatAlign is the alignment, in elements, of every parameter in a unit's flat buffer (64 bytes of float32).
const flatAlign = 16

// Role says what a parameter is to the optimizer's groups.
type Role uint8

// Roles of parameters.
const (
	RoleMatrix Role = iota
	RoleEmbedding
	RoleNorm
	RoleBias
	RoleLoRAA
	RoleLoRAB
	// RoleLoRAEmbedding are both matrices of an embedding's adapter, RoleMagnitude is DoRA's vector, RoleAdapter other adapters' weights.
	RoleLoRAEmbedding
	RoleMagnitude
	RoleAdapter
	// RolePacked is a frozen matrix in few bits: its elements are 32-bit words of codes, not numbers. Nothing may calculate with them.
	RolePacked
)

// Init says how a parameter is filled when training starts from random weights.
type Init struct {
	Kind InitKind
	// Std of the normal distribution, or the bound of the uniform one.
	Std float64
}

// InitKind is the family of an Init.
type InitKind uint8

// Families of initial values.
const (
	InitZeros InitKind = iota
	InitOnes
	InitNormal
	InitUniform
)

// Param is one trainable tensor. Its storage may be swapped between uses: sharded training binds Data (and Grad) just in time.
type Param struct {
	// Name is the checkpoint key ("model.layers.0.self_attn.q_proj.weight").
	Name  string
	Shape []int64
	Role  Role
	Init  Init
	// Transposed says that checkpoints hold the matrix as [in, out]; Shape, Data and Grad are [out, in].
	Transposed bool
	// Bare says that the parameter belongs to no torch.nn.Linear or torch.nn.LayerNorm of the reference but to a class of its own, such as those of
	// some routers and of RMS norms.
	Bare bool
	// Frozen parameters get no gradient and no optimizer state.
	Frozen bool
	// Store is the element type that the value is held in by whoever holds all parameters of a unit: f32 when zero, or bf16.
	Store kernels.DType
	// Expert, when not nil, is the expert that the parameter belongs to, which a step may leave without tokens.
	Expert *Expert
	// Data is the value; Grad the float32 gradient (zero Tensor when none is bound). Both are contiguous with the parameter's shape.
	Data, Grad Tensor

	written bool
}

// Expert is one expert of a mixture whose reference computes only those that tokens were sent to. Parameters of the others have no gradient
// in torch, not a gradient of zero: an optimizer leaves them and their state as they are, weight decay and the count of steps included.
type Expert struct{ reached bool }

// Reached reports whether a backward pass since the last Forget gave a gradient to a parameter of the expert.
func (e *Expert) Reached() bool { return e.reached }

// Forget makes the expert one that nothing has reached.
func (e *Expert) Forget() { e.reached = false }

// FileShape is the shape that checkpoints have.
func (p *Param) FileShape() []int64 {
	if p.Transposed {
		return []int64{p.Shape[1], p.Shape[0]}
	}
	return p.Shape
}

// Len is the number of elements.
func (p *Param) Len() int64 {
	n := int64(1)
	for _, d := range p.Shape {
		n *= d
	}
	return n
}

// DType is the element type that the value is held in.
func (p *Param) DType() kernels.DType {
	if p.Store == 0 {
		return kernels.F32
	}
	return p.Store
}

// Words is the number of 32-bit words that the held value takes.
func (p *Param) Words() int64 { return (p.Len()*p.DType().Size() + 3) / 4 }

// Unit is a group of parameters that is gathered, used and reduced together: the embedding, each block, the final norm, the head. With
// tied weights embedding and head are one unit that stays open between its uses.
type Unit struct {
	// Name is the module path ("model.layers.3"); Block is the block's index, or -1.
	Name  string
	Block int
	// Params in order of definition. Adapters append theirs.
	Params []*Param
	// AccumulateGrads makes the first gradient written in a backward pass add to what Grad holds; otherwise it overwrites. A hook may
	// set it in BeforeBackward.
	AccumulateGrads bool

	began bool
}

// Trainable reports whether any parameter of the unit gets a gradient.
func (u *Unit) Trainable() bool {
	for _, p := range u.Params {
		if !p.Frozen {
			return true
		}
	}
	return false
}

// Hooks lets sharded training bind storage around the uses of a unit. All methods run on the goroutine of the tape.
//
// A forward pass calls BeforeForward(u), uses the parameters, and calls AfterForward(u). A backward pass calls BeforeBackward(u) before
// the first gradient of the unit is computed: Data of all parameters and Grad of the trainable ones must be bound on return (Grad may
// hold anything unless the hook sets AccumulateGrads). AfterBackward(u) follows when every trainable Grad is complete. The fused loss
// computes the head's gradients in the forward pass, so BeforeBackward of the head comes before its AfterForward; a unit between
// BeforeBackward and AfterBackward must stay bound. Checkpointed blocks are computed again between BeforeBackward and AfterBackward.
// Units without anything to differentiate get no backward calls.
type Hooks interface {
	BeforeForward(ctx context.Context, u *Unit) error
	AfterForward(ctx context.Context, u *Unit) error
	BeforeBackward(ctx context.Context, u *Unit) error
	AfterBackward(ctx context.Context, u *Unit) error
}

// Slot is one parameter's place in a flat buffer.
type Slot struct {
	Param *Param
	// Offset of the first element, in the layout's unit.
	Offset int64
}

// Layout is a unit's flat order: parameters one after another, each aligned to 64 bytes. Gaps hold zeros. It counts elements, or 32-bit
// words where parameters of several element types share a buffer.
type Layout struct {
	Slots []Slot
	// Len is the length including gaps.
	Len int64
	// Words says that offsets and lengths count 32-bit words.
	Words bool
}

// DataLayout places the held values of all parameters, in words; GradLayout the trainable ones only, in elements. Both are computed anew,
// so call them after adapters, freezing and Store are final.
func (u *Unit) DataLayout() Layout { return layout(u.Params, Layout{Words: true}) }

// GradLayout places the trainable parameters.
func (u *Unit) GradLayout() Layout {
	var trained []*Param
	for _, p := range u.Params {
		if !p.Frozen {
			trained = append(trained, p)
		}
	}
	return layout(trained, Layout{})
}

func layout(params []*Param, l Layout) Layout {
	for _, p := range params {
		l.Slots = append(l.Slots, Slot{Param: p, Offset: l.Len})
		l.Len += (l.Size(p) + flatAlign - 1) / flatAlign * flatAlign
	}
	return l
}

// Size is a parameter's length in the layout's unit.
func (l Layout) Size(p *Param) int64 {
	if l.Words {
		return p.Words()
	}
	return p.Len()
}

// Chunk is at most ChunkLen consecutive units (elements or words) of one parameter.
type Chunk struct {
	Param *Param
	// Start is the first one within the parameter, Offset the same one within the layout, Len their number.
	Start, Offset, Len int64
}

// Chunks lists the layout's chunks in flat order. A shard is a range of this list.
func (l Layout) Chunks() []Chunk {
	out := make([]Chunk, 0, l.Len/ChunkLen+int64(len(l.Slots)))
	for _, s := range l.Slots {
		n := l.Size(s.Param)
		for at := int64(0); at < n; at += ChunkLen {
			out = append(out, Chunk{Param: s.Param, Start: at, Offset: s.Offset + at, Len: min(ChunkLen, n-at)})
		}
	}
	return out
}

// Bounds cuts the layout into world contiguous flat ranges at chunk boundaries, as even as chunks allow: rank r owns elements
// [b[r], b[r+1]). Alignment gaps belong to the range before them. Parameters for which whole (when not nil) is true are not cut.
func (l Layout) Bounds(world int, whole func(*Param) bool) []int64 {
	if world == 1 {
		return []int64{0, l.Len}
	}
	chunks := l.Chunks()
	pieces := make([]Chunk, 0, len(chunks))
	for _, c := range chunks {
		if n := len(pieces); whole != nil && c.Start > 0 && whole(c.Param) {
			pieces[n-1].Len += c.Len
			continue
		}
		pieces = append(pieces, c)
	}
	b := make([]int64, world+1)
	b[world] = l.Len
	at := 0
	for r := 1; r < world; r++ {
		target := l.Len * int64(r) / int64(world)
		for at < len(pieces) && pieces[at].Offset+pieces[at].Len/2 < target {
			at++
		}
		if at < len(pieces) {
			b[r] = pieces[at].Offset
		} else {
			b[r] = l.Len
		}
	}
	return b
}

// Bind points every parameter's Data (or Grad) into a flat buffer of at least Len elements of the buffer's type, or of words.
func (l Layout) Bind(flat Tensor, grad bool) error {
	for _, s := range l.Slots {
		dt := flat.DType
		if l.Words {
			dt = s.Param.DType()
		}
		v, err := flatView(flat, s.Offset, l.Size(s.Param), dt, s.Param.Shape)
		if err != nil {
			return fmt.Errorf("cannot bind %s: %w", s.Param.Name, err)
		}
		if grad {
			s.Param.Grad = v
		} else {
			s.Param.Data = v
		}
	}
	return nil
}

// Unbind clears Data (or Grad) of every parameter of the layout.
func (l Layout) Unbind(grad bool) {
	for _, s := range l.Slots {
		if grad {
			s.Param.Grad = Tensor{}
		} else {
			s.Param.Data = Tensor{}
		}
	}
}
