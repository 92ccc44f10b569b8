package cudahost_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

// tiled begins the names of the attention cases that cuDNN may take.
const tiled = "whole tiles"

// attention runs the cases whose names begin with name and says what came out, and how often the stand-in of cuDNN ran forward and backward.
func attention(t *testing.T, op, name string, dt kernels.DType) (results []kerneltest.Result, ran string) {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	t.Setenv("TUNEFLEET_FAKE_CUDNN_LOG", log)
	results, err := kerneltest.Run(cudahost.Open(t, kernels.Options{}), kerneltest.Test, kerneltest.Options{Op: op, Name: name, DType: dt})
	if err != nil {
		t.Fatal(err)
	}
	if len(results) == 0 {
		t.Fatal("no cases")
	}
	raw, err := os.ReadFile(log)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return results, string(raw)
}

// TestAttentionByCuDNN: calls that cuDNN may take are given to it once two calls of a small problem of their kind gave what our own kernel gives,
// also in pieces; f32 is not.
func TestAttentionByCuDNN(t *testing.T) {
	const kinds = 7 // of the cases: masks, heads, and how sequences lie in their rows
	t.Setenv("TUNEFLEET_CUDA_ATTENTION", "cudnn")
	for _, c := range []struct {
		op, line, workspace, cases string
		dt                         kernels.DType
	}{
		{"attn_fwd", "forward", "", "", kernels.BF16},
		{"attn_fwd", "forward", "", "", kernels.F16},
		{"attn_fwd", "", "", "", kernels.F32},
		{"attn_bwd", "backward", "", "", kernels.BF16},
		{"attn_bwd", "backward", "", "", kernels.F16},
		{"attn_bwd", "", "", "", kernels.F32},
		// A kv head at a time, of one sequence where they are of one length.
		{"attn_bwd", "backward", "600000", ", causal", kernels.BF16},
		{"attn_bwd", "backward", "600000", " and a part, padding", kernels.BF16},
	} {
		t.Run(c.op+" "+c.dt.String()+c.workspace+c.cases, func(t *testing.T) {
			t.Setenv("TUNEFLEET_FAKE_CUDNN_WORKSPACE", c.workspace)
			rs, ran := attention(t, c.op, tiled+c.cases, c.dt)
			for _, r := range rs {
				if r.Status != kerneltest.OK {
					t.Errorf("%s: %s", r.Case, r.Error)
				}
			}
			got, want := strings.Count(ran, "\n"), len(rs)+2*kinds
			if c.workspace != "" {
				want = 3 * len(rs)
			}
			if c.line == "" {
				want = 0
			}
			if c.workspace == "" && got != want || c.workspace != "" && got <= want || strings.Count(ran, c.line+"\n") != got && got > 0 {
				t.Errorf("%d runs, want %d, or more in pieces:\n%s", got, want, ran)
			}
		})
	}
}

// TestAttentionWithoutCuDNN: where cuDNN is not there, not new enough, not able or not right, our own kernels compute, and results are right.
// Where it is demanded, the reason is an error.
func TestAttentionWithoutCuDNN(t *testing.T) {
	tests := 2 // runs of a numeric test, one more with the case itself
	for name, c := range map[string]struct{ variable, value, op, why string }{
		"missing":               {"TUNEFLEET_FAKE_CUDNN", "libcudnn.so.nowhere", "attn_fwd", "cuDNN cannot be opened: libcudnn.so.nowhere"},
		"not cuDNN":             {"TUNEFLEET_FAKE_CUDNN", "libc.so.6", "attn_fwd", "cuDNN has no cudnnGetVersion"},
		"old":                   {"TUNEFLEET_FAKE_CUDNN_VERSION", "90800", "attn_fwd", "cuDNN 9.8.0 is too old, 9.15.1 is the least"},
		"for another CUDA":      {"TUNEFLEET_FAKE_CUDNN_CUDART", "12080", "attn_fwd", "cuDNN 9.19.0 is made for CUDA 12, not 13"},
		"no handle":             {"TUNEFLEET_FAKE_CUDNN_FAULT", "create", "attn_fwd", "cudnnCreate"},
		"no engine":             {"TUNEFLEET_FAKE_CUDNN_FAULT", "engine", "attn_bwd", "there is no engine for mul sum mul matmul"},
		"no engine that agrees": {"TUNEFLEET_FAKE_CUDNN_FAULT", "varies", "attn_bwd", "give other bits from call to call"},
		"no plan":               {"TUNEFLEET_FAKE_CUDNN_FAULT", "plan", "attn_fwd", "the plan cannot be built"},
		"not run":               {"TUNEFLEET_FAKE_CUDNN_FAULT", "execute", "attn_fwd", "the plan does not run"},
		"wrong output":          {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-o", "attn_fwd", "o differs from our own by 0.0"},
		"wrong statistics":      {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-lse", "attn_fwd", "lse differs from our own by 0.0"},
		"wrong dq":              {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-dq", "attn_bwd", "dq differs from our own by 0.0"},
		"wrong dk":              {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-dk", "attn_bwd", "dk differs from our own by 0.0"},
		"wrong dv":              {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-dv", "attn_bwd", "dv differs from our own by 0.0"},
		"other bits":            {"TUNEFLEET_FAKE_CUDNN_FAULT", "drift", "attn_fwd", "o has other bits the second time"},
		"wrong documents":       {"TUNEFLEET_FAKE_CUDNN_FAULT", "wrong-o", "attn_fwd", "o differs from our own by 0.0"},
		"not wanted":            {"TUNEFLEET_CUDA_ATTENTION", "tiles", "attn_fwd", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(c.variable, c.value)
			cases := tiled + ", causal"
			if strings.HasSuffix(name, "documents") {
				cases = tiled + ", documents"
			}
			rs, ran := attention(t, c.op, cases, kernels.BF16)
			for _, r := range rs {
				if r.Status != kerneltest.OK {
					t.Errorf("%s: %s", r.Case, r.Error)
				}
			}
			if n := strings.Count(ran, "\n"); n > tests*len(rs) {
				t.Errorf("cuDNN ran %d times, of which %d are tests", n, tests*len(rs))
			}
			if c.why == "" {
				return
			}
			t.Setenv("TUNEFLEET_CUDA_ATTENTION", "cudnn")
			rs, _ = attention(t, c.op, cases, kernels.BF16)
			for _, r := range rs {
				if !strings.Contains(r.Error, c.why) {
					t.Errorf("%s: %q, want %q", r.Case, r.Error, c.why)
				}
			}
		})
	}
}

// TestAttentionWithoutMemory: what computes attention does not depend on how full the device was when it was first asked for.
func TestAttentionWithoutMemory(t *testing.T) {
	d := cudahost.Open(t, kernels.Options{})
	info, err := d.Info()
	if err != nil {
		t.Fatal(err)
	}
	rest, err := d.NewArena("rest", info.MemoryTotal-1<<30-24<<20) // the case's own memory and a little more is left
	if err != nil {
		t.Fatal(err)
	}
	o := kerneltest.Options{Op: "attn_fwd", Name: tiled + ", causal", DType: kernels.BF16}
	rs, err := kerneltest.Run(d, kerneltest.Test, o)
	rest.Close()
	if err != nil || len(rs) != 1 || !strings.Contains(rs[0].Error, "no memory to try cuDNN's attention") {
		t.Errorf("%+v, %v", rs, err)
	}
	if rs, err = kerneltest.Run(d, kerneltest.Test, o); err != nil || rs[0].Status != kerneltest.OK {
		t.Errorf("with memory: %+v, %v", rs, err)
	}
}

// TestDeviceNamesCuDNN: what would compute attention belongs to a device's name, since it gives other bits.
func TestDeviceNamesCuDNN(t *testing.T) {
	d := cudahost.Open(t, kernels.Options{})
	for choice, want := range map[string]string{"": "emulated, cuDNN 9.19.0", "cudnn": "emulated, cuDNN 9.19.0", "tiles": "emulated"} {
		t.Setenv("TUNEFLEET_CUDA_ATTENTION", choice)
		if i, err := d.Info(); err != nil || i.Name != want {
			t.Errorf("%q: %q, %v, want %q", choice, i.Name, err, want)
		}
	}
}
