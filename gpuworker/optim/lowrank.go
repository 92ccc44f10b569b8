package optim

import (
	"math"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/kernels"
)

// lowRank is GaLore (https://arxiv.org/abs/2403.03507, as galore-torch's AdamW) and APOLLO (https://arxiv.org/abs/2412.05270, as
// apollo-torch's APOLLOAdamW with random projection). Both keep Adam's moments of a gradient projected to a few rows or columns; GaLore
// projects the update back, APOLLO takes from it only how much to scale each channel of the gradient.
type lowRank struct {
	Config
	host
	scratch
	// project, when not nil, gives APOLLO's random matrix in place of Philox.
	project func(p *autograd.Param, refresh, n int64) []float32
}

func (o *lowRank) Whole(p *autograd.Param) bool { return o.projected(p) }

// projected reports whether a parameter is a matrix that is projected.
func (o *lowRank) projected(p *autograd.Param) bool {
	if len(p.Shape) != 2 || p.Role != autograd.RoleMatrix || p.Bare || p.Transposed {
		return false // no torch.nn.Linear, which LLaMA-Factory asks for
	}
	switch t := o.LowRank.Targets; {
	case len(t) == 0:
		return !headName(p.Name)
	case len(t) == 1 && t[0] == "all":
		return !headName(p.Name) || strings.HasPrefix(p.Name, "embed_out") // LLaMA-Factory leaves out "lm_head" and InternLM2's "output"
	default:
		return slices.ContainsFunc(t, func(target string) bool { return strings.Contains(strings.TrimSuffix(p.Name, ".weight"), target) })
	}
}

// headName tells the output layer by its usual names.
func headName(name string) bool {
	name = strings.TrimPrefix(name, "base_model.model.") // a copy that is trained beside adapters
	return strings.HasPrefix(name, "lm_head") || strings.HasPrefix(name, "output") || strings.HasPrefix(name, "embed_out") || strings.HasPrefix(name, "score")
}

// shape of the projection: right keeps [rows, rank], otherwise [rank, columns].
func (o *lowRank) shape(p *autograd.Param) (rows, cols, rank int64, right bool) {
	rows, cols = p.Shape[0], p.Shape[1]
	switch o.LowRank.Proj {
	case "std":
		right = rows >= cols
	case "reverse_std":
		right = rows < cols
	case "right":
		right = true
	}
	rank = min(int64(o.LowRank.Rank), rows, cols)
	if o.Name == Apollo {
		rank = int64(o.LowRank.Rank)
	}
	return rows, cols, rank, right
}

func (o *lowRank) State(p *autograd.Param) []StateTensor {
	if !o.projected(p) {
		return moments()
	}
	rows, cols, rank, right := o.shape(p)
	low, proj := []int64{rank, cols}, []int64{rows, rank}
	if right {
		low, proj = []int64{rows, rank}, []int64{rank, cols}
	}
	out := []StateTensor{{Name: "low_m", DType: kernels.F32, Shape: low}, {Name: "low_v", DType: kernels.F32, Shape: low}, {Name: "low_proj", DType: kernels.F32, Shape: proj}}
	if o.Name == Apollo {
		out = append(out, StateTensor{Name: "apollo_norm", DType: kernels.F32, Shape: []int64{1}})
	}
	return out
}

func (o *lowRank) Update(q *kernels.Queue, s Step, stretches []Stretch) error {
	if err := o.reserve(q, o.most(stretches)); err != nil {
		return err
	}
	for _, t := range stretches {
		if o.projected(t.Param) {
			o.matrix(q, s, t)
		} else {
			clip := unclipped(q, &s, t)
			q.AdamDir(kernels.AdamDir{X: t.G, M: t.State[0], V: t.State[1], Y: t.G, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, Scale: clip})
			o.apply(q, s, t, t.G)
		}
	}
	return done(q)
}

// most is the scratch memory that the largest of the matrices needs.
func (o *lowRank) most(stretches []Stretch) int64 {
	var most int64
	for _, t := range stretches {
		if !o.projected(t.Param) {
			continue
		}
		low := 4*t.State[0].Numel() + 256
		if o.Name == GaLore {
			rows, cols, rank, right := o.shape(t.Param)
			m, n := rows, cols
			if !right {
				m, n = cols, rows
			}
			most = max(most, low+4*t.Len+256, subspaceBytes(m, n, blockOf(rows, cols, rank)), 256)
		} else {
			most = max(most, 2*low+20*max(t.Param.Shape[0], t.Param.Shape[1])+5*256)
		}
	}
	return most
}

// apply is the end of transformers' former AdamW: the bias corrections belong to the step size, and decay comes last.
func (o *lowRank) apply(q *kernels.Queue, s Step, t Stretch, u kernels.Tensor) {
	lr, n := s.LR*t.LRScale, float64(s.N)
	step := lr * math.Sqrt(1-math.Pow(o.Beta2, n)) / (1 - math.Pow(o.Beta1, n))
	q.Add(kernels.Add{A: t.P, B: u.Reshape(t.Len), Y: t.P, Alpha: 1, Beta: float32(-step)})
	if t.Decay > 0 {
		q.Add(kernels.Add{A: t.P, B: t.P, Y: t.P, Alpha: 1, Beta: float32(-lr * t.Decay)})
	}
}

// take takes scratch memory.
func (o *lowRank) take(q *kernels.Queue, dt kernels.DType, dims ...int64) kernels.Tensor {
	x, err := o.arena.New(dt, dims...)
	if err != nil {
		q.Fail(err)
	}
	return x
}

func (o *lowRank) matrix(q *kernels.Queue, s Step, t Stretch) {
	o.arena.Reset()
	rows, cols, rank, right := o.shape(t.Param)
	g := t.G.Reshape(rows, cols)
	switch s.Clip {
	case 1:
	case 0: // not by a product: the gradient may not be finite
		q.Fill(kernels.Fill{Y: t.G})
	default:
		q.Add(kernels.Add{A: g, Y: g, Alpha: s.Clip})
	}
	proj := t.State[2]
	if (s.N-1)%o.LowRank.Every == 0 {
		o.refresh(q, s, t, right)
	}
	var low kernels.Tensor
	if right {
		proj = proj.Reshape(rank, cols)
		low = o.take(q, kernels.F32, rows, rank)
		q.Gemm(kernels.Gemm{A: g, B: proj.T(), C: low, Alpha: 1})
	} else {
		proj = proj.Reshape(rows, rank)
		low = o.take(q, kernels.F32, rank, cols)
		q.Gemm(kernels.Gemm{A: proj.T(), B: g, C: low, Alpha: 1})
	}
	u := low
	if o.Name == Apollo {
		u = o.take(q, kernels.F32, low.Dim[0], low.Dim[1])
	}
	q.AdamDir(kernels.AdamDir{X: low, M: t.State[0], V: t.State[1], Y: u, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps})
	if o.Name == Apollo {
		o.scaled(q, t, g, low, u, right)
		o.apply(q, s, t, g)
		return
	}
	back := o.take(q, kernels.F32, rows, cols)
	gemm := kernels.Gemm{A: u, B: proj, C: back, Alpha: float32(o.LowRank.Scale)}
	if !right {
		gemm.A, gemm.B = proj, u
	}
	q.Gemm(gemm)
	o.apply(q, s, t, back)
}

// refresh computes the projection anew: GaLore's from the singular vectors of the gradient, APOLLO's at random.
func (o *lowRank) refresh(q *kernels.Queue, s Step, t Stretch, right bool) {
	_, _, rank, _ := o.shape(t.Param)
	n := t.State[2].Numel()
	if o.Name == GaLore {
		o.vectors(q, t, right)
		return
	}
	if idle(q) && o.project != nil {
		return
	}
	k := (s.N - 1) / o.LowRank.Every
	if o.project != nil {
		o.store(q, t.State[2].Reshape(n), o.project(t.Param, k, n))
		return
	}
	q.Random(kernels.Random{Y: t.State[2].Reshape(n), Seed: o.Seed, Stream: nn.Stream("apollo/" + t.Param.Name), Offset: uint64(k * ((n + 3) / 4 * 4)),
		Kind: kernels.Normal, B: float32(1 / math.Sqrt(float64(rank)))})
}

// scaled makes APOLLO's update of the gradient g: each channel is scaled as Adam scales it in the projection (from r to u), with Fira's limit on
// the growth of the update's norm (https://arxiv.org/abs/2410.01623).
func (o *lowRank) scaled(q *kernels.Queue, t Stretch, g, r, u kernels.Tensor, right bool) {
	const eps, growth = 1e-8, 1.01
	n, sums := int64(1), func(x, y kernels.Tensor) { q.SqSums(kernels.SqSums{X: x.Reshape(1, 1, -1), Rows: y}) }
	if o.LowRank.ScaleType != "tensor" {
		// The reference takes norms over dimension 0 of wide matrices and 1 of tall ones, which with "std" is the projected one.
		n, sums = g.Dim[0], func(x, y kernels.Tensor) { q.SqSums(kernels.SqSums{X: x.Unsqueeze(0), Rows: y}) }
		if !right {
			n, sums = g.Dim[1], func(x, y kernels.Tensor) { q.SqSums(kernels.SqSums{X: x.Unsqueeze(0), Cols: y}) }
		}
	}
	after, before, f := o.take(q, kernels.F64, n), o.take(q, kernels.F64, n), o.take(q, kernels.F32, n)
	sums(u, after)
	sums(r, before)
	q.NormRatio(kernels.NormRatio{Num: after, Den: before, Y: f, Eps: eps})
	front := float32(math.Sqrt(o.LowRank.Scale))
	switch {
	case n == 1:
		q.Add(kernels.Add{A: g, Y: g, Alpha: 1, AlphaDev: f.Data})
	case right:
		q.ScaleRows(kernels.ScaleRows{X: g, R: f, Y: g})
	default:
		q.Mul(kernels.Mul{A: g, B: f, Y: g})
	}
	if o.LowRank.ScaleFront {
		q.Add(kernels.Add{A: g, Y: g, Alpha: front})
		front = 1
	}
	total, limit := o.take(q, kernels.F64, 1), o.take(q, kernels.F32, 1)
	q.SqSums(kernels.SqSums{X: g.Reshape(1, 1, -1), Rows: total})
	q.NormLimit(kernels.NormLimit{SumSq: total, Last: t.State[3], Y: limit, Growth: growth, Eps: eps})
	q.Add(kernels.Add{A: g, Y: g, Alpha: front, AlphaDev: limit.Data})
}
