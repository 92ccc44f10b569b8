package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestWordsOfOtherMachinesCannotSteerTheTerminal: control characters of names, messages and errors are replaced wherever they are shown.
func TestWordsOfOtherMachinesCannotSteerTheTerminal(t *testing.T) {
	const bad = "a\x1b[2Jb\u009bc\u202ed\re"
	var out bytes.Buffer
	tab := newTable("NAME", "REASON")
	tab.row(bad, bad)
	if err := tab.write(&out); err != nil {
		t.Fatal(err)
	}
	e := schemas.Event{Type: schemas.EventNote, Stage: bad, Worker: bad, Message: bad + "\n" + bad, Error: schemas.Errorf(schemas.CodeData, bad, "%s", bad)}
	out.WriteString(eventLine(e))
	newProgress(&out, false).event(e)
	a := &app{err: &out}
	a.fail(schemas.Errorf(schemas.CodeData, bad, "%s\n%s", bad, bad).WithHint("%s", bad))
	for _, c := range []string{"\x1b", "\u009b", "\u202e", "\r"} {
		if strings.Contains(out.String(), c) {
			t.Errorf("%q is shown in %q", c, out.String())
		}
	}
	if !strings.Contains(out.String(), "a\ufffd[2Jb") {
		t.Errorf("the rest is not shown: %q", out.String())
	}
}

// TestErrorsAreBounded: a configuration of a megabyte does not make an error of a megabyte.
func TestErrorsAreBounded(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"long.yaml": "model: {" + strings.Repeat("x", 1<<19) + ": 1}\n",
		"many.yaml": "model:\n" + strings.Repeat("  k", 1) + strings.Join(keysUpTo(20000), ": 1\n  k") + ": 1\n",
	} {
		r := cli(t, nil, "train", put(t, dir, name, text))
		r.want(t, schemas.ExitCodes()[schemas.CodeInvalid], name)
		if n := len(r.err); n > (maxErrorLines+3)*(maxErrorLine+100) {
			t.Errorf("%s: an error of %d bytes", name, n)
		}
	}
}

func keysUpTo(n int) (out []string) {
	for i := range n {
		out = append(out, strings.Repeat("q", 1+i%7)+time.Duration(i).String())
	}
	return out
}

// TestMessagesSayWhatToDo: common mistakes name the place and a remedy.
func TestMessagesSayWhatToDo(t *testing.T) {
	dir := t.TempDir()
	syntax := put(t, dir, "syntax.yaml", "model:\n  a: 1\n bad: [\n")
	cli(t, nil, "train", syntax).want(t, schemas.ExitCodes()[schemas.CodeInvalid], syntax+":3:", "cannot read YAML: ")
	cli(t, nil, "train", dir).want(t, schemas.ExitCodes()[schemas.CodeInvalid], dir+": is a folder", "hint: name the file in it")
	put(t, dir, "m/config.json", "{}")
	put(t, dir, "rows.jsonl", `{"text":"a"}`)
	file := put(t, dir, "run.yaml", "model: {base_model: ./m}\ntraining: {batch_size: 2, learning_rate: 1e-4}\ndata: {train_path: rows.jsonl}\n")
	cli(t, nil, "train", file).want(t, schemas.ExitCodes()[schemas.CodeModel], "has no *.safetensors", "hf download")
	r := cli(t, nil, "train", file, "training.batch_size=many")
	r.want(t, schemas.ExitCodes()[schemas.CodeInvalid], `training.batch_size=many (on the command line): training.batch_size is "many"`)
	if strings.Contains(r.err, "run.yaml: training") || strings.Contains(r.err, "run.yaml:2") {
		t.Errorf("the file is blamed: %s", r.err)
	}
	r = cli(t, []string{"HF_ENDPOINT=http://127.0.0.1:1", "HF_HUB_CACHE=" + dir, "TUNEFLEET_REMOTE_CACHE=" + filepath.Join(dir, "cache")}, "train", file, "model.base_model=own/er")
	r.want(t, schemas.ExitCodes()[schemas.CodeUnavailable], "looking up hf://own/er at http://127.0.0.1:1", "HF_ENDPOINT names a mirror", "hf download own/er")
	if err := schemas.AsErrorInfo(diskError("out", os.ErrPermission)); err.Hint == "" {
		t.Errorf("no hint: %v", err)
	}
}

// TestLastStepIsShown: off a terminal the last step is told with its loss however soon it comes after the one before.
func TestLastStepIsShown(t *testing.T) {
	var out bytes.Buffer
	p := newProgress(&out, false)
	p.now = func() time.Time { return time.Unix(100, 0) }
	for i := range int64(4) {
		p.event(schemas.Event{Type: schemas.EventStep, Stage: "tuned", Step: i + 1, Values: map[string]float64{"total": 4, "loss": 4 - float64(i)}})
	}
	if s := out.String(); strings.Count(s, "tuned: 4/4 steps  loss 1.0000") != 1 || strings.Contains(s, "2/4") {
		t.Errorf("shown: %s", s)
	}
}
