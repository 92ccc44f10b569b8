package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// attentionVariable chooses whose attention the CUDA backend takes (kernels/cuda/cudnn.cu).
const attentionVariable = "TUNEFLEET_CUDA_ATTENTION"

// The problem that doctor gives the first GPU: small, and the least that cuDNN is given.
const tryTokens, tryHeads, tryWidth = 128, 2, 64

// mathFindings has the first GPU multiply two matrices and compute attention, for a moment and in a few MiB, and says whose kernels did it: a
// library that is missing or refuses is otherwise only heard of by a slower training.
func mathFindings() (out []finding) {
	d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA})
	if err != nil {
		return nil // cudaFinding says why
	}
	info, err := d.Info()
	if err := errors.Join(err, d.Close()); err != nil {
		return []finding{{Check: "matrix products", Status: "warn", Detail: why(err), Fix: "see nvidia-smi and the kernel's log"}}
	}
	out = append(out, blasFinding(onGPU("", tryProduct)))
	if choice := os.Getenv(attentionVariable); choice == "tiles" {
		return append(out, finding{Check: "attention", Status: "ok", Detail: "own kernels, as " + attentionVariable + "=tiles says"})
	}
	// Where cuDNN is demanded, why it is not taken is an error.
	out = append(out, attentionFinding("forward", onGPU("cudnn", tryForward)))
	if card := 0; ownBackward(info.ISA, &card) {
		return append(out, finding{Check: "attention backward", Status: "ok", Detail: fmt.Sprintf("own kernels on cards of sm_%d", card)})
	}
	return append(out, attentionFinding("backward", onGPU("cudnn", tryBackward)))
}

// ownBackward: cards of 10.0 and later are never given cuDNN's backward (kernels/cuda/cudnn.cu); isa is the device's, "sm_90" or "sm_90 cuda12".
func ownBackward(isa string, card *int) bool {
	_, err := fmt.Sscanf(isa, "sm_%d", card)
	return err == nil && *card >= 100
}

func blasFinding(err error) finding {
	if err != nil {
		return finding{Check: "matrix products", Status: "fail", Code: schemas.CodeUnsupported, Detail: why(err), Fix: "training on this GPU needs it; TUNEFLEET_CUDA_BLAS=tiles does without cuBLASLt, many times slower"}
	}
	if os.Getenv("TUNEFLEET_CUDA_BLAS") == "tiles" {
		return finding{Check: "matrix products", Status: "warn", Detail: "own kernels, many times slower than cuBLASLt, as TUNEFLEET_CUDA_BLAS=tiles says", Fix: "unset it where cuBLASLt is installed"}
	}
	return finding{Check: "matrix products", Status: "ok", Detail: "by cuBLASLt"}
}

func attentionFinding(pass string, err error) finding {
	if err != nil {
		return finding{Check: "attention " + pass, Status: "warn", Detail: "by own kernels, slower than cuDNN's where those can be used: " + why(err),
			Fix: "right without, too; see kernels/cuda/README.md, attention by cuDNN"}
	}
	return finding{Check: "attention " + pass, Status: "ok", Detail: "by cuDNN, where shapes are such that it can"}
}

// why is the device's own word.
func why(err error) string {
	if e := (*kernels.Error)(nil); errors.As(err, &e) && e.Why != "" {
		return e.Why
	}
	return err.Error()
}

// onGPU runs f on a queue of the first GPU with memory for it; attention is the choice of attentionVariable meanwhile, if it is not empty.
func onGPU(attention string, f func(q *kernels.Queue, a *kernels.Arena) error) (err error) {
	if before, set := os.LookupEnv(attentionVariable); attention != "" {
		if err := os.Setenv(attentionVariable, attention); err != nil {
			return err
		}
		defer func() {
			if set {
				err = errors.Join(err, os.Setenv(attentionVariable, before))
			} else {
				err = errors.Join(err, os.Unsetenv(attentionVariable))
			}
		}()
	}
	d, err := kernels.Open(kernels.Options{Backend: kernels.CUDA})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	a, err := d.NewArena("doctor", 4<<20)
	if err != nil {
		return err
	}
	defer a.Close()
	q, err := d.NewQueue(kernels.Compute)
	if err != nil {
		return err
	}
	err = f(q, a)
	if closed := q.Close(); err == nil { // before the arena
		err = closed
	}
	return err
}

// zeros makes tensors of zeros.
func zeros(q *kernels.Queue, a *kernels.Arena, dt kernels.DType, dims []int64, out ...*kernels.Tensor) error {
	for _, t := range out {
		var err error
		if *t, err = a.New(dt, dims...); err != nil {
			return err
		}
		q.Fill(kernels.Fill{Y: *t})
	}
	return nil
}

func tryProduct(q *kernels.Queue, a *kernels.Arena) error {
	const n = 64
	var x, w, y kernels.Tensor
	if err := zeros(q, a, kernels.BF16, []int64{n, n}, &x, &w); err != nil {
		return err
	}
	if err := zeros(q, a, kernels.BF16, []int64{n, n}, &y); err != nil {
		return err
	}
	q.Fill(kernels.Fill{Y: x, Value: 1})
	q.Fill(kernels.Fill{Y: w, Value: 1})
	q.Gemm(kernels.Gemm{A: x, B: w.T(), C: y, Alpha: 1})
	sum, err := a.New(kernels.F32, n, n)
	if err != nil {
		return err
	}
	q.Copy(kernels.Copy{X: y, Y: sum})
	got := make([]float32, n*n)
	if err := kernels.Download(q, got, sum); err != nil {
		return err
	}
	for i, v := range got {
		if v != n {
			return fmt.Errorf("a product of matrices is wrong: element %d of 64 x 64 ones is %g, not 64", i, v)
		}
	}
	return nil
}

// attentionOf are the operands of a small problem.
func attentionOf(q *kernels.Queue, a *kernels.Arena) (f kernels.AttnFwd, err error) {
	f = kernels.AttnFwd{Scale: 0.125, Causal: kernels.Flag(true), WindowLeft: -1, WindowRight: -1}
	if err = zeros(q, a, kernels.BF16, []int64{1, tryTokens, tryHeads, tryWidth}, &f.Q, &f.K, &f.V, &f.O); err == nil {
		err = zeros(q, a, kernels.F32, []int64{1, tryHeads, tryTokens}, &f.LSE)
	}
	return f, err
}

func tryForward(q *kernels.Queue, a *kernels.Arena) error {
	f, err := attentionOf(q, a)
	if err != nil {
		return err
	}
	q.AttnFwd(f)
	return q.Sync()
}

func tryBackward(q *kernels.Queue, a *kernels.Arena) error {
	f, err := attentionOf(q, a)
	if err != nil {
		return err
	}
	g := kernels.AttnBwd{AttnFwd: f}
	if err := zeros(q, a, kernels.BF16, []int64{1, tryTokens, tryHeads, tryWidth}, &g.DO, &g.DQ, &g.DK, &g.DV); err != nil {
		return err
	}
	q.AttnBwd(g)
	return q.Sync()
}
