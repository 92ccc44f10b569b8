package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
)

// Environment of the processes that this binary starts as.
const (
	envRole = "QUEUEBENCH_ROLE"
	envDir  = "QUEUEBENCH_DIR"
)

// play is the main function of a process: the servers, or a worker (with every default of production), or its rank.
func play(ctx context.Context, role string) error {
	quiet := slog.New(slog.DiscardHandler)
	dir := os.Getenv(envDir)
	switch role {
	case "servers":
		s, err := embedded.Start(ctx, embedded.Options{Dir: dir, Logger: quiet})
		if err != nil {
			return err
		}
		defer s.Close()
		<-ctx.Done()
		return nil
	case "rank":
		return consume.RunRank(ctx, chaostest.Handlers(), consume.OpenStore)
	}
	rec, err := embedded.Load(dir)
	if err != nil {
		return err
	}
	s, err := chaostest.Open(ctx, rec, quiet)
	if err != nil {
		return err
	}
	defer s.Close()
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("cannot find this program: %w", err)
	}
	a, err := consume.New(consume.Config{Name: role, Pool: "cpu", Threads: 1, RankCommand: []string{exe}, RankEnv: append(consume.StoreEnv(s.Config.S3), envRole+"=rank")},
		consume.Services{Work: s.Queue, Leases: s.Leases, Objects: s.Objects, Logger: quiet})
	if err != nil {
		return err
	}
	return a.Run(ctx)
}

// process starts this binary in a role; it dies with this one.
func process(ctx context.Context, dir, role string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("cannot find this program: %w", err)
	}
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), envRole+"="+role, envDir+"="+dir)
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start %s: %w", role, err)
	}
	return cmd, nil
}

// stand is servers and two workers as processes, with clients to them.
type stand struct {
	s       *connect.Services
	heads   *checkpoint.Heads
	workers []*exec.Cmd
	runs    int
}

func (b *bench) stand(ctx context.Context) (st *stand, stop func(), err error) {
	dir := filepath.Join(b.dir, "step")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, nil, fmt.Errorf("cannot make a folder: %w", err)
	}
	pctx, cancel := context.WithCancel(ctx)
	var all []*exec.Cmd
	stop = func() {
		cancel()
		for _, c := range slices.Backward(all) {
			_ = c.Wait() // asked to stop
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	servers, err := process(pctx, dir, "servers")
	if err != nil {
		return nil, nil, err
	}
	all = append(all, servers)
	var rec embedded.Record
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if rec, err = embedded.Load(dir); err == nil {
			break
		} else if time.Now().After(deadline) {
			return nil, nil, err
		}
	}
	st = &stand{}
	if st.s, err = chaostest.Open(ctx, rec, slog.New(slog.DiscardHandler)); err != nil {
		return nil, nil, err
	}
	st.heads = checkpoint.NewHeads(st.s.Objects, checkpoint.Config{})
	if err := st.s.Queue.Ensure(ctx, map[string]int{"cpu": 2}); err != nil {
		return nil, nil, err
	}
	for _, name := range []string{"worker-1", "worker-2"} {
		w, err := process(pctx, dir, name)
		if err != nil {
			return nil, nil, err
		}
		all, st.workers = append(all, w), append(st.workers, w)
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if list, err := st.s.Leases.Workers(ctx, "cpu"); err == nil && len(list) == 2 {
			return st, stop, nil
		} else if time.Now().After(deadline) {
			return nil, nil, errors.Join(errors.New("the workers do not come up"), err)
		}
	}
}

// start makes a run with its seats in HEAD and publishes their messages, as control does; it returns the time of the first publishing.
func (st *stand) start(ctx context.Context, world, delay int) (*schemas.RunSpec, time.Time, error) {
	st.runs++
	s := chaostest.Spec(chaostest.Options{Steps: 1_000_000, CommitEvery: 1_000_000, World: world, StepDelayMS: delay})
	s.ID = fmt.Sprintf("bench%06d", st.runs)
	raw, err := json.Marshal(s)
	if err != nil {
		return nil, time.Time{}, err
	}
	if _, err := st.s.Objects.Put(ctx, schemas.SpecKey(s.Tenant, s.ID), raw, store.Condition{}); err != nil {
		return nil, time.Time{}, err
	}
	h := schemas.Head{Tenant: s.Tenant, Run: s.ID, State: schemas.RunRunning, Stage: "tune", LastIssue: uint64(world)}
	for _, x := range s.Stages {
		h.Stages = append(h.Stages, schemas.StageState{Name: x.Name, Kind: x.Kind, State: schemas.StageRunning, Started: time.Now().UTC()})
	}
	var messages []schemas.Message
	for seat := range world {
		issue := uint64(seat) + 1
		h.Seats = append(h.Seats, schemas.Seat{Seat: seat, Issue: issue})
		messages = append(messages, schemas.Message{Version: 1, Kind: schemas.KindTrain, Pool: "cpu", Tenant: s.Tenant, Run: s.ID, Stage: "tune",
			Spec: schemas.SpecKey(s.Tenant, s.ID), Seat: seat, Issue: issue})
	}
	if _, err := st.heads.Create(ctx, h); err != nil {
		return nil, time.Time{}, err
	}
	began := time.Now()
	for _, m := range messages {
		if err := st.s.Queue.Publish(ctx, m, nil); err != nil {
			return nil, time.Time{}, err
		}
	}
	return s, began, nil
}

// cancel ends a run and waits until the workers are idle again.
func (st *stand) cancel(ctx context.Context, s *schemas.RunSpec) error {
	_, err := st.heads.Swap(ctx, s.Tenant, s.ID, func(h *schemas.Head) error {
		h.State, h.Members = schemas.RunCancelled, nil
		h.Generation++
		return nil
	})
	if err != nil {
		return err
	}
	if err := st.s.Queue.Poke(ctx, s.Tenant, s.ID); err != nil {
		return err
	}
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		list, err := st.s.Leases.Workers(ctx, "cpu")
		if err == nil && !slices.ContainsFunc(list, func(w leaseWorker) bool { return w.Busy != "" }) {
			return nil
		}
		if time.Now().After(deadline) {
			return errors.New("the workers do not become idle")
		}
	}
}

// steps returns when steps 1 to n were reported.
func (st *stand) steps(ctx context.Context, s *schemas.RunSpec, n int64) ([]time.Time, error) {
	var at []time.Time
	after := ""
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); {
		events, err := st.s.Leases.Tail(ctx, s.Tenant, s.ID, after, 100, 20*time.Millisecond)
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			after = e.ID
			if e.Event.Type == schemas.EventStep {
				if at = append(at, e.Event.At); int64(len(at)) == n {
					return at, nil
				}
			}
		}
	}
	return nil, fmt.Errorf("only %d of %d steps were reported", len(at), n)
}

// step measures the way from a message to the first step on workers that wait, and what the queue costs while steps of a second go on.
func (b *bench) step(ctx context.Context) error {
	st, stop, err := b.stand(ctx)
	if err != nil {
		return err
	}
	defer stop()
	defer st.s.Close()
	times := 100
	if b.quick {
		times = 5
	}
	for _, world := range []int{1, 2} {
		var took []time.Duration
		for i := range times + 1 {
			s, began, err := st.start(ctx, world, 0)
			if err != nil {
				return err
			}
			at, err := st.steps(ctx, s, 1)
			if err != nil {
				return err
			}
			if i > 0 { // the first warms the workers
				took = append(took, at[0].Sub(began))
			}
			if err := st.cancel(ctx, s); err != nil {
				return err
			}
		}
		slices.Sort(took)
		b.add(figure{Name: fmt.Sprintf("message to first step, gang of %d, 99 of 100", world), Value: float64(percentile(took, 0.985).Microseconds()) / 1000, Unit: "ms", AtMost: 200,
			Note: fmt.Sprintf("agent and rank processes, toy step; of %d: median %s, worst %s", times, percentile(took, 0.5).Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond))})
	}
	return b.overhead(ctx, st)
}

// overhead trains with steps of one second and compares.
func (b *bench) overhead(ctx context.Context, st *stand) error {
	n := int64(30)
	if b.quick {
		n = 4
	}
	s, _, err := st.start(ctx, 2, 1000)
	if err != nil {
		return err
	}
	if _, err := st.steps(ctx, s, 1); err != nil {
		return err
	}
	before, began := cpuOf(st.workers), time.Now()
	at, err := st.steps(ctx, s, n+1)
	if err != nil {
		return err
	}
	cpu, wall := cpuOf(st.workers)-before, time.Since(began)
	per := at[n].Sub(at[0]).Seconds() / float64(n)
	b.add(figure{Name: "queue work in a 1 s step", Value: 100 * cpu.Seconds() / wall.Seconds() / float64(len(st.workers)), Unit: "%", AtMost: 0.5,
		Note: "CPU time of agent and rank of a gang of 2 whose step computes nothing: leases, HEAD, deliveries, events, collective"})
	b.add(figure{Name: "a 1 s step is longer by", Value: 1000 * (per - 1), Unit: "ms", Note: "by the clock, timers and other load on this machine included"})
	return st.cancel(ctx, s)
}

// cpuOf is the CPU time of processes and of their children that live.
func cpuOf(cmds []*exec.Cmd) time.Duration {
	var total time.Duration
	for _, c := range cmds {
		pids := []string{strconv.Itoa(c.Process.Pid)}
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", c.Process.Pid)) // the pattern is a good one
		for _, l := range lists {
			if raw, err := os.ReadFile(l); err == nil {
				pids = append(pids, strings.Fields(string(raw))...)
			}
		}
		for _, pid := range pids {
			total += cpuTime(pid)
		}
	}
	return total
}

// cpuTime is the CPU time of a process in nanoseconds of its scheduler's account, 0 when it is gone.
func cpuTime(pid string) time.Duration {
	var total time.Duration
	files, _ := filepath.Glob("/proc/" + pid + "/task/*/schedstat") // the pattern is a good one
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if fields := strings.Fields(string(raw)); len(fields) > 0 {
			n, _ := strconv.ParseInt(fields[0], 10, 64) // the kernel writes numbers
			total += time.Duration(n)
		}
	}
	return total
}
