package control

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Config configures a control replica.
type Config struct {
	// Name identifies this incarnation in ledgers (default: host, pid and a ULID; never reuse one).
	Name string
	// Pools are scheduled from the start; pools of open runs are found by themselves (default "cpu").
	Pools []string
	// Interval is the pause between two looks at a pool (default 300 ms).
	Interval time.Duration
	// LedgerTTL is how long an ownership lasts without renewal (default 6 s).
	LedgerTTL time.Duration
	// EnsureEvery is how often streams and consumers are checked (default 10 s).
	EnsureEvery time.Duration
	// PruneEvery is the least time between two prunings of a training run's checkpoints (default 1 minute).
	PruneEvery time.Duration
	// SweepEvery is how often every HEAD is read (default 10 minutes).
	SweepEvery time.Duration
	Limits     Limits
	Logger     *slog.Logger
}

// WithDefaults fills what is unset.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "control"
		}
		c.Name = fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(ulid.Make().String()))
	}
	if len(c.Pools) == 0 {
		c.Pools = []string{"cpu"}
	}
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&c.Interval, 300*time.Millisecond)
	def(&c.LedgerTTL, 6*time.Second)
	def(&c.EnsureEvery, 10*time.Second)
	def(&c.SweepEvery, 10*time.Minute)
	def(&c.PruneEvery, time.Minute)
	c.Limits = c.Limits.WithDefaults()
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.Pools {
		if !schemas.ValidName(p) {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "pools", "%q is not a name", p))
		}
	}
	if c.Interval > c.LedgerTTL/3 {
		errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "interval", "%s is over a third of the ledger's TTL %s", c.Interval, c.LedgerTTL))
	}
	return errors.Join(errs...)
}

// Queue is the part of the work queue that control uses.
type Queue interface {
	queue.Work
	queue.Admin
}

// Control is one replica: it schedules the pools whose ledgers it owns and stands by for the others.
type Control struct {
	objects store.Objects // its GETs are counted by pace
	heads   *checkpoint.Heads
	pace    *pacer
	paced   *checkpoint.Heads // for readers that asked pace before
	work    Queue
	leases  lease.Store
	cfg     Config
	log     *slog.Logger
	start   time.Time

	// ensure asks for a check of the streams, look for a search for new pools.
	ensure chan struct{}
	look   chan struct{}

	mu    sync.Mutex
	pools map[string]*runner

	gauges  gauges
	endings metric.Int64Counter
	runTime metric.Float64Counter
	goodput metric.Float64Histogram
}

// runner is the goroutine of one pool.
type runner struct {
	poke    chan struct{}
	workers int
	started bool
}

type gauges struct{ queued, running, workers, demanded metric.Int64Gauge }

// New makes a replica; Run starts it.
func New(objects store.Objects, work Queue, leases lease.Store, cfg Config) (*Control, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot configure control: %w", err)
	}
	c := &Control{work: work, leases: leases, cfg: cfg,
		log: cfg.Logger, start: time.Now(), ensure: make(chan struct{}, 1), look: make(chan struct{}, 1), pools: map[string]*runner{},
	}
	c.pace = &pacer{clock: c.clock}
	c.objects, c.paced = &counted{Objects: objects, pace: c.pace}, checkpoint.NewHeads(objects, checkpoint.Config{Budget: cfg.LedgerTTL})
	c.heads = checkpoint.NewHeads(c.objects, checkpoint.Config{Budget: cfg.LedgerTTL})
	meter := telemetry.Meter()
	var errs [7]error
	c.gauges.queued, errs[0] = meter.Int64Gauge(telemetry.MetricQueued, metric.WithDescription("Runs that wait for their first transition."))
	c.gauges.running, errs[1] = meter.Int64Gauge(telemetry.MetricRuns, metric.WithDescription("Runs in state running."))
	c.gauges.workers, errs[2] = meter.Int64Gauge(telemetry.MetricWorkers, metric.WithDescription("Live workers that are not draining."))
	c.gauges.demanded, errs[3] = meter.Int64Gauge(telemetry.MetricDemanded, metric.WithDescription("Workers that the pool could use now: the autoscaling signal."))
	c.endings, errs[4] = meter.Int64Counter(telemetry.MetricRunsEnded, metric.WithDescription("Runs that ended, by state."))
	c.runTime, errs[5] = meter.Float64Counter(telemetry.MetricRunTime, metric.WithUnit("s"),
		metric.WithDescription("Wall time of ended runs by what it went to; the causes of a run add up to its wall time."))
	c.goodput, errs[6] = meter.Float64Histogram(telemetry.MetricGoodput, metric.WithUnit("1"), metric.WithDescription("Share of useful work in the wall time of ended runs."),
		metric.WithExplicitBucketBoundaries(0.1, 0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("cannot create control's instruments: %w", err)
	}
	return c, nil
}

// clock is the monotonic time since the start of this replica.
func (c *Control) clock() time.Duration { return time.Since(c.start) }

// Run schedules until ctx ends, then gives its ledgers up. It returns nil when it was asked to stop.
func (c *Control) Run(ctx context.Context) error {
	c.log.Info("control started", "name", c.cfg.Name, "pools", c.cfg.Pools)
	var wg sync.WaitGroup
	defer wg.Wait()
	add := func(names []string) (fresh bool) {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, n := range names {
			r := c.pools[n]
			if r == nil {
				r = &runner{poke: make(chan struct{}, 1)}
			}
			if r.started || !schemas.ValidName(n) {
				continue
			}
			r.started = true
			c.pools[n] = r
			fresh = true
			wg.Go(func() { c.runPool(ctx, n, r) })
		}
		return fresh
	}
	c.ensureStreams(ctx, c.cfg.Pools)
	add(c.cfg.Pools)
	stop := c.listen(ctx)
	defer func() { stop() }()
	tick := time.NewTicker(c.cfg.EnsureEvery)
	defer tick.Stop()
	ensure := true
	for {
		before := c.clock()
		names, err := c.discover(ctx)
		if err != nil && ctx.Err() == nil {
			c.log.Warn("cannot look for pools", "error", err)
		}
		if fresh := add(names); fresh || ensure {
			c.ensureStreams(ctx, names)
		}
		// A rest bounds the load by pokes and by a broker that is away.
		rest := max(min(time.Second, c.cfg.EnsureEvery), 20*(c.clock()-before))
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(min(rest, c.cfg.EnsureEvery)):
		}
		ensure = true
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.ensure:
		case <-c.look:
			ensure = false
		}
	}
}

// listen forwards pokes to every pool; a subscription that fails is no loss but of time.
func (c *Control) listen(ctx context.Context) func() {
	stop, err := c.work.Poked("*", "*", func() {
		select {
		case c.look <- struct{}{}:
		default:
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, r := range c.pools {
			select {
			case r.poke <- struct{}{}:
			default:
			}
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			c.log.Warn("cannot listen for pokes; changes are found by looking", "error", err)
		}
		return func() {}
	}
	return stop
}

// ensureSoon asks for streams and consumers to be checked now.
func (c *Control) ensureSoon() {
	select {
	case c.ensure <- struct{}{}:
	default:
	}
}

func (c *Control) ensureStreams(ctx context.Context, names []string) {
	pools := map[string]int{}
	c.mu.Lock()
	for n, r := range c.pools {
		pools[n] = r.workers
	}
	c.mu.Unlock()
	for _, n := range names {
		pools[n] = max(pools[n], 0)
	}
	if err := c.work.Ensure(ctx, pools); err != nil && ctx.Err() == nil {
		c.log.Warn("cannot ensure streams and consumers", "error", err)
	}
}

// discover lists the pools named by the configuration and by open runs (their own and their aux pools).
func (c *Control) discover(ctx context.Context) ([]string, error) {
	names := map[string]bool{}
	for _, n := range c.cfg.Pools {
		names[n] = true
	}
	c.mu.Lock()
	for n := range c.pools {
		names[n] = true
	}
	c.mu.Unlock()
	for info, err := range c.objects.List(ctx, "open/") {
		if err != nil {
			return keys(names), fmt.Errorf("cannot list open runs: %w", err)
		}
		if n, _, ok := strings.Cut(strings.TrimPrefix(info.Key, "open/"), "/"); ok {
			names[n] = true
		}
	}
	return keys(names), nil
}

func keys(m map[string]bool) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// runPool ticks one pool until ctx ends.
func (c *Control) runPool(ctx context.Context, name string, r *runner) {
	p := newPool(c, name)
	timer := time.NewTimer(0)
	defer timer.Stop()
	failing := ""
	poked, last := false, time.Time{}
	var makeUp time.Time // when to look at what a poke's tick left out; zero: nothing
	for {
		select {
		case <-ctx.Done():
			p.pruning <- struct{}{} // what is being deleted ends with ctx
			rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := p.keeper.release(rctx); err != nil {
				c.log.Info("cannot give up the ledger; it runs out by itself", "pool", name, "error", err)
			}
			return
		case <-timer.C:
		case <-r.poke:
			poked = true
			if rest := c.cfg.Interval/10 - time.Since(last); rest > 0 {
				timer.Reset(rest) // pokes may come in storms
				continue
			}
		}
		if !makeUp.IsZero() && !time.Now().Before(makeUp) {
			poked, makeUp = true, time.Time{}
		}
		again, err := p.tick(ctx, poked)
		if poked && p.missed > 0 && makeUp.IsZero() {
			makeUp = time.Now().Add(p.missed)
		}
		poked, last = false, time.Now()
		if err != nil && ctx.Err() == nil {
			if err.Error() != failing {
				c.log.Warn("pool is not scheduled as it should", "pool", name, "error", err)
			}
			failing = err.Error()
		} else {
			failing = ""
		}
		for n, w := range p.workers {
			c.size(n, w.Live)
		}
		next := c.cfg.Interval
		if p.behind { // as soon as there is something to be read, and no sooner
			next = min(next, max(next/30, c.pace.wait(maxReads/8)))
		}
		if !makeUp.IsZero() {
			next = min(next, max(time.Millisecond, time.Until(makeUp)))
		}
		if again && err == nil {
			next = time.Millisecond
		}
		timer.Reset(next)
	}
}

// size notes how many workers a pool has, for the consumers' bounds, and adds pools that only serve as aux pools.
func (c *Control) size(pool string, workers int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.pools[pool]
	if r == nil {
		r = &runner{poke: make(chan struct{}, 1)}
		c.pools[pool] = r
		c.ensureSoon()
	}
	if workers > r.workers {
		c.ensureSoon()
	}
	r.workers = workers
}

// record publishes a pool's figures as metrics.
func (c *Control) record(ctx context.Context, v schemas.PoolView) {
	at := metric.WithAttributes(attribute.String(telemetry.AttrPool, v.Pool))
	c.gauges.queued.Record(ctx, int64(v.Queued), at)
	c.gauges.running.Record(ctx, int64(v.Running), at)
	c.gauges.workers.Record(ctx, int64(v.Workers), at)
	c.gauges.demanded.Record(ctx, int64(v.WorkersDemanded), at)
}

// ended counts a run that is over, and what its time went to.
func (c *Control) ended(ctx context.Context, v *schemas.RunView) {
	c.endings.Add(ctx, 1, metric.WithAttributes(attribute.String(telemetry.AttrState, string(v.State))))
	if v.Time == nil {
		return
	}
	pool := attribute.String(telemetry.AttrPool, v.Pool)
	for cause, seconds := range v.Time.Seconds {
		c.runTime.Add(ctx, seconds, metric.WithAttributes(pool, attribute.String(telemetry.AttrCause, cause)))
	}
	c.goodput.Record(ctx, v.Time.Goodput, metric.WithAttributes(pool))
}
