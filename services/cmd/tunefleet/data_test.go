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

// TestPIIReadsEveryFormat: rows of tables and of arrays, texts within messages, numbers as they are.
func TestPIIReadsEveryFormat(t *testing.T) {
	dir := t.TempDir()
	put := func(name, body string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for _, c := range []struct{ file, want string }{
		{put("a.csv", "ask,answer\nwrite to a@b.com,no\n"), `{"row":0,"spans":[{"start":9,"end":16,"type":"email","field":"ask"}]}`},
		{put("a.json", `[{"messages":[{"role":"user","content":"from 10.0.0.1"}]}]`), `{"row":0,"spans":[{"start":5,"end":13,"type":"ip","field":"messages[0].content"}]}`},
		{put("a.txt", "call 13800138000\n"), `{"row":0,"spans":[{"start":5,"end":16,"type":"phone"}]}`},
		{put("rows", `"a@b.com"`), `{"row":0,"spans":[{"start":0,"end":7,"type":"email"}]}`},
	} {
		if out, errOut, code := dataCLI(t, "pii", c.file, "--json"); code != 0 || strings.TrimSpace(out) != c.want {
			t.Errorf("exit %d: %s%s, want %s", code, out, errOut, c.want)
		}
	}
	masked := put("m.jsonl", `{"z":12345678901234567890,"b":[{"c":"a@b.com"},1.50]}`)
	if out, errOut, code := dataCLI(t, "pii", masked, "--mask", "mask"); code != 0 || out != `{"z":12345678901234567890,"b":[{"c":"[EMAIL]"},1.5]}`+"\n" {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if out, errOut, code := dataCLI(t, "pii", put("b.jsonl", `{"text":"a@b.com"}`+"\n{broken\n"), "--json"); code != 8 || !strings.Contains(errOut+out, "b.jsonl:2") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
}

// TestDataOfAConfiguration: the data sets of a YAML, each with its own reading, under its template and cutoff.
func TestDataOfAConfiguration(t *testing.T) {
	dir := t.TempDir()
	example, err := filepath.Abs("../../../producer/examples/contract-review/tokenizer")
	if err != nil {
		t.Fatal(err)
	}
	model := filepath.Join(dir, "model")
	if err := os.CopyFS(model, os.DirFS(example)); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string]string{
		"model/config.json":       `{"architectures":["LlamaForCausalLM"],"model_type":"llama","vocab_size":4096,"hidden_size":64,"intermediate_size":128,"num_hidden_layers":1,"num_attention_heads":2}`,
		"model/model.safetensors": "\x02\x00\x00\x00\x00\x00\x00\x00{}",
		"dataset_info.json":       `{"one":{"file_name":"one.json"},"two":{"file_name":"two.jsonl","columns":{"prompt":"ask","response":"reply"}}}`,
		"one.json":                `[{"instruction":"who","input":"","output":"the first"}]`,
		"two.jsonl":               `{"ask":"what","reply":"the second answer, which is a good deal longer than the first one was"}`,
		"run.yaml":                "model_name_or_path: model\nstage: sft\ndo_train: true\nfinetuning_type: full\ndataset: one,two\ndataset_dir: .\ntemplate: vicuna\ncutoff_len: 12\noutput_dir: out\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, filepath.FromSlash(name)), []byte(body), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	yaml := filepath.Join(dir, "run.yaml")
	out, errOut, code := dataCLI(t, "preview", yaml)
	if code != 0 || !strings.Contains(out, "── one.json:1, 12 tokens, truncated") || !strings.Contains(out, "── two.jsonl:1, 12 tokens, truncated") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if out, errOut, code = dataCLI(t, "preview", yaml, "dataset=two", "cutoff_len=512"); code != 0 || strings.Contains(out, "one.json") || !strings.Contains(out, "USER: what ASSISTANT:⟦the second answer") {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if out, errOut, code = dataCLI(t, "stats", yaml, "--json"); code != 0 || strings.Count(out, `"cutoff_len":12`) != 2 {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if out, errOut, code = dataCLI(t, "preview", yaml, "--format", "csv"); code != 2 {
		t.Errorf("exit %d: %s%s", code, out, errOut)
	}
	if out, errOut, code = dataCLI(t, "preview", dir); code != 2 || !strings.Contains(errOut, "there are one, two") {
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
