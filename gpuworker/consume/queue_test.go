package consume_test

import (
	"context"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
)

// testQueue is a work queue without redelivery: what a worker drops comes back only when control publishes it again.
type testQueue struct {
	mu    sync.Mutex
	order []string
	all   map[string]*testDelivery
	pokes map[int]func()
	next  int
}

type testDelivery struct {
	q     *testQueue
	m     schemas.Message
	h     map[string]string
	taken bool
}

func newTestQueue() *testQueue {
	return &testQueue{all: map[string]*testDelivery{}, pokes: map[int]func(){}}
}

func (q *testQueue) Publish(_ context.Context, m schemas.Message, h map[string]string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	key := schemas.WorkSubject(m)
	if q.all[key] != nil {
		return queue.ErrDuplicate
	}
	q.all[key] = &testDelivery{q: q, m: m, h: h}
	q.order = append(q.order, key)
	return nil
}

func (q *testQueue) take(kind schemas.StageKind, pool string) *testDelivery {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, key := range q.order {
		if d := q.all[key]; d != nil && !d.taken && d.m.Kind == kind && d.m.Pool == pool {
			d.taken = true
			return d
		}
	}
	return nil
}

func (q *testQueue) Pull(ctx context.Context, kind schemas.StageKind, pool string, wait time.Duration) (queue.Delivery, error) {
	deadline := time.Now().Add(wait)
	for {
		if d := q.take(kind, pool); d != nil {
			return d, nil
		}
		if time.Now().After(deadline) {
			return nil, queue.ErrEmpty
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (q *testQueue) Delete(_ context.Context, subject string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.all, subject)
	return nil
}

func (q *testQueue) Queued(_ context.Context, subject string) (bool, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.all[subject] != nil, nil
}

func (q *testQueue) Poke(context.Context, string, string) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, fn := range q.pokes {
		go fn()
	}
	return nil
}

func (q *testQueue) Poked(_, _ string, fn func()) (func(), error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	id := q.next
	q.next++
	q.pokes[id] = fn
	return func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		delete(q.pokes, id)
	}, nil
}

func (q *testQueue) Ensure(context.Context, map[string]int) error { return nil }

func (q *testQueue) SyncAlways(context.Context) (bool, error) { return true, nil }

func (d *testDelivery) Message() schemas.Message     { return d.m }
func (d *testDelivery) Header() map[string]string    { return d.h }
func (d *testDelivery) Extend(context.Context) error { return nil }
func (d *testDelivery) Ack(ctx context.Context) error {
	return d.q.Delete(ctx, schemas.WorkSubject(d.m))
}
