package autograd_test

import (
	"context"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
)

// A loan outlives the tape's passes, overlaps nothing of theirs, and is given back once.
func TestLoanOutlivesPasses(t *testing.T) {
	t.Parallel()
	dev, err := kernels.Open(kernels.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	mem := autograd.NewMemory(dev, q, 0)
	defer func() {
		if err := mem.Close(); err != nil {
			t.Error(err)
		}
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	}()
	tape := autograd.New(mem, autograd.Config{})
	loan, err := mem.Borrow(100)
	if err != nil {
		t.Fatal(err)
	}
	want := make([]float32, 100)
	for i := range want {
		want[i] = float32(i)
	}
	if err := kernels.Upload(q, loan.Tensor(), want); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		tape.Reset(context.Background(), true)
		for range 50 {
			x, _ := tape.Out(1 << 17)
			q.Fill(kernels.Fill{Y: x, Value: -1})
		}
		if tape.Err() != nil {
			t.Fatal(tape.Err())
		}
	}
	tape.Reset(context.Background(), true)
	got := make([]float32, 100)
	if err := kernels.Download(q, got, loan.Tensor()); err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("element %d is %v, was %v", i, got[i], want[i])
		}
	}
	used := mem.Used()
	loan.Return()
	loan.Return()
	if mem.Used() >= used || mem.Used() != 0 {
		t.Fatalf("%d bytes are lent, %d before the loan was given back", mem.Used(), used)
	}
}
