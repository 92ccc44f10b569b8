package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote/remotetest"
)

func dataCLI(t *testing.T, args ...string) (string, string, int) {
	t.Helper()
	var out, errOut bytes.Buffer
	code := run(context.Background(), append([]string{"data"}, args...), strings.NewReader(""), &out, &errOut)
	return out.String(), errOut.String(), code
}

func TestDataCommands(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "d.jsonl")
	body := `{"text":"电话13800138000，a@b.com"}` + "\n" + `{"text":"nothing"}` + "\n" + `"plain 10.0.0.1"` + "\n" + `{"a":"x@y.org","b":"z"}` + "\n"
	if err := os.WriteFile(file, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code := dataCLI(t, "pii", file, "--json")
	want := `{"row":0,"spans":[{"start":2,"end":13,"type":"phone"},{"start":14,"end":21,"type":"email"}]}
{"row":1,"spans":[]}
{"row":2,"spans":[{"start":6,"end":14,"type":"ip"}]}
{"row":3,"spans":[{"start":0,"end":7,"type":"email","field":"a"}]}
`
	if code != 0 || out != want {
		t.Fatalf("exit %d: %s%s", code, out, errOut)
	}
	if out, _, code = dataCLI(t, "pii", file, "--mask", "mask"); code != 0 || !strings.Contains(out, `{"text":"电话[PHONE]，[EMAIL]"}`) {
		t.Errorf("exit %d: %s", code, out)
	}
	for _, args := range [][]string{{"pii", file, "--type", "nose"}, {"pii", file, "--pattern", "x"}, {"pii", filepath.Join(dir, "none")}, {"pii", file, "--mask", "pseudonym"}} {
		if _, errOut, code := dataCLI(t, args...); code == 0 || errOut == "" {
			t.Errorf("%v: exit %d, %s", args, code, errOut)
		}
	}
	bad := filepath.Join(dir, "bad.jsonl")
	if err := os.WriteFile(bad, []byte(`{"instruction":"q","output":"a"}`+"\n"+`{"instruction":"q"}`+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, errOut, code = dataCLI(t, "validate", bad, "--json")
	var v struct {
		Valid    bool
		Problems []struct {
			File, Key string
			Row       int
		}
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || code == 0 || v.Valid || len(v.Problems) != 1 || v.Problems[0].Row != 2 || v.Problems[0].Key != "output" {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	page := filepath.Join(dir, "r.html")
	if out, errOut, code = dataCLI(t, "stats", bad, "--html", page); code != 0 || !strings.Contains(out, "rows") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if b, err := os.ReadFile(page); err != nil || !bytes.HasPrefix(b, []byte("<!doctype html>")) {
		t.Errorf("%v", err)
	}
	if out, errOut, code = dataCLI(t, "preview", bad, "-n", "1"); code != 0 || !strings.Contains(out, "⟦assistant: a\n⟧") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

// TestPreviewFromAHub: an address stands where a file could.
func TestPreviewFromAHub(t *testing.T) {
	hub := remotetest.New(t)
	hub.Repo("datasets", "acme/rows", "main", map[string]string{"README.md": "---\nconfigs:\n- config_name: default\n  data_files:\n  - split: train\n    path: a.jsonl\n---\n",
		"a.jsonl": `{"instruction":"who are you","output":"a row"}` + "\n", "b.jsonl": "{}"})
	t.Setenv("HF_ENDPOINT", hub.URL)
	t.Setenv("TUNEFLEET_REMOTE_CACHE", t.TempDir())
	out, errOut, code := dataCLI(t, "preview", "hf://acme/rows")
	if code != 0 || !strings.Contains(out, "who are you") || !strings.Contains(errOut, "fetching hf://acme/rows@") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if _, errOut, code := dataCLI(t, "preview", "hf://acme/none"); code != 3 || !strings.Contains(errOut, "has no such thing") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if _, errOut, code := dataCLI(t, "preview", "https://example.org/rows.jsonl"); code != 2 || !strings.Contains(errOut, "TUNEFLEET_HTTPS_HOSTS") {
		t.Errorf("exit %d: %s", code, errOut)
	}
}
