package verify

import (
	"math"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
)

// TestBeamsEqualTransformers compares the best continuation and its score with transformers' beam search.
func TestBeamsEqualTransformers(t *testing.T) {
	if testing.Short() {
		t.Skip("runs transformers")
	}
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), python(t), "testdata/beam/make.py", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, name := range []string{"llama", "gpt2"} {
		root, err := openRoot(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		var cases []struct {
			Beams   int     `json:"num_beams"`
			Penalty float64 `json:"length_penalty"`
			Early   bool    `json:"early_stopping"`
			Repeat  float64 `json:"repetition_penalty"`
			Stop    []int32 `json:"stop"`
			New     int     `json:"new"`
			Prompt  []int32 `json:"prompt"`
			IDs     []int32 `json:"ids"`
			Score   float64 `json:"score"`
		}
		if err := readJSON(root, "beams.json", &cases); err != nil {
			t.Fatal(err)
		}
		s, err := openSession(t.Context(), root, Options{Threads: 2}, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer s.close()
		if len(cases) < 16 {
			t.Fatalf("%d cases", len(cases))
		}
		for i, c := range cases {
			ids, score, err := generate.Beams(t.Context(), s.tape, s.model, c.Prompt, generate.BeamOptions{MaxNewTokens: c.New, Stop: c.Stop, Beams: c.Beams,
				LengthPenalty: c.Penalty, EarlyStopping: c.Early, RepetitionPenalty: c.Repeat})
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(ids, c.IDs) || math.Abs(score-c.Score) > 1e-4*math.Max(1, math.Abs(c.Score)) {
				t.Errorf("%s, case %d (%d beams, penalty %g): %v with score %g, transformers %v with %g", name, i, c.Beams, c.Penalty, ids, score, c.IDs, c.Score)
			}
		}
	}
}
