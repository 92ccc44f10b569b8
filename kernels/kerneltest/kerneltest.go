// Package kerneltest measures a backend of package kernels, operation by operation, in four modes:
//
//   - Test: results against the float64 oracle.
//   - Grad: gradients against central differences of the oracle's forward pass, so that no analytic formula is shared.
//   - Perf: time, arithmetic and bandwidth at the shapes of real models.
//   - Support: which operations and options a backend has, per element type.
//
// Every backend passes the same cases. Command optest runs them on one that is named by its path.
package kerneltest

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// Mode is what Run does with each case.
type Mode string

// Modes.
const (
	Test    Mode = "test"
	Grad    Mode = "grad"
	Perf    Mode = "perf"
	Support Mode = "support"
)

// Case is one operation with one set of shapes and options.
type Case struct {
	// Op is the operation's name in tunefleet.h, Name what is special about the case.
	Op, Name string
	// Perf cases are timed only: nothing is computed to compare with.
	Perf bool
	// Fails is set when the operation has to be refused.
	Fails bool
	// Run prepares operands, gives the operation to Env.Do and says what is to come out.
	Run func(e *Env)
}

// Status is how a case ended.
type Status string

// Statuses.
const (
	OK          Status = "ok"
	Failed      Status = "failed"
	Unsupported Status = "unsupported"
)

// Result is the outcome of one case.
type Result struct {
	Op     string `json:"op"`
	Case   string `json:"case"`
	DType  string `json:"dtype"`
	Status Status `json:"status"`
	// Error says what is wrong; Worst is the largest relative L2 error over the outputs, at Output.
	Error  string  `json:"error,omitempty"`
	Worst  float64 `json:"worst,omitempty"`
	Output string  `json:"output,omitempty"`
	// Perf: median time of one run, and what it amounts to.
	Micros float64 `json:"micros,omitempty"`
	GFLOPS float64 `json:"gflops,omitempty"`
	GBps   float64 `json:"gbps,omitempty"`
}

// Options of Run.
type Options struct {
	// Op restricts the cases to one operation.
	Op string
	// Name restricts them to those whose names begin with it.
	Name string
	// DType of the operands that have no type of their own (default F32).
	DType kernels.DType
	// Seed of the random operands (default 1).
	Seed uint64
	// F32 is the relative L2 error that f32 results may have (default 2e-6; sums in another order need more).
	F32 float64
	// Apart gives each operand memory of its own, as long as it is, and leaves what is to be written unwritten: for a backend that notices
	// accesses beyond an allocation and reads of what nothing has written.
	Apart bool
	// MinTime is how long a perf case runs (default 200 ms).
	MinTime time.Duration
	// Each is called with each result.
	Each func(Result)
}

// Run runs all cases on the device.
func Run(d *kernels.Device, mode Mode, o Options) ([]Result, error) {
	switch mode {
	case Test, Grad, Perf, Support:
	default:
		return nil, fmt.Errorf("cannot run kernel tests: mode %q is not test, grad, perf or support", mode)
	}
	if o.DType == 0 {
		o.DType = kernels.F32
	}
	if o.Seed == 0 {
		o.Seed = 1
	}
	if o.F32 == 0 {
		o.F32 = tolerance(kernels.F32)
	}
	if o.MinTime == 0 {
		o.MinTime = 200 * time.Millisecond
	}
	if o.Op != "" && !slices.Contains(kernels.OpNames(), o.Op) {
		return nil, fmt.Errorf("cannot run kernel tests: no operation %q", o.Op)
	}
	var out []Result
	for _, c := range Cases() {
		if o.Op != "" && c.Op != o.Op || !strings.HasPrefix(c.Name, o.Name) || c.Perf != (mode == Perf) || c.Fails && mode != Test {
			continue
		}
		r, ran := runCase(d, mode, o, c)
		if !ran {
			continue
		}
		out = append(out, r)
		if o.Each != nil {
			o.Each(r)
		}
	}
	return out, nil
}

// arenaBytes is enough for every case.
const arenaBytes = 1 << 30

func runCase(d *kernels.Device, mode Mode, o Options, c Case) (r Result, ran bool) {
	r = Result{Op: c.Op, Case: c.Name, DType: o.DType.String(), Status: OK}
	fail := func(err error) {
		if r.Error == "" {
			r.Status, r.Error = Failed, err.Error()
		}
	}
	q, err := d.NewQueue(kernels.Compute)
	if err != nil {
		fail(err)
		return r, true
	}
	defer func() { _ = q.Close() }()
	e := &Env{q: q, d: d, apart: o.Apart, dt: o.DType, f32: o.F32, perf: c.Perf}
	defer func() {
		_ = q.Sync()
		for _, a := range e.arenas {
			a.Close()
		}
	}()
	h := fnv.New64a()
	_, _ = h.Write([]byte(c.Op + "/" + c.Name))
	e.rand = rand.New(rand.NewPCG(h.Sum64(), o.Seed))
	c.Run(e)
	if mode == Grad && len(e.grads) == 0 {
		return r, false
	}
	if e.do == nil {
		fail(errors.New("the case has no operation"))
		return r, true
	}
	if mode == Perf {
		if err := e.time(o.MinTime, &r); err != nil {
			status(&r, err)
		}
		return r, true
	}
	e.do(q)
	if err := q.Sync(); err != nil {
		if !c.Fails {
			status(&r, err)
		}
		return r, true
	}
	switch {
	case c.Fails:
		fail(errors.New("it was not refused"))
	case mode == Test:
		e.check(e.wants, &r, fail)
	case mode == Grad:
		e.check(e.grads, &r, fail)
	}
	return r, true
}

// status tells what a backend has not from what it does wrong.
func status(r *Result, err error) {
	r.Status, r.Error = Failed, err.Error()
	var ke *kernels.Error
	if errors.As(err, &ke) && ke.Status == kernels.StatusUnsupported {
		r.Status = Unsupported
	}
}

// Env is what a case runs in.
type Env struct {
	q      *kernels.Queue
	d      *kernels.Device
	arenas []*kernels.Arena // one, or one for each operand
	apart  bool
	dt     kernels.DType
	f32    float64 // tolerance
	perf   bool
	rand   *rand.Rand
	do     func(*kernels.Queue)

	wants, grads []expectation
	flops, bytes float64
}

type expectation struct {
	name  string
	at    Operand
	tol   float64
	want  func() []float64
	check func(got []float64) error
}

// Operand is a tensor with the values that it was filled with, as its element type holds them. Perf cases have no values.
type Operand struct {
	T    kernels.Tensor
	V    []float64
	base kernels.Tensor
}

// In is an operand of normal random numbers.
func (e *Env) In(dims ...int64) Operand { return e.in(e.dt, 0, dims...) }

// In32 is an operand of normal random numbers that is always f32.
func (e *Env) In32(dims ...int64) Operand { return e.in(kernels.F32, 0, dims...) }

// Wide is an operand whose rows lie pad elements further apart than they are long.
func (e *Env) Wide(pad int64, dims ...int64) Operand { return e.in(e.dt, pad, dims...) }

func (e *Env) in(dt kernels.DType, pad int64, dims ...int64) Operand {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	v := make([]float64, n)
	for i := range v {
		v[i] = e.rand.NormFloat64()
	}
	return e.put(dt, v, pad, dims...)
}

// Vals is an operand of given values.
func (e *Env) Vals(v []float64, dims ...int64) Operand { return e.put(e.dt, v, 0, dims...) }

// Vals32 is an f32 operand of given values.
func (e *Env) Vals32(v []float64, dims ...int64) Operand { return e.put(kernels.F32, v, 0, dims...) }

// Out is an operand of NaN: what is not written shows.
func (e *Env) Out(dims ...int64) Operand { return e.out(e.dt, 0, dims...) }

// Out32 is an f32 operand of NaN.
func (e *Env) Out32(dims ...int64) Operand { return e.out(kernels.F32, 0, dims...) }

// OutAs is an operand of another element type, to be written.
func (e *Env) OutAs(dt kernels.DType, dims ...int64) Operand { return e.out(dt, 0, dims...) }

// OutWide is an operand of NaN whose rows lie pad elements further apart than they are long.
func (e *Env) OutWide(pad int64, dims ...int64) Operand { return e.out(e.dt, pad, dims...) }

func (e *Env) out(dt kernels.DType, pad int64, dims ...int64) Operand {
	n := int64(1)
	for _, d := range dims {
		n *= d
	}
	v := make([]float64, n)
	if dt == kernels.F32 || dt == kernels.F64 || dt == kernels.BF16 || dt == kernels.F16 {
		for i := range v {
			v[i] = math.NaN()
		}
	}
	return e.place(dt, v, pad, !e.apart, dims...)
}

// tensor is memory for an operand.
func (e *Env) tensor(dt kernels.DType, dims ...int64) (kernels.Tensor, error) {
	if !e.apart && len(e.arenas) > 0 {
		return e.arenas[0].New(dt, dims...)
	}
	if e.apart {
		// Arenas hand out multiples of 256 bytes; this one is as long as the tensor, and nothing else is in it.
		a, err := e.d.NewArena("operand", max(kernels.NewTensor(1, dt, dims...).Bytes(), 1))
		if err != nil {
			return kernels.Tensor{}, err
		}
		e.arenas = append(e.arenas, a)
		b, err := a.Alloc(0)
		return kernels.NewTensor(b.Addr, dt, dims...), err
	}
	a, err := e.d.NewArena("case", arenaBytes)
	if err != nil {
		return kernels.Tensor{}, err
	}
	e.arenas = append(e.arenas, a)
	return a.New(dt, dims...)
}

func (e *Env) put(dt kernels.DType, v []float64, pad int64, dims ...int64) Operand {
	return e.place(dt, v, pad, true, dims...)
}

func (e *Env) place(dt kernels.DType, v []float64, pad int64, write bool, dims ...int64) Operand {
	last := len(dims) - 1
	wide := slices.Clone(dims)
	wide[last] += pad
	base, err := e.tensor(dt, wide...)
	if err != nil {
		e.q.Fail(err)
		return Operand{}
	}
	o := Operand{T: base, base: base}
	if pad > 0 {
		o.T = base.Slice(last, 0, dims[last])
	}
	stored := make([]float64, len(v))
	flat := make([]float64, base.Numel())
	for i := range flat {
		flat[i] = math.NaN()
	}
	d := int(max(dims[last], 1))
	for i := range v {
		stored[i] = round(dt, v[i])
		flat[i/d*(d+int(pad))+i%d] = stored[i]
	}
	if !e.perf {
		o.V = stored
	}
	if write {
		upload(e.q, base, flat)
	}
	return o
}

// I32 is an operand of integers.
func (e *Env) I32(v []int32, dims ...int64) kernels.Tensor { return ints(e, kernels.I32, v, dims...) }

// I64 is an operand of integers.
func (e *Env) I64(v []int64, dims ...int64) kernels.Tensor { return ints(e, kernels.I64, v, dims...) }

// U8 is an operand of bytes.
func (e *Env) U8(v []uint8, dims ...int64) kernels.Tensor { return ints(e, kernels.U8, v, dims...) }

func ints[T kernels.Element](e *Env, dt kernels.DType, v []T, dims ...int64) kernels.Tensor {
	t, err := e.tensor(dt, dims...)
	if err == nil {
		err = kernels.Upload(e.q, t, v)
	}
	if err != nil {
		e.q.Fail(err)
	}
	return t
}

// Do gives the operation. Perf mode calls it again and again.
func (e *Env) Do(f func(q *kernels.Queue)) { e.do = f }

// Cost says what one run amounts to.
func (e *Env) Cost(flops, bytes float64) { e.flops, e.bytes = flops, bytes }

// Want says what an output has to be, within a relative L2 error that suits its element type.
func (e *Env) Want(name string, o Operand, want func() []float64) { e.WantTol(name, o, 1, want) }

// WantTol is Want with a tolerance that is a multiple of the usual one; 0 wants equal values.
func (e *Env) WantTol(name string, o Operand, times float64, want func() []float64) {
	e.wants = append(e.wants, expectation{name: name, at: o, tol: times * e.tolerance(o), want: want})
}

// Verify checks a property of an output.
func (e *Env) Verify(name string, o Operand, check func(got []float64) error) {
	e.wants = append(e.wants, expectation{name: name, at: o, check: check})
}

// Grad says that an output is the gradient of loss at x (plus before, when the operation accumulates).
func (e *Env) Grad(name string, o Operand, x, before []float64, loss func(x []float64) float64) {
	e.grads = append(e.grads, expectation{name: name, at: o, tol: e.gradTolerance(o), want: func() []float64 {
		return add(oracle.CentralDifference(loss, x, 1e-5), before)
	}})
}

// tolerance of an output is that of its element type, or of the operands' where those have half the digits.
func (e *Env) tolerance(o Operand) float64 {
	t := tolerance(o.T.DType)
	if o.T.DType == kernels.F32 {
		t = e.f32
	}
	if e.dt == kernels.BF16 || e.dt == kernels.F16 {
		t = max(t, tolerance(e.dt))
	}
	return t
}

// gradTolerance is wider for f32, since a difference quotient has fewer digits.
func (e *Env) gradTolerance(o Operand) float64 {
	if t := e.tolerance(o); t >= tolerance(kernels.F16) {
		return t
	}
	return 20 * e.tolerance(o)
}

// tolerance of results that went through sums of some hundred terms.
func tolerance(dt kernels.DType) float64 {
	switch dt {
	case kernels.F64:
		return 1e-12
	case kernels.F32:
		return 2e-6
	case kernels.F16:
		return 2e-3
	case kernels.BF16:
		return 1e-2
	}
	return 0
}

func (e *Env) check(list []expectation, r *Result, fail func(error)) {
	for _, x := range list {
		got, err := e.read(x.at)
		if err != nil {
			fail(fmt.Errorf("%s: %w", x.name, err))
			return
		}
		if x.check != nil {
			if err := x.check(got); err != nil {
				fail(fmt.Errorf("%s: %w", x.name, err))
			}
			continue
		}
		worst, err := compare(got, x.want(), x.tol)
		if worst >= r.Worst {
			r.Worst, r.Output = worst, x.name
		}
		if err != nil {
			fail(fmt.Errorf("%s: %w", x.name, err))
		}
	}
}

// compare wants equal infinities and a small relative L2 error of the rest.
func compare(got, want []float64, tol float64) (worst float64, err error) {
	if len(got) != len(want) {
		return math.Inf(1), fmt.Errorf("%d elements, want %d", len(got), len(want))
	}
	var g, w []float64
	for i := range want {
		if math.IsInf(want[i], 0) || math.IsNaN(want[i]) {
			if got[i] != want[i] && !(math.IsNaN(got[i]) && math.IsNaN(want[i])) {
				return math.Inf(1), fmt.Errorf("element %d is %g, want %g", i, got[i], want[i])
			}
			continue
		}
		g, w = append(g, got[i]), append(w, want[i])
	}
	worst = oracle.RelativeL2(g, w)
	if worst <= tol {
		return worst, nil
	}
	at, most := 0, -1.0
	for i := range w {
		if d := math.Abs(g[i] - w[i]); d > most || math.IsNaN(d) {
			at, most = i, d
			if math.IsNaN(d) {
				break
			}
		}
	}
	return worst, fmt.Errorf("relative L2 error is %.3g, limit %.3g; finite element %d is %g, want %g", worst, tol, at, g[at], w[at])
}

func add(a, b []float64) []float64 {
	out := slices.Clone(a)
	for i := range b {
		out[i] += b[i]
	}
	return out
}
