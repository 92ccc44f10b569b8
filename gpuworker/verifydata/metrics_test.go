package verifydata

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// TestMetricsEqualLibraries scores our own pairs, whose reference results metrics/testdata/generate.py wrote with the Python libraries.
func TestMetricsEqualLibraries(t *testing.T) {
	t.Parallel()
	out := t.TempDir()
	r, err := VerifyData(context.Background(), "testdata", Options{Emit: out, Base: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Err(); err != nil || r.Cases != 24+24+3 {
		t.Fatalf("%d cases, %d equal: %v", r.Cases, r.Equal, err)
	}
	for _, name := range r.Emitted {
		want, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(out, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: the emitted bytes differ", name)
		}
	}
}

// strip removes the computed keys anywhere in a value.
func strip(v any, keys map[string]bool) {
	switch x := v.(type) {
	case *pyjson.Object:
		for _, k := range append([]string(nil), x.Keys()...) {
			if keys[k] {
				x.Delete(k)
				continue
			}
			strip(x.Value(k), keys)
		}
	case []any:
		for _, e := range x {
			strip(e, keys)
		}
	}
}

func TestMetricsStrippedInputEmitsTheSame(t *testing.T) {
	t.Parallel()
	keys := map[string]bool{"cut": true, "cut_no_hmm": true, "cut_all": true, "cut_for_search": true, "f1": true, "exact_match": true}
	for _, k := range append(append(append([]string(nil), pairOrder[3:]...), corpusResults...), sklearnOrder[2:]...) {
		keys[k] = true
	}
	delete(keys, "signature") // of chrF and TER: the row says that it wants one by having it
	dir, out := t.TempDir(), t.TempDir()
	files, err := filepath.Glob("testdata/metrics/*.json*")
	if err != nil || len(files) < 5 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, f := range files {
		in, err := readFile(f, "metrics/"+filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range in.Rows {
			strip(row, keys)
		}
		if err := write(dir, in, in.Rows); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := VerifyData(context.Background(), dir, Options{Emit: out, Base: t.TempDir()}); err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		want, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(out, "metrics", filepath.Base(f)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: emitted from stripped input, the bytes differ", f)
		}
	}
}

func TestMetricsBrokenTwinIsNamed(t *testing.T) {
	t.Parallel()
	for file, change := range map[string][2]string{
		"pairs.jsonl": {`"sentence_chrf": `, `"sentence_chrf": 1`}, "corpus.json": {`"score": `, `"score": 1`}, "jieba_cases.jsonl": {`"cut": ["`, `"cut": ["x`},
	} {
		dir := t.TempDir()
		if err := os.Mkdir(filepath.Join(dir, "metrics"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"pairs.jsonl", file} {
			b, err := os.ReadFile(filepath.Join("testdata/metrics", name))
			if err != nil {
				t.Fatal(err)
			}
			if name == file {
				at := bytes.LastIndex(b, []byte(change[0]))
				b = append(b[:at:at], append([]byte(change[1]), b[at+len(change[0]):]...)...)
			}
			if err := os.WriteFile(filepath.Join(dir, "metrics", name), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		r, err := VerifyData(context.Background(), dir, Options{Base: t.TempDir()})
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Err(); err == nil || !strings.Contains(err.Error(), "row ") {
			t.Errorf("%s with one value changed: %v", file, err)
		}
	}
}

// TestRatesAreComparedClosely holds that a rate which is wrong by a thousandth is found, small as rates are.
func TestRatesAreComparedClosely(t *testing.T) {
	t.Parallel()
	row := `[{"name": "linear", "base_lr": 1e-05, "num_warmup_steps": 0, "num_training_steps": 2, "kwargs": {}, "lr": [1e-05, RATE, 0.0]}]`
	for rate, right := range map[string]bool{"5e-06": true, "5.005e-06": false} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "sched"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "sched", "schedulers.json"), []byte(strings.Replace(row, "RATE", rate, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		r, err := verify(context.Background(), dir, Options{Base: dir}, metricsSuites())
		if err != nil {
			t.Fatal(err)
		}
		if r.Pass != right {
			t.Errorf("a rate of %s: pass %v", rate, r.Pass)
		}
	}
}
