package chaos

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/store"
)

// Row 26: real training beside the toys, with numbers changed in the gradients that one rank sends to another, and with damaged data.
const (
	trainerSteps = 40
	// trainerAt is the step that is hurt, counted from 1: late enough for the trainer to know what steps are like.
	trainerAt = 31
	// trainerLimit is how long a run of the row may take on a loaded machine.
	trainerLimit = 45 * time.Second
	// hurtPrefix begins the names of the files in the fleet's folder that say what is to be done to a run.
	hurtPrefix = "hurt-"
)

// hurtPlan says what is done to the gradients of a run; without a kind nothing is.
type hurtPlan struct {
	Kind string `json:"kind"`
	Step int64  `json:"step"`
}

func hurtFile(dir, run string) string { return filepath.Join(dir, hurtPrefix+run+".json") }

// mixed gives runs that have a file of their own to the product's handlers and all others to the toy's.
func mixed(toy, product map[schemas.StageKind]consume.Handler, dir string) map[schemas.StageKind]consume.Handler {
	out := map[schemas.StageKind]consume.Handler{}
	for kind, h := range toy {
		out[kind] = func(ctx context.Context, t *consume.Task) error {
			raw, err := os.ReadFile(hurtFile(dir, t.Message.Run))
			if errors.Is(err, os.ErrNotExist) || product[kind] == nil {
				return h(ctx, t)
			}
			if err != nil {
				return fmt.Errorf("cannot read what to do to the run: %w", err)
			}
			var p hurtPlan
			if err := json.Unmarshal(raw, &p); err != nil {
				return fmt.Errorf("cannot read what to do to the run: %w", err)
			}
			if p.Kind != "" && t.Gang != nil && t.Gang.Rank == 1 {
				hurt(t, p)
			}
			return product[kind](ctx, t)
		}
	}
	return out
}

// hurt lets a rank send a wrong number.
func hurt(t *consume.Task, p hurtPlan) {
	c := &wrongNumbers{Collective: t.Gang.Collective, plan: p}
	if h := t.Gang.Head; h != nil {
		c.done.Store(h.Step)
	}
	phase := t.Phase
	t.Phase = func(name string, done, total int64) {
		if name == consume.PhaseStep {
			c.done.Store(done)
		}
		phase(name, done, total)
	}
	g := *t.Gang
	g.Collective = c
	t.Gang = &g
}

// wrongNumbers changes one number of what a rank sends in a step: the highest bit of its exponent flips (once), or it is made no number
// (whenever the step is computed).
type wrongNumbers struct {
	consume.Collective
	plan  hurtPlan
	done  atomic.Int64
	spent atomic.Bool
}

func (w *wrongNumbers) AllToAll(ctx context.Context, send, recv [][]byte) error {
	if w.done.Load() != w.plan.Step-1 || w.plan.Kind == check.TrainerOnce && w.spent.Load() {
		return w.Collective.AllToAll(ctx, send, recv)
	}
	for to, b := range send {
		if to == w.Rank() {
			continue
		}
		for i := 0; i+4 <= len(b); i += 4 {
			bits := binary.LittleEndian.Uint32(b[i:])
			if v := math.Abs(float64(math.Float32frombits(bits))); v == 0 || v >= 1 {
				continue
			}
			if w.plan.Kind == check.TrainerOnce {
				bits ^= 1 << 30
			} else {
				bits = math.Float32bits(float32(math.NaN()))
			}
			w.spent.Store(true)
			out := slices.Clone(send) // the sender's own copy stays as it is
			out[to] = slices.Clone(b)
			binary.LittleEndian.PutUint32(out[to][i:], bits)
			return w.Collective.AllToAll(ctx, out, recv)
		}
	}
	return w.Collective.AllToAll(ctx, send, recv)
}

// trainerKinds are the faults of row 26 in words.
var trainerKinds = []struct{ kind, what string }{
	{check.TrainerOnce, "a bit of a gradient flips once"},
	{check.TrainerAlways, "a batch gives no number, whenever it is computed"},
	{check.TrainerSkipped, "a batch gives no number, and is to be skipped"},
	{check.TrainerRead, "a shard of the data is read with a flipped bit, once"},
	{check.TrainerStored, "a shard of the data is damaged in the store"},
}

func hurtTrainer(ctx context.Context, a *act) error {
	if len(a.f.hurts) == 0 { // each once, before one comes again
		a.f.hurts = a.rng.Perm(len(trainerKinds))
	}
	k := trainerKinds[a.f.hurts[0]]
	a.f.hurts = a.f.hurts[1:]
	seed := a.rng.Uint64()
	a.begin(26, "trainer", "%s", k.what)
	event := check.Event{Kind: check.KindTrainer, Verb: k.kind, Step: trainerAt, Stage: trainStage}
	expect := check.Expect{Outcomes: []string{check.OutcomeSucceeded}, Stage: trainStage, Steps: trainerSteps, Every: trainCommit}
	if k.kind == check.TrainerAlways || k.kind == check.TrainerStored {
		expect = check.Expect{Outcomes: []string{check.OutcomeFailed}, Stage: trainStage, Poison: true}
	}
	spec, err := a.f.realRun(ctx, "trainer", seed, k.kind == check.TrainerSkipped)
	if err != nil {
		return err
	}
	event.Tenant, event.Run = spec.Tenant, spec.ID
	specs := []*schemas.RunSpec{spec}
	if k.kind == check.TrainerOnce || k.kind == check.TrainerRead {
		twin, err := a.f.realRun(ctx, "trainer-calm", seed, false)
		if err != nil {
			return err
		}
		event.Twin = twin.ID
		specs = append(specs, twin)
	}
	plan := hurtPlan{}
	switch k.kind {
	case check.TrainerOnce, check.TrainerAlways, check.TrainerSkipped:
		plan = hurtPlan{k.kind, trainerAt}
		a.f.history.Add(event)
	default:
		a.hurtShard(ctx, k.kind, event)
	}
	for i, s := range specs {
		if i > 0 { // the run that nothing happens to
			plan, expect.Outcomes = hurtPlan{}, []string{check.OutcomeSucceeded}
		}
		if err := a.train(ctx, s, plan, expect); err != nil {
			return err
		}
	}
	for end := time.Now().Add(trainerLimit); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		if !slices.ContainsFunc(specs, func(s *schemas.RunSpec) bool { return a.w.follows(s) }) {
			return nil
		}
	}
	return errNotReached // the history is judged at the end nevertheless
}

// train hands a run to the fleet whose train stage is the product's.
func (a *act) train(ctx context.Context, s *schemas.RunSpec, p hurtPlan, expect check.Expect) error {
	raw, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("cannot encode what to do to a run: %w", err)
	}
	if err := os.WriteFile(hurtFile(a.f.dir, s.ID), raw, 0o600); err != nil {
		return fmt.Errorf("cannot say what to do to a run: %w", err)
	}
	a.f.history.Add(check.Event{Kind: check.KindExpect, Tenant: s.Tenant, Run: s.ID, Expect: &expect})
	if !a.w.hand(ctx, s) {
		return errors.Join(ctx.Err(), errNotReached)
	}
	a.w.follow1(s)
	return nil
}

// hurtShard waits for the shard of the run's first part, and damages it in the store or on the way to who reads it first.
func (a *act) hurtShard(ctx context.Context, kind string, event check.Event) {
	key := schemas.ResultKey(event.Tenant, event.Run, "prep", 0)
	a.f.arm(true, func(q *faultproxy.Request) bool { return q.Method == http.MethodPut && q.Key == key && q.Status < 300 }, func(q *faultproxy.Request) error {
		var r schemas.StageResult
		if err := json.Unmarshal(q.Body, &r); err != nil || len(r.Objects) == 0 {
			return nil //nolint:nilerr // the checker misses the event
		}
		event.Key = r.Objects[0].Key
		if kind == check.TrainerRead {
			var once atomic.Bool
			a.f.s3.Set(faultproxy.S3Fault{Flip: func(q *faultproxy.Request) bool {
				if q.Key != event.Key || !once.CompareAndSwap(false, true) {
					return false
				}
				a.f.history.Add(event)
				return true
			}})
			return nil
		}
		data, _, err := a.f.direct.Objects.Get(ctx, event.Key, maxObject)
		if err != nil || len(data) == 0 {
			return nil //nolint:nilerr // as above
		}
		data[len(data)/2] ^= 1
		if _, err := a.f.direct.Objects.Put(ctx, event.Key, data, store.Condition{}); err == nil {
			a.f.history.Add(event)
		}
		return nil
	})
}

// realRun prepares a run of the small real model with data of its own.
func (f *fleet) realRun(ctx context.Context, key string, seed uint64, skip bool) (*schemas.RunSpec, error) {
	dir := filepath.Join(f.dir, fmt.Sprintf("%s-%d", key, seed))
	file, err := trainProject(dir, seed, trainerSteps, 0)
	if err != nil {
		return nil, err
	}
	if skip {
		raw, err := os.ReadFile(file)
		if err == nil {
			err = os.WriteFile(file, append(raw, "      features: {on_anomaly: skip}\n"...), 0o600) // the train stage's last lines
		}
		if err != nil {
			return nil, fmt.Errorf("cannot write the run: %w", err)
		}
	}
	resolved, err := config.Load(ctx, file, config.Options{})
	if err != nil {
		return nil, err
	}
	spec := *resolved.Spec
	spec.Key = fmt.Sprintf("%s-%d", key, seed)
	spec.ID = schemas.RunID(spec.Tenant, spec.Key)
	for _, in := range resolved.Inputs {
		data, err := os.ReadFile(in.Local)
		if err != nil {
			return nil, fmt.Errorf("cannot read an input: %w", err)
		}
		if _, err := f.direct.Objects.Put(ctx, schemas.InputKey(spec.Tenant, in.File.SHA256), data, store.Condition{}); err != nil {
			return nil, err
		}
	}
	return &spec, nil
}

// follow1 adds a run to those that are followed to their end.
func (w *workload) follow1(s *schemas.RunSpec) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.live[s.Tenant+"/"+s.ID] = &liveRun{spec: s}
}

// follows reports whether a run that was followed has not ended.
func (w *workload) follows(s *schemas.RunSpec) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.live[s.Tenant+"/"+s.ID] != nil
}
