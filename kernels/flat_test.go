package kernels

import (
	"errors"
	"math"
	"testing"
)

func TestAdamW(t *testing.T) {
	const n, steps = 1003, 3
	p, g := noise(1, n), noise(2, n)
	P, M, V := f64(p), make([]float64, n), make([]float64, n)
	lr, b1, b2, eps, wd, clip := 1e-2, 0.9, 0.95, 1e-8, 0.1, float64(float32(0.3))
	for s := 1; s <= steps; s++ {
		for i := range P {
			gi := float64(g[i]) * float64(s) * clip
			P[i] *= 1 - lr*wd
			M[i] += (1 - b1) * (gi - M[i])
			V[i] = b2*V[i] + (1-b2)*gi*gi
			P[i] -= lr / (1 - math.Pow(b1, float64(s))) * M[i] / (math.Sqrt(V[i])/math.Sqrt(1-math.Pow(b2, float64(s))) + eps)
		}
	}
	compare(t, 1e-6, func(e *env) outputs {
		a := AdamW{P: e.f32(p, n), M: e.f32(make([]float32, n), n), V: e.f32(make([]float32, n), n), LR: lr, Beta1: b1, Beta2: b2, Eps: eps, WeightDecay: wd,
			ClipDev: e.f32([]float32{float32(clip)}, 1).Data}
		for s := 1; s <= steps; s++ {
			scaled := make([]float32, n)
			for i := range scaled {
				scaled[i] = g[i] * float32(s)
			}
			a.G = e.f32(scaled, n)
			if s == 2 {
				a.StepDev, a.Step = put(e, I64, []int64{2}, 1).Data, 77
			} else {
				a.StepDev, a.Step = 0, int64(s)
			}
			e.q.AdamW(a)
		}
		a.SkipDev = put(e, I32, []int32{1}, 1).Data
		e.q.AdamW(a)
		return outputs{"p": get[float32](e, a.P), "m": get[float32](e, a.M), "v": get[float32](e, a.V)}
	}, map[string][]float64{"p": P, "m": M, "v": V})
}

func TestNormAndClip(t *testing.T) {
	const n = 3*SqNormChunk + 17
	x := noise(1, n)
	ss := dot(f64(x), f64(x))
	compare(t, 1e-6, func(e *env) outputs {
		part, err := e.a.New(F64, 4)
		if err != nil {
			t.Fatal(err)
		}
		total, err := e.a.New(F64, 1)
		if err != nil {
			t.Fatal(err)
		}
		skip, err := e.a.New(I32, 1)
		if err != nil {
			t.Fatal(err)
		}
		norm, clip, flag := e.empty(1), e.empty(1), put(e, I32, []int32{0}, 1)
		X := e.f32(x, n)
		e.q.SqNorm(SqNorm{X: X, Partials: part})
		e.q.SumF64(SumF64{X: part, Total: total})
		e.q.ClipFactor(ClipFactor{SumSq: total, Norm: norm, Clip: clip, Skip: skip, MaxNorm: 2})
		e.q.NonFinite(NonFinite{X: X, Flag: flag})
		if s, f := get[int32](e, skip)[0], get[int32](e, flag)[0]; s != 0 || f != 0 {
			t.Errorf("skip %d, flag %d of finite numbers", s, f)
		}
		out := outputs{"norm": get[float32](e, norm), "clip": get[float32](e, clip)}
		for _, bad := range []float64{math.Inf(1), math.NaN()} {
			e.q.Fill(Fill{Y: X.Slice(0, n-1, n), Value: bad})
			e.q.SqNorm(SqNorm{X: X, Partials: part})
			e.q.SumF64(SumF64{X: part, Total: total})
			e.q.ClipFactor(ClipFactor{SumSq: total, Skip: skip, MaxNorm: 2})
			e.q.NonFinite(NonFinite{X: X, Flag: flag})
			if s, f := get[int32](e, skip)[0], get[int32](e, flag)[0]; s != 1 || f != 1 {
				t.Errorf("skip %d, flag %d with %g", s, f, bad)
			}
		}
		return out
	}, map[string][]float64{"norm": {math.Sqrt(ss)}, "clip": {2 / (math.Sqrt(ss) + 1e-6)}})
}

func TestSliceAdd(t *testing.T) {
	const n, s = 50, 3
	x, y := noise(1, n*s), noise(2, n)
	want := make([]float32, n)
	for i := range want {
		want[i] = ((y[i] + x[i]) + x[n+i]) + x[2*n+i]
	}
	compare(t, 0, func(e *env) outputs {
		X := e.f32(x, s, n)
		acc, fresh, wire := e.f32(y, n), e.empty(n), e.empty(n)
		e.q.SliceAdd(SliceAdd{X: X, Y: acc, Accumulate: 1})
		e.q.SliceAdd(SliceAdd{X: X, Y: fresh})
		half, err := e.a.New(BF16, s, n)
		if err != nil {
			t.Fatal(err)
		}
		e.q.Copy(Copy{X: X, Y: half})
		e.q.SliceAdd(SliceAdd{X: half, Y: wire})
		return outputs{"acc": get[float32](e, acc), "fresh": get[float32](e, fresh), "wire": get[float32](e, wire)}
	}, map[string][]float64{"acc": f64(want)})
}

func TestCasts(t *testing.T) {
	x := []float32{0, 1, -1.5, 65504, 65520, 6e-8, 2.9e-8, 1e-5, 3.14159274, float32(math.Inf(1)), 1.00390625, 1.01171875}
	half := []float64{0, 1, -1.5, 65504, math.Inf(1), 5.960464477539063e-08, 0, 1.0013580322265625e-05, 3.140625, math.Inf(1), 1.00390625, 1.01171875}
	bf := []float64{0, 1, -1.5, 65536, 65536, 6.007030606269836e-08, 2.898741513490677e-08, 1.0013580322265625e-05, 3.140625, math.Inf(1), 1, 1.015625}
	compare(t, 0, func(e *env) outputs {
		n := int64(len(x))
		out := outputs{}
		for name, dt := range map[string]DType{"f16": F16, "bf16": BF16, "f64": F64} {
			h, err := e.a.New(dt, n)
			if err != nil {
				t.Fatal(err)
			}
			back := e.empty(n)
			e.q.Copy(Copy{X: e.f32(x, n), Y: h})
			e.q.Copy(Copy{X: h, Y: back})
			out[name] = get[float32](e, back)
		}
		wide := e.empty(4, 3)
		e.q.Copy(Copy{X: e.f32(x, 3, 4).T(), Y: wide})
		out["t"] = get[float32](e, wide)
		return out
	}, map[string][]float64{"f16": half, "bf16": bf, "f64": f64(x), "t": f64(transposed(x, 3, 4))})
}

func TestRandom(t *testing.T) {
	const n = 40000
	compare(t, 0, func(e *env) outputs {
		u, g, tail := e.empty(n), e.empty(n), e.empty(n-1000)
		e.q.Random(Random{Y: u, Seed: 1, Stream: 2, A: -1, B: 3, Kind: Uniform})
		e.q.Random(Random{Y: g, Seed: 1, Stream: 3, A: 0.5, B: 2, Kind: Normal})
		e.q.Random(Random{Y: tail, Seed: 1, Stream: 3, A: 0.5, B: 2, Kind: Normal, Offset: 1000})
		U, G := get[float32](e, u), get[float32](e, g)
		for i, v := range get[float32](e, tail) {
			if v != G[1000+i] {
				t.Fatalf("element %d of a shard is %g, of the whole %g", i, v, G[1000+i])
			}
		}
		moments := func(v []float32) (m, s float64) {
			for _, x := range v {
				m += float64(x) / n
			}
			for _, x := range v {
				s += (float64(x) - m) * (float64(x) - m) / n
			}
			return m, math.Sqrt(s)
		}
		if m, s := moments(U); math.Abs(m-1) > 0.03 || math.Abs(s-4/math.Sqrt(12)) > 0.02 {
			t.Errorf("uniform has mean %g, deviation %g", m, s)
		}
		if m, s := moments(G); math.Abs(m-0.5) > 0.05 || math.Abs(s-2) > 0.04 {
			t.Errorf("normal has mean %g, deviation %g", m, s)
		}
		return outputs{"u": U, "g": G}
	}, nil)
}

func TestDropout(t *testing.T) {
	const rows, d = 60, 103
	x := noise(1, rows*d)
	compare(t, 0, func(e *env) outputs {
		X, y, g := e.f32(x, rows, d), e.empty(rows, d), e.empty(rows/2, d)
		e.q.Dropout(Dropout{X: X, Y: y, Seed: 5, Stream: 6, P: 0.25})
		ids := make([]int64, rows/2)
		for i := range ids {
			ids[i] = int64(rows/2 + i)
		}
		e.q.Dropout(Dropout{X: X.Slice(0, rows/2, rows), RowIDs: put(e, I64, ids, rows/2), Y: g, Seed: 5, Stream: 6, P: 0.25})
		Y, zeros := get[float32](e, y), 0
		for i, v := range Y {
			if v == 0 {
				zeros++
			} else if v != x[i]*float32(1/(1-0.25)) {
				t.Fatalf("element %d is %g of %g", i, v, x[i])
			}
		}
		if share := float64(zeros) / (rows * d); math.Abs(share-0.25) > 0.03 {
			t.Errorf("dropped %g", share)
		}
		for i, v := range get[float32](e, g) {
			if v != Y[rows/2*d+i] {
				t.Fatalf("row %d by its id differs", i/d)
			}
		}
		return outputs{"y": Y}
	}, nil)
}

// TestFloats: what is uploaded in 16 bits is what the device's own conversion makes of it, and comes back as it is held.
func TestFloats(t *testing.T) {
	dev, err := Open(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	q, err := dev.NewQueue(Compute)
	if err != nil {
		t.Fatal(err)
	}
	arena, err := dev.NewArena("floats", 1<<24)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	n := int64(1<<20 + 37)
	src := make([]float32, n)
	for i := range src {
		src[i] = math.Float32frombits(uint32(i) * 2654435761) // spread over all bits
	}
	x, err := arena.New(F32, n)
	if err != nil {
		t.Fatal(err)
	}
	if err := UploadFloats(q, x, src); err != nil {
		t.Fatal(err)
	}
	for _, dt := range []DType{BF16, F16} {
		y, _ := arena.New(dt, n)
		z, err := arena.New(dt, n)
		if err != nil {
			t.Fatal(err)
		}
		q.Copy(Copy{X: x, Y: y})
		if err := UploadFloats(q, z, src); err != nil {
			t.Fatal(err)
		}
		want, got, back := make([]uint16, n), make([]uint16, n), make([]float32, n)
		if err := errors.Join(Download(q, want, y), Download(q, got, z), DownloadFloats(q, back, y)); err != nil {
			t.Fatal(err)
		}
		q.Copy(Copy{X: y, Y: x}) // widened by the device
		wide := make([]float32, n)
		if err := Download(q, wide, x); err != nil {
			t.Fatal(err)
		}
		for i := range src {
			if want[i] != got[i] || math.Float32bits(back[i]) != math.Float32bits(wide[i]) {
				t.Fatalf("%v: %x is %x on the device, %x from the host; it comes back as %x and %x", dt, math.Float32bits(src[i]), want[i], got[i], math.Float32bits(wide[i]), math.Float32bits(back[i]))
			}
		}
		if err := UploadFloats(q, x, src); err != nil {
			t.Fatal(err)
		}
	}
}
