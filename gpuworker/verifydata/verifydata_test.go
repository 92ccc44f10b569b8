package verifydata

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// double is a suite for tests: y = 2x, an error for x = 0.
func double() Suite {
	return Suite{Name: "double", Match: func(p string) bool { return strings.HasPrefix(p, "double/") }, Run: func(_ context.Context, _ *Env, f *File) ([]Case, error) {
		var out []Case
		for i := range f.Rows {
			c := Case{Order: []string{"x", "y", "z", "error"}, Results: []string{"y"}}
			if x, _ := f.Row(i).Value("x").(int64); x == 0 {
				c.Err = os.ErrInvalid
			} else {
				c.Fields = []Field{{Key: "y", Value: []any{2 * x}}}
			}
			out = append(out, c)
		}
		return out, nil
	}}
}

func run(t *testing.T, content string) (*Report, string) {
	t.Helper()
	dir, emit := t.TempDir(), t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "double"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "double", "a.jsonl"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	r, err := verify(context.Background(), dir, Options{Emit: emit, Base: dir}, []Suite{double()})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(emit, "double", "a.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

func TestComparesAndEmits(t *testing.T) {
	full := "{\"x\": 1, \"y\": [2], \"z\": 0}\n{\"x\": 0, \"error\": \"bad\"}\n"
	r, emitted := run(t, full)
	if !r.Pass || r.Cases != 2 || r.Equal != 2 || emitted != full {
		t.Errorf("full: %+v, emitted %s", r, emitted)
	}
	r, emitted = run(t, "{\"x\": 1, \"z\": 0}\n")
	if r.Cases != 0 || r.Files[0].Rows != 1 || emitted != "{\"x\": 1, \"y\": [2], \"z\": 0}\n" {
		t.Errorf("stripped: %+v, emitted %s", r, emitted)
	}
	for _, twin := range []string{"{\"x\": 1, \"y\": [3], \"z\": 0}\n", "{\"x\": 1, \"error\": \"e\"}\n", "{\"x\": 0, \"y\": [0]}\n"} {
		if r, _ := run(t, full+twin); r.Pass || r.Err() == nil || !strings.Contains(r.Err().Error(), "row 3") {
			t.Errorf("%s: passed: %v", twin, r.Err())
		}
	}
}

func TestDiffTolerance(t *testing.T) {
	a, b := pyjson.NewObject("s", []any{1.0, "x"}), pyjson.NewObject("s", []any{1.0000005, "x"})
	if d := diff("", a, b, 1e-6); d != "" {
		t.Error(d)
	}
	if d := diff("", a, b, 1e-7); !strings.Contains(d, "s[0]") {
		t.Errorf("difference not found: %q", d)
	}
}
