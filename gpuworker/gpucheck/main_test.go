package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

func check(t *testing.T, want int, args ...string) (lines []map[string]any) {
	t.Helper()
	var out, talk bytes.Buffer
	if got := run(t.Context(), args, &out, &talk); got != want {
		t.Fatalf("%q exits %d, want %d: %s\n%s", args, got, want, talk.String(), out.String())
	}
	for d := json.NewDecoder(&out); d.More(); {
		var v map[string]any
		if err := d.Decode(&v); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, v)
	}
	return lines
}

// TestMain lets this binary be the ranks that it starts.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "rank" {
		main()
	}
	os.Exit(m.Run())
}

// TestRanks: goroutines on one card, and processes by NCCL, have the weights of one rank; on the CPU there is no card to share out.
func TestRanks(t *testing.T) {
	emulated, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got := check(t, 0, "ranks", "--backend", emulated)
	if len(got) != 3 || got[0]["same"] != true || got[0]["way"] != "copies on one device" || got[2]["same"] != true || got[2]["way"] != "NCCL 2.28.9, 2 ranks, generation 1" {
		t.Errorf("cards: %v", got)
	}
	t.Setenv("TUNEFLEET_FAKE_DEVICES", "1")
	if got := check(t, 0, "ranks", "--backend", "cpu"); len(got) != 3 || got[0]["same"] != true || got[1]["ranks"] != 3.0 || got[2]["skipped"] == nil {
		t.Errorf("the CPU: %v", got)
	}
	// A machine that lacks what the processes need fails the check.
	t.Setenv("TUNEFLEET_FAKE_DEVICES", "2")
	t.Setenv("TUNEFLEET_FAKE_NCCL", "libnccl.so.nowhere")
	got = check(t, 1, "ranks", "--backend", emulated)
	if text, _ := got[2]["error"].(string); !strings.Contains(text, "libnccl.so.nowhere") {
		t.Errorf("no NCCL: %v", got)
	}
}

// TestGraphs: on a card, sequences that come again are launched as graphs, and the weights are those without; a machine that cannot record
// them fails the check, and the CPU has none.
func TestGraphs(t *testing.T) {
	emulated, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	launches := func(line map[string]any) float64 { return line["counts"].(map[string]any)["launches"].(float64) }
	got := check(t, 0, "graphs", "--steps", "6", "--backend", emulated)
	if len(got) != 3 || launches(got[0]) != 0 || launches(got[1]) == 0 || launches(got[2]) <= launches(got[1]) || got[2]["hash"] != got[0]["hash"] || got[0]["step_ms"].(float64) <= 0 {
		t.Errorf("emulated: %v", got)
	}
	t.Setenv("TUNEFLEET_FAKE_GRAPHS", "none")
	if got := check(t, 1, "graphs", "--steps", "6", "--backend", emulated); got[1]["same"] != true || got[2]["error"] == nil {
		t.Errorf("nothing can be recorded: %v", got)
	}
	if got := check(t, 0, "graphs", "--steps", "6", "--backend", "cpu"); len(got) != 3 || launches(got[2]) != 0 {
		t.Errorf("the CPU: %v", got)
	}
}

const own = "../verify/testdata"

func TestChecks(t *testing.T) {
	models := check(t, 0, "models", "--backend", "cpu", filepath.Join(own, "models", "tiny"))
	if len(models) != 1 || models[0]["pass"] != true || models[0]["compared"].(float64) < 10 {
		t.Errorf("models: %v", models)
	}
	if got := check(t, 0, "train", "--backend", "cpu", filepath.Join(own, "train", "tiny")); len(got) != 1 || got[0]["pass"] != true {
		t.Errorf("train: %v", got)
	}
	if got := check(t, 0, "bits", "--backend", "cpu", filepath.Join(own, "train", "tiny")); len(got) != 1 || got[0]["files"].(float64) < 2 {
		t.Errorf("bits: %v", got)
	}
	if got := check(t, 1, "models", "--backend", "cpu", t.TempDir()); len(got) != 1 || got[0]["error"] == nil {
		t.Errorf("an empty folder: %v", got)
	}
	vision := t.TempDir()
	if err := os.WriteFile(filepath.Join(vision, "config.json"), []byte(`{"architectures":["TeapotForCausalLM"],"model_type":"teapot"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := check(t, 0, "models", "--backend", "cpu", vision, filepath.Join(own, "models", "tiny")); len(got) != 2 || got[0]["skipped"] == nil || got[1]["pass"] != true {
		t.Errorf("an unknown architecture: %v", got)
	}
	check(t, 1, "models", "--backend", "cpu") // nothing checked is no pass
	check(t, 2, "opps")
}

func TestCompareFindsWhatDiffers(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	for dir, files := range map[string]map[string]string{a: {"same": "1", "other": "2", "missing": "3"}, b: {"same": "1", "other": "20"}} {
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	n, different, err := compare(a, b)
	if err != nil || n != 3 || strings.Join(different, " ") != "missing other" {
		t.Errorf("%d files, %q differ, %v", n, different, err)
	}
}
