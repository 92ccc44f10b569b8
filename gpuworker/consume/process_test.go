package consume

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

const (
	testRole = "TUNEFLEET_TEST_ROLE"
	patience = 20 * time.Second
)

// TestMain lets this binary play the processes that the tests start.
func TestMain(m *testing.M) {
	switch os.Getenv(testRole) {
	case "":
		goleak.VerifyTestMain(m)
	case "rank":
		handlers := map[schemas.StageKind]Handler{
			schemas.KindPrep: func(ctx context.Context, t *Task) error {
				t.Report(schemas.Event{Type: schemas.EventProgress, Message: fmt.Sprint(os.Getpid())})
				switch t.Message.Stage {
				case "panics":
					panic("as the test wants")
				case "exits":
					fmt.Fprintln(os.Stderr, "last words")
					os.Exit(3)
				case "bad":
					return schemas.Errorf(schemas.CodeData, "rows.jsonl:7", "broken row")
				case "ignores":
					select {}
				case "hangs":
					t.Kill("the driver does not let go")
				}
				<-ctx.Done()
				return ctx.Err()
			},
		}
		if err := RunRank(context.Background(), handlers, func(context.Context) (store.Objects, error) { return memstore.New(), nil }); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	case "agent": // starts a rank, prints its pid and waits to be killed
		l, err := newProcesses(testRankConfig())
		if err != nil {
			panic(err)
		}
		_, err = startChild(l, slog.New(slog.DiscardHandler), testStart("waits"), func(e schemas.Event) { fmt.Println(e.Message) })
		if err != nil {
			panic(err)
		}
		select {}
	}
}

func testRankConfig() Config {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{Pool: "cpu", RankCommand: []string{exe}, RankEnv: []string{testRole + "=rank"}}
}

func testStart(stage string) *startOrder {
	return &startOrder{Message: schemas.Message{Kind: schemas.KindPrep, Tenant: "t", Run: "r", Stage: stage},
		Spec: &schemas.RunSpec{Tenant: "t", ID: "r", Stages: []schemas.Stage{{Name: stage, Kind: schemas.KindPrep}}}}
}

func startTestRank(t *testing.T, stage string) (*child, <-chan string) {
	t.Helper()
	l, err := newProcesses(testRankConfig())
	if err != nil {
		t.Fatal(err)
	}
	pids := make(chan string, 8)
	c, err := startChild(l, slog.New(slog.DiscardHandler), testStart(stage), func(e schemas.Event) { pids <- e.Message })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.stop(0) })
	return c, pids
}

func await[T any](t *testing.T, what string, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		t.Fatalf("no %s within %s", what, patience)
		panic("unreachable")
	}
}

func TestRankReportsItsEnd(t *testing.T) {
	for _, c := range []struct {
		stage, text string
		want        outcome
		code        schemas.Code
	}{
		{"bad", "rows.jsonl:7: broken row", outcomeFailed, schemas.CodeData},
		{"panics", "as the test wants", outcomeFailed, schemas.CodeInternal},
		{"exits", "exit status 3; last output: last words", outcomeCrashed, schemas.CodeInternal},
	} {
		t.Run(c.stage, func(t *testing.T) {
			child, _ := startTestRank(t, c.stage)
			d := await(t, "report", child.done)
			if d.Outcome != c.want || d.Error == nil || d.Error.Code != c.code || !strings.Contains(d.Error.Error(), c.text) {
				t.Fatalf("got %q, %v", d.Outcome, d.Error)
			}
			await(t, "end of the process", child.gone)
		})
	}
}

func TestRankStopsWhenAsked(t *testing.T) {
	c, pids := startTestRank(t, "waits")
	await(t, "start", pids)
	c.stop(patience)
	if d := await(t, "report", c.done); d.Outcome != outcomeInterrupted {
		t.Fatalf("got %q, %v", d.Outcome, d.Error)
	}
}

func TestRankThatIgnoresStopIsKilled(t *testing.T) {
	c, pids := startTestRank(t, "ignores")
	await(t, "start", pids)
	c.stop(50 * time.Millisecond)
	if d := await(t, "report", c.done); d.Outcome != outcomeCrashed || d.Error.Code != schemas.CodeUnavailable || !strings.Contains(d.Error.Message, "killed") {
		t.Fatalf("got %q, %v", d.Outcome, d.Error)
	}
}

func TestKilledRankIsTheHostsDoing(t *testing.T) {
	c, pids := startTestRank(t, "waits")
	await(t, "start", pids)
	c.proc.kill()
	if d := await(t, "report", c.done); d.Outcome != outcomeCrashed || causeOf(d) != schemas.CauseInfrastructure {
		t.Fatalf("got %q, %v", d.Outcome, d.Error)
	}
}

// TestRankThatEndsItself: what cannot be stopped otherwise ends with the process, and the agent learns why.
func TestRankThatEndsItself(t *testing.T) {
	c, _ := startTestRank(t, "hangs")
	if d := await(t, "report", c.done); d.Outcome != outcomeCrashed || causeOf(d) != schemas.CauseInfrastructure || !strings.Contains(d.Error.Message, "the driver does not let go") {
		t.Fatalf("got %q, %v", d.Outcome, d.Error)
	}
}

// TestRankDiesWithItsAgent: kill -9 of an agent leaves no rank, not even one that never looks at its pipes.
func TestRankDiesWithItsAgent(t *testing.T) {
	agent := exec.Command(testRankConfig().RankCommand[0])
	agent.Env = append(os.Environ(), testRole+"=agent")
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer agent.Process.Kill()
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(line, &pid); err != nil || pid <= 1 {
		t.Fatalf("the rank's pid is %q", line)
	}
	if err := agent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	agent.Wait()
	deadline := time.Now().Add(patience)
	for !gone(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("rank %d outlived its agent", pid)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// gone reports whether the process does not run any more (a zombie waiting for init does not).
func gone(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return strings.HasPrefix(rest, "Z")
}

func TestRankNeedsAnAgent(t *testing.T) {
	cmd := exec.Command(testRankConfig().RankCommand[0])
	cmd.Env = []string{testRole + "=rank"}
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "started by a worker agent only") {
		t.Fatalf("got %v: %s", err, out)
	}
}
