package consume

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Agent is the worker process of one host: it pulls messages, holds leases, forms gangs and watches its rank process. It imports no
// kernels: a crash of the arithmetic cannot take it down.
type Agent struct {
	cfg     Config
	work    queue.Work
	leases  lease.Store
	objects store.Objects
	heads   *checkpoint.Heads
	logger  *slog.Logger
	launch  launcher
	metrics *telemetry.WorkerMetrics

	events   *publisher
	busy     atomic.Value // string
	changed  chan struct{}
	draining chan struct{}
	// leaveBy is when the machine goes, with its monotonic reading, so that a wall clock that jumps changes nothing; nil while nobody said so.
	leaveBy atomic.Pointer[time.Time]
	// cordoned is set while the pool's operator wants the worker to take no new work.
	cordoned atomic.Bool
	started  time.Time
}

// New makes an agent.
func New(cfg Config, s Services) (*Agent, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, "", "cannot start the worker: %v", err)
	}
	l, err := newProcesses(cfg)
	if err != nil {
		return nil, err
	}
	return newAgent(cfg, s, l)
}

func newAgent(cfg Config, s Services, l launcher) (*Agent, error) {
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	metrics, err := telemetry.NewWorkerMetrics(telemetry.Meter())
	if err != nil {
		return nil, fmt.Errorf("cannot create the worker's instruments: %w", err)
	}
	a := &Agent{cfg: cfg, metrics: metrics, work: s.Work, leases: s.Leases, objects: s.Objects, heads: checkpoint.NewHeads(s.Objects, checkpoint.Config{}),
		logger: s.Logger.With("worker", cfg.Name), launch: l, draining: make(chan struct{}), changed: make(chan struct{}, 1), started: time.Now().UTC()}
	a.busy.Store("")
	return a, nil
}

// Run works until ctx ends, then drains: it pulls no more, brings a held seat to the next commit, gives it back, and returns nil.
func (a *Agent) Run(ctx context.Context) error {
	if err := os.MkdirAll(a.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot create scratch folder: %w", err)
	}
	defer os.RemoveAll(a.cfg.Dir)
	if err := a.probe(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	ctx, leave := context.WithCancel(ctx)
	defer leave()
	noticed := make(chan struct{})
	go func() {
		defer close(noticed)
		a.awaitNotice(ctx, leave)
	}()
	defer func() { leave(); <-noticed }()
	// What is under way outlives ctx by the drain.
	wctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { close(a.draining) })
	defer stop()
	a.events = newPublisher(wctx, a.leases, a.logger)
	registered := make(chan struct{})
	go func() {
		defer close(registered)
		a.register(wctx)
	}()
	a.logger.Info("worker started", "pool", a.cfg.Pool, "incarnation", a.cfg.Incarnation, "devices", a.cfg.Devices)
	a.pullLoop(ctx, wctx)
	cancel()
	<-a.events.done
	<-registered
	a.logger.Info("worker stopped")
	return nil
}

// awaitNotice drains the agent when the machine is to be taken away: as SIGTERM does, but with the time that is left.
func (a *Agent) awaitNotice(ctx context.Context, leave func()) {
	if a.cfg.Notice == nil {
		return
	}
	n, err := a.cfg.Notice.Wait(ctx)
	if err != nil {
		return // asked to stop by other means
	}
	if !n.At.IsZero() {
		a.leaveBy.Store(&n.At)
	}
	a.logger.Warn("this machine will be taken away", "cloud", n.Cloud, "what", n.What, "at", n.At)
	leave()
}

// leaveMargin is kept of the time until the machine goes for giving the seat back.
const leaveMargin = 3 * time.Second

// drainTimeout is how long the gang may take to commit: DrainTimeout, or what the notice leaves.
func (a *Agent) drainTimeout() time.Duration {
	d := a.cfg.DrainTimeout
	if at := a.leaveBy.Load(); at != nil {
		d = min(d, max(0, time.Until(*at)-leaveMargin))
	}
	return d
}

// probe refuses a store without correct conditional writes and waits for one that cannot be reached yet.
func (a *Agent) probe(ctx context.Context) error {
	deadline := time.Now().Add(a.cfg.StartTimeout)
	for told := false; ; told = true {
		err := store.Probe(ctx, a.objects)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to stop, which is no failure
		case errors.Is(err, store.ErrUnsafe):
			return schemas.Errorf(schemas.CodeStoreUnsafe, "", "cannot start the worker: %v", err).
				WithHint("use a store with If-Match and If-None-Match on PUT, see tunefleet doctor")
		case time.Now().After(deadline):
			return schemas.Errorf(schemas.CodeUnavailable, "", "cannot start the worker: %v", err).WithHint("is the object store up and are its keys right?")
		}
		if !told {
			a.logger.Warn("cannot probe the object store, trying on", "error", err)
		}
		pause(ctx, 300*time.Millisecond)
	}
}

func (a *Agent) isDraining() bool {
	select {
	case <-a.draining:
		return true
	default:
		return false
	}
}

// pull takes the next message: of what is there, when look is set, train first; else whatever comes first.
func (a *Agent) pull(ctx context.Context, look bool) (queue.Delivery, error) {
	kinds := []schemas.StageKind{schemas.KindTrain, schemas.KindPrep, schemas.KindEval, schemas.KindExport}
	for i := 0; look && i < len(kinds); i++ {
		if d, err := a.work.Pull(ctx, kinds[i], a.cfg.Pool, 0); !errors.Is(err, queue.ErrEmpty) {
			return d, err
		}
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	if ready, ok := a.launch.(preparer); ok {
		wg.Go(func() { // nothing is to be done: be quick when something is
			if err := ready.prepare(a.logger); err != nil {
				a.logger.Debug("cannot start a rank process in advance", "error", err)
			}
		})
	}
	return a.work.PullAny(ctx, kinds, a.cfg.Pool, a.cfg.PullWait)
}

// pullLoop takes one message at a time; it returns when ctx has ended and the last message is done or given back.
func (a *Agent) pullLoop(ctx, wctx context.Context) {
	failing := false
	left := hints{delay: a.cfg.HintDelay}
	if ready, ok := a.launch.(preparer); ok {
		defer ready.dismiss()
	}
	for look := true; ctx.Err() == nil; {
		if a.cordoned.Load() {
			pause(ctx, a.cfg.LeaseTTL/10)
			continue
		}
		d, err := a.pull(ctx, look)
		look = err == nil // a worker that waits gets what comes
		switch {
		case err == nil:
			failing = false
			if !a.leaveToOthers(ctx, &left, d) {
				a.take(wctx, d)
				a.readCordon(ctx) // what was taken may have been given back because of it
			}
		case errors.Is(err, queue.ErrEmpty):
			failing = false
		case ctx.Err() != nil:
		default:
			if !failing {
				a.logger.Warn("cannot pull work, trying on", "error", err)
			}
			failing = true
			pause(ctx, 500*time.Millisecond)
		}
	}
}

// takePatience is how long a delivery is kept while the object store or the lease server is away: well under queue.AckWait.
const takePatience = 30 * time.Second

// claim reads whether the message is obsolete (then it is acked) and takes its lease. h is nil when there is nothing to be done: what is
// left unacked comes back after AckWait, or is replaced by a higher issue.
func (a *Agent) claim(ctx context.Context, d queue.Delivery, log *slog.Logger) (h *hold, spec *schemas.RunSpec) {
	m := d.Message()
	deadline := time.Now().Add(takePatience)
	for {
		obsolete, err := a.obsolete(ctx, m)
		if err == nil && obsolete {
			log.Debug("message is obsolete")
			a.metrics.Redeliveries.Add(ctx, 1)
			(&hold{delivery: d, logger: log, lost: make(chan struct{})}).ack(ctx)
			return nil, nil
		}
		if err == nil {
			spec, err = a.spec(ctx, m)
		}
		if err == nil {
			h, err = a.acquire(ctx, d)
		}
		switch {
		case err == nil:
			return h, spec
		case errors.Is(err, lease.ErrHeld):
			log.Debug("somebody else works on the message")
			pause(ctx, a.cfg.LeaseTTL/10)
			return nil, nil
		case ctx.Err() != nil, a.isDraining(), time.Now().After(deadline):
			log.Warn("cannot take a message, leaving it", "error", err)
			return nil, nil
		}
		log.Debug("cannot take a message yet", "error", err)
		pause(ctx, a.cfg.FormPoll)
	}
}

// take works on one delivery until it is done, given back or lost.
func (a *Agent) take(ctx context.Context, d queue.Delivery) {
	m := d.Message()
	name := fmt.Sprintf("%s/%s/%s/%d", m.Tenant, m.Run, m.Stage, m.Index())
	log := a.logger.With("run", m.Run, "stage", m.Stage, "index", m.Index(), "issue", m.Issue)
	h, spec := a.claim(ctx, d, log)
	if h == nil {
		return
	}
	var err error
	unfit := false
	a.setBusy(name)
	defer a.setBusy("")
	ctx, span := telemetry.StartProcess(ctx, m, spec.TraceParent, d.Header())
	began := time.Now()
	defer func() {
		h.release(ctx)
		if h.isLost() {
			a.metrics.LeaseLost.Add(ctx, 1)
			err = lease.ErrLost
		}
		a.metrics.ProcessDuration.Record(ctx, time.Since(began).Seconds(), metric.WithAttributes(attribute.String(telemetry.AttrKind, string(m.Kind)),
			attribute.String(telemetry.AttrPool, m.Pool)))
		telemetry.End(span, err)
		if unfit {
			pause(ctx, a.cfg.LeaseTTL) // the seat just given back is for another host first
		}
	}()
	if m.Kind == schemas.KindTrain {
		unfit = !a.holdSeat(ctx, h, d, spec)
	} else {
		err = a.workPart(ctx, h, d, spec)
	}
}

// obsolete reads whether a message may be acked without work.
func (a *Agent) obsolete(ctx context.Context, m schemas.Message) (bool, error) {
	head, err := a.readHead(ctx, m.Tenant, m.Run)
	if err != nil {
		return false, err
	}
	if m.Kind == schemas.KindTrain {
		return !head.WantsSeat(m.Stage, m.Seat, m.Issue), nil
	}
	if !head.WantsPart(m.Stage, m.Part, m.Issue) {
		return true, nil
	}
	for _, key := range []string{schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part), schemas.FailureKey(m.Tenant, m.Run, m.Stage, m.Part, m.Issue)} {
		if _, err := a.objects.Stat(ctx, key); err == nil {
			return true, nil
		} else if !errors.Is(err, store.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// readHead returns nil without an error when the run has no HEAD.
func (a *Agent) readHead(ctx context.Context, tenant, run string) (*schemas.Head, error) {
	rctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	head, _, err := a.heads.Read(rctx, tenant, run)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	return head, err
}

// spec reads the run's spec: the open object, or the copy beside HEAD.
func (a *Agent) spec(ctx context.Context, m schemas.Message) (*schemas.RunSpec, error) {
	data, _, err := a.objects.Get(ctx, m.Spec, schemas.MaxSpecBytes)
	if errors.Is(err, store.ErrNotFound) {
		data, _, err = a.objects.Get(ctx, schemas.SpecKey(m.Tenant, m.Run), schemas.MaxSpecBytes)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read spec %s: %w", m.Spec, err)
	}
	var s schemas.RunSpec
	if err := json.Unmarshal(data, &s); err != nil {
		return nil, fmt.Errorf("cannot decode spec %s: %w", m.Spec, err)
	}
	if s.Tenant != m.Tenant || s.ID != m.Run {
		return nil, fmt.Errorf("spec %s is of run %s/%s, the message of %s/%s", m.Spec, s.Tenant, s.ID, m.Tenant, m.Run)
	}
	if _, err := s.StageOf(m.Stage); err != nil {
		return nil, err
	}
	return &s, nil
}

// startOrder fills a start order and makes its scratch folder; the caller removes it.
func (a *Agent) startOrder(ctx context.Context, d queue.Delivery, spec *schemas.RunSpec) (*startOrder, error) {
	dir, err := os.MkdirTemp(a.cfg.Dir, "rank-")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	return &startOrder{Message: d.Message(), Spec: spec, Worker: a.cfg.Name, Dir: abs, Threads: a.cfg.Threads, Backend: a.cfg.Backend, Bind: a.cfg.Bind,
		Advertise: a.cfg.Advertise, TraceParent: telemetry.TraceParent(ctx)}, nil
}

// poke tells everybody that HEAD of the run changed.
func (a *Agent) poke(ctx context.Context, m schemas.Message) {
	pctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := a.work.Poke(pctx, m.Tenant, m.Run); err != nil {
		a.logger.Debug("poke was lost", "run", m.Run, "error", err)
	}
}

func (a *Agent) event(m schemas.Message, e schemas.Event) {
	e.Tenant, e.Run, e.Stage, e.Worker = m.Tenant, m.Run, m.Stage, a.cfg.Name
	a.events.send(e)
}

// setBusy notes what the worker holds, "" nothing, and has the inventory say so at once: control counts idle workers by it.
func (a *Agent) setBusy(name string) {
	a.busy.Store(name)
	offer(a.changed, struct{}{})
}

// register keeps the inventory record fresh.
func (a *Agent) register(ctx context.Context) {
	host, _ := os.Hostname()
	record := func() lease.Worker {
		var gpus []schemas.GPUView
		if a.cfg.GPUs != nil {
			gpus = a.cfg.GPUs()
		}
		return lease.Worker{GPUs: gpus, Name: a.cfg.Name, Incarnation: a.cfg.Incarnation, Pool: a.cfg.Pool, Host: host, PID: os.Getpid(), Devices: a.cfg.Devices,
			Device: a.cfg.Device, Busy: a.busy.Load().(string), Draining: a.isDraining() || a.cordoned.Load() && a.busy.Load() == "", Started: a.started}
	}
	tick := time.NewTicker(a.cfg.LeaseTTL / 3)
	defer tick.Stop()
	known := true
	for {
		rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := a.leases.Register(rctx, record(), a.cfg.LeaseTTL)
		cancel()
		if err != nil && known && ctx.Err() == nil {
			a.logger.Warn("cannot register in the inventory, trying on", "error", err)
		}
		known = err == nil
		if known {
			a.readCordon(ctx)
		}
		select {
		case <-ctx.Done():
			dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			if err := a.leases.Deregister(dctx, record()); err != nil {
				a.logger.Debug("cannot deregister, the record will lapse", "error", err)
			}
			return
		case <-a.changed:
		case <-tick.C:
		}
	}
}

// readCordon learns from what control shows of the pool whether this worker may take new work.
func (a *Agent) readCordon(ctx context.Context) {
	rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	fields, err := a.leases.GetProgress(rctx, schemas.PoolTenant, a.cfg.Pool)
	if err != nil {
		return // a hint: what was known last holds
	}
	var names []string
	if raw := fields["cordoned"]; raw != "" {
		if err := json.Unmarshal([]byte(raw), &names); err != nil {
			a.logger.Debug("cannot decode the pool's cordon", "error", err)
			return
		}
	}
	if now := slices.Contains(names, a.cfg.Name); a.cordoned.Swap(now) != now {
		a.logger.Info("cordon", "cordoned", now)
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
