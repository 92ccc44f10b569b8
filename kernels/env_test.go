package kernels

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"testing"
)

// setup is one way to run the same operations.
type setup struct {
	isa     ISA
	threads int
	backend string // empty: the CPU backend linked in
}

func (s setup) String() string {
	return fmt.Sprintf("isa%d-threads%d%s", s.isa, s.threads, filepath.Base(s.backend))
}

// setups are all ways that this machine has; the first is the reference of bit equality.
func setups(t testing.TB) []setup {
	t.Helper()
	list := []setup{{isa: ISAScalar, threads: 1}, {isa: ISAScalar, threads: 3}}
	for _, isa := range []ISA{ISAAVX2, ISAAVX512, ISANEON} {
		d, err := Open(Options{ISA: isa, Threads: 1})
		if err != nil {
			if isa == ISAAVX512 && runtime.GOARCH == "amd64" {
				list = append(list, setup{isa, 2, emulated(t)})
			}
			if isa == ISANEON && runtime.GOARCH == "arm64" {
				t.Fatal(err) // all such machines have it
			}
			continue
		}
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		list = append(list, setup{isa: isa, threads: 1}, setup{isa: isa, threads: 2}, setup{isa: isa, threads: 5})
	}
	return list
}

var emulation struct {
	once sync.Once
	path string
	err  error
}

// emulated builds the CPU backend with the AVX-512 kernels on an emulation of the instructions, for machines without them.
func emulated(t testing.TB) string {
	t.Helper()
	e := &emulation
	e.once.Do(func() {
		dir, err := os.MkdirTemp("", "tunefleet-avx512")
		if err != nil {
			e.err = err
			return
		}
		e.path = filepath.Join(dir, "avx512.so")
		args := []string{"-std=gnu11", "-O1", "-mavx2", "-mfma", "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread", "-w", "-Itestdata/avx512",
			"-I.", "-DTF_EMULATE_AVX512", "-o", e.path, "testdata/avx512/export.c"}
		sources, err := filepath.Glob("cpu_*.c")
		if err != nil {
			e.err = err
			return
		}
		for _, s := range sources {
			if s != "cpu_isa_scalar.c" && s != "cpu_isa_avx2.c" {
				args = append(args, s)
			}
		}
		if out, err := exec.Command("gcc", append(args, "-lm")...).CombinedOutput(); err != nil {
			e.err = fmt.Errorf("gcc: %w\n%s", err, out)
		}
	})
	if e.err != nil {
		t.Fatal(e.err)
	}
	return e.path
}

func TestMain(m *testing.M) {
	code := m.Run()
	if err := writeBits(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if emulation.path != "" {
		if err := os.RemoveAll(filepath.Dir(emulation.path)); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// env is a device with a queue and an arena.
type env struct {
	t testing.TB
	d *Device
	q *Queue
	a *Arena
}

func newEnv(t testing.TB, s setup) *env {
	t.Helper()
	d, err := Open(Options{Backend: s.backend, ISA: s.isa, Threads: s.threads})
	if err != nil {
		t.Fatal(err)
	}
	q, err := d.NewQueue(Compute)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.NewArena("test", 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return &env{t, d, q, a}
}

func (e *env) close() {
	e.t.Helper()
	if err := e.q.Close(); err != nil {
		e.t.Error(err)
	}
	e.a.Close()
	if err := e.d.Close(); err != nil {
		e.t.Error(err)
	}
}

// empty is a tensor filled with NaN, so that a missing write shows.
func (e *env) empty(dims ...int64) Tensor {
	e.t.Helper()
	x, err := e.a.New(F32, dims...)
	if err != nil {
		e.t.Fatal(err)
	}
	e.q.Fill(Fill{Y: x, Value: math.NaN()})
	return x
}

func put[T Element](e *env, dt DType, v []T, dims ...int64) Tensor {
	e.t.Helper()
	x, err := e.a.New(dt, dims...)
	if err != nil {
		e.t.Fatal(err)
	}
	if err := Upload(e.q, x, v); err != nil {
		e.t.Fatal(err)
	}
	return x
}

func (e *env) f32(v []float32, dims ...int64) Tensor { return put(e, F32, v, dims...) }

func get[T Element](e *env, x Tensor) []T {
	e.t.Helper()
	v := make([]T, x.Numel())
	if err := Download(e.q, v, x); err != nil {
		e.t.Fatal(err)
	}
	return v
}

// noise is n numbers that depend on seed only.
func noise(seed uint64, n int64) []float32 {
	r := rand.New(rand.NewPCG(seed, 1))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// outputs are named results of one run of a case.
type outputs map[string][]float32

// compare runs a case in every setup, wants equal bits everywhere, and the first one's results near the reference.
func compare(t *testing.T, tol float64, run func(e *env) outputs, want map[string][]float64) {
	t.Helper()
	var first outputs
	for _, s := range setups(t) {
		e := newEnv(t, s)
		got := run(e)
		e.close()
		if first == nil {
			first = got
			wantBits(t, got)
			for name, w := range want {
				near(t, name, got[name], w, tol)
			}
			continue
		}
		for name := range first {
			for i, v := range first[name] {
				if math.Float32bits(v) != math.Float32bits(got[name][i]) {
					t.Fatalf("%v: %s[%d] = %x, %v gives %x", s, name, i, got[name][i], setups(t)[0], v)
				}
			}
		}
	}
}

// near wants |got - want| <= tol * (largest |want| + 1e-3).
func near(t *testing.T, name string, got []float32, want []float64, tol float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s has %d elements, want %d", name, len(got), len(want))
	}
	scale := 1e-3
	for _, w := range want {
		if !math.IsInf(w, 0) {
			scale = max(scale, math.Abs(w))
		}
	}
	for i, w := range want {
		g := float64(got[i])
		if math.IsInf(w, 0) && g == w {
			continue
		}
		if !(math.Abs(g-w) <= tol*scale) {
			t.Fatalf("%s[%d] = %g, want %g (largest %g)", name, i, g, w, scale)
		}
	}
}

func f64(v []float32) []float64 {
	r := make([]float64, len(v))
	for i, x := range v {
		r[i] = float64(x)
	}
	return r
}

func sum(a, b []float64) []float64 {
	r := slices.Clone(a)
	for i := range b {
		r[i] += b[i]
	}
	return r
}
