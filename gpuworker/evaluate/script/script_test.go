package script_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate/script"
	"github.com/tunefleet/tunefleet/schemas"
)

type row struct {
	Text string `json:"text"`
}

func write(t *testing.T, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), "score.sh")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+body), 0o700); err != nil {
		t.Fatal(err)
	}
	return p
}

func run(t *testing.T, body string, timeout int) (map[string]float64, error) {
	t.Helper()
	p := write(t, body)
	return script.Run(t.Context(), schemas.EvalScript{Name: "mine", Command: "sh " + p + " 'an argument'", Timeout: timeout}, []row{{"a b"}, {"c"}}, t.TempDir(), "sh "+p)
}

func TestRunScores(t *testing.T) {
	t.Parallel()
	m, err := run(t, `n=$(wc -l); echo "{\"rows\": $n, \"args\": $#, \"x/y\": 0.5}"`, 20)
	if err != nil || m["rows"] != 2 || m["args"] != 1 || m["x/y"] != 0.5 || len(m) != 3 {
		t.Fatalf("%v, %v", m, err)
	}
	// A script that reads nothing is no error.
	if m, err = run(t, `echo '{"one": 1}'`, 20); err != nil || m["one"] != 1 {
		t.Errorf("%v, %v", m, err)
	}
}

func TestRunIsScrubbedAndLimited(t *testing.T) {
	t.Setenv("TUNEFLEET_TOKEN", "secret")
	m, err := run(t, `cat >/dev/null
leak=$(env | grep -c secret); files=$(ulimit -n); core=$(ulimit -c); home=0; [ "$HOME" = "$PWD" ] && home=1
echo "{\"leak\": $leak, \"files\": $files, \"core\": $core, \"home\": $home}"`, 20)
	if err != nil || m["leak"] != 0 || m["files"] != 256 || m["core"] != 0 || m["home"] != 1 {
		t.Fatalf("%v, %v", m, err)
	}
	t.Run("time", func(t *testing.T) {
		start := time.Now()
		_, err := run(t, "sleep 60 & sleep 60", 1)
		if err == nil || !strings.Contains(err.Error(), "did not end within 1s") || time.Since(start) > 20*time.Second {
			t.Errorf("after %s: %v", time.Since(start), err)
		}
	})
}

func TestRunRefuses(t *testing.T) {
	t.Parallel()
	for body, want := range map[string]string{
		"echo nothing":              "must be one JSON object",
		`echo '{"a": 1} {"b": 2}'`:  "more after",
		`echo '{}'`:                 "has 0 numbers",
		`echo '{"a b": 1}'`:         "no name",
		`echo '{"a": "1"}'`:         "must be one JSON object",
		`echo why >&2; exit 3`:      "exit status 3; it said: why",
		`head -c 2000000 /dev/zero`: "more than",
	} {
		if _, err := run(t, body, 20); err == nil || !strings.Contains(err.Error(), want) || !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("%s: %v, want %q", body, err, want)
		}
	}
	_, err := script.Run(t.Context(), schemas.EvalScript{Name: "x", Command: "sh -c 'echo {}'"}, []row{}, t.TempDir(), "python3; sh /opt/x.sh")
	if !schemas.IsCode(err, schemas.CodeUnsupported) {
		t.Errorf("a command that is not allowed: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := script.Run(ctx, schemas.EvalScript{Name: "x", Command: "cat"}, []row{}, t.TempDir(), "cat"); err == nil {
		t.Error("a cancelled script gave metrics")
	}
}

func TestSplitAndAllowed(t *testing.T) {
	t.Parallel()
	got, err := script.Split(`python3  "a b.py" --x='$HOME' c\ d`)
	if err != nil || !slices.Equal(got, []string{"python3", "a b.py", "--x=$HOME", "c d"}) {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "  ", `a "b`, `a \`} {
		if _, err := script.Split(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
	for _, c := range []struct {
		list string
		argv []string
		want bool
	}{{"python3 /a.py", []string{"python3", "/a.py", "-x"}, true}, {"python3 /a.py", []string{"python3", "/b.py"}, false}, {"python3 /a.py", []string{"python3"}, false},
		{"", []string{"sh"}, false}, {"a;b\nsh", []string{"sh", "x"}, true}} {
		if got := script.Allowed(c.list, c.argv); got != c.want {
			t.Errorf("%q allows %q: %v", c.list, c.argv, got)
		}
	}
}
