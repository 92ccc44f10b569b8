package nn

import (
	"context"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/safetensors"
	"github.com/tunefleet/tunefleet/kernels"
)

// Storage holds the parameters of units, and their gradients, whole on one device: each unit contiguous in the order of its layout.
type Storage struct {
	units       []*Unit
	data, grads *kernels.Arena
	// Data and Grads are the flat buffers of each unit in f32, or in words (see autograd.Layout); Grads absent without gradients or where
	// nothing is trainable.
	Data, Grads []kernels.Tensor
}

// NewStorage allocates and binds parameters and, with grads, gradients of the trainable ones. Contents are zero.
func NewStorage(dev *kernels.Device, q *kernels.Queue, units []*Unit, grads bool) (s *Storage, err error) {
	s = &Storage{units: units}
	defer func() {
		if err != nil {
			s.Close()
			err = fmt.Errorf("cannot allocate parameters: %w", err)
		}
	}()
	if s.data, s.Data, err = flat(dev, q, units, "weights", false); err != nil {
		return nil, err
	}
	if grads {
		if s.grads, s.Grads, err = flat(dev, q, units, "gradients", true); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func flat(dev *kernels.Device, q *kernels.Queue, units []*Unit, name string, grad bool) (*kernels.Arena, []kernels.Tensor, error) {
	layouts := make([]autograd.Layout, len(units))
	total := int64(0)
	for i, u := range units {
		layouts[i] = u.DataLayout()
		if grad {
			layouts[i] = u.GradLayout()
		}
		total += (layouts[i].Len*4 + 255) &^ 255
	}
	out := make([]kernels.Tensor, len(units))
	if total == 0 {
		return nil, out, nil
	}
	arena, err := dev.NewArena(name, total)
	if err != nil {
		return nil, nil, err
	}
	for i, l := range layouts {
		if l.Len == 0 {
			continue
		}
		if out[i], err = arena.New(kernels.F32, l.Len); err == nil {
			if !grad {
				// Alignment gaps must be zero: they take part in exchanges and hashes.
				zeroGaps(q, out[i], l)
			}
			err = l.Bind(out[i], grad)
		}
		if err != nil {
			arena.Close()
			return nil, nil, err
		}
	}
	return arena, out, q.Err()
}

func zeroGaps(q *kernels.Queue, flat kernels.Tensor, l autograd.Layout) {
	for i, s := range l.Slots {
		end := l.Len
		if i+1 < len(l.Slots) {
			end = l.Slots[i+1].Offset
		}
		if at := s.Offset + l.Size(s.Param); at < end {
			q.Fill(kernels.Fill{Y: flat.Slice(0, at, end)})
		}
	}
}

// Close gives the memory back. The queues that use it must have been synchronized.
func (s *Storage) Close() {
	if s == nil {
		return
	}
	if s.data != nil {
		s.data.Close()
	}
	if s.grads != nil {
		s.grads.Close()
	}
	for _, u := range s.units {
		u.DataLayout().Unbind(false)
		u.GradLayout().Unbind(true)
	}
}

// staging is the number of elements that loading and saving hold on the host at a time.
const staging = 1 << 20

// Reader reads parameters of a checkpoint that Check has accepted, in the order that they have in memory.
type Reader struct {
	set *safetensors.Set
	// whole is the last transposed tensor, name its parameter.
	name  string
	whole []float32
}

// NewReader reads from a checkpoint, which must stay open.
func NewReader(set *safetensors.Set) *Reader { return &Reader{set: set} }

// Read fills dst with the elements of a parameter from start on.
func (r *Reader) Read(p *Param, start int64, dst []float32) error {
	if !p.Transposed {
		return r.set.ReadFloat32(p.Name, start, dst)
	}
	if r.name != p.Name {
		whole := make([]float32, p.Len())
		if err := r.set.ReadFloat32(p.Name, 0, whole); err != nil {
			return err
		}
		r.name, r.whole = p.Name, transpose(whole, p.Shape[1], p.Shape[0])
	}
	if start < 0 || start+int64(len(dst)) > int64(len(r.whole)) {
		return fmt.Errorf("elements %d to %d of %s do not exist", start, start+int64(len(dst)), p.Name)
	}
	copy(dst, r.whole[start:])
	return nil
}

// transpose turns a matrix of rows x cols elements around.
func transpose(v []float32, rows, cols int64) []float32 {
	out := make([]float32, len(v))
	for i := range rows {
		for j := range cols {
			out[j*rows+i] = v[i*cols+j]
		}
	}
	return out
}

// FileOrder puts the elements of a parameter, or of its gradient, into the order that checkpoints have.
func FileOrder(p *Param, v []float32) []float32 {
	if !p.Transposed {
		return v
	}
	return transpose(v, p.Shape[0], p.Shape[1])
}

// Load fills the bound parameters from a checkpoint that Check has accepted.
func Load(ctx context.Context, q *kernels.Queue, params []*Param, set *safetensors.Set) error {
	buf := make([]float32, 0, staging)
	r := NewReader(set)
	for _, p := range params {
		n := p.Len()
		flat := p.Data.Reshape(n)
		for at := int64(0); at < n; at += staging {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := buf[:min(staging, n-at)]
			if err := r.Read(p, at, part); err != nil {
				return fmt.Errorf("cannot load %s: %w", p.Name, err)
			}
			if err := kernels.UploadFloats(q, flat.Slice(0, at, at+int64(len(part))), part); err != nil {
				return fmt.Errorf("cannot load %s: %w", p.Name, err)
			}
		}
	}
	return nil
}

// Stream is the random stream of a parameter: it depends on the name alone, so that values do not depend on what else the model has.
func Stream(name string) uint64 {
	h := fnv.New64a()
	_, _ = io.WriteString(h, name) // a hash takes everything
	return h.Sum64()
}

// InitRange fills dst (contiguous float32) with the initial values of elements [start, start+len) of a parameter. start must be a
// multiple of 4.
func InitRange(q *kernels.Queue, p *Param, dst kernels.Tensor, start int64, seed uint64) {
	r := kernels.Random{Y: dst.Reshape(dst.Numel()), Seed: seed, Stream: Stream(p.Name), Offset: uint64(start)}
	switch p.Init.Kind {
	case autograd.InitOnes:
		q.Fill(kernels.Fill{Y: dst, Value: 1})
	case autograd.InitNormal:
		r.Kind, r.B = kernels.Normal, float32(p.Init.Std)
		q.Random(r)
	case autograd.InitUniform:
		r.Kind, r.A, r.B = kernels.Uniform, float32(-p.Init.Std), float32(p.Init.Std)
		q.Random(r)
	default:
		q.Fill(kernels.Fill{Y: dst})
	}
}

// InitRandom fills bound parameters with their initial values.
func InitRandom(q *kernels.Queue, params []*Param, seed uint64) error {
	for _, p := range params {
		InitRange(q, p, p.Data, 0, seed)
	}
	return q.Err()
}

// Read downloads a tensor of f32 or bf16 as float32 values.
func Read(q *kernels.Queue, x kernels.Tensor) ([]float32, error) {
	out := make([]float32, x.Numel())
	return out, kernels.DownloadFloats(q, out, x)
}

// Entries describes bound parameters for the safetensors writer, in the order of checkpoints; values are downloaded in pieces while the
// file is written, transposed ones whole.
func Entries(q *kernels.Queue, params []*Param) []safetensors.Entry {
	out := make([]safetensors.Entry, 0, len(params))
	for _, p := range params {
		out = append(out, safetensors.Entry{Name: p.Name, Shape: p.FileShape(), DType: safetensors.F32, Stream: func(w io.Writer) error { return stream(q, p, w) }})
	}
	return out
}

func stream(q *kernels.Queue, p *Param, w io.Writer) error {
	flat := p.Data.Reshape(p.Len())
	return pieces(p, safetensors.F32, func(start int64, dst []float32) error {
		return kernels.DownloadFloats(q, dst, flat.Slice(0, start, start+int64(len(dst))))
	}, w)
}

// ReadEntry describes a parameter for the safetensors writer, in an element type that safetensors.Encode knows. read gives elements from start on in
// the order of memory; it is called while the file is written, for a piece at a time, or the whole of a transposed parameter.
func ReadEntry(p *Param, dt safetensors.DType, read func(start int64, dst []float32) error) safetensors.Entry {
	return safetensors.Entry{Name: p.Name, Shape: p.FileShape(), DType: dt, Stream: func(w io.Writer) error { return pieces(p, dt, read, w) }}
}

// pieces writes a parameter's elements in the order of checkpoints.
func pieces(p *Param, dt safetensors.DType, read func(start int64, dst []float32) error, w io.Writer) error {
	n, most := p.Len(), int64(staging)
	if p.Transposed {
		most = n
	}
	buf := make([]float32, min(n, most))
	raw := make([]byte, dt.Size()*int64(len(buf)))
	for at := int64(0); at < n; at += most {
		part := buf[:min(most, n-at)]
		if err := read(at, part); err != nil {
			return err
		}
		out := raw[:dt.Size()*int64(len(part))]
		if err := safetensors.Encode(dt, FileOrder(p, part), out); err != nil {
			return err
		}
		if _, err := w.Write(out); err != nil {
			return err
		}
	}
	return nil
}
