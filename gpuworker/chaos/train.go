package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/store"
)

// What the training is disturbed by.
const (
	FaultsAll     = "all"
	FaultsKill    = "kill"    // kill -9
	FaultsNotice  = "notice"  // SIGTERM, which a worker takes as it takes a Spot notice
	FaultsServers = "servers" // lease server and store away, stream deleted
)

// A real model, small, trained by the product's own handlers with its own timing (leases of 10 s), two seats and a spare worker.
const (
	trainTTL     = 10 * time.Second
	trainStage   = "base"
	trainTenant  = "alpha"
	trainDelay   = 200 * time.Millisecond
	trainStep    = 250 * time.Millisecond // a step with its delay, roughly: what the number of steps is chosen by
	trainCommit  = 20
	trainRecover = 3 * time.Minute
)

// Training is what became of the real model.
type Training struct {
	Steps int64 `json:"steps"`
	// Seconds is the wall time of the disturbed run, from acceptance to its end.
	Seconds float64 `json:"seconds"`
	// Effective is the share of committed steps in the time that it had workers (schemas.RunTime.Training), CalmEffective the undisturbed
	// run's.
	Effective     float64 `json:"effective"`
	CalmEffective float64 `json:"calm_effective"`
	// Stall is the share of the time in which it trained that steps waited for checkpoints, the commits at which a gang stops included; CalmStall
	// the undisturbed run's.
	Stall     float64 `json:"stall"`
	CalmStall float64 `json:"calm_stall"`
	// Every is the time between two faults.
	Every  float64       `json:"every_s"`
	Kind   string        `json:"kind"`
	Faults []TrainFault  `json:"faults"`
	Hash   string        `json:"hash"`
	Calm   string        `json:"undisturbed_hash"`
	Lost   Losses        `json:"lost_steps"`
	Report *check.Report `json:"report"`
	Shape  Shape         `json:"shape"`
	// Flips counts bits flipped in the final checkpoint, Loaded those after which it was still taken.
	Flips   int    `json:"flips"`
	Loaded  int    `json:"loaded"`
	Picture string `json:"picture,omitempty"`
}

// TrainFault is one fault and how long it took until the run made a new step.
type TrainFault struct {
	What string  `json:"what"`
	At   float64 `json:"at"`
	// Recovery is the time from the fault to the first step of a new generation, 0 for faults that ended none.
	Recovery float64 `json:"recovery_s"`
	// Down is how long a server was away, Steps how many steps were made meanwhile, Ended whether the gang lost its generation over it.
	Down  float64 `json:"down_s,omitempty"`
	Steps int64   `json:"steps_meanwhile"`
	Ended bool    `json:"ended"`
	Load  float64 `json:"load"`
	step  int64
}

// trainer runs the real model.
type trainer struct {
	o   Options
	f   *fleet
	w   *workload
	out *Training
	rng *rand.Rand
	// live is the disturbed run.
	live *liveRun
}

// train trains a small model twice, undisturbed and under faults, and compares.
func (o Options) train(ctx context.Context) (_ *Training, err error) {
	dir, err := os.MkdirTemp("", "tunefleet-chaos-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the fleet: %w", err)
	}
	lease := o.plan()[0].shape.Lease
	shape := Shape{Store: StoreVersity, Broker: BrokerSingle, Lease: lease, Workers: 3, Controls: 1, TTL: trainTTL, Real: true}
	o.Say("real training: %s, %s, a fault every %s", shape, o.Train.Round(time.Second), o.Every)
	file := filepath.Join(o.Out, "history-training.jsonl")
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("cannot write the history: %w", err)
	}
	defer out.Close()
	history := check.NewHistory(out)
	defer func() { _ = history.Flush() }() // also of what was interrupted; judging flushes with the error
	f, err := startFleet(ctx, dir, shape, o.Command, o.Env, history, o.Log)
	if err != nil {
		return nil, fmt.Errorf("cannot start the fleet (logs are in %s): %w", dir, err)
	}
	defer f.close()
	t := &trainer{o: o, f: f, w: newWorkload(f, o.Seed, 0), out: &Training{Shape: shape, Every: o.Every.Seconds(), Kind: o.TrainFaults},
		rng: rand.New(rand.NewPCG(o.Seed, 0x7f))} //nolint:gosec // the faults must be repeatable
	t.out.Steps = max(4*trainCommit, int64(o.Train/trainStep))
	calm, err := t.undisturbed(ctx)
	if err != nil {
		return nil, err
	}
	disturbed, err := t.disturbed(ctx)
	if err != nil {
		return nil, err
	}
	history.Add(check.Event{Kind: check.KindDrained})
	f.leakedFiles()
	objects, err := f.snapshot(ctx)
	if err != nil {
		return nil, err
	}
	f.leakedProcesses()
	if err := t.compare(ctx, calm, disturbed, objects, file); err != nil {
		return nil, err
	}
	if t.out.Report.OK() {
		return t.out, os.RemoveAll(dir)
	}
	o.Say("something did not hold: the logs of this fleet stay in %s", dir)
	return t.out, nil
}

// submit hands in one of the two runs.
func (t *trainer) submit(ctx context.Context, key string, delay time.Duration, hash string) (*liveRun, error) {
	dir := filepath.Join(t.f.dir, key)
	file, err := trainProject(dir, t.o.Seed, t.out.Steps, delay)
	if err != nil {
		return nil, err
	}
	resolved, err := config.Load(ctx, file, config.Options{})
	if err != nil {
		return nil, err
	}
	spec := *resolved.Spec
	spec.Key = fmt.Sprintf("%s-%d", key, t.o.Seed)
	spec.Tenant = trainTenant
	spec.ID = schemas.RunID(spec.Tenant, spec.Key)
	for _, in := range resolved.Inputs {
		data, err := os.ReadFile(in.Local)
		if err != nil {
			return nil, fmt.Errorf("cannot read an input: %w", err)
		}
		if _, err := t.f.direct.Objects.Put(ctx, schemas.InputKey(spec.Tenant, in.File.SHA256), data, store.Condition{}); err != nil {
			return nil, err
		}
	}
	t.f.history.Add(check.Event{Kind: check.KindExpect, Tenant: spec.Tenant, Run: spec.ID, Expect: &check.Expect{Outcomes: []string{check.OutcomeSucceeded},
		Stage: trainStage, Hash: hash, Steps: t.out.Steps, Every: trainCommit}})
	if !t.w.hand(ctx, &spec) {
		return nil, errors.Join(t.w.problem, ctx.Err(), errors.New("the training run was not accepted"))
	}
	r := &liveRun{spec: &spec}
	return r, nil
}

// await follows the run until cond holds for its HEAD.
func (t *trainer) await(ctx context.Context, r *liveRun, limit time.Duration, cond func(*schemas.Head) bool) (*schemas.Head, error) {
	var last *schemas.Head
	for end := time.Now().Add(limit); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		head, _, err := t.f.heads.Read(rctx, r.spec.Tenant, r.spec.ID)
		t.w.steps(rctx, r)
		cancel()
		if err == nil {
			if last = head; cond(head) {
				return head, nil
			}
		}
	}
	return last, errors.Join(ctx.Err(), fmt.Errorf("the training run did not get further within %s; HEAD: %+v", limit, last))
}

func (t *trainer) undisturbed(ctx context.Context) (*schemas.Head, error) {
	r, err := t.submit(ctx, "undisturbed", 0, "")
	if err != nil {
		return nil, err
	}
	head, err := t.await(ctx, r, 2*t.o.Train+5*time.Minute, func(h *schemas.Head) bool { return h.State.Terminal() })
	if err != nil {
		return nil, err
	}
	if head.State != schemas.RunSucceeded {
		return nil, fmt.Errorf("the undisturbed training run is %s: %s", head.State, head.Reason)
	}
	l, err := chaostest.ReadLineage(ctx, t.f.direct.Objects, head, trainStage)
	if err != nil {
		return nil, err
	}
	t.out.Calm = l.Hash
	spent := head.TimeOf(head.Created, head.Updated)
	t.out.CalmEffective, t.out.CalmStall = spent.Training, stalled(spent)
	t.o.Say("undisturbed: %d steps, weights %.12s", l.Steps, l.Hash)
	return head, nil
}

// disturbed trains the same with a fault every o.Every: kill -9, SIGTERM, and once each the lease server away and flushed, the stream of work
// deleted and the store away.
func (t *trainer) disturbed(ctx context.Context) (*schemas.Head, error) {
	began := time.Now()
	r, err := t.submit(ctx, "disturbed", trainDelay, t.out.Calm)
	if err != nil {
		return nil, err
	}
	t.live = r
	if _, err := t.await(ctx, r, 3*time.Minute, func(h *schemas.Head) bool { return h.Step >= trainCommit }); err != nil {
		return nil, err
	}
	faults := map[string][]func(context.Context) error{
		FaultsAll:  {t.kill, t.term, t.redisAway, t.storeAway, t.streamGone, t.redisFlushed, t.kill, t.term},
		FaultsKill: {t.kill}, FaultsNotice: {t.term}, FaultsServers: {t.storeAway, t.redisAway, t.redisFlushed, t.streamGone},
	}[t.o.TrainFaults]
	over := false
	for i := 0; !over; i++ {
		next := time.Now().Add(t.o.Every)
		head, err := t.await(ctx, r, t.o.Every+time.Minute, func(h *schemas.Head) bool {
			return h.State.Terminal() || time.Now().After(next) && len(h.Members) > 0
		})
		if err != nil {
			return nil, err
		}
		if over = head.State.Terminal() || time.Since(began) > t.o.Train; !over {
			if err := faults[i%len(faults)](ctx); err != nil {
				return nil, err
			}
		}
	}
	if err := t.f.heal(); err != nil {
		return nil, err
	}
	t.f.history.Add(check.Event{Kind: check.KindQuiet})
	head, err := t.await(ctx, r, 2*t.o.Train+3*time.Minute, func(h *schemas.Head) bool { return h.State.Terminal() })
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end) && !t.w.closed(ctx, r.spec); pause(ctx, 100*time.Millisecond) {
	}
	t.out.Seconds = head.Updated.Sub(head.Created).Seconds()
	spent := head.TimeOf(head.Created, head.Updated)
	t.out.Effective, t.out.Stall = spent.Training, stalled(spent)
	return head, nil
}

// stalled is the share of waiting for checkpoints in the time that steps, evaluation and that waiting took.
func stalled(t *schemas.RunTime) float64 {
	wait := t.Seconds[schemas.TimeCheckpoint]
	if wait == 0 {
		return 0
	}
	return wait / (t.Seconds[schemas.TimeStep] + t.Seconds[schemas.TimeEval] + wait)
}

// newest is the newest step seen in the live stream.
func (t *trainer) newest() (step int64) {
	generation := uint64(0)
	for _, e := range t.f.history.Events() {
		if e.Kind == check.KindStep && e.Run == t.live.spec.ID && e.Generation >= generation {
			generation, step = e.Generation, e.Step
		}
	}
	return step
}

// recover waits for the first step of a generation after g and notes the time since at.
func (t *trainer) recover(ctx context.Context, f TrainFault, at time.Time, g uint64) error {
	sec := t.f.history.Seconds(at)
	_, err := t.await(ctx, t.live, trainRecover, func(h *schemas.Head) bool {
		if h.State.Terminal() {
			return true
		}
		for _, e := range slices.Backward(t.f.history.Events()) {
			if e.Kind == check.KindStep && e.Run == t.live.spec.ID && e.Generation > g {
				f.Recovery = e.At - sec // the first one is the last found: going on to earlier ones
			} else if e.At < sec {
				break
			}
		}
		return f.Recovery > 0
	})
	f.At, f.Load, f.Ended = sec, load(), true
	t.out.Faults = append(t.out.Faults, f)
	t.o.Say("%7.1f s  %s: a new step after %.1f s (load %.1f)", sec, f.What, f.Recovery, f.Load)
	t.f.history.Add(check.Event{Kind: check.KindHeal, Row: 1, Proc: f.What})
	return err
}

// member picks a member of the gang.
func (t *trainer) member(ctx context.Context) (string, *schemas.Head, error) {
	h, err := t.await(ctx, t.live, time.Minute, func(h *schemas.Head) bool { return len(h.Members) > 0 || h.State.Terminal() })
	if err != nil || len(h.Members) == 0 {
		return "", h, err
	}
	return h.Members[t.rng.IntN(len(h.Members))].Worker, h, nil
}

func (t *trainer) kill(ctx context.Context) error {
	worker, h, err := t.member(ctx)
	if err != nil || worker == "" {
		return err
	}
	step := t.newest()
	at := time.Now()
	t.f.history.Add(check.Event{Kind: check.KindFault, Row: 1, Proc: worker, Fault: "kill -9"})
	if err := t.f.kill(worker); err != nil {
		return err
	}
	if err := t.f.start(worker); err != nil {
		return err
	}
	return t.recover(ctx, TrainFault{What: "kill -9 of " + worker, step: step}, at, h.Generation)
}

func (t *trainer) term(ctx context.Context) error {
	worker, h, err := t.member(ctx)
	if err != nil || worker == "" {
		return err
	}
	step := t.newest()
	at := time.Now()
	t.f.history.Add(check.Event{Kind: check.KindFault, Row: 4, Proc: worker, Fault: "SIGTERM"})
	if err := t.f.cell.Signal(worker, syscall.SIGTERM); err != nil {
		return err
	}
	err = t.recover(ctx, TrainFault{What: "SIGTERM to " + worker, step: step}, at, h.Generation)
	if !t.f.cell.Wait(worker, time.Minute) {
		return errors.Join(err, fmt.Errorf("%s does not end after SIGTERM", worker))
	}
	return errors.Join(err, t.f.start(worker))
}

// away takes a server away for a while and counts the steps meanwhile.
func (t *trainer) away(ctx context.Context, row int, what string, d time.Duration, begin, end func() error) error {
	_, h, err := t.member(ctx)
	if err != nil {
		return err
	}
	step := t.newest()
	f := TrainFault{What: what, At: t.f.history.Seconds(time.Now()), Down: d.Seconds(), Load: load(), step: step}
	t.f.history.Add(check.Event{Kind: check.KindFault, Row: row, Proc: what, Fault: what})
	if err := begin(); err != nil {
		return err
	}
	pause(ctx, d)
	if err := end(); err != nil {
		return err
	}
	back := t.f.history.Seconds(time.Now())
	then, err := t.await(ctx, t.live, time.Minute, func(*schemas.Head) bool { return true })
	if err != nil {
		return err
	}
	pause(ctx, 3*trainTTL)
	now, err := t.await(ctx, t.live, time.Minute, func(*schemas.Head) bool { return true })
	if err != nil {
		return err
	}
	t.f.history.Add(check.Event{Kind: check.KindHeal, Row: row, Proc: what})
	f.Ended = now.Generation != h.Generation && !now.State.Terminal()
	for _, e := range t.f.history.Events() {
		if e.Kind == check.KindStep && e.Run == t.live.spec.ID && e.At > f.At && e.At < back {
			f.Steps = max(f.Steps, e.Step-step)
		}
	}
	if row == 16 { // the live stream was lost with it: HEAD tells
		if f.Steps = then.Step - h.Step; then.Stage == "" {
			f.Steps = t.out.Steps - h.Step
		}
	}
	t.out.Faults = append(t.out.Faults, f)
	t.o.Say("%7.1f s  %s for %s: %d steps meanwhile, generation lost: %v", f.At, what, d, f.Steps, f.Ended)
	return nil
}

func (t *trainer) redisAway(ctx context.Context) error {
	d := min(time.Minute, t.o.Train/4)
	return t.away(ctx, 16, "lease server killed", d, func() error { return t.f.cell.Signal("redis", syscall.SIGKILL) }, func() error { return t.f.start("redis") })
}

func (t *trainer) redisFlushed(ctx context.Context) error {
	return t.away(ctx, 16, "lease server flushed", 3*trainTTL, func() error {
		rdb := redis.NewClient(&redis.Options{Addr: loopback(t.f.rec.Redis), Password: t.f.rec.Password})
		defer rdb.Close()
		if err := rdb.FlushAll(ctx).Err(); err != nil {
			return fmt.Errorf("cannot flush the lease server: %w", err)
		}
		return nil
	}, func() error { return nil })
}

func (t *trainer) storeAway(ctx context.Context) error {
	set := func(f faultproxy.Fault) {
		for name, l := range t.f.links {
			if strings.HasSuffix(name, ">s3") {
				l.Set(f)
				l.Reset()
			}
		}
	}
	d := min(5*time.Minute, t.o.Train/2)
	if t.o.TrainFaults == FaultsAll {
		d = min(d, t.o.Train/5)
	}
	return t.away(ctx, 17, "store away", d, func() error { set(faultproxy.Fault{Refuse: true}); return nil }, func() error { set(faultproxy.Fault{}); return nil })
}

func (t *trainer) streamGone(ctx context.Context) error {
	a := &act{f: t.f}
	return t.away(ctx, 12, "stream of work deleted", 5*time.Second, func() error {
		nc, js, err := a.jetStream(ctx)
		if err != nil {
			return err
		}
		defer nc.Close()
		return deleteWork(ctx, js)
	}, func() error { return nil })
}

// compare judges the history, compares weights and loss, flips bits of the final checkpoint and draws the picture.
func (t *trainer) compare(ctx context.Context, calm, disturbed *schemas.Head, objects map[string][]byte, file string) error {
	if err := t.f.history.Flush(); err != nil {
		return err
	}
	t.f.leakedSecrets(file, objects)
	if err := t.f.history.Flush(); err != nil {
		return err
	}
	events := t.f.history.Events()
	t.out.Report = check.Check(events, objects, check.Limits{Drain: (2*t.o.Train + 3*time.Minute).Seconds()})
	t.out.Lost = lostSteps(events, objects)
	mem, err := inMemory(ctx, objects)
	if err != nil {
		return err
	}
	if disturbed.State != schemas.RunSucceeded {
		return nil // a violation says so
	}
	l, err := chaostest.ReadLineage(ctx, mem, disturbed, trainStage)
	if err != nil {
		return nil //nolint:nilerr // a violation says so
	}
	t.out.Hash = l.Hash
	if t.out.Flips, t.out.Loaded, err = flipBits(ctx, mem, objects, disturbed, t.f.dir, t.o.Seed); err != nil {
		return err
	}
	curves := make([]Curve, 2)
	for i, h := range []*schemas.Head{calm, disturbed} {
		err := checkpoint.History(ctx, mem, h, nil, func(_ schemas.ManifestRef, e schemas.Event) error {
			if e.Type == schemas.EventStep {
				curves[i] = append(curves[i], e.Values["loss"])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	if !slices.Equal(curves[0], curves[1]) {
		t.out.Report.Violations = append(t.out.Report.Violations, check.Violation{Invariant: "I4", Subject: disturbed.Run, Text: "the loss curve under faults is not the undisturbed one"})
	}
	var marks []mark
	for _, f := range t.out.Faults {
		marks = append(marks, mark{f.step, f.What})
	}
	t.out.Picture = "loss.svg"
	return picture(filepath.Join(t.o.Out, t.out.Picture), fmt.Sprintf("Loss across %d faults over the undisturbed run (seed %d)", len(marks), t.o.Seed), curves[0], curves[1], marks)
}
