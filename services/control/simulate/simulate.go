package simulate

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// Config of a simulation. The zero value is the day that the project's figures are for.
type Config struct {
	// Workers, Tenants and Runs size the pool (10,000, 1,000 and 100,000).
	Workers, Tenants, Runs int
	// Duration is the simulated time (24 h), Tick its step (1 min).
	Duration, Tick time.Duration
	// Load is the work submitted over the duration as a share of what the workers could do (1.7).
	Load float64
	// Heavy is the share of tenants that submit most of the work at once, at the beginning (0.2); the others submit all day.
	Heavy float64
	// Largest bounds the work of one run, in device-time (30 device-hours): shares cannot be finer than the runs.
	Largest time.Duration
	// Lifetime is the mean time until a worker is taken away (12 h; 0 < Lifetime), Absence how long until its replacement comes (3 min),
	// Notice the share of takings that are announced, so that the gang commits first (0.5).
	Lifetime, Absence time.Duration
	Notice            float64
	// CommitEvery is the interval of checkpoints (5 min).
	CommitEvery time.Duration
	Policy      *schemas.Policy
	Seed        uint64
	// Progress, when not nil, is told the simulated time now and then.
	Progress func(done, total time.Duration)
}

// WithDefaults fills what is unset.
func (c Config) WithDefaults() Config {
	num := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	dur := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	f := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	num(&c.Workers, 10_000)
	num(&c.Tenants, 1_000)
	num(&c.Runs, 100_000)
	dur(&c.Duration, 24*time.Hour)
	dur(&c.Tick, time.Minute)
	dur(&c.Largest, 30*time.Hour)
	dur(&c.Lifetime, 12*time.Hour)
	dur(&c.Absence, 3*time.Minute)
	dur(&c.CommitEvery, 5*time.Minute)
	f(&c.Load, 1.7)
	f(&c.Heavy, 0.2)
	f(&c.Notice, 0.5)
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	bad := func(ok bool, place, format string, args ...any) {
		if !ok {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, place, format, args...))
		}
	}
	bad(c.Workers >= 1 && c.Workers <= 1_000_000, "workers", "%d is not between 1 and 1,000,000", c.Workers)
	bad(c.Tenants >= 1 && c.Tenants <= 100_000, "tenants", "%d is not between 1 and 100,000", c.Tenants)
	bad(c.Runs >= 1 && c.Runs <= 10_000_000, "runs", "%d is not between 1 and 10,000,000", c.Runs)
	bad(c.Tick >= time.Second && c.Duration >= c.Tick, "tick", "%s is under a second or over the duration %s", c.Tick, c.Duration)
	bad(c.Lifetime >= c.Tick && c.Absence >= 0, "lifetime", "%s is under a tick, or the absence %s is negative", c.Lifetime, c.Absence)
	bad(c.Largest > 0, "largest", "%s is not positive", c.Largest)
	bad(c.CommitEvery >= 0 && c.Load > 0, "load", "load and interval of checkpoints must be positive")
	bad(c.Heavy >= 0 && c.Heavy <= 1 && c.Notice >= 0 && c.Notice <= 1, "heavy", "heavy and notice are shares between 0 and 1")
	if c.Policy != nil {
		errs = append(errs, c.Policy.Validate())
	}
	return errors.Join(errs...)
}

const pool = "sim"

// worker is one worker: dead until `back`, else idle, or at a seat of a run.
type worker struct {
	run  *run
	seat schemas.Seat
	back time.Duration
	dead bool
}

// run is one run of the simulation.
type run struct {
	view      control.Run
	submitted time.Duration
	// work is what is left, in device-seconds; done what is committed of it since the last commit.
	work, since float64
	commitAt    time.Duration
	heavy       bool
	// formedAt is when its gang first formed; 0 before.
	formedAt time.Duration
	workers  map[schemas.Seat]int
	known    clockMarks
	ended    bool
}

// clockMarks are the times since which conditions hold, 0 while they do not.
type clockMarks struct {
	forming, asked, steady, growing time.Duration
	generation                      uint64
}

// world is the state of a simulation.
type world struct {
	cfg     Config
	rng     *rand.Rand
	now     time.Duration
	start   time.Time
	workers []worker
	idle    []int
	dead    []int
	ledger  schemas.Ledger
	// arrivals are the runs not yet submitted, in order; lines the queued ones by priority and tenant; active those with a HEAD.
	arrivals []*run
	lines    [4]map[string][]*run
	queued   int
	active   []*run
	byID     map[string]*run
	limits   control.Limits
	idleFor  time.Duration

	reserved   string
	reservedAt time.Duration
	stats      stats
	// runs is the memory of the views' runs.
	runs []control.Run
}

// Run simulates and reports. The same configuration gives the same report.
func Run(ctx context.Context, cfg Config) (*Report, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot simulate: %w", err)
	}
	w := newWorld(cfg)
	began := time.Now()
	for w.now < cfg.Duration {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		w.now += cfg.Tick
		w.submit()
		w.takeAway()
		w.train()
		if err := w.schedule(); err != nil {
			return nil, err
		}
		w.measure()
		if cfg.Progress != nil && w.now%(10*cfg.Tick) < cfg.Tick {
			cfg.Progress(w.now, cfg.Duration)
		}
	}
	return w.report(time.Since(began)), nil
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, rng: rand.New(rand.NewPCG(cfg.Seed, 0x7461_6c65)), start: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC), workers: make([]worker, cfg.Workers),
		byID: map[string]*run{}, limits: control.Limits{}.WithDefaults()}
	w.ledger = schemas.Ledger{Version: 1, Pool: pool, Usage: map[string]float64{}, Spent: map[string]float64{}}
	for i := range w.workers {
		w.idle = append(w.idle, i)
	}
	for i := range w.lines {
		w.lines[i] = map[string][]*run{}
	}
	w.generate()
	w.stats.init(cfg)
	return w
}

// submit puts runs in line whose time has come.
func (w *world) submit() {
	for len(w.arrivals) > 0 && w.arrivals[0].submitted <= w.now {
		r := w.arrivals[0]
		w.arrivals = w.arrivals[1:]
		s := r.view.Spec
		w.lines[s.Priority][s.Tenant] = append(w.lines[s.Priority][s.Tenant], r)
		w.queued++
	}
}

// takeAway kills workers and brings replacements.
func (w *world) takeAway() {
	alive := len(w.workers) - len(w.dead)
	expect := float64(alive) * w.cfg.Tick.Seconds() / w.cfg.Lifetime.Seconds()
	n := int(expect)
	if w.rng.Float64() < expect-float64(n) {
		n++
	}
	for range n {
		i := w.rng.IntN(len(w.workers))
		x := &w.workers[i]
		if x.dead {
			continue
		}
		w.stats.taken++
		if r := x.run; r != nil {
			w.lose(r, x.seat, w.rng.Float64() < w.cfg.Notice)
		}
		*x = worker{dead: true, back: w.now + w.cfg.Absence}
		w.dead = append(w.dead, i)
	}
	left := w.dead[:0]
	for _, i := range w.dead {
		if w.workers[i].back > w.now {
			left = append(left, i)
			continue
		}
		w.workers[i] = worker{}
		w.idle = append(w.idle, i)
	}
	w.dead = left
	w.idle = compactIdle(w.idle, w.workers)
}

// compactIdle drops workers that died idle.
func compactIdle(idle []int, workers []worker) []int {
	out := idle[:0]
	for _, i := range idle {
		if !workers[i].dead {
			out = append(out, i)
		}
	}
	return out
}

// lose takes a seat's holder away. Announced, the gang commits first; otherwise what it did since its last commit is lost.
func (w *world) lose(r *run, s schemas.Seat, announced bool) {
	h := r.view.Head
	k := control.ClaimKey{Stage: h.Stage, Index: s.Seat, Issue: s.Issue}
	c := r.view.Claims[k]
	c.Holder, c.Seen, c.Ever = nil, w.now, true
	r.view.Claims[k] = c
	delete(r.workers, s)
	for _, m := range h.Members {
		if m.Seat != s.Seat || m.Issue != s.Issue {
			continue
		}
		if !announced {
			w.stats.lost += r.since
			r.work += r.since
		}
		r.since = 0
		w.endGeneration(r, schemas.CauseInfrastructure)
		return
	}
}

// endGeneration records the end of the run's generation, as the agents of its members do.
func (w *world) endGeneration(r *run, cause schemas.Cause) {
	h := r.view.Head
	h.Rev++
	if n := len(h.Ended); n > 0 && h.Ended[n-1].Step == h.Step {
		h.Step++ // simulated gangs always progress between two ends: budgets are not what is simulated
	}
	h.Ended = append(h.Ended[max(0, len(h.Ended)-8):], schemas.GenerationEnd{Generation: h.Generation, Cause: cause, Step: h.Step})
	h.Members = nil
}

// train lets every complete gang work for a tick, commit, end or yield.
func (w *world) train() {
	dt := w.cfg.Tick.Seconds()
	for _, r := range w.active {
		h := r.view.Head
		n := len(h.Members)
		if n == 0 || h.State.Terminal() {
			continue
		}
		did := min(dt*float64(n), r.work)
		r.work -= did
		r.since += did
		w.stats.did(r, did)
		done := r.work <= 0
		if done || h.Control != schemas.ControlNone || w.now >= r.commitAt {
			r.since, r.commitAt = 0, w.now+w.cfg.CommitEvery
			h.Step++
			h.Rev++
			h.Manifest = &schemas.ManifestRef{Stage: h.Stage, Step: h.Step, Generation: h.Generation, Final: done}
		}
		if !done && h.Control != schemas.ControlNone {
			w.endGeneration(r, schemas.CausePreempted)
		}
	}
}
