package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/connect"
)

var (
	killSeed  = flag.Uint64("kill.seed", 0, "seed of the kills of the real binary (0: by time)")
	killCount = flag.Int("kill.count", 20, "number of kills of the real binary")
)

// killRun is a two-seat run: prep in two parts, a pretraining and LoRA with ZeRO-3.
const killRun = `
name: kills
seed: 7
stages:
  - name: prep
    kind: prep
    prep:
      data: clauses.jsonl
      tokenizer: tokenizer
      columns: {text: text, prompt: "Which type of clause is this?\n{text}", label: label, group: group}
      parts: 2
      outputs:
        - {name: text, form: pt, split: train, cutoff_len: 64, packing: true}
        - {name: chat, form: sft, split: train, template: tunefleet, cutoff_len: 96}
  - name: base
    kind: train
    needs: [prep]
    train:
      objective: pt
      data: prep/text
      model:
        config: {architectures: [LlamaForCausalLM], model_type: llama, vocab_size: 2048, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2,
          num_attention_heads: 2, num_key_value_heads: 1, hidden_act: silu, max_position_embeddings: 128, rms_norm_eps: 1e-6, rope_theta: 10000,
          tie_word_embeddings: true, bos_token_id: 1, eos_token_id: 2}
      method: full
      steps: 24
      micro_batch: 2
      leaves: 2
      optim: {lr: 3e-3, max_grad_norm: 1.0, schedule: cosine, warmup_steps: 2}
      sharding: zero3
      commit_every: 4
      step_delay_ms: 50
      world: {min: 2, max: 2}
  - name: tune
    kind: train
    needs: [base]
    train:
      objective: sft
      data: prep/chat
      model: {from: "stage:base"}
      method: lora
      lora: {rank: 4, alpha: 8, targets: [q_proj, v_proj, down_proj]}
      freeze_layers: 1
      steps: STEPS
      micro_batch: 2
      leaves: 2
      optim: {lr: 3e-3, max_grad_norm: 1.0, schedule: linear, warmup_steps: 2}
      sharding: zero3
      reduction: canonical
      commit_every: 5
      step_delay_ms: 50
      world: {min: 2, max: 2}
`

// killProject writes the run and a small copy of the contract-review example.
func killProject(t *testing.T, steps int64) (dir string) {
	t.Helper()
	dir = t.TempDir()
	example := filepath.Join("..", "..", "..", "producer", "examples", "contract-review")
	read := func(name string) string {
		data, err := os.ReadFile(filepath.Join(example, name))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, f := range []string{"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"} {
		put(t, dir, f, read(f))
	}
	rows := strings.SplitAfterN(read("clauses.jsonl"), "\n", 401)
	put(t, dir, "clauses.jsonl", strings.Join(rows[:400], ""))
	put(t, dir, "run.yaml", strings.ReplaceAll(killRun, "STEPS", fmt.Sprint(steps)))
	return dir
}

// killCell starts every part of a data directory as a process of the built binary, as a user would: `up --only nats`, ..., and two workers.
func killCell(t *testing.T, bin string) (*chaostest.Cell, *connect.Services) {
	t.Helper()
	c := &chaostest.Cell{Dir: t.TempDir()}
	c.Command = func(name string) *exec.Cmd {
		if strings.HasPrefix(name, "worker") {
			return exec.Command(bin, "worker", "--dir", c.Dir, "--pool", "cpu", "--name", name, "--threads", "1")
		}
		return exec.Command(bin, "up", "--dir", c.Dir, "--only", name)
	}
	t.Cleanup(c.Close)
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		logs, _ := filepath.Glob(filepath.Join(c.Dir, "*.log"))
		for _, l := range logs {
			data, _ := os.ReadFile(l)
			lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
			t.Logf("--- %s\n%s", filepath.Base(l), bytes.Join(lines[max(0, len(lines)-30):], []byte("\n")))
		}
	})
	for _, name := range []string{"nats", "redis", "s3", "control", "api", "worker-1", "worker-2"} {
		if err := c.Start(name); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	rec, err := waitRecord(ctx, c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	s, err := chaostest.Open(ctx, rec, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return c, s
}

// TestKill9OfTheRealBinary runs a two-seat run twice on processes of the binary that users run, undisturbed and with 20 processes (worker,
// control, nats, redis, s3) killed by SIGKILL at random moments: it ends, each step counts once in the final lineage, and the final weights'
// hash is that of the undisturbed run. It takes minutes, for leases live as long as in production; package chaostest has the quick form.
func TestKill9OfTheRealBinary(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") != "1" {
		t.Skip("takes minutes; set TUNEFLEET_TEST_FULL=1 (go tool task test:full)")
	}
	seed := *killSeed
	if seed == 0 {
		seed = rand.Uint64N(1 << 32)
	}
	n := *killCount
	t.Logf("seed %d (repeat with -kill.seed=%d -kill.count=%d)", seed, seed, n)
	bin := filepath.Join(t.TempDir(), "tunefleet")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", bin, ".").CombinedOutput(); err != nil {
		t.Fatalf("cannot build the binary: %v\n%s", err, out)
	}
	c, services := killCell(t, bin)
	steps := int64(20 + 15*n)
	dir := killProject(t, steps)
	heads := checkpoint.NewHeads(services.Objects, checkpoint.Config{})
	plan := chaostest.Plan{Seed: seed, Targets: []string{"worker-1", "control", "nats", "s3", "worker-2", "redis"}, Steps: steps, Stage: "tune",
		Patience: 5*time.Minute + time.Duration(n)*time.Minute, Logger: slog.New(slog.NewTextHandler(logWriter{t}, nil))}
	run := func(key string, kills int) (base, tune chaostest.Lineage) {
		t.Helper()
		var out []byte
		var err error
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(200 * time.Millisecond) { // the API may still be starting
			out, err = exec.CommandContext(t.Context(), bin, "submit", filepath.Join(dir, "run.yaml"), "--dir", c.Dir, "--key", key, "--json").Output()
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("cannot submit: %v", err)
			}
		}
		var submitted struct{ Run, Tenant string }
		if err := json.Unmarshal(out, &submitted); err != nil || submitted.Run == "" {
			t.Fatalf("submit printed %s: %v", out, err)
		}
		p := plan
		p.Kills = kills
		rep, err := chaostest.Run(t.Context(), c, heads, submitted.Tenant, submitted.Run, p)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Head.State != schemas.RunSucceeded {
			t.Fatalf("run %s is %s: %s %v", key, rep.Head.State, rep.Head.Reason, rep.Head.Error)
		}
		for stage, l := range map[string]*chaostest.Lineage{"base": &base, "tune": &tune} {
			if *l, err = chaostest.ReadLineage(t.Context(), services.Objects, rep.Head, stage); err != nil {
				t.Fatalf("run %s, stage %s: %v", key, stage, err)
			}
		}
		t.Logf("run %s: %d kills in %s; tune: %d commits of %d generations, weights %.12s", key, len(rep.Kills), rep.Took.Round(time.Second), tune.Commits, tune.Generations, tune.Hash)
		return base, tune
	}
	calmBase, calmTune := run("undisturbed", 0)
	base, tune := run("killed", n)
	if calmBase.Hash == "" || calmTune.Hash == "" || calmBase.Hash == calmTune.Hash {
		t.Fatalf("hashes that say nothing: %+v %+v", calmBase, calmTune)
	}
	if base.Hash != calmBase.Hash || tune.Hash != calmTune.Hash || tune.Steps != steps {
		t.Fatalf("weights differ: undisturbed %+v %+v, killed %+v %+v", calmBase, calmTune, base, tune)
	}
}

type logWriter struct{ t *testing.T }

func (w logWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
