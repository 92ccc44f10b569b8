package verifye2e_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVariantsOfLLaMAFactory repeats runs of LLaMA-Factory that the fixtures do not have (variants.py, testdata/collect.py).
func TestVariantsOfLLaMAFactory(t *testing.T) {
	root := fixtures(t)
	f, err := os.Open("testdata/variants.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		var c struct {
			Name, YAML string
			Log        []json.RawMessage
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Name, func(t *testing.T) {
			dir := t.TempDir()
			if strings.Contains(c.YAML, `"../model_deep"`) {
				makeDeep(t, root, filepath.Join(dir, "model_deep"))
			}
			write(t, dir, "train.yaml", []byte(strings.NewReplacer(`"../model_deep"`, `"./model_deep"`, `"../`, `"`+root+"/").Replace(c.YAML)))
			write(t, dir, "full_log.jsonl", append(bytes.Join(raws(c.Log), []byte("\n")), '\n'))
			r := verifyDir(t, dir, options())
			if err := r.Err(); err != nil || r.Compared < 1 {
				t.Fatalf("%d compared: %v", r.Compared, err)
			}
		})
	}
}

func raws(m []json.RawMessage) (out [][]byte) {
	for _, x := range m {
		out = append(out, x)
	}
	return out
}

func write(t *testing.T, dir, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestMetricsOfPreferences compares what dpo and kto log beside the loss, in training and in evaluation. Averages over the positions of
// padding (logits/*) are not computed.
func TestMetricsOfPreferences(t *testing.T) {
	root := fixtures(t)
	for _, name := range []string{"dpo_orpo_full", "kto_lora"} {
		t.Run(name, func(t *testing.T) {
			o := options()
			o.Emit = t.TempDir()
			verifyDir(t, filepath.Join(root, name), o)
			got, want := logByStep(t, filepath.Join(o.Emit, "full_log.jsonl")), logByStep(t, filepath.Join(root, name, "full_log.jsonl"))
			n := 0
			for at, line := range want {
				for k, w := range line {
					metric := strings.TrimPrefix(k, "eval_")
					if strings.HasPrefix(metric, "logits/") || !strings.Contains(metric, "/") && metric != "kl" && metric != "sft_loss" && metric != "odds_ratio_loss" {
						continue
					}
					if strings.HasPrefix(at, "eval") && metric == "kl" {
						continue // upstream adds up what its batches estimate
					}
					g, ok := got[at][k]
					// Rewards are a tenth of a difference of log-probabilities near 500.
					if n++; !ok || math.Abs(g-w) > 2e-3+1e-3*math.Abs(w) {
						t.Errorf("%s %s is %v (%v), LLaMA-Factory's %v", at, k, g, ok, w)
					}
				}
			}
			if n < 100 {
				t.Errorf("%d values", n)
			}
		})
	}
}

// logByStep reads a log: lines of training by "step N", of evaluation by "eval N".
func logByStep(t *testing.T, path string) map[string]map[string]float64 {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]map[string]float64{}
	for line := range bytes.Lines(b) {
		var x map[string]any
		if err := json.Unmarshal(line, &x); err != nil {
			t.Fatal(err)
		}
		values, at := map[string]float64{}, "step "
		for k, v := range x {
			if f, ok := v.(float64); ok {
				values[k] = f
			}
		}
		if _, ok := values["eval_loss"]; ok {
			at = "eval "
		}
		raw, err := json.Marshal(x["step"])
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := values["train_loss"]; !ok {
			out[at+string(raw)] = values
		}
	}
	return out
}
