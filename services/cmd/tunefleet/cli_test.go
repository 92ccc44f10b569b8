package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// result of one command line.
type result struct {
	code     int
	out, err string
}

// cli runs one command line in a process of its own.
func cli(t *testing.T, env []string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	return cliContext(ctx, t, env, args...)
}

func cliContext(ctx context.Context, t *testing.T, env []string, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(os.Environ(), env...)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("cannot run %v: %v", args, err)
	}
	return result{cmd.ProcessState.ExitCode(), out.String(), errOut.String()}
}

func (r result) want(t *testing.T, code int, parts ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("exit code %d, expected %d\nstdout: %s\nstderr: %s", r.code, code, r.out, r.err)
	}
	for _, p := range parts {
		if !strings.Contains(r.out+r.err, p) {
			t.Errorf("the output does not hold %q\nstdout: %s\nstderr: %s", p, r.out, r.err)
		}
	}
}

// up starts `tunefleet up` over a new data directory and stops it with the test.
func up(t *testing.T, env []string, args ...string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	upIn(t, dir, env, args...)
	return dir
}

// upIn is up over a data directory of the test's own.
func upIn(t *testing.T, dir string, env []string, args ...string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], append([]string{"up", "--dir", dir, "--json"}, args...)...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var mu sync.Mutex
	var log, out bytes.Buffer
	cmd.Stdout = &out
	cmd.Stderr = writerFunc(func(p []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return log.Write(p) })
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan error, 1)
	go func() { gone <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-gone:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-gone
			t.Error("up did not stop within 30 s of SIGTERM")
		}
		for line := range bytes.Lines(out.Bytes()) {
			if !json.Valid(line) {
				t.Errorf("up --json printed something else: %s", line)
			}
		}
		if t.Failed() {
			mu.Lock()
			defer mu.Unlock()
			t.Logf("up said: %s", log.String())
			logs, _ := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
			for _, l := range logs {
				data, _ := os.ReadFile(l)
				t.Logf("%s: %s", filepath.Base(l), data)
			}
		}
	})
	deadline := time.Now().Add(90 * time.Second)
	for {
		c, err := embeddedClient(dir)
		if err == nil {
			err = c.Healthy(t.Context())
			c.Close()
		}
		if err == nil {
			return
		}
		select {
		case werr := <-gone:
			gone <- werr
			t.Fatalf("up ended: %v: %s", werr, log.String())
		default:
		}
		if time.Now().After(deadline) {
			t.Fatalf("up does not answer: %v", err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// project writes a run with prep, a pretraining of a tiny llama, and export.
func project(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	var rows strings.Builder
	words := []string{"party", "shall", "notice", "law", "term", "pay", "court", "copy"}
	for i := range 60 {
		fmt.Fprintf(&rows, `{"text":"the %s %s the %s and %s %d"}`+"\n", words[i%8], words[i*3%8], words[i*5%8], words[i*7%8], i)
	}
	put(t, dir, "rows.jsonl", rows.String())
	example := filepath.Join("..", "..", "..", "producer", "examples", "contract-review")
	for _, f := range []string{"tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(filepath.Join(example, "tokenizer", f))
		if err != nil {
			t.Fatal(err)
		}
		put(t, dir, "tokenizer/"+f, string(data))
	}
	put(t, dir, "run.yaml", projectYAML)
	return dir
}

const projectYAML = `
name: tiny
seed: 7
stages:
  - name: prep
    kind: prep
    prep:
      data: rows.jsonl
      tokenizer: tokenizer
      columns: {text: text}
      parts: 2
      outputs:
        - {name: text, form: pt, split: train, cutoff_len: 32, packing: true}
  - name: base
    kind: train
    needs: [prep]
    train:
      objective: pt
      data: prep/text
      method: full
      model:
        config: {architectures: [LlamaForCausalLM], model_type: llama, hidden_size: 16, intermediate_size: 32, num_hidden_layers: 2, num_attention_heads: 2,
          num_key_value_heads: 2, vocab_size: 2048, max_position_embeddings: 64, rms_norm_eps: 1e-5, rope_theta: 10000, tie_word_embeddings: true,
          hidden_act: silu, bos_token_id: 1, eos_token_id: 2}
      steps: 6
      micro_batch: 2
      leaves: 2
      optim: {lr: 1e-3, schedule: constant}
      commit_every: 3
      world: {min: 1, max: 2}
  - name: export
    kind: export
    needs: [base]
    export: {from: "stage:base", formats: [merged], tokenizer: tokenizer}
`

func put(t *testing.T, dir, name, content string) string {
	t.Helper()
	p := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(p, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestUsageErrors(t *testing.T) {
	nowhere := t.TempDir()
	for name, c := range map[string]struct {
		args []string
		code schemas.Code
		want []string
	}{
		"unknown command":    {[]string{"subimt"}, schemas.CodeUsage, []string{`unknown command "subimt"`, "did you mean submit?"}},
		"unknown subcommand": {[]string{"verify", "modl"}, schemas.CodeUsage, []string{"did you mean model?"}},
		"unknown flag":       {[]string{"list", "--jsno"}, schemas.CodeUsage, []string{"did you mean --json?"}},
		"unknown in a group": {[]string{"cache", "foo"}, schemas.CodeUsage, []string{`unknown command "foo"`, "tunefleet cache --help lists the commands"}},
		"needless argument":  {[]string{"cache", "ls", "a"}, schemas.CodeUsage, []string{`takes no arguments, got "a"`}},
		"no number":          {[]string{"list", "--limit", "x"}, schemas.CodeUsage, []string{`invalid argument "x" for "--limit" flag: it is no number`}},
		"missing argument":   {[]string{"watch"}, schemas.CodeUsage, []string{"takes 1 argument(s) (RUN)"}},
		"no configuration":   {[]string{"train"}, schemas.CodeUsage, []string{"train needs a configuration"}},
		"missing file":       {[]string{"submit", "nowhere.yaml"}, schemas.CodeNotFound, []string{"nowhere.yaml"}},
		"no server":          {[]string{"list", "--dir", nowhere}, schemas.CodeUnavailable, []string{"tunefleet up"}},
		"unreachable server": {[]string{"list", "--server", "http://127.0.0.1:1"}, schemas.CodeUnavailable, []string{"cannot reach"}},
		"bad part":           {[]string{"up", "--only", "reddis"}, schemas.CodeUsage, []string{"did you mean redis?"}},
		"bad level":          {[]string{"up", "--log-level", "loud"}, schemas.CodeUsage, []string{"loud"}},
		"bad pool":           {[]string{"worker", "--pool", "A B"}, schemas.CodeUsage, []string{"no name of a pool"}},
		"bad state":          {[]string{"list", "--state", "asleep"}, schemas.CodeUsage, []string{"asleep"}},
		"no cuda":            {[]string{"verify", "model", nowhere, "--device", "cuda"}, schemas.CodeUnsupported, []string{"/nowhere.so"}},
		"no such device":     {[]string{"verify", "model", nowhere, "--device", "tpu"}, schemas.CodeInvalid, []string{"tpu"}},
		"unknown topic":      {[]string{"help", "foo"}, schemas.CodeUsage, []string{`unknown command "foo"`}},
		"topic in a group":   {[]string{"help", "verify", "modl"}, schemas.CodeUsage, []string{`unknown command "modl"`, "did you mean model?"}},
		"topic of a leaf":    {[]string{"help", "watch", "foo"}, schemas.CodeUsage, []string{`unknown command "foo"`}},
		"unknown shell":      {[]string{"completion", "zhs"}, schemas.CodeUsage, []string{`unknown command "zhs"`, "did you mean zsh?"}},
		"no reference":       {[]string{"verify", "model", "/no/where"}, schemas.CodeNotFound, []string{"error: /no/where: cannot open folder: no such file or directory"}},
		"no trainings":       {[]string{"verify", "train", "/no/where"}, schemas.CodeNotFound, []string{"error: /no/where: cannot open folder: no such file or directory"}},
		"verify nothing":     {[]string{"verify", "model", nowhere}, schemas.CodeNotFound, []string{"golden.safetensors"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TUNEFLEET_TOKEN", "0123456789abcdef0123")
			t.Setenv("TUNEFLEET_CUDA_LIB", "/nowhere.so")
			cli(t, nil, c.args...).want(t, schemas.ExitCodes()[c.code], c.want...)
		})
	}
}

func TestUnreachableBrokerIsNamed(t *testing.T) {
	env := []string{"TUNEFLEET_NATS_URL=nats://user:secretpw@127.0.0.1:1", "TUNEFLEET_REDIS_URL=redis://127.0.0.1:1", "TUNEFLEET_S3_ENDPOINT=127.0.0.1:1",
		"TUNEFLEET_S3_ACCESS_KEY=a", "TUNEFLEET_S3_SECRET_KEY=secretkey"}
	r := cli(t, env, "worker", "--wait", "1s")
	r.want(t, schemas.ExitCodes()[schemas.CodeUnavailable], "127.0.0.1:1")
	if strings.Contains(r.out+r.err, "secretpw") || strings.Contains(r.out+r.err, "secretkey") {
		t.Errorf("a secret is shown: %s", r.err)
	}
	cli(t, env[:1], "worker", "--wait", "1s").want(t, schemas.ExitCodes()[schemas.CodeInvalid], "TUNEFLEET_REDIS_URL")
}

// TestRunsEndToEnd submits good and bad runs to one server with two workers, and finds each bad one named, with its exit code, and the queue
// unharmed afterwards.
func TestRunsEndToEnd(t *testing.T) {
	dir := up(t, nil, "--workers", "2")
	at := []string{"--dir", dir}
	submit := func(p string, more ...string) result {
		return cli(t, nil, append(append([]string{"submit", filepath.Join(p, "run.yaml"), "--follow", "--no-color"}, more...), at...)...)
	}
	good := project(t)
	r := submit(good)
	r.want(t, 0, "base: done", "run succeeded")
	id := runID(t, r.err)

	t.Run("looking at it", func(t *testing.T) {
		cli(t, nil, append([]string{"get", id}, at...)...).want(t, 0, "succeeded", "prep", "base", "export")
		cli(t, nil, append([]string{"list"}, at...)...).want(t, 0, id, "tiny")
		cli(t, nil, append([]string{"workers"}, at...)...).want(t, 0, "worker-1", "worker-2")
		cli(t, nil, append([]string{"logs", id[:14]}, at...)...).want(t, 0, "train.step", "loss=")
		cli(t, nil, append([]string{"get", "nothing-like-it"}, at...)...).want(t, schemas.ExitCodes()[schemas.CodeNotFound], "tunefleet list")
		cli(t, nil, append([]string{"cancel", id}, at...)...).want(t, schemas.ExitCodes()[schemas.CodeConflict])
		cli(t, nil, append([]string{"doctor"}, at...)...).want(t, 0, "conditional writes are correct", "syncs every write")
		to := t.TempDir()
		cli(t, nil, append([]string{"outputs", id, "--to", to}, at...)...).want(t, 0)
		for _, f := range []string{"export/merged/model.safetensors", "export/merged/config.json", "export/merged/tokenizer.json"} {
			if info, err := os.Stat(filepath.Join(to, f)); err != nil || info.Size() == 0 {
				t.Errorf("%s was not fetched: %v", f, err)
			}
		}
	})
	t.Run("events as JSON", func(t *testing.T) {
		r := cli(t, nil, append([]string{"watch", id, "--json"}, at...)...)
		r.want(t, 0)
		var types []string
		for l := range strings.Lines(r.out) {
			var e schemas.Event
			if err := json.Unmarshal([]byte(l), &e); err != nil {
				t.Fatalf("%q is no event: %v", l, err)
			}
			types = append(types, e.Type)
		}
		if !slices.Contains(types, schemas.EventStep) || types[len(types)-1] != schemas.EventState {
			t.Errorf("events %v", types)
		}
	})
	t.Run("the same key meets the same run", func(t *testing.T) {
		args := append([]string{"submit", filepath.Join(good, "run.yaml"), "--key", "once"}, at...)
		a, b := cli(t, nil, args...), cli(t, nil, args...)
		if a.code != 0 || b.code != 0 || a.out == "" || a.out != b.out {
			t.Errorf("%+v and %+v", a, b)
		}
	})

	for name, c := range map[string]struct {
		change func(t *testing.T, p string)
		args   []string
		code   schemas.Code
		want   []string
	}{
		"unknown keys": {func(t *testing.T, p string) {
			put(t, p, "run.yaml", strings.NewReplacer("micro_batch", "micro_bach", "commit_every", "comit_every").Replace(projectYAML))
		}, nil, schemas.CodeInvalid, []string{`did you mean "micro_batch"?`, `did you mean "commit_every"?`}},
		"missing data file": {func(t *testing.T, p string) {
			put(t, p, "run.yaml", strings.Replace(projectYAML, "data: rows.jsonl", "data: gone.jsonl", 1))
		}, nil, schemas.CodeNotFound, []string{"gone.jsonl"}},
		"broken JSON at row 7": {func(t *testing.T, p string) {
			data, err := os.ReadFile(filepath.Join(p, "rows.jsonl"))
			if err != nil {
				t.Fatal(err)
			}
			lines := strings.Split(string(data), "\n")
			lines[6] = `{"text": "no end`
			put(t, p, "rows.jsonl", strings.Join(lines, "\n"))
		}, nil, schemas.CodeData, []string{"rows.jsonl:7"}},
		"empty data set": {func(t *testing.T, p string) { put(t, p, "rows.jsonl", "\n") }, nil, schemas.CodeData, []string{"rows.jsonl"}},
		"wrong tokenizer": {func(t *testing.T, p string) { put(t, p, "tokenizer/tokenizer.json", `{"not":"a tokenizer"}`) }, nil,
			schemas.CodeModel, []string{"tokenizer"}},
		"vocabulary too small": {func(*testing.T, string) {}, []string{"stages.base.train.model.config.vocab_size=64"}, schemas.CodeInvalid, []string{"template", "64 tokens"}},
		"NaN loss":             {func(*testing.T, string) {}, []string{"stages.base.train.optim.lr=1e38"}, schemas.CodeNumeric, []string{"base"}},
		"pickle weights": {func(t *testing.T, p string) {
			put(t, p, "model/config.json", "{}")
			put(t, p, "model/pytorch_model.bin", "pickle")
			s := projectYAML[:strings.Index(projectYAML, "        config: {")] + "        base: model\n" + projectYAML[strings.Index(projectYAML, "      steps: 6"):]
			put(t, p, "run.yaml", s)
		}, nil, schemas.CodeModel, []string{"pytorch_model.bin", "pickle"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := project(t)
			c.change(t, p)
			submit(p, c.args...).want(t, schemas.ExitCodes()[c.code], c.want...)
		})
	}
	t.Run("the queue is unharmed", func(t *testing.T) {
		submit(project(t), "seed=8").want(t, 0, "run succeeded")
	})
	t.Run("a store without conditional writes", func(t *testing.T) {
		r, err := embedded.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		env := []string{"TUNEFLEET_NATS_URL=" + r.NATSURL(), "TUNEFLEET_NATS_MONITOR=" + r.MonitorURL(), "TUNEFLEET_REDIS_URL=" + r.RedisURL(),
			"TUNEFLEET_S3_ENDPOINT=" + carelessStore(t), "TUNEFLEET_S3_ACCESS_KEY=a", "TUNEFLEET_S3_SECRET_KEY=b"}
		cli(t, env, "worker", "--wait", "5s").want(t, schemas.ExitCodes()[schemas.CodeStoreUnsafe], "conditional writes")
		cli(t, env, "doctor").want(t, schemas.ExitCodes()[schemas.CodeStoreUnsafe], "fail  object store")
	})
}

// runID reads the id from "run ID submitted".
func runID(t *testing.T, said string) string {
	t.Helper()
	for l := range strings.Lines(said) {
		if f := strings.Fields(l); len(f) == 3 && f[0] == "run" && f[2] == "submitted" {
			return f[1]
		}
	}
	t.Fatalf("no run id in %q", said)
	return ""
}

// carelessStore is an S3 server that takes every write, whatever its conditions. It returns host:port.
func carelessStore(t *testing.T) string {
	t.Helper()
	var mu sync.Mutex
	etags := map[string]string{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.Method {
		case http.MethodPut:
			etags[r.URL.Path] = fmt.Sprintf(`"%032x"`, len(etags)+1)
			w.Header().Set("ETag", etags[r.URL.Path])
		case http.MethodDelete:
			delete(etags, r.URL.Path)
			w.WriteHeader(http.StatusNoContent)
		default:
			w.Header().Set("Content-Type", "application/xml")
			fmt.Fprint(w, `<?xml version="1.0"?><LocationConstraint xmlns="http://s3.amazonaws.com/doc/2006-03-01/"></LocationConstraint>`)
		}
	}))
	t.Cleanup(s.Close)
	return strings.TrimPrefix(s.URL, "http://")
}
