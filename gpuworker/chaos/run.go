package chaos

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/schemas"
)

// Options say what to break for how long.
type Options struct {
	// Seed decides everything that is drawn: the order of the rows, their targets and durations, the runs.
	Seed uint64
	// Duration is the time of the faults; draining and judging come on top (default 3 minutes).
	Duration time.Duration
	// Rows restricts the rows of the matrix (empty: all that can be run).
	Rows []int
	// Store, Broker and Lease choose the servers (see the Store, Broker and Lease constants); "" goes through those that are there.
	Store, Broker, Lease string
	// Workers is the number of workers (default 4).
	Workers int
	// Out is a folder for histories, logs of failed episodes and the picture.
	Out string
	// Command starts a process of this program that calls RunProcess when EnvRole is set; Env is added to its environment.
	Command []string
	Env     []string
	// Older starts a process of an earlier build of this program, for row 27; empty leaves the row out.
	Older []string
	// Train is how long a small real model is trained under faults, after the episodes (0: not at all), Every the time between two faults
	// (default 2 minutes), TrainFaults which: see the TrainFaults constants (default all of them in turn).
	Train       time.Duration
	Every       time.Duration
	TrainFaults string
	// Patience is how long the runs may take to end after the last fault before they are judged as they are (default 4 minutes).
	Patience time.Duration
	// Say tells people how it goes; may be nil.
	Say func(format string, args ...any)
	Log *slog.Logger
}

// WithDefaults fills what is unset.
func (o Options) WithDefaults() Options {
	if o.Duration == 0 && o.Train == 0 {
		o.Duration = 3 * time.Minute
	}
	if o.Workers == 0 {
		o.Workers = 4
	}
	if o.TrainFaults == "" {
		o.TrainFaults = FaultsAll
	}
	if o.Every == 0 {
		o.Every = 2 * time.Minute
	}
	if o.Patience == 0 {
		o.Patience = 4 * time.Minute
	}
	if o.Say == nil {
		o.Say = func(string, ...any) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports every problem.
func (o Options) Validate() error {
	var errs []error
	rows := Rows()
	for _, r := range o.Rows {
		switch i := slices.IndexFunc(rows, func(x Row) bool { return x.Number == r }); {
		case i < 0:
			errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--rows", "there is no row %d; they are 1 to %d", r, len(rows)))
		case r == 27 && len(o.Older) == 0:
			errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--rows", "row 27 cannot be run").WithHint(needOlder))
		case rows[i].Skip != "":
			errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--rows", "row %d cannot be run: %s", r, rows[i].Skip))
		}
	}
	one := func(flag, v string, of ...string) {
		if v != "" && !slices.Contains(of, v) {
			errs = append(errs, schemas.Errorf(schemas.CodeUsage, flag, "%q is none of %s", v, strings.Join(of, ", ")))
		}
	}
	one("--store", o.Store, StoreVersity, StoreMinIO)
	one("--broker", o.Broker, BrokerSingle, BrokerCluster)
	one("--train-faults", o.TrainFaults, FaultsAll, FaultsKill, FaultsNotice, FaultsServers)
	one("--lease", o.Lease, LeaseRedis, LeaseEmbedded)
	if o.Store == StoreMinIO && findBinary("minio") == "" {
		errs = append(errs, schemas.Errorf(schemas.CodeNotFound, "--store", "no minio in PATH").WithHint("go tool task minio builds one"))
	}
	if o.Lease == LeaseRedis && findBinary("redis-server") == "" {
		errs = append(errs, schemas.Errorf(schemas.CodeNotFound, "--lease", "no redis-server in PATH"))
	}
	if o.Train > 0 && (o.Train < time.Minute || o.Every < 10*time.Second) {
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--train-minutes", "training takes at least a minute, with 10 s between two faults"))
	}
	if o.Duration < 10*time.Second && (o.Duration > 0 || o.Train == 0) {
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--minutes", "%s is too short for a fault and its end", o.Duration))
	}
	if o.Workers < 2 || o.Workers > 16 {
		errs = append(errs, schemas.Errorf(schemas.CodeUsage, "--workers", "%d workers: 2 to 16 are supported", o.Workers))
	}
	if len(o.Command) == 0 {
		errs = append(errs, errors.New("no command that starts the processes"))
	}
	return errors.Join(errs...)
}

// Outcome is what became of one execution of a row.
type Outcome struct {
	Row    int    `json:"row"`
	What   string `json:"what"`
	Target string `json:"target,omitempty"`
	// At and Took are seconds of the episode.
	At   float64 `json:"at"`
	Took float64 `json:"took"`
	// Result is "done", "not reached" (the moment did not come) or "failed" (what the row itself demands did not hold).
	Result string `json:"result"`
	Error  string `json:"error,omitempty"`
}

// Episode is one fleet's life under faults.
type Episode struct {
	Shape    Shape         `json:"shape"`
	Broker   string        `json:"broker_version"`
	Outcomes []Outcome     `json:"outcomes"`
	Report   *check.Report `json:"report"`
	// Seconds of faults, and of draining after them.
	Faults float64 `json:"faults_s"`
	Drain  float64 `json:"drain_s"`
	// History is the name of the file with the events, in Options.Out.
	History string `json:"history,omitempty"`
	Events  int    `json:"events"`
	Lost    Losses `json:"lost_steps"`
	Folder  string `json:"-"`
}

// OK reports whether the invariants held and every row that was run did what it demands.
func (e *Episode) OK() bool {
	return e.Report.OK() && !slices.ContainsFunc(e.Outcomes, func(o Outcome) bool { return o.Result == "failed" })
}

// Run runs the suite.
func Run(ctx context.Context, o Options) (*Result, error) {
	o = o.WithDefaults()
	if err := o.Validate(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(o.Out, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the output folder: %w", err)
	}
	redis.SetLogger(silent{}) // that a lease server is away is what is wanted here
	res := &Result{Seed: o.Seed, Minutes: o.Duration.Minutes(), Started: time.Now().UTC(), Machine: machine(), Older: len(o.Older) > 0}
	for i, p := range o.plan() {
		if p.d == 0 {
			break // training only
		}
		o.Say("episode %d: %s, %s of faults", i+1, p.shape, p.d.Round(time.Second))
		e, err := o.episode(ctx, i, p)
		if err != nil {
			return nil, err
		}
		res.Episodes = append(res.Episodes, e)
	}
	if o.Train > 0 {
		var err error
		if res.Training, err = o.train(ctx); err != nil {
			return nil, err
		}
	}
	res.Load = load()
	res.finish()
	return res, nil
}

// silent takes the place of the Redis client's logger.
type silent struct{}

// Printf drops what it is given.
func (silent) Printf(context.Context, string, ...any) {}

// planned is an episode to come.
type planned struct {
	shape Shape
	d     time.Duration
}

// toyTTL is the life of leases in fast episodes: short, but a loaded machine must not make leases lapse by itself all the time.
const toyTTL = 2 * time.Second

// plan divides the time among fleets.
func (o Options) plan() []planned {
	lease := o.Lease
	if lease == "" {
		lease = LeaseEmbedded
		if findBinary("redis-server") != "" {
			lease = LeaseRedis
		}
	}
	shape := func(store, broker string) Shape {
		if o.Store != "" {
			store = o.Store
		}
		if o.Broker != "" {
			broker = o.Broker
		}
		if store == StoreMinIO && findBinary("minio") == "" {
			store = StoreVersity
		}
		return Shape{Store: store, Broker: broker, Lease: lease, Workers: o.Workers, Controls: 2, TTL: toyTTL}
	}
	a, b := shape(StoreVersity, BrokerSingle), shape(StoreMinIO, BrokerCluster)
	if a == b || o.Duration < time.Minute {
		return []planned{{a, o.Duration}}
	}
	return []planned{{a, o.Duration * 6 / 10}, {b, o.Duration * 4 / 10}}
}

// rows are those of the matrix that an episode runs.
func (o Options) rows(s Shape) []Row {
	return slices.DeleteFunc(Rows(), func(r Row) bool {
		return r.Skip != "" || r.Number == 27 && len(o.Older) == 0 || len(o.Rows) > 0 && !slices.Contains(o.Rows, r.Number) || r.Number == 13 && s.Broker != BrokerCluster
	})
}

// drainBound is what I12 allows for all runs to end after the last fault.
const drainBound = 3 * time.Minute

func (o Options) episode(ctx context.Context, n int, p planned) (_ *Episode, err error) {
	dir, err := os.MkdirTemp("", "tunefleet-chaos-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a folder for the fleet: %w", err)
	}
	e := &Episode{Shape: p.shape, Folder: dir}
	file := filepath.Join(o.Out, fmt.Sprintf("history-%d.jsonl", n+1))
	out, err := os.Create(file)
	if err != nil {
		return nil, fmt.Errorf("cannot write the history: %w", err)
	}
	defer out.Close()
	history := check.NewHistory(out)
	defer func() { _ = history.Flush() }() // also of what was interrupted; judging flushes with the error
	f, err := startFleet(ctx, dir, p.shape, o.Command, o.Env, history, o.Log)
	if err != nil {
		return nil, fmt.Errorf("cannot start the fleet (logs are in %s): %w", dir, err)
	}
	defer f.close()
	e.Broker = f.brokerVersion(ctx)
	f.older, f.openFor = o.Older, max(openLeast, min(openMost, p.d/8))
	w := newWorkload(f, o.Seed+uint64(n)<<32, o.Workers) //nolint:gosec // n is small
	wctx, stop := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.run(wctx)
	}()
	defer func() { stop(); <-ended }()
	began := time.Now()
	if err := o.faults(ctx, n, p, f, w, e); err != nil {
		return nil, err
	}
	if err := f.heal(); err != nil {
		return nil, err
	}
	e.Faults = time.Since(began).Seconds()
	w.pauseSubmit(true)
	history.Add(check.Event{Kind: check.KindQuiet})
	began = time.Now()
	w.drained(ctx, o.Patience)
	history.Add(check.Event{Kind: check.KindDrained})
	e.Drain = time.Since(began).Seconds()
	stop()
	<-ended
	return e, o.judge(ctx, f, w, e, file)
}

// judge ends the fleet and judges its life.
func (o Options) judge(ctx context.Context, f *fleet, w *workload, e *Episode, file string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	f.leakedFiles()
	objects, err := f.snapshot(ctx)
	if err != nil {
		return err
	}
	f.leakedProcesses()
	if err := f.history.Flush(); err != nil {
		return err
	}
	f.leakedSecrets(file, objects)
	if err := f.history.Flush(); err != nil {
		return err
	}
	events := f.history.Events()
	e.History, e.Events = filepath.Base(file), len(events)
	e.Report = check.Check(events, objects, check.Limits{Drain: drainBound.Seconds()})
	if w.problem != nil {
		e.Report.Violations = append(e.Report.Violations, check.Violation{Invariant: "I1", Subject: "client", Text: w.problem.Error()})
	}
	e.Lost = lostSteps(events, objects)
	if e.OK() {
		return os.RemoveAll(f.dir)
	}
	o.Say("something did not hold: the logs of this fleet stay in %s", f.dir)
	return nil
}

// faults runs rows in rounds, each round in another order, and in the last third of the time a storm of kills.
func (o Options) faults(ctx context.Context, n int, p planned, f *fleet, w *workload, e *Episode) error {
	rows := o.rows(p.shape)
	if len(rows) == 0 {
		return schemas.Errorf(schemas.CodeUsage, "--rows", "none of these rows can be run with %s", p.shape)
	}
	r := rand.New(rand.NewPCG(o.Seed, uint64(n))) //nolint:gosec // the schedule must be repeatable
	began := time.Now()
	storm := slices.IndexFunc(rows, func(r Row) bool { return r.Number == 28 })
	rowsUntil := began.Add(p.d)
	if storm >= 0 && len(rows) > 1 {
		rowsUntil = began.Add(p.d * 2 / 3)
	}
	var round []Row
	for i := 0; time.Now().Before(rowsUntil) && ctx.Err() == nil; i++ {
		if len(round) == 0 {
			round = slices.Clone(rows)
			r.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		row := round[0]
		round = round[1:]
		if err := o.act(ctx, n, i, row, f, w, e, row.run); err != nil {
			return err
		}
	}
	if rest := time.Until(began.Add(p.d)); storm >= 0 && rest > time.Second {
		return o.act(ctx, n, 1<<20, rows[storm], f, w, e, func(ctx context.Context, a *act) error {
			a.begin(28, "fleet", "a storm of kill -9")
			return a.storm(ctx, rest)
		})
	}
	return ctx.Err()
}

// act executes a row once, heals, and lets the fleet get on.
func (o Options) act(ctx context.Context, n, i int, row Row, f *fleet, w *workload, e *Episode, run func(context.Context, *act) error) error {
	a := &act{f: f, w: w, rng: rand.New(rand.NewPCG(o.Seed^uint64(n+1)<<40, uint64(i)<<8|uint64(row.Number)))} //nolint:gosec // as above
	out := Outcome{Row: row.Number, Result: "done", At: f.history.Seconds(time.Now())}
	err := run(ctx, a)
	f.history.Add(check.Event{Kind: check.KindHeal, Row: row.Number, Proc: a.target})
	if herr := f.heal(); herr != nil {
		return herr
	}
	out.What, out.Target, out.Took = a.what, a.target, f.history.Seconds(time.Now())-out.At
	switch {
	case errors.Is(err, errNotReached):
		out.Result = "not reached"
	case err != nil && ctx.Err() == nil:
		out.Result, out.Error = "failed", err.Error()
	}
	e.Outcomes = append(e.Outcomes, out)
	text := fmt.Sprintf("%7.1f s  row %2d  %-11s  %s", out.At, row.Number, out.Result, strings.TrimSpace(out.Target+": "+out.What))
	if out.Error != "" {
		text += ": " + out.Error
	}
	o.Say("%s", text)
	before := f.swaps.Load()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end) && ctx.Err() == nil && f.swaps.Load() < before+2; pause(ctx, 50*time.Millisecond) {
	}
	return ctx.Err()
}

// ParseRows reads a list such as "1,3,10-13".
func ParseRows(s string) ([]int, error) {
	var out []int
	for part := range strings.SplitSeq(s, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		low, high, isRange := strings.Cut(part, "-")
		a, err := strconv.Atoi(low)
		b := a
		if err == nil && isRange {
			b, err = strconv.Atoi(high)
		}
		if err != nil || b < a || b-a > 100 {
			return nil, schemas.Errorf(schemas.CodeUsage, "--rows", "%q is neither a row nor a range of rows", part).WithHint("for example --rows 1,3,10-13")
		}
		for n := a; n <= b; n++ {
			out = append(out, n)
		}
	}
	return out, nil
}
