package kerneltest_test

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/hostile"
)

func run(t *testing.T, d *kernels.Device, mode kerneltest.Mode, o kerneltest.Options) []kerneltest.Result {
	t.Helper()
	rs, err := kerneltest.Run(d, mode, o)
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func cpu(t *testing.T, o kernels.Options) *kernels.Device {
	t.Helper()
	d, err := kernels.Open(o)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

func wantOK(t *testing.T, rs []kerneltest.Result) {
	t.Helper()
	for _, r := range rs {
		if r.Status != kerneltest.OK {
			t.Errorf("%s (%s): %s: %s", r.Op, r.Case, r.Status, r.Error)
		}
	}
}

// TestCPU: every operation against the oracle, with every instruction set.
func TestCPU(t *testing.T) {
	for name, isa := range map[string]kernels.ISA{"scalar": kernels.ISAScalar, "avx2": kernels.ISAAVX2, "avx512": kernels.ISAAVX512, "neon": kernels.ISANEON} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rs := run(t, cpu(t, kernels.Options{ISA: isa, Threads: 2}), kerneltest.Test, kerneltest.Options{})
			wantOK(t, rs)
			for _, op := range kernels.OpNames() {
				if !slices.ContainsFunc(rs, func(r kerneltest.Result) bool { return r.Op == op }) {
					t.Errorf("no case tests %s", op)
				}
			}
		})
	}
}

// TestHalf: every operation with operands of 16 bits against the oracle, bf16 with every instruction set (f16 has equal bits with all, see
// TestHalfBits of package kernels), and against central differences.
func TestHalf(t *testing.T) {
	for name, isa := range map[string]kernels.ISA{"scalar": kernels.ISAScalar, "avx2": kernels.ISAAVX2, "avx512": kernels.ISAAVX512, "neon": kernels.ISANEON} {
		t.Run("bf16 "+name, func(t *testing.T) {
			t.Parallel()
			wantOK(t, run(t, cpu(t, kernels.Options{ISA: isa, Threads: 2}), kerneltest.Test, kerneltest.Options{DType: kernels.BF16}))
		})
	}
	t.Run("f16", func(t *testing.T) {
		t.Parallel()
		wantOK(t, run(t, cpu(t, kernels.Options{Threads: 2}), kerneltest.Test, kerneltest.Options{DType: kernels.F16}))
	})
	wantOK(t, run(t, cpu(t, kernels.Options{Threads: 2}), kerneltest.Grad, kerneltest.Options{DType: kernels.BF16}))
}

// TestGradients: every backward operation against central differences.
func TestGradients(t *testing.T) {
	t.Parallel()
	rs := run(t, cpu(t, kernels.Options{Threads: 2}), kerneltest.Grad, kerneltest.Options{})
	wantOK(t, rs)
	for _, op := range kernels.OpNames() {
		if strings.HasSuffix(op, "_bwd") && !slices.ContainsFunc(rs, func(r kerneltest.Result) bool { return r.Op == op }) {
			t.Errorf("no case differentiates %s", op)
		}
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	d := hostile.Open(t, kernels.Options{Threads: 2})
	wantOK(t, run(t, d, kerneltest.Test, kerneltest.Options{}))
}

// TestSupport: what the CPU backend has not is said as such, never computed wrongly; in fp32 it has everything.
func TestSupport(t *testing.T) {
	t.Parallel()
	d := cpu(t, kernels.Options{Threads: 1})
	wantOK(t, run(t, d, kerneltest.Support, kerneltest.Options{}))
	for _, dt := range []kernels.DType{kernels.BF16, kernels.F16} {
		for _, r := range run(t, d, kerneltest.Support, kerneltest.Options{DType: dt}) {
			if r.Status == kerneltest.Failed {
				t.Errorf("%s (%s) in %v: %s", r.Op, r.Case, dt, r.Error)
			}
		}
	}
}

func TestPerf(t *testing.T) {
	t.Parallel()
	rs := run(t, cpu(t, kernels.Options{Threads: 2}), kerneltest.Perf, kerneltest.Options{Op: "rope", MinTime: time.Millisecond})
	wantOK(t, rs)
	if len(rs) != 1 || rs[0].Micros <= 0 || rs[0].GBps <= 0 || math.IsInf(rs[0].GFLOPS, 0) {
		t.Errorf("got %+v", rs)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	d := cpu(t, kernels.Options{Threads: 1})
	if _, err := kerneltest.Run(d, "speed", kerneltest.Options{}); err == nil {
		t.Error("an unknown mode was taken")
	}
	if _, err := kerneltest.Run(d, kerneltest.Test, kerneltest.Options{Op: "conv"}); err == nil {
		t.Error("an unknown operation was taken")
	}
}
