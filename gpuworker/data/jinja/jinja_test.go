package jinja

import (
	"os"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

func now() time.Time { return time.Date(2025, 1, 2, 3, 4, 5, 0, time.UTC) }

func rows(t testing.TB) []*pyjson.Object {
	t.Helper()
	b, err := os.ReadFile("testdata/cases.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []*pyjson.Object
	for _, line := range strings.Split(strings.TrimSpace(string(b)), "\n") {
		o, err := pyjson.ParseObject(line)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, o)
	}
	return out
}

// TestAsJinja2 compares with renderings of Jinja2 itself (testdata/make.py).
func TestAsJinja2(t *testing.T) {
	all := rows(t)
	vars, _ := all[0].Value("vars").(*pyjson.Object)
	if len(all) < 70 {
		t.Fatalf("only %d cases", len(all))
	}
	for _, r := range all[1:] {
		src, _ := r.Value("template").(string)
		got := ""
		x, err := Parse(src)
		if err == nil {
			got, err = x.Render(vars, Options{Now: now()})
		}
		want, ok := r.Value("rendered").(string)
		switch {
		case ok && err != nil:
			t.Errorf("%s: %v", src, err)
		case ok && got != want:
			t.Errorf("%s\ngot  %q\nwant %q", src, got, want)
		case !ok && err == nil:
			t.Errorf("%s: rendered %q, Jinja2 has the error %v", src, got, r.Value("error"))
		}
	}
}

// TestLimits renders templates that would not end, or not fit.
func TestLimits(t *testing.T) {
	for _, src := range []string{
		"{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
		"{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
		"{{ 'a' * 99999999 }}",
		"{{ range(9999999) | length }}",
		"{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{{ ns.s }}{% endfor %}",
		"{% set ns = namespace(s='aaaaaaaaaaaaaaaa', l=[1, 2]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
		"{% set ns = namespace(l=[1, 2]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
		"{% for x in [[1]] recursive %}{{ loop([[1]]) }}{% endfor %}",
		strings.Repeat("(", 3000) + "1",
		"{{ " + strings.Repeat("(", 3000) + "1" + strings.Repeat(")", 3000) + " }}",
		"{{ " + strings.Repeat("-", 3000) + "1 }}",
		strings.Repeat("{% if true %}", 3000) + strings.Repeat("{% endif %}", 3000),
	} {
		x, err := Parse(src)
		if err == nil {
			_, err = x.Render(&pyjson.Object{}, Options{})
		}
		if err == nil && strings.HasPrefix(src, "{") {
			t.Errorf("%.60s was rendered", src)
		}
	}
}

// TestRenderDoesNotChangeVariables holds that templates cannot change what they are given.
func TestRenderDoesNotChangeVariables(t *testing.T) {
	vars := pyjson.NewObject("d", pyjson.NewObject("a", []any{int64(2), int64(1)}), "l", []any{int64(3), int64(1)})
	before := pyjson.Dumps(vars)
	x, err := Parse("{% set l = l | sort %}{% set d2 = dict(d, b=1) %}{% set l2 = l + [9] %}{{ l | reverse | list }}{{ d2 }}{% for x in l %}{% set y = x %}{% endfor %}")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Render(vars, Options{}); err != nil {
		t.Fatal(err)
	}
	if after := pyjson.Dumps(vars); after != before {
		t.Errorf("variables were changed to %s", after)
	}
}

func FuzzRender(f *testing.F) {
	for _, r := range rows(f)[1:] {
		s, _ := r.Value("template").(string)
		f.Add(s)
	}
	vars, _ := rows(f)[0].Value("vars").(*pyjson.Object)
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) > 4000 {
			return
		}
		x, err := Parse(src)
		if err != nil {
			return
		}
		a, errA := x.Render(vars, Options{Now: now()})
		b, errB := x.Render(vars, Options{Now: now()})
		if a != b || (errA == nil) != (errB == nil) {
			t.Fatalf("%q renders differently the second time", src)
		}
	})
}
