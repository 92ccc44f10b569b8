package cudahost_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

// TestWatchOperations: nothing is found in any operation, where each operand is memory of its own and outputs are unwritten.
func TestWatchOperations(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_ATTENTION", "tiles")
	d := cudahost.OpenWatched(t, kernels.Options{})
	types := []kernels.DType{kernels.F32, kernels.BF16}
	if os.Getenv("TUNEFLEET_TEST_FULL") != "" {
		types = append(types, kernels.F16) // but for its conversions, the code of bf16
	}
	for _, dt := range types {
		rs, err := kerneltest.Run(d, kerneltest.Test, kerneltest.Options{DType: dt, Apart: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rs {
			if r.Status == kerneltest.Failed {
				t.Errorf("%s (%s, %s): %s", r.Op, r.Case, r.DType, r.Error)
			}
		}
	}
}

// TestWatchPlanted: kernels with a bug each, and their right twins.
func TestWatchPlanted(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), cudahost.Program(t, "testdata/planted.cu"))
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	const race, memory, unwritten, sync = "racecheck: ", "memcheck: ", "initcheck: ", "synccheck: "
	want := map[string][]string{
		"no barrier":                           {race, "shared a", "with no barrier between them", "planted.cu:"},
		"no barrier between rounds":            {race, "shared a", "with no barrier between them"},
		"a shuffle for a barrier":              {race, "shared a", "with no barrier between them"},
		"half a warp":                          {race, "shared a", "with no barrier between them"},
		"a warp's barrier for a block's":       {race, "shared a", "with no barrier between them"},
		"a write among reads":                  {race, "thread (5,0,0) writes byte 0 of shared a", "thread (0,0,0) read it"},
		"device memory without barrier":        {race, "of an allocation of 512", "with no barrier between them"},
		"blocks write one place":               {race, "block (0,0,0) wrote it", "blocks are in no order"},
		"blocks read what others write":        {race, "blocks are in no order"},
		"a block writes what others have read": {race, "blocks are in no order"},
		"not atomic":                           {race, "byte 0 of an allocation of 64"},
		"bytes of a word":                      {race, "writes byte 0 of an allocation of 64"},
		"a copy not waited for":                {race, "while the copy of thread", "is under way"},
		"a copy of another thread":             {race, "shared a", "with no barrier between them"},
		"a copy never waited for":              {"ends while an asynchronous copy of it is under way"},
		"beyond an allocation":                 {memory, "thread (32,0,0)", "writes 4 bytes", "at byte 132 of an allocation of 132"},
		"before an allocation":                 {memory, "reads 4 bytes", "4 before an allocation of 4"},
		"beyond shared memory":                 {memory, "reads 4 bytes of shared memory", "at byte 128 of b, which has 128"},
		"beyond the launch's shared memory":    {memory, "writes 4 bytes of shared memory", "which has 128"},
		"memory of the host":                   {memory, "which is not the device's"},
		"misaligned":                           {memory, "a misaligned access at planted.cu:"},
		"never written":                        {unwritten, "of an allocation of 128", "which nothing has written"},
		"shared memory never written":          {unwritten, "byte 124 of shared a", "which nothing has written"},
		"two barriers":                         {sync, "thread (0,0,0) waits at the barrier of planted.cu:"},
		"streams without event":                {race, "writer on another stream wrote it", "no event orders them"},
		"streams with event, then not":         {race, "writer on another stream", "no event orders them"},
	}
	seen := 0
	for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
		name, got, _ := strings.Cut(line, "|")
		parts, found := want[name]
		if !found {
			if got != "ok" {
				t.Errorf("%s: %s", name, got)
			}
			continue
		}
		seen++
		for _, w := range parts {
			if !strings.Contains(got, w) {
				t.Errorf("%s: %q, want %q in it", name, got, w)
			}
		}
	}
	if n := strings.Count(string(out), "(right)|"); seen != len(want) || n != 24 {
		t.Errorf("%d of %d bugs and %d of 24 right kernels:\n%s", seen, len(want), n, out)
	}
}

// TestWatchEdited: a line less in a kernel of ours, and the operation suite finds it. But for one they take a minute and more.
func TestWatchEdited(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_ATTENTION", "tiles")
	const racecheck, initcheck, either = "racecheck: ", "initcheck: ", "check: "
	cases := []struct {
		name, file, old, new string
		op, cases            string
		dtype                kernels.DType
		want                 string
	}{
		{"the scale of a block of moments, once a race of ours", "optimizer.cu", "  __syncwarp(); /* every lane has read the scale that was */\n", "",
			"adamw8", "first step", kernels.F32, racecheck},
		{"a row's last vector, once read beyond the row", "loss.cu", "if (4 * i + 4 <= v) return", "if (4 * i < v) return", "linear_xent", "plain", kernels.F32, initcheck},
		{"the table of an expansion", "packed.cu", "  __syncthreads();\n", "", "unpack", "", kernels.F32, either},
		{"choices of experts", "moe.cu", "  __syncwarp();\n  warp_choose(p, e, k,", "  warp_choose(p, e, k,", "moe_aux_fwd", "", kernels.F32, either},
		{"probabilities of a part of the keys", "attn_decode.cu", "      o[e] = sum;\n    }\n    __syncthreads();\n", "      o[e] = sum;\n    }\n",
			"attn_fwd", "decode over so many keys", kernels.F32, either},
		{"tiles of keys, no barrier", "attn.cu", "      arrived();\n      if (c + 1 < nk)", "      async_wait();\n      if (c + 1 < nk)", "attn_fwd", "several blocks", kernels.BF16, either},
		{"tiles of keys, no wait", "attn.cu", "      arrived();\n      if (c + 1 < nk)", "      __syncthreads();\n      if (c + 1 < nk)", "attn_fwd", "several blocks", kernels.BF16, either},
	}
	if os.Getenv("TUNEFLEET_TEST_FULL") == "" {
		cases = cases[:1]
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			d, err := kernels.Open(kernels.Options{Backend: cudahost.Edited(t, c.file, c.old, c.new)})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = d.Close() }()
			rs, err := kerneltest.Run(d, kerneltest.Test, kerneltest.Options{Op: c.op, Name: c.cases, DType: c.dtype, Apart: true})
			if err != nil {
				t.Fatal(err)
			}
			found := 0
			for _, r := range rs {
				if r.Status == kerneltest.Failed && strings.Contains(r.Error, c.want) {
					found++
				}
			}
			if found == 0 {
				t.Errorf("of %d cases of %s none fails by %s", len(rs), c.op, c.want)
			}
		})
	}
}
