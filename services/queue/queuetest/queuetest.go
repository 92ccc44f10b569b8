// Package queuetest is the conformance suite of the work queue port. It repeats as tests the measured facts that the design rests on,
// above all that acknowledgements are not fenced.
package queuetest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
)

// AckWait is what the queue under test must be made with.
const AckWait = time.Second

// Queue is what is tested.
type Queue interface {
	queue.Work
	queue.Admin
	queue.Intake
}

// Fixture is a queue without streams. Wipe loses streams, consumers and messages while clients stay connected.
type Fixture struct {
	Queue
	Wipe func(t *testing.T)
}

// Run checks an implementation; fresh makes a fixture for each sub-test.
func Run(t *testing.T, fresh func(t *testing.T) Fixture) {
	t.Helper()
	for name, f := range map[string]func(*testing.T, Fixture){
		"round trip": roundTrip, "no stream": noStream, "unique while queued or in flight": unique, "order": order, "kinds and pools": kindsAndPools,
		"redelivery": redelivery, "a returned message goes to the next puller at once": returned, "extend": extend, "a stale ack removes the message": staleAck, "a stale holder can extend": staleExtend,
		"delete": deletion, "an ack from before a wipe hits nothing": wiped, "one puller each": racing, "limits": limits, "pokes": pokes,
		"intake": intake, "an intake reply is the acknowledgement": intakeLater, "a cancelled pull loses nothing": cancelled, "idempotent ensure": ensured,
		"a quota bounds messages in flight": quota, "a pull for any kind": anyKind,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, fresh(t))
		})
	}
}

// Message is a training message of one seat.
func Message(run string, seat int, issue uint64) schemas.Message {
	return schemas.Message{Version: 1, Kind: schemas.KindTrain, Pool: "cpu", Tenant: "default", Run: run, Stage: "tune", Spec: "open/x.json", Seat: seat, Issue: issue}
}

func ensure(t *testing.T, q Fixture) {
	t.Helper()
	if err := q.Ensure(t.Context(), map[string]int{"cpu": 4, "gpu": 2}); err != nil {
		t.Fatal(err)
	}
}

func publish(t *testing.T, q Fixture, m schemas.Message) {
	t.Helper()
	if err := q.Publish(t.Context(), m, nil); err != nil {
		t.Fatal(err)
	}
}

// returned: a message that its puller returns is there again at once, once.
func returned(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	publish(t, q, m)
	began := time.Now()
	if err := pull(t, q).Return(t.Context()); err != nil {
		t.Fatal(err)
	}
	d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 5*AckWait)
	if err != nil || d.Message() != m {
		t.Fatalf("pulled %v: %v", d, err)
	}
	if took := time.Since(began); took >= AckWait {
		t.Errorf("a returned message came back after %s, as if nobody had returned it", took)
	}
	empty(t, q, AckWait/4)
	ack(t, d)
	queued(t, q, m, false)
}

// pull waits long enough for a redelivery.
func pull(t *testing.T, q Fixture) queue.Delivery {
	t.Helper()
	d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 5*AckWait)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func empty(t *testing.T, q Fixture, wait time.Duration) {
	t.Helper()
	if d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", wait); !errors.Is(err, queue.ErrEmpty) {
		t.Fatalf("got %v, %v; want ErrEmpty", d, err)
	}
}

// queued checks that a message is stored, or is not: on several servers one that was acknowledged goes a moment after the answer to the ack.
func queued(t *testing.T, q Fixture, m schemas.Message, want bool) {
	t.Helper()
	for deadline := time.Now().Add(AckWait / 2); ; time.Sleep(5 * time.Millisecond) {
		got, err := q.Queued(t.Context(), schemas.WorkSubject(m))
		if err == nil && got == want {
			return
		}
		if err != nil || want || time.Now().After(deadline) {
			t.Fatalf("queued: %v, %v; want %v", got, err, want)
		}
	}
}

func ack(t *testing.T, d queue.Delivery) {
	t.Helper()
	if err := d.Ack(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func roundTrip(t *testing.T, q Fixture) {
	ensure(t, q)
	empty(t, q, 20*time.Millisecond)
	m := Message("r1", 3, 7)
	if err := q.Publish(t.Context(), m, map[string]string{"TraceParent": "00-abc", "x": "y"}); err != nil {
		t.Fatal(err)
	}
	queued(t, q, m, true)
	d := pull(t, q)
	if d.Message() != m {
		t.Errorf("got %+v, want %+v", d.Message(), m)
	}
	if h := d.Header(); h["traceparent"] != "00-abc" || h["x"] != "y" {
		t.Errorf("headers are %v, want lower-case keys and their values", h)
	}
	queued(t, q, m, true)
	ack(t, d)
	queued(t, q, m, false)
	empty(t, q, AckWait+200*time.Millisecond)
}

func noStream(t *testing.T, q Fixture) {
	m := Message("r1", 0, 1)
	if err := q.Publish(t.Context(), m, nil); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("publish: %v, want ErrNoStream", err)
	}
	if _, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 10*time.Millisecond); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("pull: %v, want ErrNoStream", err)
	}
	if err := q.Delete(t.Context(), schemas.WorkSubject(m)); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("delete: %v, want ErrNoStream", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := q.Submit(ctx, []byte("{}"), nil); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("submit: %v, want ErrNoStream", err)
	}
	ensure(t, q)
	if _, err := q.Pull(t.Context(), schemas.KindTrain, "nobody", 10*time.Millisecond); !errors.Is(err, queue.ErrNoStream) {
		t.Errorf("pull of a pool without consumer: %v, want ErrNoStream", err)
	}
	publish(t, q, m)
	ack(t, pull(t, q))
}

// unique: a second publication fails while the first is queued or in flight, and works right after the ack: no window, no id.
func unique(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	publish(t, q, m)
	if err := q.Publish(t.Context(), m, nil); !errors.Is(err, queue.ErrDuplicate) {
		t.Errorf("while queued: %v, want ErrDuplicate", err)
	}
	d := pull(t, q)
	if err := q.Publish(t.Context(), m, nil); !errors.Is(err, queue.ErrDuplicate) {
		t.Errorf("in flight: %v, want ErrDuplicate", err)
	}
	publish(t, q, Message("r1", 0, 2)) // a higher issue is another message
	ack(t, d)
	queued(t, q, m, false)
	publish(t, q, m)
}

func order(t *testing.T, q Fixture) {
	ensure(t, q)
	for i := range 5 {
		publish(t, q, Message("r1", i, 1))
	}
	for i := range 5 {
		d := pull(t, q)
		if d.Message().Seat != i {
			t.Errorf("pull %d: seat %d", i, d.Message().Seat)
		}
		ack(t, d)
	}
}

func kindsAndPools(t *testing.T, q Fixture) {
	ensure(t, q)
	prep := schemas.Message{Version: 1, Kind: schemas.KindPrep, Pool: "gpu", Tenant: "default", Run: "r1", Stage: "prep", Part: 2, Parts: 4, Issue: 1}
	publish(t, q, prep)
	empty(t, q, 20*time.Millisecond)
	if _, err := q.Pull(t.Context(), schemas.KindPrep, "cpu", 20*time.Millisecond); !errors.Is(err, queue.ErrEmpty) {
		t.Errorf("another pool: %v, want ErrEmpty", err)
	}
	d, err := q.Pull(t.Context(), schemas.KindPrep, "gpu", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if d.Message() != prep {
		t.Errorf("got %+v, want %+v", d.Message(), prep)
	}
	ack(t, d)
}

// redelivery: what is not acknowledged within AckWait goes to the next puller.
// anyKind: one pull waits for several kinds; it gets one message, and what came besides is there for the next, at once and once.
func anyKind(t *testing.T, q Fixture) {
	ensure(t, q)
	kinds := []schemas.StageKind{schemas.KindTrain, schemas.KindPrep, schemas.KindEval, schemas.KindExport}
	if d, err := q.PullAny(t.Context(), kinds, "cpu", 20*time.Millisecond); !errors.Is(err, queue.ErrEmpty) {
		t.Fatalf("got %v, %v; want ErrEmpty", d, err)
	}
	if d, err := q.Pull(t.Context(), schemas.KindEval, "cpu", 0); !errors.Is(err, queue.ErrEmpty) {
		t.Fatalf("got %v, %v; want ErrEmpty", d, err)
	}
	type result struct {
		m   schemas.Message
		err error
	}
	for round := range 10 {
		got := make(chan result, 1)
		go func() {
			d, err := q.PullAny(t.Context(), kinds, "cpu", 10*time.Second)
			if err != nil {
				got <- result{err: err}
				return
			}
			got <- result{d.Message(), d.Ack(t.Context())}
		}()
		want := map[string]bool{}
		for i, k := range kinds { // all of them while it waits
			m := Message(fmt.Sprint("r", round), 0, 1)
			m.Kind, m.Stage, m.Part, m.Parts = k, string(k), 0, 1+i
			publish(t, q, m)
			want[schemas.WorkSubject(m)] = true
		}
		r := <-got
		for range kinds {
			if r.err != nil || !want[schemas.WorkSubject(r.m)] {
				t.Fatalf("round %d: %v, %+v; want one of %v", round, r.err, r.m, want)
			}
			if delete(want, schemas.WorkSubject(r.m)); len(want) == 0 {
				break
			}
			began := time.Now()
			d, err := q.PullAny(t.Context(), kinds, "cpu", 10*time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took >= AckWait {
				t.Errorf("a message that came besides was back after %s", took)
			}
			r = result{d.Message(), d.Ack(t.Context())}
		}
	}
	if d, err := q.PullAny(t.Context(), kinds, "cpu", 2*AckWait); !errors.Is(err, queue.ErrEmpty) {
		t.Fatalf("got %v, %v; want ErrEmpty", d, err)
	}
	m := Message("look", 0, 1)
	publish(t, q, m)
	d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 0)
	if err != nil || d.Message() != m {
		t.Fatalf("a look at a message: %v, %v", d, err)
	}
	ack(t, d)
}

func redelivery(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	publish(t, q, m)
	pull(t, q)
	empty(t, q, AckWait/4)
	again := pull(t, q)
	if again.Message() != m {
		t.Errorf("got %+v, want %+v", again.Message(), m)
	}
	ack(t, again)
	queued(t, q, m, false)
}

func extend(t *testing.T, q Fixture) {
	ensure(t, q)
	publish(t, q, Message("r1", 0, 1))
	d := pull(t, q)
	for range 4 {
		if err := d.Extend(t.Context()); err != nil {
			t.Fatal(err)
		}
		empty(t, q, AckWait/2)
	}
	ack(t, d)
}

// staleAck: the holder of the first delivery acknowledges after the second went to somebody else, and the message is gone. This is why an
// ack is never a commit.
func staleAck(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	publish(t, q, m)
	stale := pull(t, q)
	holder := pull(t, q)
	ack(t, stale)
	queued(t, q, m, false)
	ack(t, holder) // and the holder is not told
}

// staleExtend: the first holder's heartbeats keep the second's delivery alive, so that heartbeats prove nothing either.
func staleExtend(t *testing.T, q Fixture) {
	ensure(t, q)
	publish(t, q, Message("r1", 0, 1))
	stale := pull(t, q)
	pull(t, q)
	for range 4 {
		if err := stale.Extend(t.Context()); err != nil {
			t.Fatal(err)
		}
		empty(t, q, AckWait/2)
	}
}

// deletion removes a message that is queued or in flight; the holder's calls still succeed, so that a cancel needs another way to him.
func deletion(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	subject := schemas.WorkSubject(m)
	if err := q.Delete(t.Context(), subject); err != nil {
		t.Errorf("no message: %v", err)
	}
	publish(t, q, m)
	if err := q.Delete(t.Context(), subject); err != nil {
		t.Fatal(err)
	}
	queued(t, q, m, false)
	empty(t, q, 20*time.Millisecond)
	publish(t, q, m)
	d := pull(t, q)
	if err := q.Delete(t.Context(), subject); err != nil {
		t.Fatal(err)
	}
	queued(t, q, m, false)
	publish(t, q, m) // the new one is not the deleted one: the old holder's ack must not hit it
	if err := d.Extend(t.Context()); err != nil {
		t.Errorf("extend of a deleted message: %v", err)
	}
	ack(t, d)
	queued(t, q, m, true)
	ack(t, pull(t, q))
}

// wiped: the broker loses everything, the same message is published to the new stream and is in flight; the old holder's ack must not
// remove it. (Sequences of a new stream start at the time in microseconds.)
func wiped(t *testing.T, q Fixture) {
	ensure(t, q)
	for i := range 3 {
		publish(t, q, Message("r1", i, 1))
	}
	var old []queue.Delivery
	for range 3 {
		old = append(old, pull(t, q))
	}
	q.Wipe(t)
	if err := q.Publish(t.Context(), Message("r1", 0, 1), nil); !errors.Is(err, queue.ErrNoStream) {
		t.Fatalf("publish after the wipe: %v, want ErrNoStream", err)
	}
	ensure(t, q)
	for i := range 3 {
		publish(t, q, Message("r1", i, 1))
	}
	for range 2 {
		pull(t, q)
	}
	for _, d := range old {
		ctx, cancel := context.WithTimeout(t.Context(), AckWait/4)
		_ = d.Ack(ctx) // the server may answer or not
		cancel()
	}
	for i := range 3 {
		queued(t, q, Message("r1", i, 1), true)
	}
}

// racing: every message goes to exactly one of many pullers.
func racing(t *testing.T, q Fixture) {
	ensure(t, q)
	const n = 20
	for i := range n {
		publish(t, q, Message("r1", i, 1))
	}
	var mu sync.Mutex
	got := map[int]int{}
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			for {
				d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", AckWait/4)
				if errors.Is(err, queue.ErrEmpty) {
					return
				}
				if err == nil {
					mu.Lock()
					got[d.Message().Seat]++
					mu.Unlock()
					err = d.Ack(t.Context())
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	for i := range n {
		if got[i] != 1 {
			t.Errorf("seat %d was delivered %d times", i, got[i])
		}
	}
}

func limits(t *testing.T, q Fixture) {
	ensure(t, q)
	m := Message("r1", 0, 1)
	big := make([]byte, schemas.MaxMessageBytes-400)
	for i := range big {
		big[i] = 'x'
	}
	m.Spec = string(big)
	publish(t, q, m)
	ack(t, pull(t, q))
	m.Spec += m.Spec
	if err := q.Publish(t.Context(), m, nil); err == nil {
		t.Error("a message over 64 KiB was taken")
	}
	if _, err := q.Submit(t.Context(), make([]byte, schemas.MaxSpecBytes+1), nil); err == nil {
		t.Error("a spec over 256 KiB was taken")
	}
}

func pokes(t *testing.T, q Fixture) {
	var all, mine atomic.Int64
	stopAll, err := q.Poked("*", "*", func() { all.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	defer stopAll()
	stop, err := q.Poked("default", "r1", func() { mine.Add(1) })
	if err != nil {
		t.Fatal(err)
	}
	for _, run := range []string{"r1", "r2"} {
		if err := q.Poke(t.Context(), "default", run); err != nil {
			t.Fatal(err)
		}
	}
	until(t, func() bool { return all.Load() == 2 && mine.Load() == 1 }, func() string { return fmt.Sprintf("%d of all, %d of mine", all.Load(), mine.Load()) })
	stop()
	if err := q.Poke(t.Context(), "default", "r1"); err != nil {
		t.Fatal(err)
	}
	until(t, func() bool { return all.Load() == 3 }, func() string { return fmt.Sprintf("%d of all", all.Load()) })
	if mine.Load() != 1 {
		t.Error("a stopped listener was poked")
	}
}

func until(t *testing.T, ok func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not reached: %s", state())
		}
	}
}

// serve runs a front until the test ends.
func serve(t *testing.T, q Fixture, front func(context.Context, []byte, map[string]string) []byte) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- q.Serve(ctx, front) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-done:
				if err != nil {
					t.Errorf("serve ended with %v", err)
				}
			case <-time.After(10 * time.Second):
				t.Error("serve does not end")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func intake(t *testing.T, q Fixture) {
	ensure(t, q)
	var headers sync.Map
	serve(t, q, func(_ context.Context, spec []byte, header map[string]string) []byte {
		headers.Store(string(spec), maps.Clone(header))
		return append([]byte("accepted "), spec...)
	})
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			spec := fmt.Sprintf(`{"n":%d}`, i)
			reply, err := q.Submit(ctx, []byte(spec), map[string]string{"Traceparent": spec})
			if err != nil || string(reply) != "accepted "+spec {
				t.Errorf("spec %d: %q, %v", i, reply, err)
			}
			if h, ok := headers.Load(spec); !ok || h.(map[string]string)["traceparent"] != spec {
				t.Errorf("spec %d: headers %v", i, h)
			}
		})
	}
	wg.Wait()
}

// intakeLater: a spec waits in the stream for a front; an interrupted front or one that could not decide does not answer, and the spec
// goes to the next one. Only its reply ends Submit.
func intakeLater(t *testing.T, q Fixture) {
	ensure(t, q)
	type answer struct {
		reply []byte
		err   error
	}
	got := make(chan answer, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		b, err := q.Submit(ctx, []byte("spec"), nil)
		got <- answer{b, err}
	}()
	asked := make(chan struct{})
	var once sync.Once
	stop := serve(t, q, func(ctx context.Context, _ []byte, _ map[string]string) []byte {
		once.Do(func() { close(asked) })
		<-ctx.Done() // the front dies while it decides
		return []byte("interrupted")
	})
	<-asked
	stop()
	select {
	case a := <-got:
		t.Fatalf("submit ended without a front: %q, %v", a.reply, a.err)
	default:
	}
	var calls atomic.Int64
	serve(t, q, func(context.Context, []byte, map[string]string) []byte {
		if calls.Add(1) == 1 {
			return nil
		}
		return []byte("accepted")
	})
	a := <-got
	if a.err != nil || string(a.reply) != "accepted" || calls.Load() < 2 {
		t.Errorf("got %q, %v after %d calls", a.reply, a.err, calls.Load())
	}
}

// cancelled: pulls that are cancelled while messages arrive leave every message to others, at once.
func cancelled(t *testing.T, q Fixture) {
	ensure(t, q)
	const n = 10
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	var taken atomic.Int64
	for range n {
		wg.Go(func() {
			if d, err := q.Pull(ctx, schemas.KindTrain, "cpu", AckWait); err == nil {
				taken.Add(1)
				_ = d.Ack(context.WithoutCancel(ctx))
			}
		})
	}
	go cancel()
	for i := range n {
		publish(t, q, Message("r1", i, 1))
	}
	wg.Wait()
	for left := n - int(taken.Load()); left > 0; left-- {
		ack(t, pull(t, q))
	}
	empty(t, q, 20*time.Millisecond)
}

func ensured(t *testing.T, q Fixture) {
	ensure(t, q)
	publish(t, q, Message("r1", 0, 1))
	d := pull(t, q)
	if err := q.Ensure(t.Context(), map[string]int{"cpu": 400, "gpu": 2, "new": 1}); err != nil {
		t.Fatal(err)
	}
	ensure(t, q)
	queued(t, q, Message("r1", 0, 1), true)
	ack(t, d)
	queued(t, q, Message("r1", 0, 1), false)
	if err := q.Ensure(t.Context(), map[string]int{"not.valid": 1}); err == nil {
		t.Error("a pool name with a dot was taken")
	}
}

// quota: a consumer hands out no more than its limit of unacknowledged messages.
func quota(t *testing.T, q Fixture) {
	ensure(t, q)
	const limit = 64
	for i := range limit + 2 {
		publish(t, q, Message("r1", i, 1))
	}
	var first queue.Delivery
	for range limit {
		d, err := q.Pull(t.Context(), schemas.KindTrain, "cpu", 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = d
		}
	}
	empty(t, q, 20*time.Millisecond)
	ack(t, first)
	if seat := pull(t, q).Message().Seat; seat != limit {
		t.Errorf("after an ack seat %d came, want %d", seat, limit)
	}
}
