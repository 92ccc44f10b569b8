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
// projects the update back, APOLLO takes from it only how much to scale each channel of the gradient. Products run on the device.
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
	var most int64
	for _, t := range stretches {
		if o.projected(t.Param) {
			low := t.State[0].Numel()
			most = max(most, 4*(2*low+t.Len)+3*256)
		}
	}
	if err := o.reserve(q, most); err != nil {
		return err
	}
	for _, t := range stretches {
		switch {
		case o.projected(t.Param):
			o.matrix(q, s, t)
		case !idle(q):
			o.plain(q, s, t)
		}
	}
	return done(q)
}

// plain is transformers' former AdamW: decay comes last.
func (o *lowRank) plain(q *kernels.Queue, s Step, t Stretch) {
	p, g, m, v := o.load(q, 0, t.P), o.load(q, 1, t.G), o.load(q, 2, t.State[0]), o.load(q, 3, t.State[1])
	for i := range g {
		g[i] *= s.Clip
	}
	o.adamRow(m, v, g, g)
	o.apply(s, t, p, g)
	o.store(q, t.P, p)
	o.store(q, t.State[0], m)
	o.store(q, t.State[1], v)
}

func (o *lowRank) apply(s Step, t Stretch, p, u []float32) {
	lr := s.LR * t.LRScale
	step, decay := float32(-lr*o.biasCorrection(s.N)), float32(-lr*t.Decay)
	for i := range p {
		x := p[i] + float32(u[i]*step)
		if t.Decay > 0 {
			x += float32(x * decay)
		}
		p[i] = x
	}
}

func (o *lowRank) matrix(q *kernels.Queue, s Step, t Stretch) {
	o.arena.Reset()
	rows, cols, rank, right := o.shape(t.Param)
	take := func(dims ...int64) kernels.Tensor {
		x, err := o.arena.New(kernels.F32, dims...)
		if err != nil {
			q.Fail(err)
		}
		return x
	}
	g := t.G.Reshape(rows, cols)
	if s.Clip != 1 {
		q.Add(kernels.Add{A: g, Y: g, Alpha: s.Clip})
	}
	proj := t.State[2]
	if (s.N-1)%o.LowRank.Every == 0 && !idle(q) {
		o.refresh(q, s, t, right)
	}
	var low kernels.Tensor
	if right {
		proj = proj.Reshape(rank, cols)
		low = take(rows, rank)
		q.Gemm(kernels.Gemm{A: g, B: proj.T(), C: low, Alpha: 1})
	} else {
		proj = proj.Reshape(rows, rank)
		low = take(rank, cols)
		q.Gemm(kernels.Gemm{A: proj.T(), B: g, C: low, Alpha: 1})
	}
	if !idle(q) {
		r, m, v := o.load(q, 0, low), o.load(q, 1, t.State[0]), o.load(q, 2, t.State[1])
		u := o.room(3, low.Numel())
		o.adamRow(m, v, r, u)
		o.store(q, t.State[0], m)
		o.store(q, t.State[1], v)
		if o.Name == Apollo {
			o.scaled(q, s, t, r, u, right)
			return
		}
		o.store(q, low, u)
	}
	back := take(rows, cols)
	gemm := kernels.Gemm{A: low, B: proj, C: back, Alpha: float32(o.LowRank.Scale)}
	if !right {
		gemm.A, gemm.B = proj, low
	}
	q.Gemm(gemm)
	if idle(q) {
		return
	}
	update := o.load(q, 4, back.Reshape(t.Len))
	p := o.load(q, 5, t.P)
	o.apply(s, t, p, update)
	o.store(q, t.P, p)
}

// refresh computes the projection anew: GaLore's from the singular vectors of the gradient, APOLLO's at random.
func (o *lowRank) refresh(q *kernels.Queue, s Step, t Stretch, right bool) {
	rows, cols, rank, _ := o.shape(t.Param)
	n := t.State[2].Numel()
	if o.Name == GaLore {
		o.store(q, t.State[2].Reshape(n), singular(o.load(q, 4, t.G.Reshape(t.Len)), int(rows), int(cols), int(rank), right))
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

// scaled is APOLLO's update: the gradient, each channel scaled as Adam scales it in the projection, with Fira's limit on the growth of the
// update's norm (https://arxiv.org/abs/2410.01623).
func (o *lowRank) scaled(q *kernels.Queue, s Step, t Stretch, r, u []float32, right bool) {
	rows, cols, rank, _ := o.shape(t.Param)
	g, p, last := o.load(q, 4, t.G.Reshape(t.Len)), o.load(q, 5, t.P), o.room(1, 1)
	if err := kernels.Download(q, last, t.State[3]); err != nil {
		q.Fail(err)
	}
	if o.LowRank.ScaleType == "tensor" {
		f := norm(u) / (norm(r) + 1e-8)
		for i := range g {
			g[i] *= f
		}
	} else {
		// The reference takes norms over dimension 0 of wide matrices and 1 of tall ones, which with "std" is the projected one.
		channels(g, r, u, int(rows), int(cols), int(rank), right)
	}
	front := float32(math.Sqrt(o.LowRank.Scale))
	mul := func(f float32) {
		for i := range g {
			g[i] *= f
		}
	}
	if o.LowRank.ScaleFront {
		mul(front)
	}
	size := norm(g)
	if last[0] > 0 {
		if limit := max(size/(last[0]+1e-8), 1.01) / 1.01; limit > 1 {
			for i := range g {
				g[i] /= limit
			}
			size /= limit
		}
	}
	last[0] = size
	o.store(q, t.State[3], last)
	if !o.LowRank.ScaleFront {
		mul(front)
	}
	o.apply(s, t, p, g)
	o.store(q, t.P, p)
}

// channels scales the rows (right) or columns of g by ||u|| / (||r|| + 1e-8) over the projected dimension.
func channels(g, r, u []float32, rows, cols, rank int, right bool) {
	sum := func(v []float32, at, stride int) float32 {
		var s float64
		for k := range rank {
			x := float64(v[at+k*stride])
			s += float64(x * x)
		}
		return float32(math.Sqrt(s))
	}
	if right {
		for i := range rows {
			f := sum(u, i*rank, 1) / (sum(r, i*rank, 1) + 1e-8)
			for j := range cols {
				g[i*cols+j] *= f
			}
		}
		return
	}
	for j := range cols {
		f := sum(u, j, cols) / (sum(r, j, cols) + 1e-8)
		for i := range rows {
			g[i*cols+j] *= f
		}
	}
}
