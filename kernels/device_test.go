package kernels

import (
	"context"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"
)

func TestParamsAreLaidOutAsInTheHeader(t *testing.T) {
	names := OpNames()
	if len(names) != len(opSizes) {
		t.Fatalf("%d operations in the header, %d in Go", len(names), len(opSizes))
	}
	for i, name := range names {
		if got, want := int64(opSizes[i]), opSize(i); got != want {
			t.Errorf("%s is %d bytes in Go, %d in C", name, got, want)
		}
	}
	if s := unsafe.Sizeof(Tensor{}); s != 96 {
		t.Errorf("Tensor is %d bytes", s)
	}
}

func TestErrorSticksToItsQueue(t *testing.T) {
	d, err := Open(Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	q, err := d.NewQueue(Compute)
	if err != nil {
		t.Fatal(err)
	}
	other, err := d.NewQueue(CopyOps)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.NewArena("test", 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	x, err := a.New(F32, 4, 4)
	if err != nil {
		t.Fatal(err)
	}
	q.Fill(Fill{Y: x, Value: 3})
	q.Gemm(Gemm{A: x, B: x.Slice(0, 0, 3), C: x, Alpha: 1})
	var e *Error
	if err := q.Sync(); !errors.As(err, &e) || e.Op != "gemm" || e.Status != StatusInvalid || !strings.Contains(e.Why, "do not give") {
		t.Fatalf("error is %v", err)
	}
	q.Fill(Fill{Y: x, Value: 5})
	if err := Download(q, make([]float32, 16), x); !errors.As(err, &e) || e.Op != "gemm" {
		t.Fatalf("later error is %v", err)
	}
	v := make([]float32, 16)
	if err := Download(other, v, x); err != nil || v[0] != 3 {
		t.Fatalf("other queue reads %v, %v: the skipped fill ran", v[0], err)
	}
	ev, err := d.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	other.Fill(Fill{Y: x.Slice(0, 3, 9), Value: 1})
	if err := other.Err(); !errors.As(err, &e) || e.Op != "fill" {
		t.Fatalf("an invalid view gave %v", err)
	}
	ev.Close()
	if err := d.Close(); err == nil || !strings.Contains(err.Error(), "still allocated") {
		t.Fatalf("closing with an open arena gave %v", err)
	}
}

func TestEventsOrderQueues(t *testing.T) {
	e := newEnv(t, setup{isa: ISAAuto, threads: 2})
	defer e.close()
	other, err := e.d.NewQueue(Comm)
	if err != nil {
		t.Fatal(err)
	}
	ev, err := e.d.NewEvent()
	if err != nil {
		t.Fatal(err)
	}
	defer ev.Close()
	x := e.empty(8)
	e.q.Fill(Fill{Y: x, Value: 2})
	e.q.Record(ev)
	other.Wait(ev)
	other.Add(Add{A: x, Y: x, Alpha: 4})
	v := make([]float32, 8)
	if err := Download(other, v, x); err != nil || v[7] != 8 {
		t.Fatalf("got %v, %v", v, err)
	}
	if err := ev.Sync(); err != nil {
		t.Fatal(err)
	}
}

func TestArena(t *testing.T) {
	e := newEnv(t, setup{isa: ISAAuto, threads: 1})
	defer e.close()
	a, err := e.d.NewArena("small", 4096)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	low, err := a.Alloc(100)
	if err != nil || low.Off != 0 || low.Bytes != 256 {
		t.Fatalf("low is %+v, %v", low, err)
	}
	m := a.Mark()
	high, err := a.AllocHigh(1000)
	if err != nil || high.Off != 4096-1024 {
		t.Fatalf("high is %+v, %v", high, err)
	}
	if _, err := a.Alloc(2000); err != nil {
		t.Fatal(err)
	}
	var oom *OutOfMemoryError
	if _, err := a.New(F32, 1000); !errors.As(err, &oom) || oom.Need != 4096 || oom.Have != 4096-256-1024-2048 || oom.Arena != "small" {
		t.Fatalf("error is %v", err)
	}
	if a.Peak() != 256+1024+2048 {
		t.Errorf("peak is %d", a.Peak())
	}
	a.Release(m)
	a.ReleaseHigh(m)
	if a.Used() != 256 {
		t.Errorf("%d used after release", a.Used())
	}
	if x := low.Tensor(F32, 65); x.Valid() {
		t.Error("a tensor larger than its buffer is valid")
	}
}

func TestCountingNeedsNoMemory(t *testing.T) {
	run := func(o Options) (arena, ws, ops int64) {
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		size := int64(1 << 30)
		if o.Counting {
			size = 0
		}
		a, err := d.NewArena("a", size)
		if err != nil {
			t.Fatal(err)
		}
		q, err := d.NewQueue(Compute)
		if err != nil {
			t.Fatal(err)
		}
		x, err := a.New(F32, 300, 64)
		if err != nil {
			t.Fatal(err)
		}
		if err := Upload(q, x, make([]float32, 300*64)); err != nil {
			t.Fatal(err)
		}
		y, err := a.New(F32, 300, 300)
		if err != nil {
			t.Fatal(err)
		}
		q.Gemm(Gemm{A: x, B: x.T(), C: y, Alpha: 1})
		if err := Download(q, make([]float32, 300*300), y); err != nil {
			t.Fatal(err)
		}
		arena, ws, ops = a.Peak(), q.Workspace(), q.Operations()
		a.Close()
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	a1, w1, o1 := run(Options{Threads: 1})
	a2, w2, o2 := run(Options{Counting: true})
	if a1 != a2 || w1 != w2 || o1 != o2 || w1 == 0 {
		t.Errorf("running took %d, %d, %d; counting says %d, %d, %d", a1, w1, o1, a2, w2, o2)
	}
}

func TestReshape(t *testing.T) {
	x := NewTensor(4096, F32, 4, 6, 8)
	if y := x.Slice(2, 0, 4).Reshape(24, 4); y.Stride[0] != 8 || y.Dim[0] != 24 {
		t.Errorf("joined rows: %v", y)
	}
	if y := x.Slice(2, 0, 4).Reshape(4, 6, 2, 2); y.Stride[2] != 2 || y.Stride[1] != 8 {
		t.Errorf("split row: %v", y)
	}
	if y := x.Transpose(0, 1).Reshape(24, 8); y.Valid() {
		t.Errorf("transposed rows joined: %v", y)
	}
	if y := x.Reshape(-1, 8); y.Dim[0] != 24 {
		t.Errorf("inferred: %v", y)
	}
	if x.Select(1, 6).Valid() || x.Reshape(5, -1).Valid() || x.T().Valid() {
		t.Error("an impossible view is valid")
	}
}

func TestOpenRefuses(t *testing.T) {
	if _, err := Open(Options{Backend: "/nonexistent/lib.so"}); err == nil || !strings.Contains(err.Error(), "/nonexistent/lib.so") {
		t.Errorf("missing library: %v", err)
	}
	if _, err := Open(Options{Index: 3}); err == nil {
		t.Error("device 3 of the CPU opened")
	}
	dir := t.TempDir()
	build := func(name, code string) string {
		src, so := filepath.Join(dir, name+".c"), filepath.Join(dir, name+".so")
		writeFile(t, src, code)
		if out, err := exec.Command("gcc", "-shared", "-fPIC", "-I.", "-o", so, src).CombinedOutput(); err != nil {
			t.Fatalf("gcc: %v\n%s", err, out)
		}
		return so
	}
	if _, err := Open(Options{Backend: build("empty", "int nothing;")}); err == nil || !strings.Contains(err.Error(), "tf_backend_get") {
		t.Errorf("library without the symbol: %v", err)
	}
	old := build("old", `#include "tunefleet.h"
static const tf_backend b = {.abi_version = TF_ABI_VERSION, .struct_size = sizeof b, .abi_hash = "0123", .name = "old"};
const tf_backend *tf_backend_get(void) { return &b; }`)
	if _, err := Open(Options{Backend: old}); err == nil || !strings.Contains(err.Error(), "another tunefleet.h") {
		t.Errorf("library of another header: %v", err)
	}
}

func TestThread(t *testing.T) {
	th := NewThread()
	boom := errors.New("boom")
	if err := th.Do(context.Background(), func() error { return boom }); !errors.Is(err, boom) {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := th.Do(ctx, func() error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	th.Close()
	if err := th.Do(context.Background(), func() error { return nil }); !errors.Is(err, ErrThreadClosed) {
		t.Errorf("got %v", err)
	}
}

func TestNaNShows(t *testing.T) {
	e := newEnv(t, setup{isa: ISAAuto, threads: 1})
	defer e.close()
	x := e.f32([]float32{float32(math.NaN()), 1}, 1, 2)
	y := e.empty(1, 2)
	for a := SiLU; a <= Tanh; a++ {
		if a == ReLU || a == ReLU2 {
			continue
		}
		e.q.ActFwd(ActFwd{X: x, Y: y, Act: a})
		if v := get[float32](e, y); v[0] == v[0] {
			t.Errorf("activation %d hides a NaN: %v", a, v[0])
		}
	}
}
func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestThreadMemoryIsWhatThreadsMap: the address space that a pool takes is what ThreadMemory says, within 5 %: of so many threads that what the
// runtime maps meanwhile (64 MiB at a time) does not count.
func TestThreadMemoryIsWhatThreadsMap(t *testing.T) {
	mapped := func() int64 {
		raw, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Skip(err)
		}
		pages, _, _ := strings.Cut(string(raw), " ")
		n, err := strconv.ParseInt(pages, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n * int64(os.Getpagesize())
	}
	const threads = 1024
	before := mapped()
	d, err := Open(Options{Threads: threads})
	if err != nil {
		t.Fatal(err)
	}
	got := mapped() - before
	if ratio := float64(got) / float64(d.ThreadMemory()); ratio < 0.95 || ratio > 1.05 {
		t.Errorf("%d threads map %d bytes, ThreadMemory says %d", threads, got, d.ThreadMemory())
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}
