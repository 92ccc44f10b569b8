package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestGenerate: rows are unique, the same ones every time, and near to those they are made of.
func TestGenerate(t *testing.T) {
	dir := t.TempDir()
	base := filepath.Join(dir, "base.json")
	text := `[{"instruction":"Name three colours of the rainbow.","input":"","output":"Red, green and blue are three of them."},
		{"instruction":"Add.","input":"1 and 2","output":"It is 3, which is one and two taken together."}]`
	if err := os.WriteFile(base, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	var files [2][]byte
	for i := range files {
		p := filepath.Join(dir, "rows.jsonl")
		if err := generate(base, p, 500, 0.1); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[i] = b
	}
	if !bytes.Equal(files[0], files[1]) {
		t.Error("the rows differ from run to run")
	}
	seen := map[string]bool{}
	for _, l := range strings.Split(strings.TrimSpace(string(files[0])), "\n") {
		if seen[l] {
			t.Fatalf("twice: %s", l)
		}
		seen[l] = true
	}
	if len(seen) != 500 {
		t.Errorf("%d rows", len(seen))
	}
}

// TestMemoryOfThisProcess: the measure sees what this process holds.
func TestMemoryOfThisProcess(t *testing.T) {
	before := treeBytes(os.Getpid())
	b := bytes.Repeat([]byte{1}, 64<<20)
	if after := treeBytes(os.Getpid()); before == 0 || after < before+32<<20 || b[len(b)-1] != 1 {
		t.Errorf("%d bytes, then %d", before, after)
	}
}

// TestJudge: what misses a bar is named.
func TestJudge(t *testing.T) {
	rep := report{Rows: 100, MinHash: 60_000, Medians: map[string]float64{}, PerCPU: map[string]float64{}, Ratios: map[string]float64{}, Runs: map[string][]measured{
		"tunefleet": {{Seconds: 1, CPUS: 1, PeakBytes: 50, Digest: "a"}}, "floor": {{Seconds: 2, CPUS: 2}}, "llamafactory": {{Seconds: 4, CPUS: 4, PeakBytes: 1000, Digest: "a"}}}}
	if failed := judge(&rep); len(failed) != 0 || rep.Ratios["tunefleet / llamafactory"] != 4 || !*rep.Equal {
		t.Errorf("%v %+v", failed, rep.Ratios)
	}
	rep.Runs["llamafactory"][0].Digest, rep.Runs["llamafactory"][0].PeakBytes, rep.Runs["floor"][0].Seconds, rep.MinHash = "b", 100, 0.5, 10
	if failed := judge(&rep); len(failed) != 4 {
		t.Errorf("%v", failed)
	}
}
