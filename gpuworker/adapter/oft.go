package adapter

import (
	"context"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/schemas"
)

// OFTConfig configures orthogonal fine-tuning (https://arxiv.org/abs/2306.07280) in PEFT's terms.
type OFTConfig struct {
	// Rank is the number of blocks, BlockSize their size; exactly one of them is positive. Where it does not divide a module's input, the
	// nearest divisor is taken, as PEFT does.
	Rank, BlockSize int
	// Share uses one block for all.
	Share bool
	// Terms of the Neumann series that stands for the Cayley transform; default 5.
	Terms int
}

func (o OFTConfig) validate(bad func(key, format string, args ...any)) {
	if o.Rank < 0 || o.BlockSize < 0 || (o.Rank > 0) == (o.BlockSize > 0) {
		bad("oft", "exactly one of rank (%d) and block_size (%d) must be positive", o.Rank, o.BlockSize)
	}
	if o.BlockSize == 1 {
		bad("oft.block_size", "1 has nothing to rotate")
	}
	if o.Terms < 0 || o.Terms > 64 {
		bad("oft.terms", "%d is not between 1 and 64", o.Terms)
	}
}

// shape is the number of blocks and their size for an input of in features.
func (o OFTConfig) shape(in int64) (blocks, size int64) {
	if o.BlockSize > 0 {
		size = nearestDivisor(in, int64(o.BlockSize))
		return in / size, size
	}
	blocks = nearestDivisor(in, int64(o.Rank))
	return blocks, in / blocks
}

// nearestDivisor is the divisor of n nearest to want, of equally near ones the smaller.
func nearestDivisor(n, want int64) int64 {
	if want >= n {
		return n
	}
	hi, lo := want, want
	for n%hi != 0 {
		hi++
	}
	for n%lo != 0 {
		lo--
	}
	if want-lo <= hi-want {
		return lo
	}
	return hi
}

// coefficients are those of I + 2Q + 2Q^2 + ... + Q^last, PEFT 0.18's series.
func (o OFTConfig) coefficients() []float32 {
	n := o.Terms
	if n == 0 {
		n = 5
	}
	switch n {
	case 1:
		return []float32{1}
	case 2:
		return []float32{1, 2}
	}
	c := []float32{1, 2, 2}
	for i := 3; i < n-1; i++ {
		c = append(c, 2)
	}
	return append(c, 1)
}

// oft rotates the input of one linear module.
type oft struct {
	path  string
	layer *nn.Linear
	unit  *nn.Unit
	r     *nn.Param
	size  int64
	coef  []float32
	base  nn.LinearAdapter
}

func (a *Adapters) newOFT(path string, l *nn.Linear, u *nn.Unit) (*oft, error) {
	o := a.Config.OFT
	blocks, size := o.shape(l.In())
	if size < 2 {
		return nil, schemas.Errorf(schemas.CodeInvalid, "oft", "%s has %d inputs, which leaves blocks of %d: nothing to rotate", path, l.In(), size)
	}
	if o.Share {
		blocks = 1
	}
	return &oft{path: path, layer: l, unit: u, size: size, coef: o.coefficients(),
		r: &nn.Param{Name: Prefix + path + ".oft_R.weight", Shape: []int64{blocks, size * (size - 1) / 2}, Role: autograd.RoleAdapter}}, nil
}

func (o *oft) where() (string, *nn.Unit) { return o.path, o.unit }

func (o *oft) params() []*nn.Param { return []*nn.Param{o.r} }

func (o *oft) weight() *nn.Param { return o.layer.Weight }

func (o *oft) attach(on bool) { attach(o.layer, o, o.base, on) }

// Params implements nn.LinearAdapter.
func (o *oft) Params() []*nn.Param { return o.params() }

// Forward implements nn.LinearAdapter.
func (o *oft) Forward(t *nn.Tape, layer *nn.Linear, x, residual nn.Value) nn.Value {
	z := ops.RotateBlocks(t, x, t.Param(o.r), o.size, o.coef)
	y := ops.MatrixLinear(t, z, matrix(t, layer, o.base), t.Param(layer.Bias), residual)
	t.Release(z)
	return y
}

// Operands implements nn.HeadAdapter.
func (o *oft) Operands(t *nn.Tape, layer *nn.Linear, x nn.Value) (x2, w2 nn.Value) {
	return ops.RotateBlocks(t, x, t.Param(o.r), o.size, o.coef), t.Param(layer.Weight)
}

// mergeOFT computes W R^T by blocks of columns.
func (m *Merger) mergeOFT(ctx context.Context, path string, p *nn.Param, start int64, dst []float32, base Reader) error {
	in := p.Shape[1]
	o := m.c.OFT
	blocks, size := o.shape(in)
	n := blocks
	if o.Share {
		n = 1
	}
	name := Prefix + path + ".oft_R.weight"
	vec, err := m.whole(ctx, name, n*size*(size-1)/2)
	if err != nil {
		return err
	}
	rot := make([][]float64, n)
	for k := range rot {
		l := size * (size - 1) / 2
		rot[k] = rotation(vec[int64(k)*l:int64(k+1)*l], int(size), o.coefficients())
	}
	row := make([]float32, in)
	return rows(p, start, dst, func(i, col int64, part []float32) error {
		if err := base(ctx, p, i*in, row); err != nil {
			return err
		}
		for j := range part {
			c := col + int64(j)
			b, k := c/size, c%size
			r := rot[b%n][k*size : (k+1)*size]
			var s float64
			for q, v := range r {
				s += float64(v * float64(row[b*size+int64(q)]))
			}
			part[j] = float32(s)
		}
		return nil
	})
}

// rotation is the matrix of one block.
func rotation(vec []float32, b int, coef []float32) []float64 {
	q := make([]float64, b*b)
	at := 0
	for i := range b {
		for j := i + 1; j < b; j++ {
			q[i*b+j], q[j*b+i] = float64(vec[at]), -float64(vec[at])
			at++
		}
	}
	r := make([]float64, b*b)
	for k := len(coef) - 1; k >= 0; k-- {
		next := make([]float64, b*b)
		for i := range b {
			for l := range b {
				for j := range b {
					next[i*b+j] += float64(q[i*b+l] * r[l*b+j])
				}
			}
			next[i*b+i] += float64(coef[k])
		}
		r = next
	}
	return r
}
