package kerneltest

import (
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
)

// round is v as an element type holds it.
func round(dt kernels.DType, v float64) float64 {
	switch dt {
	case kernels.F32:
		return float64(float32(v))
	case kernels.BF16:
		return float64(fromBF16(toBF16(float32(v))))
	case kernels.F16:
		return fromF16(toF16(float32(v)))
	}
	return v
}

// toBF16 rounds to nearest, ties to even.
func toBF16(v float32) uint16 {
	b := math.Float32bits(v)
	if v != v {
		return uint16(b>>16) | 0x40
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

func fromBF16(b uint16) float32 { return math.Float32frombits(uint32(b) << 16) }

// toF16 rounds to nearest, ties to even (IEEE 754 binary16).
func toF16(v float32) uint16 {
	b := math.Float32bits(v)
	sign := uint16(b >> 16 & 0x8000)
	a := math.Abs(float64(v))
	switch {
	case v != v:
		return sign | 0x7e00
	case a >= 65520:
		return sign | 0x7c00
	case a < 0x1p-14: // subnormal: units of 2^-24
		return sign | uint16(math.RoundToEven(a*0x1p24))
	}
	f, e := math.Frexp(a) // a = f * 2^e, f in [0.5, 1)
	m := math.RoundToEven(f * 2048)
	if m == 2048 {
		m, e = 1024, e+1
	}
	return sign | uint16(e+14)<<10 + uint16(m) - 1024
}

func fromF16(h uint16) float64 {
	sign := 1.0
	if h&0x8000 != 0 {
		sign = -1
	}
	e, m := int(h>>10&31), float64(h&1023)
	switch e {
	case 0:
		return sign * m * 0x1p-24
	case 31:
		if m != 0 {
			return math.NaN()
		}
		return sign * math.Inf(1)
	}
	return sign * math.Ldexp(1024+m, e-25)
}

func upload(q *kernels.Queue, t kernels.Tensor, v []float64) {
	var err error
	switch t.DType {
	case kernels.F32:
		err = kernels.Upload(q, t, convert(v, func(x float64) float32 { return float32(x) }))
	case kernels.F64:
		err = kernels.Upload(q, t, v)
	case kernels.BF16:
		err = kernels.Upload(q, t, convert(v, func(x float64) uint16 { return toBF16(float32(x)) }))
	case kernels.F16:
		err = kernels.Upload(q, t, convert(v, func(x float64) uint16 { return toF16(float32(x)) }))
	case kernels.I32:
		err = kernels.Upload(q, t, convert(v, func(x float64) int32 { return int32(x) }))
	case kernels.U8:
		err = kernels.Upload(q, t, convert(v, func(x float64) uint8 { return uint8(x) }))
	default:
		err = fmt.Errorf("cannot fill a tensor of %s", t.DType)
	}
	if err != nil {
		q.Fail(err)
	}
}

func convert[A, B any](v []A, f func(A) B) []B {
	out := make([]B, len(v))
	for i, x := range v {
		out[i] = f(x)
	}
	return out
}

// read returns an operand's elements in row-major order.
func (e *Env) read(o Operand) ([]float64, error) {
	flat, err := e.download(o.base)
	if err != nil {
		return nil, err
	}
	off := int64(o.T.Data-o.base.Data) / o.base.DType.Size()
	out := make([]float64, 0, o.T.Numel())
	var walk func(dim int, at int64)
	walk = func(dim int, at int64) {
		if dim == int(o.T.Rank) {
			out = append(out, flat[at])
			return
		}
		for i := range o.T.Dim[dim] {
			walk(dim+1, at+i*o.T.Stride[dim])
		}
	}
	walk(0, off)
	return out, nil
}

func (e *Env) download(t kernels.Tensor) ([]float64, error) {
	n := t.Numel()
	switch t.DType {
	case kernels.F32:
		v := make([]float32, n)
		err := kernels.Download(e.q, v, t)
		return convert(v, func(x float32) float64 { return float64(x) }), err
	case kernels.F64:
		v := make([]float64, n)
		return v, kernels.Download(e.q, v, t)
	case kernels.I32:
		v := make([]int32, n)
		err := kernels.Download(e.q, v, t)
		return convert(v, func(x int32) float64 { return float64(x) }), err
	case kernels.U8:
		v := make([]uint8, n)
		err := kernels.Download(e.q, v, t)
		return convert(v, func(x uint8) float64 { return float64(x) }), err
	case kernels.BF16, kernels.F16:
		v := make([]uint16, n)
		err := kernels.Download(e.q, v, t)
		if t.DType == kernels.F16 {
			return convert(v, fromF16), err
		}
		return convert(v, func(x uint16) float64 { return float64(fromBF16(x)) }), err
	}
	return nil, fmt.Errorf("cannot read a tensor of %s", t.DType)
}

// time measures the median of runs of the operation.
func (e *Env) time(least time.Duration, r *Result) error {
	for range 2 { // workspace, page faults, caches
		e.do(e.q)
		if err := e.q.Sync(); err != nil {
			return err
		}
	}
	var times []float64
	for begin := time.Now(); time.Since(begin) < least || len(times) < 3; {
		at := time.Now()
		e.do(e.q)
		if err := e.q.Sync(); err != nil {
			return err
		}
		times = append(times, time.Since(at).Seconds())
	}
	slices.Sort(times)
	s := times[len(times)/2]
	r.Micros, r.GFLOPS, r.GBps = s*1e6, e.flops/s/1e9, e.bytes/s/1e9
	return nil
}
