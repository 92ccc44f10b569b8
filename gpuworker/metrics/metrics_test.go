package metrics_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strconv"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
)

// fixture opens a reference file, skipping where the full set is not there (CI demands it).
func fixture(t *testing.T, name string) *os.File {
	t.Helper()
	f, err := os.Open(fixturetest.Dir(t, "data", "metrics", name))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func close6(a, b float64) bool { return math.Abs(a-b) <= 1e-6 }

// TestAgainstLibraries compares BLEU-4 with nltk's (as LLaMA-Factory calls it) and ROUGE with rouge-score's.
func TestAgainstLibraries(t *testing.T) {
	t.Parallel()
	sc := bufio.NewScanner(fixture(t, "pairs.jsonl"))
	sc.Buffer(nil, 1<<20)
	n := 0
	for sc.Scan() {
		var row struct {
			ID         int     `json:"id"`
			Prediction string  `json:"prediction"`
			Reference  string  `json:"reference"`
			BLEU       float64 `json:"bleu4_raw"`
			Rouge      struct {
				R1, R2 metrics.PRF
				RL     metrics.PRF
			} `json:"-"`
			RougeScore map[string]metrics.PRF `json:"rouge_score"`
		}
		if err := json.Unmarshal(sc.Bytes(), &row); err != nil {
			t.Fatal(err)
		}
		n++
		if got := metrics.BLEU4(row.Prediction, row.Reference); !close6(got, row.BLEU) {
			t.Errorf("pair %d: BLEU-4 %.9f, nltk %.9f", row.ID, got, row.BLEU)
		}
		got := metrics.RougeScore(row.Prediction, row.Reference)
		for name, g := range map[string]metrics.PRF{"rouge1": got.R1, "rouge2": got.R2, "rougeL": got.RL} {
			if w := row.RougeScore[name]; !close6(g.P, w.P) || !close6(g.R, w.R) || !close6(g.F, w.F) {
				t.Errorf("pair %d: %s %+v, rouge-score %+v", row.ID, name, g, w)
			}
		}
	}
	if err := sc.Err(); err != nil || n < 40 {
		t.Fatalf("%d pairs, %v", n, err)
	}
}

func TestAgainstScikitLearn(t *testing.T) {
	t.Parallel()
	var rows []struct {
		True     []any            `json:"y_true"`
		Pred     []any            `json:"y_pred"`
		Accuracy float64          `json:"accuracy"`
		Matrix   [][]int          `json:"confusion_matrix"`
		Macro    metrics.Averages `json:"macro"`
		Micro    metrics.Averages `json:"micro"`
		Weighted metrics.Averages `json:"weighted"`
	}
	if err := json.NewDecoder(fixture(t, "sklearn.json")).Decode(&rows); err != nil {
		t.Fatal(err)
	}
	str := func(v []any) []string {
		out := make([]string, len(v))
		for i, x := range v {
			out[i] = fmt.Sprint(x)
		}
		return out
	}
	same := func(a, b metrics.Averages) bool {
		return close6(a.Precision, b.Precision) && close6(a.Recall, b.Recall) && close6(a.F1, b.F1)
	}
	for i, r := range rows {
		got, err := metrics.Classification(str(r.True), str(r.Pred))
		if err != nil {
			t.Fatal(err)
		}
		if !close6(got.Accuracy, r.Accuracy) || !same(got.Macro, r.Macro) || !same(got.Micro, r.Micro) || !same(got.Weighted, r.Weighted) {
			t.Errorf("case %d: %+v, want %+v", i, got, r)
		}
		for a := range r.Matrix {
			for b := range r.Matrix[a] {
				if got.Confusion[a][b] != r.Matrix[a][b] {
					t.Errorf("case %d: confusion[%d][%d] = %d, want %d", i, a, b, got.Confusion[a][b], r.Matrix[a][b])
				}
			}
		}
	}
}

func TestKnownValues(t *testing.T) {
	t.Parallel()
	if got := metrics.BLEU4("The cat sat on the mat.", "The cat is on the mat."); !close6(got, 0.7944837206494969) {
		t.Errorf("BLEU-4 %v", got)
	}
	if got := metrics.RougeScore("The cat sat on the mat.", "The cat is on the mat."); !close6(got.R2.F, 0.6) || !close6(got.RL.F, 5.0/6) {
		t.Errorf("ROUGE %+v", got)
	}
	r, err := metrics.Classification([]string{"a", "a", "a", "b"}, []string{"a", "a", "b", "b"})
	if err != nil {
		t.Fatal(err)
	}
	if r.Accuracy != 0.75 || r.MajorityShare != 0.75 || !close6(r.Macro.F1, (0.8+2.0/3)/2) {
		t.Errorf("%+v", r)
	}
	if _, err := metrics.Classification([]string{"a"}, nil); err == nil {
		t.Error("different lengths were accepted")
	}
}

func TestBagOfWordsLearnsWordsOnly(t *testing.T) {
	t.Parallel()
	var texts, labels, test, want []string
	words := []string{"alpha beta", "gamma delta", "epsilon zeta"}
	for i := range 90 {
		texts = append(texts, words[i%3]+" filler "+strconv.Itoa(i))
		labels = append(labels, strconv.Itoa(i%3))
	}
	for i, w := range words {
		test, want = append(test, "filler "+w), append(want, strconv.Itoa(i))
	}
	got, err := metrics.BagOfWords(texts, labels, test)
	if err != nil {
		t.Fatal(err)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%q: %s, want %s", test[i], got[i], want[i])
		}
	}
	again, err := metrics.BagOfWords(texts, labels, test)
	if err != nil || again[0] != got[0] {
		t.Errorf("not deterministic: %v, %v", again, err)
	}
}
