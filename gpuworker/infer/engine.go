package infer

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// EngineOptions bound an engine; zero values are the defaults.
type EngineOptions struct {
	// Slots is how many answers are made at a time (default 1): the rows of the cache.
	Slots int
	// Queue is how many requests may wait beyond those (default 64).
	Queue int
	// Context is the most tokens of a prompt and its answer (default the model's). Rotary models compute beyond theirs, though not well.
	Context int
	// Piece is how many tokens of a prompt are computed between two steps of the answers under way (default 256).
	Piece int
}

// MostSlots bounds EngineOptions.Slots.
const MostSlots = 256

// BusyError says that as many requests wait as may.
type BusyError struct {
	// Waiting requests, and After which time it is worth trying again.
	Waiting int
	After   time.Duration
}

// Error implements error.
func (e *BusyError) Error() string { return fmt.Sprintf("%d requests are waiting already", e.Waiting) }

// TooLongError says that a prompt leaves no room for an answer.
type TooLongError struct{ Prompt, Context int }

// Error implements error.
func (e *TooLongError) Error() string {
	return fmt.Sprintf("the prompt has %d tokens; prompt and answer have room for %d together", e.Prompt, e.Context)
}

var errClosed = errors.New("the engine is closed")

// Engine answers requests in the order in which they come, as many at a time as it has slots. It is safe for concurrent use; the model is its
// own until Close.
type Engine struct {
	model   *Model
	context int
	piece   int
	queue   int
	limit   int // zoo.Info.LengthLimit

	ctx   context.Context
	stop  context.CancelFunc
	wake  chan struct{}
	ended chan struct{}

	mu      sync.Mutex
	waiting []*Answer
	running int
	closed  bool
	// took is a running mean of how long an answer holds its slot.
	took time.Duration

	// The engine's goroutine alone:
	slots []*slot
	clock uint64
	cache *zoo.Cache
}

// NewEngine starts an engine over a model; Close stops it.
func NewEngine(m *Model, o EngineOptions) (*Engine, error) {
	if m.Rewards() {
		return nil, schemas.Errorf(schemas.CodeUnsupported, "model", "a reward model scores texts and answers none")
	}
	for _, d := range []struct {
		v        *int
		name     string
		def, top int
	}{{&o.Slots, "slots", 1, MostSlots}, {&o.Queue, "queue", 64, 1 << 20}, {&o.Context, "context", m.Context, 1 << 20}, {&o.Piece, "piece", 256, 1 << 20}} {
		if *d.v == 0 {
			*d.v = d.def
		}
		if *d.v < 1 || *d.v > d.top {
			return nil, schemas.Errorf(schemas.CodeInvalid, d.name, "%d is not between 1 and %d", *d.v, d.top)
		}
	}
	e := &Engine{model: m, context: o.Context, piece: o.Piece, queue: o.Queue, limit: m.loaded.Model.Info().LengthLimit,
		wake: make(chan struct{}, 1), ended: make(chan struct{})}
	e.ctx, e.stop = context.WithCancel(context.Background())
	for i := range o.Slots {
		e.slots = append(e.slots, &slot{row: i})
	}
	go e.loop()
	return e, nil
}

// Context is the most tokens of a prompt and its answer.
func (e *Engine) Context() int { return e.context }

// Model is the engine's model; its template and tokenizer may be used.
func (e *Engine) Model() *Model { return e.model }

// Load is the number of answers under way and of requests that wait.
func (e *Engine) Load() (running, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.running, len(e.waiting)
}

// Submit asks for answers to requests, all or none of them. They end early when ctx does. Errors: *BusyError, *TooLongError, and ErrorInfo for
// requests that make no sense.
func (e *Engine) Submit(ctx context.Context, requests ...Request) ([]*Answer, error) {
	out := make([]*Answer, len(requests))
	for i := range requests {
		r := requests[i]
		if err := e.validate(&r); err != nil {
			return nil, err
		}
		a := &Answer{r: r, most: e.context - len(r.Prompt), changed: make(chan struct{}, 1), asked: time.Now()}
		if r.MaxNewTokens > 0 {
			a.most = min(a.most, r.MaxNewTokens)
		}
		a.ctx, a.cancel = context.WithCancel(ctx)
		out[i] = a
	}
	err := e.enqueue(out)
	if err != nil {
		for _, a := range out {
			a.cancel()
		}
		return nil, err
	}
	for _, a := range out {
		// A caller that leaves while the engine is idle, or while its request waits, is noticed at once.
		context.AfterFunc(a.ctx, e.poke)
	}
	e.poke()
	return out, nil
}

func (e *Engine) enqueue(list []*Answer) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return schemas.Errorf(schemas.CodeUnavailable, "", "%v", errClosed)
	}
	free := max(0, len(e.slots)-e.running)
	if n := len(e.waiting); n+len(list) > e.queue+free {
		after := e.took * time.Duration(n+1) / time.Duration(len(e.slots))
		return &BusyError{Waiting: n, After: min(max(after, time.Second), time.Minute)}
	}
	e.waiting = append(e.waiting, list...)
	return nil
}

func (e *Engine) poke() {
	select {
	case e.wake <- struct{}{}:
	default:
	}
}

// Close ends what is under way and frees the cache. The model stays open.
func (e *Engine) Close() error {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.stop()
	<-e.ended
	// After a failure operations may still be on their way; the error has been reported already.
	_ = e.model.queue.Sync()
	if e.cache != nil {
		e.cache.Close()
		e.cache = nil
	}
	return nil
}

// loop is the engine's goroutine.
func (e *Engine) loop() {
	defer close(e.ended)
	for {
		e.sweep()
		e.admit()
		filling := e.filling()
		if e.ctx.Err() != nil {
			e.failAll(schemas.Errorf(schemas.CodeInterrupted, "", "the server is stopping"))
			return
		}
		if filling != nil {
			e.run([]*slot{filling}, func() error { return e.prefill(filling, e.piece) })
			e.sweep() // an answer of one token has ended
		}
		if active := e.active(); len(active) > 0 {
			e.run(active, func() error { return e.step(active) })
		} else if filling == nil && e.filling() == nil {
			select {
			case <-e.wake:
			case <-e.ctx.Done():
			}
		}
	}
}

// run computes for slots; an error ends their answers and empties their rows.
func (e *Engine) run(slots []*slot, f func() error) {
	err := f()
	if err == nil {
		return
	}
	// After a failure operations may still be on their way; the error is the one that is reported.
	_ = e.model.queue.Sync()
	code := schemas.CodeInternal
	if oom := (*kernels.OutOfMemoryError)(nil); errors.As(err, &oom) {
		code = schemas.CodeMemory
	}
	for _, s := range slots {
		s.answer.fail(schemas.Errorf(code, "", "cannot compute the answer: %v", err))
		s.ids = nil
	}
}

// sweep takes answers that have ended, or whose callers have left, out of slots and queue.
func (e *Engine) sweep() {
	e.mu.Lock()
	defer e.mu.Unlock()
	keep := e.waiting[:0]
	for _, a := range e.waiting {
		if err := a.ctx.Err(); err != nil {
			a.fail(err)
			continue
		}
		keep = append(keep, a)
	}
	clear(e.waiting[len(keep):])
	e.waiting = keep
	for _, s := range e.slots {
		a := s.answer
		if a == nil {
			continue
		}
		if err := a.ctx.Err(); err != nil {
			a.fail(err) // does nothing to one that has ended by itself
		}
		if a.done() {
			s.answer, s.prompt = nil, nil
			e.running--
			if held := time.Since(a.placed); e.took == 0 {
				e.took = held
			} else {
				e.took += (held - e.took) / 8
			}
		}
	}
}

// admit gives idle slots to those who wait, in the order in which they came.
func (e *Engine) admit() {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.waiting) > 0 {
		a := e.waiting[0]
		s := e.place(a.r.Prompt)
		if s == nil {
			return
		}
		e.waiting = e.waiting[1:]
		e.clock++
		s.used = e.clock
		s.begin(a, e.limit)
		e.running++
	}
}

// active lists the slots whose answers have begun, in order of rows. One that reaches the length at which all its keys have to be computed again
// is not among them: that is a prompt once more.
func (e *Engine) active() (active []*slot) {
	for _, s := range e.slots {
		if !s.computes() {
			continue
		}
		if n := e.model.loaded.Model.Info().LengthSwitch; n > 0 && len(s.ids) == n {
			s.prompt, s.ids = append(slices.Clone(s.ids), s.next), nil
			continue
		}
		active = append(active, s)
	}
	return active
}

// filling is the slot whose prompt is computed next, the one that was given its answer first; nil when there is none.
func (e *Engine) filling() (next *slot) {
	for _, s := range e.slots {
		if s.answer != nil && !s.computes() && (next == nil || s.used < next.used) {
			next = s
		}
	}
	return next
}

// failAll ends everything that is under way or waits.
func (e *Engine) failAll(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, a := range e.waiting {
		a.fail(err)
	}
	e.waiting = nil
	for _, s := range e.slots {
		if s.answer != nil {
			s.answer.fail(err)
			s.answer = nil
		}
	}
	e.running = 0
}
