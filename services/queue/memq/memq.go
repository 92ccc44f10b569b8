// Package memq is the work queue in memory, for unit tests. It passes the same conformance suite as the JetStream adapter, the lack of
// fencing of acknowledgements included.
package memq

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
)

// minPending is the smallest limit of unacknowledged messages of a consumer, as in the JetStream adapter.
const minPending = 64

// Queue implements queue.Work, queue.Admin and queue.Intake.
type Queue struct {
	ackWait time.Duration

	mu        sync.Mutex
	changed   chan struct{}
	down      bool
	seq       uint64
	streams   bool
	consumers map[string]int // MaxAckPending by durable
	messages  map[uint64]*message
	specs     map[uint64]*spec
	listeners map[int]listener
	nextID    int
}

type message struct {
	seq     uint64
	subject string
	durable string
	data    []byte
	header  map[string]string
	// held is set from the first delivery; the message comes again at until.
	held  bool
	until time.Time
}

type spec struct {
	seq    uint64
	data   []byte
	header map[string]string
	reply  chan []byte
	until  time.Time
}

type listener struct {
	tenant, run string
	fn          func()
}

var (
	_ queue.Work   = (*Queue)(nil)
	_ queue.Admin  = (*Queue)(nil)
	_ queue.Intake = (*Queue)(nil)
)

// New makes a queue without streams (see Ensure). ackWait 0 means queue.AckWait.
func New(ackWait time.Duration) *Queue {
	q := &Queue{ackWait: cmp.Or(ackWait, queue.AckWait), changed: make(chan struct{}), listeners: map[int]listener{}}
	q.Wipe()
	return q
}

// Wipe loses streams, consumers and messages, as a broker whose disk was lost.
func (q *Queue) Wipe() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.streams = false
	q.consumers, q.messages, q.specs = map[string]int{}, map[uint64]*message{}, map[uint64]*spec{}
	q.signal()
}

// SetDown makes every call fail with queue.ErrUnavailable, or work again.
func (q *Queue) SetDown(down bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.down = down
	q.signal()
}

// Subjects lists the subjects in the work stream, oldest first.
func (q *Queue) Subjects() []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := make([]string, 0, len(q.messages))
	for _, seq := range slices.Sorted(maps.Keys(q.messages)) {
		out = append(out, q.messages[seq].subject)
	}
	return out
}

// signal wakes everybody who waits; the lock is held.
func (q *Queue) signal() {
	close(q.changed)
	q.changed = make(chan struct{})
}

// enter locks the queue; the caller unlocks unless there is an error.
func (q *Queue) enter(ctx context.Context, stream bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	q.mu.Lock()
	switch {
	case q.down:
		q.mu.Unlock()
		return queue.ErrUnavailable
	case stream && !q.streams:
		q.mu.Unlock()
		return queue.ErrNoStream
	}
	return nil
}

func (q *Queue) find(subject string) *message {
	for _, m := range q.messages {
		if m.subject == subject {
			return m
		}
	}
	return nil
}

func lower(h map[string]string) map[string]string {
	out := make(map[string]string, len(h))
	for k, v := range h {
		out[strings.ToLower(k)] = v
	}
	return out
}

// Publish implements queue.Work.
func (q *Queue) Publish(ctx context.Context, m schemas.Message, header map[string]string) error {
	subject := schemas.WorkSubject(m)
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot publish %s: %w", subject, err)
	}
	if len(b) > schemas.MaxMessageBytes {
		return fmt.Errorf("cannot publish %s: %d bytes, limit %d", subject, len(b), schemas.MaxMessageBytes)
	}
	if err := q.enter(ctx, true); err != nil {
		return fmt.Errorf("cannot publish %s: %w", subject, err)
	}
	defer q.mu.Unlock()
	if q.find(subject) != nil {
		return fmt.Errorf("cannot publish %s: %w", subject, queue.ErrDuplicate)
	}
	q.seq++
	q.messages[q.seq] = &message{seq: q.seq, subject: subject, durable: schemas.WorkDurable(m.Kind, m.Pool), data: b, header: lower(header)}
	q.signal()
	return nil
}

// Pull implements queue.Work.
func (q *Queue) Pull(ctx context.Context, kind schemas.StageKind, pool string, wait time.Duration) (queue.Delivery, error) {
	return q.PullAny(ctx, []schemas.StageKind{kind}, pool, wait)
}

// PullAny implements queue.Work.
func (q *Queue) PullAny(ctx context.Context, kinds []schemas.StageKind, pool string, wait time.Duration) (queue.Delivery, error) {
	deadline := time.Now().Add(wait)
	for {
		var next time.Time
		var changed chan struct{}
		for _, kind := range kinds {
			durable := schemas.WorkDurable(kind, pool)
			d, again, ch, err := q.pull(ctx, durable)
			if err != nil {
				return nil, fmt.Errorf("cannot pull from %s: %w", durable, err)
			}
			if d != nil {
				return d, nil
			}
			if changed == nil { // the first look's: nothing that came since is missed
				changed = ch
			}
			if next.IsZero() || !again.IsZero() && again.Before(next) {
				next = again
			}
		}
		left := time.Until(deadline)
		if left <= 0 {
			return nil, queue.ErrEmpty
		}
		if !next.IsZero() {
			left = min(left, max(time.Until(next), 0)+time.Millisecond)
		}
		t := time.NewTimer(left)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
}

// pull takes the next message: those whose time has run out first, then new ones. next is when the first held one runs out.
func (q *Queue) pull(ctx context.Context, durable string) (d *delivery, next time.Time, changed chan struct{}, err error) {
	if err := q.enter(ctx, true); err != nil {
		return nil, next, nil, err
	}
	defer q.mu.Unlock()
	limit, ok := q.consumers[durable]
	if !ok {
		return nil, next, nil, queue.ErrNoStream
	}
	now, pending := time.Now(), 0
	var fresh, again *message
	for _, seq := range slices.Sorted(maps.Keys(q.messages)) {
		m := q.messages[seq]
		switch {
		case m.durable != durable:
		case m.held && m.until.After(now):
			pending++
			if next.IsZero() || m.until.Before(next) {
				next = m.until
			}
		case m.held:
			pending++
			if again == nil {
				again = m
			}
		case fresh == nil:
			fresh = m
		}
	}
	m := again
	if m == nil && pending < limit {
		m = fresh
	}
	if m == nil {
		return nil, next, q.changed, nil
	}
	m.held, m.until = true, now.Add(q.ackWait)
	d = &delivery{q: q, seq: m.seq, header: maps.Clone(m.header)}
	if err := json.Unmarshal(m.data, &d.m); err != nil {
		return nil, next, nil, err
	}
	return d, next, q.changed, nil
}

type delivery struct {
	q      *Queue
	seq    uint64
	m      schemas.Message
	header map[string]string
}

func (d *delivery) Message() schemas.Message  { return d.m }
func (d *delivery) Header() map[string]string { return d.header }

// Extend implements queue.Delivery; like the server it does not ask whose delivery the message is now.
func (d *delivery) Extend(ctx context.Context) error {
	if err := d.q.enter(ctx, false); err != nil {
		return fmt.Errorf("cannot extend message %d: %w", d.seq, err)
	}
	defer d.q.mu.Unlock()
	if m := d.q.messages[d.seq]; m != nil {
		m.until = time.Now().Add(d.q.ackWait)
		d.q.signal()
	}
	return nil
}

// Return implements queue.Delivery.
func (d *delivery) Return(ctx context.Context) error {
	if err := d.q.enter(ctx, false); err != nil {
		return fmt.Errorf("cannot return message %d: %w", d.seq, err)
	}
	defer d.q.mu.Unlock()
	if m := d.q.messages[d.seq]; m != nil {
		m.until = time.Now()
		d.q.signal()
	}
	return nil
}

// Ack implements queue.Delivery; like the server it succeeds for a message that is gone or held by another.
func (d *delivery) Ack(ctx context.Context) error {
	if err := d.q.enter(ctx, false); err != nil {
		return fmt.Errorf("cannot acknowledge message %d: %w", d.seq, err)
	}
	defer d.q.mu.Unlock()
	delete(d.q.messages, d.seq)
	d.q.signal()
	return nil
}

// Delete implements queue.Work.
func (q *Queue) Delete(ctx context.Context, subject string) error {
	if err := q.enter(ctx, true); err != nil {
		return fmt.Errorf("cannot delete %s: %w", subject, err)
	}
	defer q.mu.Unlock()
	if m := q.find(subject); m != nil {
		delete(q.messages, m.seq)
		q.signal()
	}
	return nil
}

// Queued implements queue.Work.
func (q *Queue) Queued(ctx context.Context, subject string) (bool, error) {
	if err := q.enter(ctx, true); err != nil {
		return false, fmt.Errorf("cannot look for %s: %w", subject, err)
	}
	defer q.mu.Unlock()
	return q.find(subject) != nil, nil
}

// Poke implements queue.Work.
func (q *Queue) Poke(ctx context.Context, tenant, run string) error {
	if err := q.enter(ctx, false); err != nil {
		return fmt.Errorf("cannot poke %s/%s: %w", tenant, run, err)
	}
	var fns []func()
	for _, l := range q.listeners {
		if (l.tenant == "*" || l.tenant == tenant) && (l.run == "*" || l.run == run) {
			fns = append(fns, l.fn)
		}
	}
	q.mu.Unlock()
	for _, fn := range fns {
		go fn()
	}
	return nil
}

// Poked implements queue.Work.
func (q *Queue) Poked(tenant, run string, fn func()) (func(), error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nextID++
	id := q.nextID
	q.listeners[id] = listener{tenant, run, fn}
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.listeners, id)
	}, nil
}

// Ensure implements queue.Admin.
func (q *Queue) Ensure(ctx context.Context, pools map[string]int) error {
	if err := q.enter(ctx, false); err != nil {
		return fmt.Errorf("cannot ensure streams: %w", err)
	}
	defer q.mu.Unlock()
	q.streams = true
	for pool, workers := range pools {
		if !schemas.ValidName(pool) {
			return fmt.Errorf("cannot ensure consumers of pool %q: not a valid name", pool)
		}
		for _, k := range []schemas.StageKind{schemas.KindTrain, schemas.KindPrep, schemas.KindEval, schemas.KindExport} {
			q.consumers[schemas.WorkDurable(k, pool)] = max(minPending, 2*workers)
		}
	}
	q.signal()
	return nil
}

// SyncAlways implements queue.Admin.
func (q *Queue) SyncAlways(context.Context) (bool, error) { return false, nil }

// Submit implements queue.Intake.
func (q *Queue) Submit(ctx context.Context, data []byte, header map[string]string) ([]byte, error) {
	if len(data) > schemas.MaxSpecBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, "", "the spec has %d bytes, limit %d", len(data), schemas.MaxSpecBytes)
	}
	if err := q.enter(ctx, true); err != nil {
		return nil, fmt.Errorf("cannot submit: %w", err)
	}
	q.seq++
	s := &spec{seq: q.seq, data: slices.Clone(data), header: lower(header), reply: make(chan []byte, 1)}
	q.specs[q.seq] = s
	q.signal()
	q.mu.Unlock()
	select {
	case b := <-s.reply:
		return b, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot read the answer to a submitted spec (it is stored and will be read): %w", ctx.Err())
	}
}

// Serve implements queue.Intake.
func (q *Queue) Serve(ctx context.Context, front func(ctx context.Context, spec []byte, header map[string]string) []byte) error {
	for ctx.Err() == nil {
		s, changed := q.nextSpec()
		if s == nil {
			t := time.NewTimer(50 * time.Millisecond)
			select {
			case <-ctx.Done():
			case <-changed:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		reply := front(ctx, s.data, maps.Clone(s.header))
		q.mu.Lock()
		switch {
		case ctx.Err() != nil:
			s.until = time.Time{}
		case reply == nil:
			s.until = time.Now().Add(min(time.Second, q.ackWait/2))
		default:
			delete(q.specs, s.seq)
			select {
			case s.reply <- reply:
			default:
			}
		}
		q.signal()
		q.mu.Unlock()
	}
	return nil
}

func (q *Queue) nextSpec() (*spec, chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.down && q.streams {
		for _, seq := range slices.Sorted(maps.Keys(q.specs)) {
			if s := q.specs[seq]; !s.until.After(time.Now()) {
				s.until = time.Now().Add(q.ackWait)
				return s, q.changed
			}
		}
	}
	return nil, q.changed
}
