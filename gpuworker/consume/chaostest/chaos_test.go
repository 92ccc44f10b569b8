package chaostest_test

import (
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
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

const (
	envRole = "TUNEFLEET_CHAOS_ROLE"
	envDir  = "TUNEFLEET_CHAOS_DIR"
	envTTL  = "TUNEFLEET_CHAOS_TTL"
	envHint = "TUNEFLEET_CHAOS_HINT"
)

// calm is for tests in which no lease may lapse, however loaded the machine is.
var calm = []string{envTTL + "=4s"}

// leaseTTL is one second unless the test says otherwise.
func leaseTTL() time.Duration {
	if d, err := time.ParseDuration(os.Getenv(envTTL)); err == nil {
		return d
	}
	return time.Second
}

// hintDelay is the product's unless the test says otherwise.
func hintDelay() time.Duration {
	d, _ := time.ParseDuration(os.Getenv(envHint))
	return d
}

var (
	seed  = flag.Uint64("chaos.seed", 0, "seed of the kills (0: by time)")
	kills = flag.Int("chaos.kills", 4, "number of kills")
)

// TestMain lets this binary play every process of the cell.
func TestMain(m *testing.M) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	shutdown, err := telemetry.Setup(ctx, strings.TrimRight(role, "-0123456789"), "test")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if role == "rank" {
		err = consume.RunRank(ctx, chaostest.Handlers(), consume.OpenStore)
	} else {
		var exe string
		if exe, err = os.Executable(); err == nil {
			err = chaostest.Process{Name: role, Dir: os.Getenv(envDir), LeaseTTL: leaseTTL(), HintDelay: hintDelay(), RankCommand: []string{exe}, RankEnv: []string{envRole + "=rank"},
				Logger: chaostest.Logger(role)}.Run(ctx)
		}
	}
	if serr := shutdown(ctx); serr != nil {
		fmt.Fprintln(os.Stderr, serr)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// cell starts all processes of a fresh data directory and connects to its servers.
func cell(t *testing.T, env []string, workers ...string) (*chaostest.Cell, *connect.Services) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &chaostest.Cell{Dir: t.TempDir()}
	c.Command = func(name string) *exec.Cmd {
		cmd := exec.Command(exe)
		cmd.Env = append(append(os.Environ(), env...), envRole+"="+name, envDir+"="+c.Dir)
		return cmd
	}
	t.Cleanup(c.Close)
	t.Cleanup(func() {
		if t.Failed() {
			tails(t, c.Dir)
		}
	})
	for _, name := range append([]string{"nats", "redis", "s3"}, append(workers, "control")...) {
		if name != "nats" {
			waitRecord(t, c.Dir)
		}
		if err := c.Start(name); err != nil {
			t.Fatal(err)
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
	return c, s
}

func waitRecord(t *testing.T, dir string) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		if _, err := embedded.Load(dir); err == nil {
			return
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
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

// submit hands the spec to the intake, as a producer does.
func submit(t *testing.T, s *connect.Services, spec *schemas.RunSpec) {
	t.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		answer, err := s.Queue.Submit(ctx, raw, nil)
		cancel()
		var reply schemas.SubmitReply
		if err == nil {
			err = json.Unmarshal(answer, &reply)
		}
		if err == nil && reply.Error == nil {
			spec.ID = reply.Run
			return
		}
		if reply.Error != nil || time.Now().After(deadline) {
			t.Fatalf("cannot submit: %v %v", err, reply.Error)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// TestKill9 kills processes with SIGKILL at random moments of a two-seat run: it ends, every step counts once in the final lineage, and
// the result is that of an undisturbed run.
func TestKill9(t *testing.T) {
	t.Parallel()
	n := *kills
	if os.Getenv("TUNEFLEET_TEST_FULL") != "" {
		n = max(n, 20)
	}
	s := *seed
	if s == 0 {
		s = rand.Uint64N(1 << 32)
	}
	t.Logf("seed %d (repeat with -chaos.seed=%d -chaos.kills=%d)", s, s, n)
	c, services := cell(t, nil, "worker-1", "worker-2")
	steps := int64(60 * (n + 1))
	spec := chaostest.Spec(chaostest.Options{Steps: steps, CommitEvery: 10, StepDelayMS: 10, Seed: s, PrepParts: 2, EvalSlices: 2, Export: true})
	spec.Key = fmt.Sprint(s)
	submit(t, services, spec)
	heads := checkpoint.NewHeads(services.Objects, checkpoint.Config{})
	plan := chaostest.Plan{Seed: s, Kills: n, Targets: []string{"worker-1", "control", "nats", "redis", "s3", "worker-2"}, Steps: steps, Stage: "tune",
		Patience: time.Duration(n+1) * 30 * time.Second, Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil))}
	rep, err := chaostest.Run(t.Context(), c, heads, spec.Tenant, spec.ID, plan)
	if err != nil {
		t.Fatal(err)
	}
	l := sameAsUndisturbed(t, services, spec, rep.Head)
	t.Logf("%d kills in %s: %d commits of %d generations, hash as undisturbed", len(rep.Kills), rep.Took.Round(time.Millisecond), l.Commits, l.Generations)
}

// sameAsUndisturbed verifies the run's lineage and that it ended with what an undisturbed run ends with.
func sameAsUndisturbed(t *testing.T, s *connect.Services, spec *schemas.RunSpec, head *schemas.Head) chaostest.Lineage {
	t.Helper()
	if head.State != schemas.RunSucceeded {
		t.Fatalf("the run is %s: %s %v", head.State, head.Reason, head.Error)
	}
	l, err := chaostest.ReadLineage(t.Context(), s.Objects, head, "tune")
	if err != nil {
		t.Fatal(err)
	}
	want, err := chaostest.Expected(spec)
	if err != nil {
		t.Fatal(err)
	}
	if steps := spec.Stages[1].Train.Steps; l.Hash != want || l.Steps != steps {
		t.Fatalf("the run ended with %s after %d steps, an undisturbed one with %s after %d", l.Hash, l.Steps, want, steps)
	}
	return l
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}
