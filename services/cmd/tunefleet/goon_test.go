package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestInterruptedTrainGoesOn: Ctrl-C in train pauses the run; the same command goes on with it, to the bytes of a run that was not interrupted;
// with another configuration, and when it is over, a new run begins.
func TestInterruptedTrainGoesOn(t *testing.T) {
	p := project(t)
	calm, out, dir := filepath.Join(p, "calm"), filepath.Join(p, "out"), t.TempDir()
	command := func(output, dir string, more ...string) []string {
		return append([]string{"train", filepath.Join(p, "run.yaml"), "--dir", dir, "--output_dir", output, "--log_dir", output + "-logs", "--no-color",
			"stages.base.train.steps=1500", "stages.base.train.commit_every=100"}, more...)
	}
	cli(t, nil, command(calm, t.TempDir())...).want(t, 0, "run succeeded")

	cmd := exec.Command(os.Args[0], command(out, dir)...)
	var said bytes.Buffer
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	log := filepath.Join(out+"-logs", trainerLogName)
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if data, err := os.ReadFile(log); err == nil && bytes.Count(data, []byte("\n")) >= 150 {
			break
		}
		select {
		case err := <-gone:
			t.Fatalf("train ended before it was interrupted: %v\n%s", err, said.String())
		default:
		}
		if time.Now().After(deadline) {
			_ = cmd.Process.Kill()
			<-gone
			t.Fatalf("no 150 steps in 3 minutes: %s", said.String())
		}
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	select {
	case <-gone:
	case <-time.After(2 * time.Minute):
		_ = cmd.Process.Kill()
		<-gone
		t.Fatal("train did not end within 2 minutes of Ctrl-C")
	}
	if code := cmd.ProcessState.ExitCode(); code != schemas.ExitCodes()[schemas.CodeInterrupted] || !strings.Contains(said.String(), "the same command goes on with it") {
		t.Fatalf("interrupted, exit code %d: %s", code, said.String())
	}
	if _, err := os.Stat(filepath.Join(out, "model.safetensors")); err == nil {
		t.Fatal("it had ended before it was interrupted")
	}
	r := cli(t, nil, command(out, dir)...)
	r.want(t, 0, "going on with run", "run succeeded")
	want, err := os.ReadFile(filepath.Join(calm, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(out, "model.safetensors"))
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the result is not that of the undisturbed run: %v", err)
	}
	for _, f := range []string{filepath.Join(calm, unfinishedName), filepath.Join(out, unfinishedName)} {
		if _, err := os.Stat(f); err == nil {
			t.Errorf("%s is left", f)
		}
	}
	data, err := os.ReadFile(log)
	if err != nil || bytes.Count(data, []byte(`"loss":`)) != 1500 {
		t.Errorf("trainer_log.jsonl has %d steps: %v", bytes.Count(data, []byte(`"loss":`)), err)
	}
	again := cli(t, nil, command(out, dir, "stages.base.train.steps=6")...)
	again.want(t, 0, "run succeeded")
	if strings.Contains(again.err, "going on") {
		t.Errorf("a new run goes on with an old one: %s", again.err)
	}
}

// TestUnfinishedMarks: what says nothing is no mark, and the hash of a spec does not hang on who asks.
func TestUnfinishedMarks(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"empty": "", "other": "[1]", "half": `{"tenant":"a","run":"`, "no run": `{"tenant":"a"}`, "large": `{"tenant":"a","run":"` + strings.Repeat("x", 5000) + `"}`} {
		if u := readUnfinished(put(t, dir, name, text)); u != nil {
			t.Errorf("%s: %+v", name, u)
		}
	}
	if u := readUnfinished(put(t, dir, "mark", `{"tenant":"a","run":"b","spec_sha256":"c"}`)); u == nil || *u != (unfinished{"a", "b", "c"}) {
		t.Errorf("mark %+v", u)
	}
	a, err := specSum(&schemas.RunSpec{Tenant: "a", Seed: 1, Key: "x", ID: "1", TraceParent: "y"})
	b, err2 := specSum(&schemas.RunSpec{Tenant: "a", Seed: 1})
	c, err3 := specSum(&schemas.RunSpec{Tenant: "a", Seed: 2})
	if err != nil || err2 != nil || err3 != nil || a != b || b == c {
		t.Errorf("sums %s %s %s", a, b, c)
	}
}
