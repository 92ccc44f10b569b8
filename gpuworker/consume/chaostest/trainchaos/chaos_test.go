package trainchaos

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
)

const (
	envRole = "TUNEFLEET_CHAOS_ROLE"
	envDir  = "TUNEFLEET_CHAOS_DIR"
	ttl     = time.Second
)

var (
	seed  = flag.Uint64("chaos.seed", 0, "seed of the kills (0: by time)")
	kills = flag.Int("chaos.kills", 2, "number of kills")
)

// TestMain lets this binary play every process of the cell.
func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	var err error
	if role == "rank" {
		err = consume.RunRank(ctx, map[schemas.StageKind]consume.Handler{schemas.KindPrep: prep.Handle, schemas.KindTrain: train.Handle}, consume.OpenStore)
	} else {
		var exe string
		if exe, err = os.Executable(); err == nil {
			err = chaostest.Process{Name: role, Dir: os.Getenv(envDir), LeaseTTL: ttl, RankCommand: []string{exe}, RankEnv: []string{envRole + "=rank"},
				Logger: chaostest.Logger(role)}.Run(ctx)
		}
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const runYAML = `
name: chaos
pool: cpu
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
      model: {config: config.json}
      method: full
      steps: 24
      micro_batch: 2
      leaves: 2
      optim: {name: adamw, lr: 3e-3, max_grad_norm: 1.0, schedule: cosine, warmup_steps: 2}
      dtype: fp32
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
      optim: {name: adamw, lr: 3e-3, max_grad_norm: 1.0, schedule: linear, warmup_steps: 2}
      dtype: fp32
      sharding: zero3
      reduction: canonical
      commit_every: 5
      step_delay_ms: 50
      world: {min: 2, max: 2}
`

const modelJSON = `{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 2048, "hidden_size": 32, "intermediate_size": 64,
"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_act": "silu", "max_position_embeddings": 128,
"initializer_range": 0.02, "rms_norm_eps": 1e-06, "rope_theta": 10000.0, "tie_word_embeddings": true, "bos_token_id": 1, "eos_token_id": 2}`

// resolve writes a small copy of the contract-review example and resolves its run.
func resolve(t *testing.T, steps int64) *config.Resolved {
	t.Helper()
	from := filepath.Join("..", "..", "..", "..", "producer", "examples", "contract-review")
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read := func(name string) []byte {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for _, n := range []string{"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"} {
		write(n, read(n))
	}
	rows := bytes.SplitAfterN(read("clauses.jsonl"), []byte("\n"), 401)
	write("clauses.jsonl", bytes.Join(rows[:400], nil))
	write("config.json", []byte(modelJSON))
	write("run.yaml", []byte(strings.ReplaceAll(runYAML, "STEPS", fmt.Sprint(steps))))
	r, err := config.Load(t.Context(), filepath.Join(dir, "run.yaml"), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// submit uploads the inputs and hands the spec to the intake, as a producer does.
func submit(t *testing.T, s *connect.Services, r *config.Resolved, key string) *schemas.RunSpec {
	t.Helper()
	spec := *r.Spec
	spec.Key, spec.ID = key, ""
	if spec.Tenant == "" {
		spec.Tenant = "default"
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	for _, in := range r.Inputs {
		data, err := os.ReadFile(in.Local)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Objects.Put(ctx, schemas.InputKey(spec.Tenant, in.File.SHA256), data, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	for {
		actx, cancel := context.WithTimeout(ctx, 5*time.Second)
		answer, err := s.Queue.Submit(actx, raw, nil)
		cancel()
		var reply schemas.SubmitReply
		if err == nil {
			err = json.Unmarshal(answer, &reply)
		}
		if err == nil && reply.Error == nil {
			spec.ID, spec.Tenant = reply.Run, reply.Tenant
			return &spec
		}
		if reply.Error != nil || ctx.Err() != nil {
			t.Fatalf("cannot submit: %v %v", err, reply.Error)
		}
	}
}

// TestKill9 trains the same run twice over real servers: undisturbed, and with processes killed by SIGKILL at random moments. Every step
// counts once in both lineages, and the weights are equal bit for bit.
func TestKill9(t *testing.T) {
	n := *kills
	if os.Getenv("TUNEFLEET_TEST_FULL") != "" {
		n = max(n, 20)
	}
	s := *seed
	if s == 0 {
		s = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d (repeat with -chaos.seed=%d -chaos.kills=%d)", s, s, n)
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &chaostest.Cell{Dir: t.TempDir()}
	c.Command = func(name string) *exec.Cmd {
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), envRole+"="+name, envDir+"="+c.Dir)
		return cmd
	}
	t.Cleanup(c.Close)
	t.Cleanup(func() {
		if t.Failed() {
			tails(t, c.Dir)
		}
	})
	services := start(t, c)
	steps := int64(20 + 15*n)
	resolved := resolve(t, steps)
	heads := checkpoint.NewHeads(services.Objects, checkpoint.Config{})
	logger := slog.New(slog.NewTextHandler(testWriter{t}, nil))
	plan := chaostest.Plan{Seed: s, Targets: []string{"worker-1", "nats", "s3", "worker-2", "control", "redis"}, Steps: steps, Stage: "tune",
		Patience: 2*time.Minute + time.Duration(n)*30*time.Second, Logger: logger}
	type result struct{ base, tune chaostest.Lineage }
	run := func(key string, kills int) result {
		t.Helper()
		spec := submit(t, services, resolved, key)
		p := plan
		p.Kills = kills
		rep, err := chaostest.Run(t.Context(), c, heads, spec.Tenant, spec.ID, p)
		if err != nil {
			t.Fatal(err)
		}
		if rep.Head.State != schemas.RunSucceeded {
			t.Fatalf("run %s is %s: %s %v", key, rep.Head.State, rep.Head.Reason, rep.Head.Error)
		}
		var res result
		for stage, l := range map[string]*chaostest.Lineage{"base": &res.base, "tune": &res.tune} {
			if *l, err = chaostest.ReadLineage(t.Context(), services.Objects, rep.Head, stage); err != nil {
				t.Fatalf("run %s, stage %s: %v", key, stage, err)
			}
		}
		t.Logf("run %s: %d kills in %s, %d generations of base, %d of tune", key, kills, rep.Took.Round(time.Millisecond), res.base.Generations, res.tune.Generations)
		return res
	}
	calm := run("undisturbed", 0)
	killed := run("killed", n)
	if calm.base.Hash == "" || calm.tune.Hash == "" || calm.base.Hash == calm.tune.Hash {
		t.Fatalf("hashes that say nothing: %+v", calm)
	}
	if calm.base.Hash != killed.base.Hash || calm.tune.Hash != killed.tune.Hash || killed.tune.Steps != steps {
		t.Fatalf("weights differ: undisturbed %+v, killed %+v", calm, killed)
	}
}

// start starts every process of the cell and connects to its servers.
func start(t *testing.T, c *chaostest.Cell) *connect.Services {
	t.Helper()
	for _, name := range []string{"nats", "redis", "s3", "worker-1", "worker-2", "control"} {
		if err := c.Start(name); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			if _, err := embedded.Load(c.Dir); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
	}
	rec, err := embedded.Load(c.Dir)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	s, err := chaostest.Open(ctx, rec, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// tails prints the ends of the processes' logs.
func tails(t *testing.T, dir string) {
	names, _ := filepath.Glob(filepath.Join(dir, "*.log"))
	for _, n := range names {
		data, err := os.ReadFile(n)
		if err != nil {
			continue
		}
		lines := strings.Split(strings.TrimSpace(string(data)), "\n")
		t.Logf("--- %s\n%s", filepath.Base(n), strings.Join(lines[max(0, len(lines)-40):], "\n"))
	}
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
