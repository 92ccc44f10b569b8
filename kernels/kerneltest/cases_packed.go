package kerneltest

import (
	"fmt"
	"math"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/oracle"
)

// packedKinds are the ways to hold a matrix in few bits.
var packedKinds = []string{"nf4", "nf4, double", "int8"}

// packed makes a matrix of random codes and its expansion.
func (e *Env) packed(kind string, rows, cols int) (kernels.Packed, []float64) {
	n := rows * cols
	codes := func(n int) []uint8 {
		v := make([]uint8, n)
		for i := range v {
			v[i] = uint8(e.rand.Uint32())
		}
		return v
	}
	positive := func(n int) []float64 {
		v := make([]float64, n)
		for i := range v {
			v[i] = float64(float32(math.Abs(e.rand.NormFloat64()) + 0.1))
		}
		return v
	}
	w := kernels.Packed{Rows: int64(rows), Cols: int64(cols), Kind: kernels.PackedNF4}
	blocks := (n + 63) / 64
	switch kind {
	case "int8":
		c, s := codes(n), positive(rows)
		w.Kind, w.Codes, w.Scales = kernels.PackedInt8, e.U8(c, int64(n)), e.Vals32(s, int64(rows)).T
		return w, oracle.Int8(c, s, cols)
	case "nf4":
		c, s := codes((n+1)/2), positive(blocks)
		w.Codes, w.Scales = e.U8(c, int64(len(c))), e.Vals32(s, int64(blocks)).T
		return w, oracle.NF4(c, nil, s, n)
	}
	c, sc, s := codes((n+1)/2), codes(blocks), positive(256+(blocks+255)/256+1)
	w.Codes, w.ScaleCodes, w.Scales = e.U8(c, int64(len(c))), e.U8(sc, int64(blocks)), e.Vals32(s, int64(len(s))).T
	return w, oracle.NF4(c, sc, s, n)
}

func packedCases() []Case {
	var cases []Case
	for _, kind := range packedKinds {
		for _, s := range [][2]int{{5, 37}, {3, 128}, {70, 301}} {
			rows, cols := s[0], s[1]
			cases = append(cases, Case{Op: "unpack", Name: fmt.Sprintf("%s %dx%d", kind, rows, cols), Run: func(e *Env) {
				w, v := e.packed(kind, rows, cols)
				y := e.out(kernels.F32, 3, int64(rows-2), int64(cols))
				e.Do(func(q *kernels.Queue) { q.Unpack(kernels.Unpack{W: w, Y: y.T, Row0: 1}) })
				e.Want("y", y, func() []float64 { return v[cols : (rows-1)*cols] })
			}})
		}
		cases = append(cases, packedGemmCases(kind, 5, 20, 101)...)
		cases = append(cases, packedGemmCases(kind, 49, 9, 33)...)
	}
	return append(cases, Case{Op: "unpack", Name: "rows that are not there", Fails: true, Run: func(e *Env) {
		w, _ := e.packed("int8", 4, 8)
		y := e.Out32(3, 8)
		e.Do(func(q *kernels.Queue) { q.Unpack(kernels.Unpack{W: w, Y: y.T, Row0: 2}) })
	}}, Case{Op: "packed_gemm", Name: "shapes that do not fit", Fails: true, Run: func(e *Env) {
		w, _ := e.packed("nf4", 4, 8)
		a, c := e.In32(3, 9), e.Out32(3, 4)
		e.Do(func(q *kernels.Queue) { q.PackedGemm(kernels.PackedGemm{W: w, A: a.T, C: c.T, Alpha: 1}) })
	}}, Case{Op: "packed_gemm", Name: "scales that do not fit", Fails: true, Run: func(e *Env) {
		w, _ := e.packed("nf4, double", 4, 8)
		w.ScaleCodes = kernels.Tensor{}
		a, c := e.In32(3, 8), e.Out32(3, 4)
		e.Do(func(q *kernels.Queue) { q.PackedGemm(kernels.PackedGemm{W: w, A: a.T, C: c.T, Alpha: 1}) })
	}})
}

func packedGemmCases(kind string, m, rows, cols int) []Case {
	var cases []Case
	const alpha = 0.5
	for _, acc := range []bool{false, true} {
		name := fmt.Sprintf("%s %d of %dx%d accumulate %v", kind, m, rows, cols, acc)
		cases = append(cases, Case{Op: "packed_gemm", Name: name, Run: func(e *Env) {
			w, v := e.packed(kind, rows, cols)
			y, old := e.before32(acc, int64(m), int64(rows))
			x, bias := e.in(kernels.F32, 2, int64(m), int64(cols)), e.In32(int64(rows))
			e.Do(func(q *kernels.Queue) {
				q.PackedGemm(kernels.PackedGemm{W: w, A: x.T, C: y.T, Bias: bias.T, Alpha: alpha, Accumulate: flag(acc)})
			})
			e.Want("y", y, func() []float64 { return add(oracle.Linear(scaled(x.V, alpha), v, bias.V, m, rows, cols), old) })
		}}, Case{Op: "packed_gemm", Name: name + ", transposed", Run: func(e *Env) {
			w, v := e.packed(kind, rows, cols)
			dx, old := e.before32(acc, int64(m), int64(cols))
			x, dy := e.In32(int64(m), int64(cols)), e.In32(int64(m), int64(rows))
			e.Do(func(q *kernels.Queue) {
				q.PackedGemm(kernels.PackedGemm{W: w, A: dy.T, C: dx.T, Alpha: 1, Accumulate: flag(acc), Transposed: 1})
			})
			e.Want("dx", dx, func() []float64 {
				g, _, _ := oracle.LinearBackward(x.V, v, dy.V, m, rows, cols)
				return add(g, old)
			})
			e.Grad("dx", dx, x.V, old, func(in []float64) float64 { return dot(oracle.Linear(in, v, nil, m, rows, cols), dy.V) })
		}})
	}
	return cases
}

// packedPerf are products at a small llama's shapes.
func packedPerf() []Case {
	var cases []Case
	for _, kind := range packedKinds {
		for _, m := range []int{1, 2048} {
			cases = append(cases, Case{Op: "packed_gemm", Name: fmt.Sprintf("%s %dx1408x512", kind, m), Perf: true, Run: func(e *Env) {
				w, _ := e.packed(kind, 1408, 512)
				x, y := e.In32(int64(m), 512), e.Out32(int64(m), 1408)
				e.Cost(2*float64(m)*1408*512, 4*float64(m)*(1408+512)+float64(w.Codes.Numel()))
				e.Do(func(q *kernels.Queue) { q.PackedGemm(kernels.PackedGemm{W: w, A: x.T, C: y.T, Alpha: 1}) })
			}})
		}
		cases = append(cases, Case{Op: "unpack", Name: kind + " 1408x512", Perf: true, Run: func(e *Env) {
			w, _ := e.packed(kind, 1408, 512)
			y := e.Out32(1408, 512)
			e.Cost(0, 4*1408*512+float64(w.Codes.Numel()))
			e.Do(func(q *kernels.Queue) { q.Unpack(kernels.Unpack{W: w, Y: y.T}) })
		}})
	}
	return cases
}
