package optim

import (
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"
)

// symmetric is a matrix with the given eigenvalues.
func symmetric(rng *rand.Rand, values []float64) []float64 {
	n := len(values)
	a := make([]float64, n*n)
	for i, v := range values {
		a[i*n+i] = v
	}
	for range 3 * n { // random rotations of both sides
		i, j := rng.IntN(n), rng.IntN(n)
		if i == j {
			continue
		}
		s, c := math.Sincos(rng.Float64() * 2 * math.Pi)
		for k := range n {
			x, y := a[i*n+k], a[j*n+k]
			a[i*n+k], a[j*n+k] = c*x-s*y, s*x+c*y
		}
		for k := range n {
			x, y := a[k*n+i], a[k*n+j]
			a[k*n+i], a[k*n+j] = c*x-s*y, s*x+c*y
		}
	}
	for i := range n {
		for j := range i {
			a[i*n+j] = a[j*n+i]
		}
	}
	return a
}

// TestEigen: eigenvalues are those that a matrix was made from, vectors are orthonormal and belong to them, for spectra that are flat, steep,
// repeated, negative and zero, with the same bits whatever the number of processors.
func TestEigen(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for name, value := range map[string]func(i, n int) float64{
		"apart":    func(i, n int) float64 { return float64(n - i) },
		"steep":    func(i, _ int) float64 { return math.Pow(0.7, float64(i)) },
		"equal":    func(_, _ int) float64 { return 3 },
		"repeated": func(i, _ int) float64 { return float64(5 - i%5) },
		"indefinite": func(i, n int) float64 {
			return 1e-20 * float64(n/2-i)
		},
		"zero": func(_, _ int) float64 { return 0 },
	} {
		for _, n := range []int{1, 2, 3, 7, 64, 203} {
			values := make([]float64, n)
			for i := range values {
				values[i] = value(i, n)
			}
			a := symmetric(rng, values)
			got, vectors := eigen(slices.Clone(a), n)
			slices.SortFunc(values, func(x, y float64) int { return -compare(x, y) })
			most := max(math.Abs(values[0]), math.Abs(values[n-1]))
			for k := range n {
				if !(math.Abs(got[k]-values[k]) <= 1e-13*most) {
					t.Fatalf("%s of %d: eigenvalue %d is %g, want %g", name, n, k, got[k], values[k])
				}
				v := vectors[k*n : k*n+n]
				for j := range n {
					want := 0.0
					if j == k {
						want = 1
					}
					if s := inner(v, vectors[j*n:j*n+n]); !(math.Abs(s-want) <= 1e-13) {
						t.Fatalf("%s of %d: vectors %d and %d have the inner product %g", name, n, k, j, s)
					}
					if r := inner(a[j*n:j*n+n], v) - got[k]*v[j]; !(math.Abs(r) <= 1e-13*most) {
						t.Fatalf("%s of %d: vector %d is wrong by %g", name, n, k, r)
					}
				}
			}
			old := runtime.GOMAXPROCS(1)
			again, rows := eigen(slices.Clone(a), n)
			runtime.GOMAXPROCS(old)
			if !slices.Equal(again, got) || !slices.Equal(rows, vectors) {
				t.Errorf("%s of %d: other bits with one processor", name, n)
			}
		}
	}
}

func compare(x, y float64) int {
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func BenchmarkEigen(b *testing.B) {
	for _, n := range []int{192, 512} {
		b.Run(map[int]string{192: "192", 512: "512"}[n], func(b *testing.B) {
			rng := rand.New(rand.NewPCG(1, 2))
			values := make([]float64, n)
			for i := range values {
				values[i] = 1 / float64(i+1)
			}
			a := symmetric(rng, values)
			for b.Loop() {
				eigen(slices.Clone(a), n)
			}
		})
	}
}
