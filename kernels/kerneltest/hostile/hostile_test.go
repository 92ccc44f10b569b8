package hostile_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

func queueOf(t *testing.T, d *kernels.Device, kind kernels.QueueKind) *kernels.Queue {
	t.Helper()
	q, err := d.NewQueue(kind)
	if err != nil {
		t.Fatal(err)
	}
	return q
}

func arenaOf(t *testing.T, d *kernels.Device) *kernels.Arena {
	t.Helper()
	a, err := d.NewArena("test", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.Close)
	return a
}

func tensor(t *testing.T, a *kernels.Arena, dims ...int64) kernels.Tensor {
	t.Helper()
	x, err := a.New(kernels.F32, dims...)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func noise(n int) []float32 {
	r := rand.New(rand.NewPCG(7, 7))
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64())
	}
	return v
}

// product is y = (x w^T) w on one device: two products with workspace, and an upload that is overwritten at once.
func product(t *testing.T, d *kernels.Device) []float32 {
	t.Helper()
	const n = 96
	q, a := queueOf(t, d, kernels.Compute), arenaOf(t, d)
	x, w, h, y := tensor(t, a, n, n), tensor(t, a, n, n), tensor(t, a, n, n), tensor(t, a, n, n)
	src := noise(n * n)
	for _, dst := range []kernels.Tensor{x, w} {
		if err := kernels.Upload(q, dst, src); err != nil {
			t.Fatal(err)
		}
		clear(src) // the slice may be reused on return
		copy(src, noise(n*n + 1)[1:])
	}
	for range 20 {
		q.Gemm(kernels.Gemm{A: x, B: w.T(), C: h, Alpha: 1})
		q.Gemm(kernels.Gemm{A: h, B: w, C: y, Alpha: 1})
	}
	out := make([]float32, n*n)
	if err := kernels.Download(q, out, y); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestSameBits: what is properly queued gives the CPU backend's bits.
func TestSameBits(t *testing.T) {
	d, err := kernels.Open(kernels.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	want, got := product(t, d), product(t, hostile.Open(t, kernels.Options{Threads: 2}))
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("element %d is %g, on the CPU %g", i, got[i], want[i])
		}
	}
}

// TestMemoryIsUnreadable: a touch of device memory from Go faults, during and after operations.
func TestMemoryIsUnreadable(t *testing.T) {
	d := hostile.Open(t, kernels.Options{Threads: 1})
	q, a := queueOf(t, d, kernels.Compute), arenaOf(t, d)
	x := tensor(t, a, 1024)
	q.Fill(kernels.Fill{Y: x, Value: 1})
	for range 2 {
		if !faults(x.Data) {
			t.Fatal("device memory could be read from Go")
		}
		if err := q.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	got := make([]float32, 1024)
	if err := kernels.Download(q, got, x); err != nil || got[0] != 1 || got[1023] != 1 {
		t.Errorf("got %g, %g, %v", got[0], got[1023], err)
	}
}

func faults(a kernels.Addr) (faulted bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() { faulted = recover() != nil }()
	p := *(*unsafe.Pointer)(unsafe.Pointer(&a))
	return *(*float32)(p) != *(*float32)(p)
}

// TestNewMemoryIsNoise: memory that nobody wrote is not zero.
func TestNewMemoryIsNoise(t *testing.T) {
	d := hostile.Open(t, kernels.Options{Threads: 1})
	q, a := queueOf(t, d, kernels.Compute), arenaOf(t, d)
	got := make([]float32, 16)
	if err := kernels.Download(q, got, tensor(t, a, 16)); err != nil {
		t.Fatal(err)
	}
	if !math.IsNaN(float64(got[0])) {
		t.Errorf("new memory holds %g", got[0])
	}
}

// TestForgottenEvent: without an event the second queue reads before the first has written, at least once in many tries; with one, never.
func TestForgottenEvent(t *testing.T) {
	d := hostile.Open(t, kernels.Options{Threads: 1})
	first, second, a := queueOf(t, d, kernels.Compute), queueOf(t, d, kernels.CopyOps), arenaOf(t, d)
	x, y := tensor(t, a, 1<<16), tensor(t, a, 1<<16)
	got := make([]float32, 1<<16)
	stale := func(event bool) int {
		n := 0
		for i := range 60 {
			for range 4 {
				first.Fill(kernels.Fill{Y: x, Value: float64(i + 1)})
			}
			if event {
				e, err := d.NewEvent()
				if err != nil {
					t.Fatal(err)
				}
				first.Record(e)
				second.Wait(e)
				e.Close()
			}
			second.Copy(kernels.Copy{X: x, Y: y})
			if err := kernels.Download(second, got, y); err != nil {
				t.Fatal(err)
			}
			for _, v := range got {
				if v != float32(i+1) {
					n++
					break
				}
			}
			if err := first.Sync(); err != nil {
				t.Fatal(err)
			}
		}
		return n
	}
	if n := stale(true); n != 0 {
		t.Errorf("%d stale reads in spite of events", n)
	}
	if n := stale(false); n == 0 {
		t.Error("a forgotten event never showed")
	}
}

// TestErrorsAreLate: a wrong operation is accepted, reported by Sync with its reason, and sticks; a queue that waits for it fails too.
func TestErrorsAreLate(t *testing.T) {
	d := hostile.Open(t, kernels.Options{Threads: 1})
	q, other, a := queueOf(t, d, kernels.Compute), queueOf(t, d, kernels.Comm), arenaOf(t, d)
	x, y := tensor(t, a, 8, 8), tensor(t, a, 8, 8)
	q.Gemm(kernels.Gemm{A: x, B: x.Slice(0, 0, 7), C: y, Alpha: 1})
	e, err := d.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	q.Record(e)
	other.Wait(e)
	var ke *kernels.Error
	if err := q.Sync(); !errors.As(err, &ke) || ke.Status != kernels.StatusInvalid || ke.Why == "" {
		t.Errorf("got %v, want an invalid argument with its reason", err)
	}
	if err := other.Sync(); err == nil || !strings.Contains(err.Error(), "event") {
		t.Errorf("the waiting queue: %v", err)
	}
	q.Fill(kernels.Fill{Y: x, Value: 1})
	if q.Err() == nil {
		t.Error("the error does not stick")
	}
}

// TestFreedMemory: addresses are not used twice, so that a stale one can never hit new memory.
func TestFreedMemory(t *testing.T) {
	d := hostile.Open(t, kernels.Options{Threads: 1})
	seen := map[kernels.Addr]bool{}
	for range 5 {
		a, err := d.NewArena("x", 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		x := tensor(t, a, 4)
		if seen[x.Data] {
			t.Error("an address was given out again")
		}
		seen[x.Data] = true
		a.Close()
	}
	if d.Live() != 0 {
		t.Errorf("%d bytes live", d.Live())
	}
}

// TestCopiesThatNobodyWaitsFor: what is copied from host memory is what it held until the event after the copy, and comes back behind it; what
// does not fit is refused, and memory that was not given back is reported.
func TestCopiesThatNobodyWaitsFor(t *testing.T) {
	const n = 1 << 12
	d := hostile.Open(t, kernels.Options{Threads: 1})
	q, a := queueOf(t, d, kernels.CopyOps), arenaOf(t, d)
	x := tensor(t, a, n)
	h, err := d.NewHostMemory(8 * n)
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	e, err := d.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	floats := unsafe.Slice((*float32)(unsafe.Pointer(&h.Bytes()[0])), 2*n)
	for round := range 20 {
		want := noise(n + round)[round:]
		copy(floats, want)
		kernels.UploadAsync(q, x, h, 0)
		q.Add(kernels.Add{A: x, Y: x, Alpha: 2})
		kernels.DownloadAsync(q, h, 4*n, x)
		q.Record(e)
		if err := e.Sync(); err != nil {
			t.Fatal(err)
		}
		for i, v := range want {
			if floats[n+i] != 2*v {
				t.Fatalf("round %d: element %d is %g, not %g", round, i, floats[n+i], 2*v)
			}
		}
	}
	if d.HostLive() != 8*n {
		t.Errorf("%d bytes of host memory", d.HostLive())
	}
	kernels.DownloadAsync(q, h, 4*n+4, x)
	var ke *kernels.Error
	if err := q.Err(); !errors.As(err, &ke) || ke.Status != kernels.StatusInvalid {
		t.Errorf("a copy past the end: %v", err)
	}
	other, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	left, err := other.NewHostMemory(64)
	if err != nil {
		t.Fatal(err)
	}
	if err := other.Close(); err == nil {
		t.Errorf("%d bytes were left and nobody said so", len(left.Bytes()))
	}
}
