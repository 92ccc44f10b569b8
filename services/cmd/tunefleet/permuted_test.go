package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
)

// TestPermutedLabelsTeachNothing is the control experiment of the contract-review example: the same recipe on shuffled training labels must
// not beat always answering the most frequent class by more than 5 points. It trains for minutes, so it runs with the full tests only.
func TestPermutedLabelsTeachNothing(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") != "1" {
		t.Skip("trains for minutes; set TUNEFLEET_TEST_FULL=1 (go tool task test:full)")
	}
	dir := t.TempDir()
	spec := filepath.Join("..", "..", "..", "producer", "examples", "contract-review", "permuted.yaml")
	cli(t, nil, "train", spec, "--dir", dir, "--output_dir", t.TempDir(), "--log_dir", t.TempDir(), "--num_workers", "2", "--no-color").want(t, 0, "run succeeded")
	var r evaluate.Report
	found, err := filepath.Glob(filepath.Join(dir, "s3", "*", "runs", "*", "*", "output", "eval", "report.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("the run's report is not in its store: %v, %v", found, err)
	}
	readJSON(t, found[0], &r)
	tuned := -1.0
	for _, m := range r.Models {
		if m.Name == "tuned" {
			tuned = m.Accuracy
		}
	}
	if tuned < 0 || tuned > r.MajorityShare+0.05 {
		t.Errorf("accuracy on permuted labels is %.3f, the majority class has %.3f", tuned, r.MajorityShare)
	}
	t.Logf("accuracy on permuted labels %.3f, majority class %.3f", tuned, r.MajorityShare)
}
