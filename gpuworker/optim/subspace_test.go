package optim

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

// spectra are singular values of matrices, the greatest first.
var spectra = map[string]func(k, n int) float64{
	"apart": func(k, _ int) float64 { return math.Pow(0.9, float64(k)) },
	"power": func(k, _ int) float64 { return 1 / float64(k+1) },
	"slow":  func(k, _ int) float64 { return 1 / math.Sqrt(float64(k+1)) },
	"outliers": func(k, n int) float64 {
		if k < 5 {
			return 1000 / float64(k+1)
		}
		return 1 - 0.8*float64(k)/float64(n)
	},
	"low rank": func(k, _ int) float64 {
		if k < 9 {
			return 1 / float64(k+1)
		}
		return 0
	},
	"equal": func(int, int) float64 { return 0.5 },
	"pairs": func(k, _ int) float64 { return math.Pow(0.9, float64(k/2)) },
}

// orthonormalRows are k random ones of n elements.
func orthonormalRows(rng *rand.Rand, k, n int) []float64 {
	x := make([]float64, k*n)
	for i := range x {
		x[i] = rng.NormFloat64()
	}
	for range 2 {
		for i := range k {
			row := x[i*n : i*n+n]
			for j := range i {
				axpy(row, x[j*n:j*n+n], -inner(row, x[j*n:j*n+n]))
			}
			s := 1 / math.Sqrt(inner(row, row))
			for l := range row {
				row[l] *= s
			}
		}
	}
	return x
}

// spectral is a matrix [m, n] with a spectrum, its singular values, and its vectors as rows.
func spectral(seed uint64, m, n int, value func(k, n int) float64) (a []float32, values, left, right []float64) {
	rng := rand.New(rand.NewPCG(seed, 7))
	k := min(m, n)
	u, v := orthonormalRows(rng, k, m), orthonormalRows(rng, k, n)
	x := make([]float64, m*n)
	for l := range k {
		values = append(values, value(l, k))
		for i := range m {
			axpy(x[i*n:i*n+n], v[l*n:l*n+n], values[l]*u[l*m+i])
		}
	}
	a = make([]float32, m*n)
	for i := range a {
		a[i] = float32(x[i])
	}
	return a, values, u, v
}

// deviceOf is a queue on a backend with memory.
func deviceOf(t testing.TB, backend string, threads int) (*kernels.Queue, *kernels.Arena) {
	t.Helper()
	dev, err := kernels.Open(kernels.Options{Backend: backend, Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	arena, err := dev.NewArena("test", 600<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = q.Sync()
		arena.Close()
		q.Close()
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return q, arena
}

// found are the rank right vectors of a [m, n] as iteration on a device finds them.
func found(t testing.TB, q *kernels.Queue, arena *kernels.Arena, a []float32, m, n, b, rank int) (v []float32, products int, err error) {
	t.Helper()
	arena.Reset()
	x, err := arena.New(kernels.F32, int64(m), int64(n))
	if err != nil {
		t.Fatal(err)
	}
	if err := kernels.Upload(q, x, a); err != nil {
		t.Fatal(err)
	}
	var total float64
	for _, e := range a {
		total += float64(e) * float64(e)
	}
	s := newSubspace(q, arena, x, math.Sqrt(total), int64(b), int64(rank))
	if err = s.find(); err != nil {
		return nil, s.products, err
	}
	v = make([]float32, rank*n)
	if err := kernels.Download(q, v, s.v.Slice(0, 0, int64(rank))); err != nil {
		t.Fatal(err)
	}
	return v, s.products, nil
}

func TestSubspaceFindsVectors(t *testing.T) {
	const m, n, rank = 300, 421, 40
	q, arena := deviceOf(t, kernels.CPU, 2)
	b := int(blockOf(m, n, rank))
	for name, value := range spectra {
		a, values, _, right := spectral(3, m, n, value)
		v, products, err := found(t, q, arena, a, m, n, b, rank)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		t.Logf("%s: %d products", name, products)
		judge(t, name, v, a, values, right, m, n, rank)
	}
}

// judge holds vectors against those that a matrix was made from: they are orthonormal, catch as much as any can, and where a value is apart
// from all others its vector is theirs.
func judge(t *testing.T, name string, v, a []float32, values, right []float64, m, n, rank int) {
	t.Helper()
	wide := make([]float64, len(v))
	for i, x := range v {
		wide[i] = float64(x)
	}
	var most, caught, worst float64
	for k := range rank {
		x := wide[k*n : k*n+n]
		for j := range k + 1 {
			want := 0.0
			if j == k {
				want = 1
			}
			worst = max(worst, math.Abs(inner(x, wide[j*n:j*n+n])-want))
		}
		most += values[k] * values[k]
		for i := range m {
			var s float64
			for j := range n {
				s += float64(a[i*n+j]) * x[j]
			}
			caught += s * s
		}
	}
	if !(worst <= 1e-6) {
		t.Errorf("%s: inner products are wrong by %g", name, worst)
	}
	if !(math.Abs(caught/most-1) <= 1e-6) {
		t.Errorf("%s: vectors catch %.9f of the energy", name, caught/most)
	}
	for k := range rank {
		gap := math.Inf(1)
		for j := range values {
			if j != k {
				gap = min(gap, math.Abs(values[k]-values[j]))
			}
		}
		x, y := wide[k*n:k*n+n], right[k*n:k*n+n]
		sign, off := math.Copysign(1, inner(x, y)), 0.0
		for i := range x {
			off += (x[i] - sign*y[i]) * (x[i] - sign*y[i])
		}
		off = math.Sqrt(off)
		// A full decomposition in float32 promises eps |A| / gap; a vector is rounded itself too.
		if limit := 8*2*unit*values[0]/gap + 1e-6; !(off <= limit) && limit < 1 {
			t.Errorf("%s: vector %d of %g is off by %.2g, gap %.2g allows %.2g", name, k, values[k], off, gap, limit)
		}
	}
}

// TestSubspaceOnDevices: iteration finds the same bits with any number of threads and where the host cannot read memory, and vectors as good on
// the CUDA backend's kernels.
func TestSubspaceOnDevices(t *testing.T) {
	const m, n, rank, b = 70, 93, 9, 24
	late, err := hostile.Build()
	if err != nil {
		t.Fatal(err)
	}
	cuda, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a, values, _, right := spectral(5, m, n, spectra["slow"])
	q, arena := deviceOf(t, kernels.CPU, 1)
	want, products, err := found(t, q, arena, a, m, n, b, rank)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		backend string
		threads int
	}{{kernels.CPU, 2}, {kernels.CPU, 5}, {late, 2}, {cuda, 1}} {
		q, arena := deviceOf(t, c.backend, c.threads)
		v, count, err := found(t, q, arena, a, m, n, b, rank)
		switch {
		case err != nil:
			t.Errorf("%s: %v", c.backend, err)
		case c.backend == cuda:
			judge(t, "cuda", v, a, values, right, m, n, rank)
		case count != products || !slices.Equal(v, want):
			t.Errorf("%s with %d threads: other bits after %d products than with one after %d", c.backend, c.threads, count, products)
		}
	}
}

// galore is what vectors stores for a gradient [m, n].
func galore(t *testing.T, q *kernels.Queue, a []float32, m, n, rank int, proj string) (v []float32, right bool) {
	t.Helper()
	o := &lowRank{Config: Config{Name: GaLore, LowRank: LowRankConfig{Rank: rank, Proj: proj, Every: 1}}}
	defer o.Close()
	p := &autograd.Param{Name: "w", Shape: []int64{int64(m), int64(n)}}
	_, _, r, right := o.shape(p)
	arena, err := q.Device().NewArena("gradient", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer arena.Close()
	g, err := arena.New(kernels.F32, int64(m*n))
	if err != nil {
		t.Fatal(err)
	}
	declared := o.State(p)
	stretch := Stretch{Param: p, Len: int64(m * n), G: g}
	for _, d := range declared {
		x, err := arena.New(d.DType, d.Shape...)
		if err != nil {
			t.Fatal(err)
		}
		stretch.State = append(stretch.State, x)
	}
	if err := kernels.Upload(q, g, a); err != nil {
		t.Fatal(err)
	}
	if err := o.reserve(q, o.most([]Stretch{stretch})); err != nil {
		t.Fatal(err)
	}
	o.vectors(q, stretch, right)
	side := m
	if right {
		side = n
	}
	v = make([]float32, int(r)*side)
	if err := kernels.Download(q, v, stretch.State[2]); err != nil {
		t.Fatal(err)
	}
	return v, right
}

// transposed is a [m, n] matrix the other way round.
func transposed(a []float32, m, n int) []float32 {
	out := make([]float32, len(a))
	for i := range m {
		for j := range n {
			out[j*m+i] = a[i*n+j]
		}
	}
	return out
}

// TestProjectionOfGaLore: projections of wide and tall gradients, on both sides, of any rank, are the singular vectors, each with its greatest
// element positive, whichever way they are found.
func TestProjectionOfGaLore(t *testing.T) {
	q, _ := deviceOf(t, kernels.CPU, 2)
	for _, c := range []struct {
		name       string
		m, n, rank int
		proj       string
		value      func(k, n int) float64
		device     bool
	}{
		{"wide", 260, 301, 30, "std", spectra["power"], true},
		{"tall", 301, 260, 30, "std", spectra["outliers"], true},
		{"wide, long side", 256, 301, 30, "right", spectra["slow"], true},
		{"tall, long side", 301, 256, 30, "left", spectra["pairs"], true},
		{"small", 31, 44, 7, "reverse_std", spectra["slow"], false},
		{"rank of all", 40, 24, 50, "std", spectra["slow"], false},
		{"rank of nearly all", 140, 150, 139, "std", spectra["slow"], false},
		{"low rank", 150, 260, 40, "std", spectra["low rank"], false},
		{"nearly flat", 280, 300, 40, "std", nearlyFlat, false},
	} {
		a, values, left, right := spectral(11, c.m, c.n, c.value)
		v, isRight := galore(t, q, a, c.m, c.n, c.rank, c.proj)
		rank, m, n := min(c.rank, c.m, c.n), c.m, c.n
		if !isRight { // judged as right vectors of the transposed matrix
			a, v, right, m, n = transposed(a, m, n), transposed(v, m, rank), left, n, m
		}
		judge(t, c.name, v, a, values, right, m, n, rank)
		for k := range rank {
			row := slices.Clone(v[k*n : k*n+n])
			if orient(row); !slices.Equal(row, v[k*n:k*n+n]) {
				t.Errorf("%s: vector %d has the other sign", c.name, k)
			}
		}
		if b := blockOf(int64(c.m), int64(c.n), int64(c.rank)); (b > 0) != (c.device || c.name == "nearly flat") {
			t.Errorf("%s: a block of %d", c.name, b)
		}
	}
}

// TestSubspaceGivesUp: singular values that are all but equal are left to the full decomposition.
func TestSubspaceGivesUp(t *testing.T) {
	const m, n, rank = 280, 300, 40
	q, arena := deviceOf(t, kernels.CPU, 2)
	a, _, _, _ := spectral(11, m, n, nearlyFlat)
	if _, products, err := found(t, q, arena, a, m, n, int(blockOf(m, n, rank)), rank); !errors.Is(err, errSlow) {
		t.Errorf("%v after %d products", err, products)
	}
}

func nearlyFlat(k, n int) float64 { return 1 - 0.003*float64(k)/float64(n) }

// TestProjectionOfBrokenGradients: a gradient of zeros has torch's unit vectors, one that is not finite none, and neither hangs; elements whose
// squares overflow or nearly vanish do not matter.
func TestProjectionOfBrokenGradients(t *testing.T) {
	const m, n, rank = 256, 270, 20
	q, _ := deviceOf(t, kernels.CPU, 2)
	whole, values, left, _ := spectral(2, m, n, spectra["power"])
	for name, change := range map[string]func(a []float32){
		"zeros":   func(a []float32) { clear(a) },
		"NaN":     func(a []float32) { a[77] = float32(math.NaN()) },
		"Inf":     func(a []float32) { a[78] = float32(math.Inf(-1)) },
		"huge":    func(a []float32) { scaled(a, 0x1p100) },
		"tiny":    func(a []float32) { scaled(a, 0x1p-50) },
		"one row": func(a []float32) { clear(a[n:]) },
	} {
		a := slices.Clone(whole)
		change(a)
		v, _ := galore(t, q, a, m, n, rank, "std")
		v = transposed(v, m, rank)
		switch name {
		case "zeros":
			for i, x := range v {
				if want := i/m == i%m; (x == 1) != want || (x == 0) == want {
					t.Fatalf("zeros: element %d of vector %d is %g", i%m, i/m, x)
				}
			}
		case "NaN", "Inf":
			for _, x := range v {
				if !math.IsNaN(float64(x)) {
					t.Fatalf("%s: a vector has %g", name, x)
				}
			}
		case "one row":
			if v[0] != 1 {
				t.Errorf("one row: the first vector begins with %g", v[0])
			}
		default:
			judge(t, name, v, transposed(whole, m, n), values, left, n, m, rank)
		}
	}
}

func scaled(a []float32, by float32) {
	for i := range a {
		a[i] *= by
	}
}
