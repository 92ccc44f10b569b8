package consume

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// File descriptors of a rank process that carry orders and notices.
const (
	orderFD  = 3
	noticeFD = 4
)

// Opener opens the object store from a rank process (from the environment that Config.RankEnv gave it).
type Opener func(ctx context.Context) (store.Objects, error)

// RunRank is the main function of a rank process: it takes orders from the agent that started it, runs the handler of the message's kind
// once, reports and returns. It ends when the agent is gone.
func RunRank(ctx context.Context, handlers map[schemas.StageKind]Handler, open Opener) error {
	for _, fd := range []int{orderFD, noticeFD} {
		var st syscall.Stat_t
		if err := syscall.Fstat(fd, &st); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFIFO {
			return schemas.Errorf(schemas.CodeUsage, "", "a rank process is started by a worker agent only")
		}
	}
	in, out := os.NewFile(orderFD, "orders"), os.NewFile(noticeFD, "notices")
	defer in.Close()
	defer out.Close()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	return serveRank(ctx, in, out, handlers, open, logger)
}

// rank is the state of one rank process.
type rank struct {
	out      *lines
	handlers map[schemas.StageKind]Handler
	open     Opener
	logger   *slog.Logger
	start    chan *startOrder
	form     chan *formOrder
	control  atomic.Value // schemas.Control
	// leaveBy is when this machine goes, nil while nobody said so.
	leaveBy atomic.Pointer[time.Time]
	stopped atomic.Bool
	phases  throttle
}

func serveRank(ctx context.Context, in io.Reader, out io.Writer, handlers map[schemas.StageKind]Handler, open Opener, logger *slog.Logger) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r := &rank{out: &lines{w: out}, handlers: handlers, open: open, logger: logger, start: make(chan *startOrder, 1), form: make(chan *formOrder, 1)}
	r.control.Store(schemas.ControlNone)
	go func() {
		err := readLines(in, r.obey)
		if err != nil && ctx.Err() == nil && !errors.Is(err, io.ErrClosedPipe) && !errors.Is(err, os.ErrClosed) {
			logger.Error("orders ended", "error", err)
		}
		r.stopped.Store(true)
		cancel() // the agent is gone, or wants no more
	}()
	var start *startOrder
	select {
	case start = <-r.start:
	case <-ctx.Done():
		return ctx.Err()
	}
	done, closeGang := r.work(telemetry.WithTraceParent(ctx, start.TraceParent), start)
	// The agent learns the reason before the other ranks notice that this one leaves.
	err := r.out.write(notice{Done: &done})
	closeGang()
	return err
}

var errStop = errors.New("told to stop")

func (r *rank) obey(o order) error {
	switch {
	case o.Start != nil:
		select {
		case r.start <- o.Start:
		default:
			return errors.New("a rank is started once")
		}
	case o.Form != nil:
		select {
		case r.form <- o.Form:
		default:
			return errors.New("a rank joins one generation only")
		}
	case o.Control != nil:
		if o.Left > 0 {
			at := time.Now().Add(o.Left)
			r.leaveBy.Store(&at)
		}
		r.control.Store(*o.Control)
	case o.Stop:
		return errStop
	}
	return nil
}

// tell sends a notice that nothing depends on: when the agent is gone, the rank ends anyway.
func (r *rank) tell(n notice) {
	if err := r.out.write(n); err != nil {
		r.logger.Debug("notice lost", "error", err)
	}
}

// work runs the handler; closeGang ends the connections to the other ranks and is never nil.
func (r *rank) work(ctx context.Context, o *startOrder) (done doneNotice, closeGang func()) {
	closeGang = func() {}
	handler := r.handlers[o.Message.Kind]
	if handler == nil {
		return classify(schemas.Errorf(schemas.CodeUnsupported, "", "this worker has no handler for stages of kind %q", o.Message.Kind), false), closeGang
	}
	stage, err := o.Spec.StageOf(o.Message.Stage)
	if err != nil {
		return classify(schemas.Errorf(schemas.CodeInvalid, o.Message.Stage, "%v", err), false), closeGang
	}
	objects, err := r.open(ctx)
	if err != nil {
		return classify(fmt.Errorf("cannot open the object store: %w", err), r.stopped.Load()), closeGang
	}
	t := &Task{Message: o.Message, Spec: o.Spec, Stage: stage, Objects: objects, Worker: o.Worker, Dir: o.Dir, Keep: o.Keep, Threads: o.Threads, Backend: o.Backend,
		Logger: r.logger.With("run", o.Message.Run, "stage", o.Message.Stage, "index", o.Message.Index())}
	t.Kill = r.kill
	var generation uint64
	t.Report = func(e schemas.Event) {
		if e.At.IsZero() {
			e.At = time.Now().UTC()
		}
		e.Tenant, e.Run, e.Stage, e.Worker = o.Message.Tenant, o.Message.Run, o.Message.Stage, o.Worker
		if e.Generation == 0 {
			e.Generation = generation
		}
		r.tell(notice{Event: &e})
	}
	t.Phase = func(name string, done, total int64) {
		if r.phases.allow(name, done == total) {
			r.tell(notice{Phase: &phaseNotice{Name: name, Done: done, Total: total}})
		}
	}
	if o.Message.Kind == schemas.KindTrain {
		gang, mesh, err := r.join(ctx, o, objects)
		if err != nil {
			return classify(err, r.stopped.Load()), closeGang
		}
		closeGang = func() { mesh.Close() }
		t.Gang, generation = gang, gang.Generation
	}
	err = r.trace(ctx, handler, t)
	return classify(err, r.stopped.Load()), closeGang
}

// kill ends this process, and with it what hangs in its driver. The agent takes a SIGKILL as the machine's doing and keeps the seat.
func (r *rank) kill(reason string) {
	r.logger.Error("the rank ends itself", "reason", reason)
	if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
		r.logger.Error("cannot kill the rank", "error", err)
	}
	select {}
}

// trace runs the handler in a span: one per part, or, on rank 0, one per segment (from the generation's start or a commit to the next
// commit).
func (r *rank) trace(ctx context.Context, h Handler, t *Task) error {
	attrs := trace.WithAttributes(telemetry.MessageAttributes(t.Message)...)
	if t.Gang == nil {
		sctx, span := telemetry.Tracer().Start(ctx, telemetry.SpanPart, attrs)
		err := r.guard(sctx, h, t)
		telemetry.End(span, err)
		return err
	}
	if t.Gang.Rank != 0 {
		return r.guard(ctx, h, t)
	}
	segment := func() trace.Span {
		_, span := telemetry.Tracer().Start(ctx, telemetry.SpanSegment, attrs, trace.WithAttributes(
			attribute.Int64(telemetry.AttrGeneration, int64(t.Gang.Generation)), attribute.Int(telemetry.AttrRank, t.Gang.Rank)))
		return span
	}
	span := segment()
	commit := t.Gang.Commit
	t.Gang.Commit = func(cctx context.Context, m *schemas.Manifest) error {
		sctx, cspan := telemetry.Tracer().Start(trace.ContextWithSpan(cctx, span), telemetry.SpanCommit, trace.WithAttributes(
			attribute.Int64(telemetry.AttrStep, m.Step), attribute.Int64(telemetry.AttrGeneration, int64(t.Gang.Generation))))
		err := commit(sctx, m)
		telemetry.End(cspan, err)
		span.SetAttributes(attribute.Int64(telemetry.AttrStep, m.Step))
		if err == nil && !m.Final {
			telemetry.End(span, nil)
			span = segment()
		}
		return err
	}
	err := r.guard(ctx, h, t)
	telemetry.End(span, err)
	return err
}

// guard runs the handler and turns a panic into an application error.
func (r *rank) guard(ctx context.Context, h Handler, t *Task) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.logger.Error("handler panicked", "panic", p, "stack", string(debug.Stack()))
			err = schemas.Errorf(schemas.CodeInternal, "", "the %s handler panicked: %v", t.Stage.Kind, p)
		}
	}()
	return h(ctx, t)
}

// listen opens a port on the rank's host, and says where other hosts reach it.
func (o *startOrder) listen(ctx context.Context) (net.Listener, string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", o.Bind)
	if err != nil {
		return nil, "", fmt.Errorf("cannot listen for the other ranks: %w", err)
	}
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("cannot tell the rank's address: %w", err), ln.Close())
	}
	return ln, net.JoinHostPort(o.Advertise, port), nil
}

// join listens, waits for a generation and forms its mesh.
func (r *rank) join(ctx context.Context, o *startOrder, objects store.Objects) (*Gang, *collective.TCP, error) {
	ln, addr, err := o.listen(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer ln.Close()
	if err := r.out.write(notice{Ready: &readyNotice{Addr: addr}}); err != nil {
		return nil, nil, err
	}
	var f *formOrder
	select {
	case f = <-r.form:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	head := f.Head
	addrs := make([]string, len(head.Members))
	for _, m := range head.Members {
		addrs[m.Rank] = m.Addr
	}
	mesh, err := collective.Connect(ctx, ln, collective.Config{Run: head.Tenant + "/" + head.Run + "/" + head.Stage, Generation: head.Generation,
		Rank: f.Rank, Addrs: addrs, Secret: f.Secret, FormTimeout: time.Duration(f.FormTimeout), OpTimeout: time.Duration(f.OpTimeout)})
	if err != nil {
		return nil, nil, err
	}
	if err := r.out.write(notice{Formed: head.Generation}); err != nil {
		mesh.Close()
		return nil, nil, err
	}
	// Commits are made beside training and fenced: a store that is away is waited for.
	heads := checkpoint.NewHeads(objects, checkpoint.Config{Budget: commitPatience})
	return &Gang{
		Generation: head.Generation, Rank: f.Rank, World: len(addrs), Members: head.Members, Collective: mesh, Head: head, Listen: o.listen,
		FormTimeout: time.Duration(f.FormTimeout), OpTimeout: time.Duration(f.OpTimeout),
		Control: func() schemas.Control { return r.control.Load().(schemas.Control) },
		Left: func() time.Duration {
			if at := r.leaveBy.Load(); at != nil {
				return time.Until(*at)
			}
			return 0
		},
		Commit: func(ctx context.Context, m *schemas.Manifest) error {
			m.Tenant, m.Run, m.Stage, m.Generation = head.Tenant, head.Run, head.Stage, head.Generation
			m.World = len(addrs)
			now, err := heads.Commit(ctx, m)
			if err != nil {
				return err
			}
			if now.Manifest != nil {
				r.tell(notice{Committed: now.Manifest})
			}
			return nil
		},
	}, mesh, nil
}

// commitPatience is how long a commit fights for a store that does not answer.
const commitPatience = time.Hour

// meshSecret is the key of a generation's mesh. It follows from what only readers of HEAD know: the members and their incarnations.
func meshSecret(head *schemas.Head) []byte {
	raw, _ := json.Marshal(head.Members) // plain data: it always encodes
	m := hmac.New(sha256.New, raw)
	fmt.Fprintf(m, "%s/%s/%s/%d", head.Tenant, head.Run, head.Stage, head.Generation)
	return m.Sum(nil)
}

// throttle lets through the first line of a phase, its last, and one every 100 ms.
type throttle struct {
	mu   sync.Mutex
	name string
	last time.Time
}

func (t *throttle) allow(name string, complete bool) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if name == t.name && !complete && time.Since(t.last) < 100*time.Millisecond {
		return false
	}
	t.name, t.last = name, time.Now()
	return true
}
