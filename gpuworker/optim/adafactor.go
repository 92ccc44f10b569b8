package optim

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// adafactor is https://arxiv.org/abs/1804.04235 as transformers.optimization.Adafactor computes it: the second moment of a matrix is kept
// as its row and column means. Means and norms are added in float64.
type adafactor struct {
	Config
	host
}

func (o *adafactor) Whole(*autograd.Param) bool { return true }
func (o *adafactor) Close()                     {}

func (o *adafactor) State(p *autograd.Param) []StateTensor {
	var out []StateTensor
	if r := len(p.Shape); r >= 2 {
		rows, cols := p.Len()/p.Shape[r-1], p.Len()/p.Shape[r-2]
		out = append(out, StateTensor{Name: "adafactor_row", DType: kernels.F32, Shape: []int64{rows}},
			StateTensor{Name: "adafactor_col", DType: kernels.F32, Shape: []int64{cols}})
	} else {
		out = append(out, StateTensor{Name: "adafactor_v", DType: kernels.F32, Block: 1})
	}
	if o.Adafactor.FirstMoment {
		out = append(out, StateTensor{Name: "adafactor_m", DType: kernels.F32, Block: 1})
	}
	return out
}

func (o *adafactor) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	if idle(q) {
		return done(q)
	}
	for _, t := range stretches {
		o.one(q, s, t)
	}
	return done(q)
}

func rms(v []float32) float32 { return float32(float64(norm(v)) / math.Sqrt(float64(len(v)))) }

// rate is the learning rate of a parameter: relative to the step, or to the parameter's scale, where configured.
func (o *adafactor) rate(s Step, t Stretch, p []float32) float64 {
	a, lr := o.Adafactor, s.LR*t.LRScale
	if a.RelativeStep {
		least := 1e-2
		if a.WarmupInit {
			least = 1e-6 * float64(s.N)
		}
		lr = min(least, 1/math.Sqrt(float64(s.N)))
	}
	if a.ScaleParameter {
		lr *= max(a.Eps2, float64(rms(p)))
	}
	return lr
}

func (o *adafactor) one(q *kernels.Queue, s Step, t Stretch) {
	p, g := o.load(q, 0, t.P), o.load(q, 1, t.G)
	for i := range g {
		g[i] *= s.Clip
	}
	lr := float32(o.rate(s, t, p))
	beta2 := 1 - math.Pow(float64(s.N), o.Adafactor.DecayRate)
	update := o.room(2, t.Len)
	if len(t.Param.Shape) >= 2 {
		o.factored(q, t, g, update, beta2)
	} else {
		v := o.load(q, 3, t.State[0])
		for i, x := range g {
			v[i] = float32(v[i]*float32(beta2)) + float32((float32(x*x)+float32(o.Adafactor.Eps1))*float32(1-beta2))
			update[i] = float32(1/math.Sqrt(float64(v[i]))) * x
		}
		o.store(q, t.State[0], v)
	}
	shrink := max(1, rms(update)/float32(o.Adafactor.ClipThreshold))
	for i := range update {
		update[i] = float32(update[i]/shrink) * lr
	}
	if o.Adafactor.FirstMoment {
		last := t.State[len(t.State)-1]
		m := o.load(q, 3, last)
		b, c := float32(o.Beta1), float32(1-o.Beta1)
		for i := range m {
			m[i] = float32(m[i]*b) + float32(update[i]*c)
		}
		o.store(q, last, m)
		copy(update, m)
	}
	decay := float32(-t.Decay) * lr
	for i := range p {
		x := p[i]
		if t.Decay != 0 {
			x += float32(x * decay)
		}
		p[i] = x - update[i]
	}
	o.store(q, t.P, p)
}

// factored updates row and column means of a stack of matrices and computes g / sqrt(row col / mean(row)).
func (o *adafactor) factored(q *kernels.Queue, t Stretch, g, update []float32, beta2 float64) {
	shape := t.Param.Shape
	n, m := int(shape[len(shape)-2]), int(shape[len(shape)-1])
	row, col := o.load(q, 3, t.State[0]), o.load(q, 4, t.State[1])
	b, c, eps := float32(beta2), float32(1-beta2), float32(o.Adafactor.Eps1)
	cols := make([]float64, m)
	for k := range len(g) / (n * m) {
		g, update := g[k*n*m:(k+1)*n*m], update[k*n*m:(k+1)*n*m]
		row, col := row[k*n:(k+1)*n], col[k*m:(k+1)*m]
		clear(cols)
		var mean float64
		for i := range n {
			var sum float64
			for j, x := range g[i*m : (i+1)*m] {
				sq := float64(float32(x*x) + eps)
				sum += sq
				cols[j] += sq
			}
			row[i] = float32(row[i]*b) + float32(float32(sum/float64(m))*c)
			mean += float64(row[i])
		}
		mean /= float64(n)
		for j := range col {
			col[j] = float32(col[j]*b) + float32(float32(cols[j]/float64(n))*c)
		}
		for i := range n {
			r := float32(1 / math.Sqrt(float64(row[i])/mean))
			for j := range m {
				cf := float32(1 / math.Sqrt(float64(col[j])))
				update[i*m+j] = float32(r*cf) * g[i*m+j]
			}
		}
	}
	o.store(q, t.State[0], row)
	o.store(q, t.State[1], col)
}
