package adapter

import (
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Stored is where a finished adapter's tensors lie, by PEFT's names.
type Stored interface {
	Has(name string) bool
	// Read fills dst with elements [start, start+len(dst)).
	Read(ctx context.Context, name string, start int64, dst []float32) error
}

// Merger computes base weights with a finished adapter as part of them. Sums are float64 and rounded once, so values do not depend on how
// ranges are cut.
type Merger struct {
	c      Config
	stored Stored
	// cache of the matrices of modules, which ranges need whole.
	cache map[string][]float32
}

// NewMerger reads an adapter's tensors from stored.
func NewMerger(c Config, stored Stored) *Merger {
	return &Merger{c: c, stored: stored, cache: map[string][]float32{}}
}

// Merge fills dst with elements [start, start+len(dst)) of base parameter p as the adapter leaves it; base reads it as it was before.
func (m *Merger) Merge(ctx context.Context, p *nn.Param, start int64, dst []float32, base Reader) error {
	if m.stored.Has(Prefix + p.Name) {
		return m.stored.Read(ctx, Prefix+p.Name, start, dst)
	}
	if err := base(ctx, p, start, dst); err != nil {
		return err
	}
	path, isWeight := strings.CutSuffix(p.Name, ".weight")
	if !isWeight || len(p.Shape) != 2 {
		return nil
	}
	at := Prefix + path
	var err error
	switch {
	case m.stored.Has(at + ".lora_A.weight"):
		err = m.mergeLoRA(ctx, path, p, start, dst, base)
	case m.stored.Has(at + ".lora_embedding_A"):
		err = m.mergeEmbedding(ctx, path, p, start, dst)
	case m.stored.Has(at + ".oft_R.weight"):
		err = m.mergeOFT(ctx, path, p, start, dst, base)
	case m.stored.Has(at + ".adapter_down.weight"):
		err = schemas.Errorf(schemas.CodeUnsupported, path, "a bottleneck adapter is not linear: it cannot be merged into the base's weights")
	}
	if err != nil {
		return fmt.Errorf("cannot merge the adapter of %s: %w", path, err)
	}
	return nil
}

// whole reads a tensor of n elements once.
func (m *Merger) whole(ctx context.Context, name string, n int64) ([]float32, error) {
	if v := m.cache[name]; v != nil {
		return v, nil
	}
	v := make([]float32, n)
	if err := m.stored.Read(ctx, name, 0, v); err != nil {
		return nil, err
	}
	m.cache[name] = v
	return v, nil
}

// rows calls f for every row of a weight that a range touches: its index, its first column and its part of dst.
func rows(p *nn.Param, start int64, dst []float32, f func(row, col int64, part []float32) error) error {
	in := p.Shape[1]
	for at := int64(0); at < int64(len(dst)); {
		row, col := (start+at)/in, (start+at)%in
		n := min(in-col, int64(len(dst))-at)
		if err := f(row, col, dst[at:at+n]); err != nil {
			return err
		}
		at += n
	}
	return nil
}

// addProduct adds scale * b A[:, col:col+len(sum)] to sum, with b [rank] and A [rank, in].
func addProduct(sum []float64, b, a []float32, in, col int64, scale float64) {
	for k, bk := range b {
		f := scale * float64(bk)
		for j, v := range a[int64(k)*in+col : int64(k)*in+col+int64(len(sum))] {
			sum[j] += float64(f * float64(v)) // the conversion keeps the compiler from fusing, so bits are equal everywhere
		}
	}
}

func (m *Merger) mergeLoRA(ctx context.Context, path string, p *nn.Param, start int64, dst []float32, base Reader) error {
	out, in := p.Shape[0], p.Shape[1]
	rank, scale := m.c.of(path)
	at, r := Prefix+path, int64(rank)
	a, err := m.whole(ctx, at+".lora_A.weight", r*in)
	if err != nil {
		return err
	}
	b, err := m.whole(ctx, at+".lora_B.weight", out*r)
	if err != nil {
		return err
	}
	var a0, b0, mag []float32
	if m.c.PiSSA {
		if a0, b0, err = m.pissaStart(ctx, p, rank, scale, base); err != nil {
			return err
		}
	}
	if m.c.DoRA {
		if mag, err = m.whole(ctx, at+".lora_magnitude_vector", out); err != nil {
			return err
		}
	}
	if !m.c.PiSSA && !m.c.DoRA {
		// The bits of PEFT's merge: a product in float32, scaled, then added.
		delta := make([]float32, 0, in)
		return rows(p, start, dst, func(row, col int64, part []float32) error {
			delta = delta[:len(part)]
			productRow(delta, b[row*r:(row+1)*r], a, in, col)
			for j := range part {
				part[j] += float32(float32(scale) * delta[j])
			}
			return nil
		})
	}
	moved := func(row, col int64, part []float32) []float64 {
		sum := make([]float64, len(part))
		for j, v := range part {
			sum[j] = float64(v)
		}
		if a0 != nil {
			addProduct(sum, b0[row*r:(row+1)*r], a0, in, col, -scale)
		}
		addProduct(sum, b[row*r:(row+1)*r], a, in, col, scale)
		return sum
	}
	return rows(p, start, dst, func(row, col int64, part []float32) error {
		factor := 1.0
		if mag != nil {
			whole := make([]float32, in)
			if err := base(ctx, p, row*in, whole); err != nil {
				return err
			}
			var sq float64
			for _, v := range moved(row, 0, whole) {
				sq += float64(v * v)
			}
			factor = float64(mag[row]) / math.Sqrt(sq)
		}
		for j, v := range moved(row, col, part) {
			part[j] = float32(factor * v)
		}
		return nil
	})
}

func (m *Merger) mergeEmbedding(ctx context.Context, path string, p *nn.Param, start int64, dst []float32) error {
	vocab, dim := p.Shape[0], p.Shape[1]
	rank, scale := m.c.of(path)
	r, at := int64(rank), Prefix+path
	a, err := m.whole(ctx, at+".lora_embedding_A", vocab*r)
	if err != nil {
		return err
	}
	b, err := m.whole(ctx, at+".lora_embedding_B", dim*r)
	if err != nil {
		return err
	}
	return rows(p, start, dst, func(row, col int64, part []float32) error {
		for j := range part {
			var s float64
			for k := range r {
				s += float64(float64(a[row*r+k]) * float64(b[(col+int64(j))*r+k]))
			}
			part[j] = float32(float64(part[j]) + float64(scale*s))
		}
		return nil
	})
}

// onDevice are parameters that are bound whole.
type onDevice struct {
	q      *kernels.Queue
	params map[string]*nn.Param
}

// Has implements Stored.
func (d onDevice) Has(name string) bool { return d.params[name] != nil }

// Read implements Stored.
func (d onDevice) Read(_ context.Context, name string, start int64, dst []float32) error {
	p := d.params[name]
	return kernels.DownloadFloats(d.q, dst, p.Data.Reshape(p.Len()).Slice(0, start, start+int64(len(dst))))
}

// deviceReader reads parameters that are bound whole.
func deviceReader(q *kernels.Queue) Reader {
	return func(_ context.Context, p *nn.Param, start int64, dst []float32) error {
		return kernels.DownloadFloats(q, dst, p.Data.Reshape(p.Len()).Slice(0, start, start+int64(len(dst))))
	}
}
