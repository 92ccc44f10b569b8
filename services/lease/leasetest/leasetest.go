// Package leasetest is the conformance suite of the lease port.
package leasetest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// short is a TTL that passes during a test.
const short = 300 * time.Millisecond

// Run checks an implementation on its real clock; fresh returns an empty store for each sub-test.
func Run(t *testing.T, fresh func(t *testing.T) lease.Store) {
	t.Helper()
	for name, f := range map[string]func(*testing.T, lease.Store){
		"acquire and renew": acquireRenew, "ttl passes by the wall clock": expiry, "a missing lease is re-acquired": reacquire,
		"a higher issue takes over": issues, "release": release, "one of many wins": race, "control words": control, "boot": boot,
		"rendezvous": rendezvous, "progress": progress, "event stream": stream, "tail waits": tailWaits, "stream is trimmed": trimmed,
		"inventory": inventory,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f(t, fresh(t))
		})
	}
}

func owner(name string, issue uint64) lease.Owner {
	return lease.Owner{Worker: name, Incarnation: "inc-" + name, Issue: issue}
}

const key = "tf:{acme/r1}:lease:tune:0"

// eventually polls until f holds.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s did not happen within 10 s", what)
		}
	}
}

func acquireRenew(t *testing.T, s lease.Store) {
	a, b := owner("a", 1), owner("b", 1)
	if h, err := s.Acquire(t.Context(), key, a, time.Minute); err != nil || h != a {
		t.Fatalf("%v, %v", h, err)
	}
	if _, err := s.Acquire(t.Context(), key, a, time.Minute); err != nil {
		t.Errorf("acquiring my own lease: %v", err)
	}
	if h, err := s.Acquire(t.Context(), key, b, time.Minute); !errors.Is(err, lease.ErrHeld) || h != a {
		t.Errorf("acquiring a held lease: %v, %v", h, err)
	}
	if _, err := s.Renew(t.Context(), key, a, time.Minute); err != nil {
		t.Error(err)
	}
	if _, err := s.Renew(t.Context(), key, b, time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("renewing another's lease: %v, want ErrLost", err)
	}
	hs, err := s.Holders(t.Context(), []string{key, "tf:{acme/r1}:lease:tune:1"})
	if err != nil || len(hs) != 1 || hs[key] != a {
		t.Errorf("holders: %v, %v", hs, err)
	}
}

func expiry(t *testing.T, s lease.Store) {
	a, b := owner("a", 1), owner("b", 1)
	start := time.Now()
	if _, err := s.Acquire(t.Context(), key, a, short); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the lease's end", func() bool {
		_, err := s.Acquire(t.Context(), key, b, time.Minute)
		return err == nil
	})
	if d := time.Since(start); d < short-50*time.Millisecond {
		t.Errorf("the lease ended after %v, its TTL was %v", d, short)
	}
	if _, err := s.Renew(t.Context(), key, a, time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("a lapsed holder renews: %v, want ErrLost", err)
	}
}

func reacquire(t *testing.T, s lease.Store) {
	a := owner("a", 1)
	if _, err := s.Renew(t.Context(), key, a, time.Minute); err != nil {
		t.Errorf("renewing a missing lease: %v", err)
	}
	if hs, err := s.Holders(t.Context(), []string{key}); err != nil || hs[key] != a {
		t.Errorf("holders: %v, %v", hs, err)
	}
}

func issues(t *testing.T, s lease.Store) {
	a, b := owner("a", 1), owner("b", 2)
	if _, err := s.Acquire(t.Context(), key, a, time.Minute); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), key, b, time.Minute); err != nil {
		t.Errorf("a higher issue: %v", err)
	}
	if _, err := s.Renew(t.Context(), key, a, time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("the lower issue renews: %v, want ErrLost", err)
	}
	if _, err := s.Renew(t.Context(), key, owner("b", 1), time.Minute); !errors.Is(err, lease.ErrLost) {
		t.Errorf("the same worker's lower issue renews: %v, want ErrLost", err)
	}
	if err := s.Release(t.Context(), key, a); err != nil {
		t.Error(err)
	}
	if hs, err := s.Holders(t.Context(), []string{key}); err != nil || hs[key] != b {
		t.Errorf("a stale release freed the lease: %v, %v", hs, err)
	}
}

func release(t *testing.T, s lease.Store) {
	a := owner("a", 1)
	if _, err := s.Acquire(t.Context(), key, a, time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), key, a); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Acquire(t.Context(), key, owner("b", 1), time.Minute); err != nil {
		t.Errorf("after release: %v", err)
	}
}

func race(t *testing.T, s lease.Store) {
	var wg sync.WaitGroup
	won := make([]bool, 8)
	for i := range won {
		wg.Go(func() {
			_, err := s.Acquire(t.Context(), key, owner(fmt.Sprint(i), 1), time.Minute)
			won[i] = err == nil
			if err != nil && !errors.Is(err, lease.ErrHeld) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	n := 0
	for _, w := range won {
		if w {
			n++
		}
	}
	if n != 1 {
		t.Errorf("%d owners won", n)
	}
}

func control(t *testing.T, s lease.Store) {
	a := owner("a", 1)
	if c, err := s.Renew(t.Context(), key, a, time.Minute); err != nil || c != "" {
		t.Errorf("without a word: %q, %v", c, err)
	}
	if err := s.SetControl(t.Context(), "acme", "r1", schemas.ControlPause); err != nil {
		t.Fatal(err)
	}
	if c, err := s.Renew(t.Context(), key, a, time.Minute); err != nil || c != schemas.ControlPause {
		t.Errorf("got %q, %v", c, err)
	}
	if c, err := s.Renew(t.Context(), "tf:{acme/r2}:lease:tune:0", a, time.Minute); err != nil || c != "" {
		t.Errorf("another run's word: %q, %v", c, err)
	}
}

func boot(t *testing.T, s lease.Store) {
	a, err := s.Boot(t.Context())
	if err != nil || a == "" {
		t.Fatalf("%q, %v", a, err)
	}
	if b, err := s.Boot(t.Context()); err != nil || b != a {
		t.Errorf("the id changed: %q, %q, %v", a, b, err)
	}
}

func rendezvous(t *testing.T, s lease.Store) {
	k := func(seat int) string { return schemas.RendezvousKey("acme", "r1", "tune", seat) }
	a := lease.Address{Owner: owner("a", 1), Seat: 0, Addr: "127.0.0.1:1", After: 3, Numerics: "n"}
	b := lease.Address{Owner: owner("b", 1), Seat: 1, Addr: "127.0.0.1:2"}
	if err := errors.Join(s.Offer(t.Context(), k(0), a, time.Minute), s.Offer(t.Context(), k(1), b, short)); err != nil {
		t.Fatal(err)
	}
	got, err := s.Offers(t.Context(), []string{k(0), k(1), k(2)})
	if err != nil || len(got) != 2 || got[0] != a || got[1] != b {
		t.Fatalf("%v, %v", got, err)
	}
	eventually(t, "the offer's end", func() bool {
		got, err := s.Offers(t.Context(), []string{k(1)})
		return err == nil && len(got) == 0
	})
	if err := s.Withdraw(t.Context(), k(0), b.Owner); err != nil {
		t.Error(err)
	}
	if got, err := s.Offers(t.Context(), []string{k(0)}); err != nil || len(got) != 1 {
		t.Errorf("another's withdrawal removed the offer: %v, %v", got, err)
	}
	if err := s.Withdraw(t.Context(), k(0), a.Owner); err != nil {
		t.Error(err)
	}
	if got, err := s.Offers(t.Context(), []string{k(0)}); err != nil || len(got) != 0 {
		t.Errorf("after withdrawal: %v, %v", got, err)
	}
}

func progress(t *testing.T, s lease.Store) {
	if m, err := s.GetProgress(t.Context(), "acme", "r1"); err != nil || len(m) != 0 {
		t.Errorf("%v, %v", m, err)
	}
	if err := errors.Join(s.SetProgress(t.Context(), "acme", "r1", map[string]string{"step": "1", "loss": "2"}),
		s.SetProgress(t.Context(), "acme", "r1", map[string]string{"step": "2"}), s.SetProgress(t.Context(), "acme", "r1", nil)); err != nil {
		t.Fatal(err)
	}
	if m, err := s.GetProgress(t.Context(), "acme", "r1"); err != nil || m["step"] != "2" || m["loss"] != "2" {
		t.Errorf("%v, %v", m, err)
	}
}

func stream(t *testing.T, s lease.Store) {
	var all []schemas.Event
	for i := range 5 {
		all = append(all, schemas.Event{At: time.Unix(int64(i), 0).UTC(), Type: schemas.EventStep, Step: int64(i), Values: map[string]float64{"loss": 0.5}})
	}
	if err := s.Append(t.Context(), "acme", "r1", all...); err != nil {
		t.Fatal(err)
	}
	first, err := s.Tail(t.Context(), "acme", "r1", "", 3, 0)
	if err != nil || len(first) != 3 || first[2].Event.Step != 2 || first[2].Event.Values["loss"] != 0.5 {
		t.Fatalf("%v, %v", first, err)
	}
	rest, err := s.Tail(t.Context(), "acme", "r1", first[2].ID, 10, 0)
	if err != nil || len(rest) != 2 || rest[0].Event.Step != 3 {
		t.Errorf("after %s: %v, %v", first[2].ID, rest, err)
	}
	if none, err := s.Tail(t.Context(), "acme", "r1", rest[1].ID, 10, 20*time.Millisecond); err != nil || len(none) != 0 {
		t.Errorf("after the last: %v, %v", none, err)
	}
	if none, err := s.Tail(t.Context(), "acme", "other", "", 10, 0); err != nil || len(none) != 0 {
		t.Errorf("another run: %v, %v", none, err)
	}
}

func tailWaits(t *testing.T, s lease.Store) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	got := make(chan int, 1)
	go func() {
		ev, err := s.Tail(ctx, "acme", "r1", "", 10, 5*time.Second)
		if err != nil {
			t.Error(err)
		}
		got <- len(ev)
	}()
	if err := s.Append(ctx, "acme", "r1", schemas.Event{Type: schemas.EventProgress}); err != nil {
		t.Fatal(err)
	}
	if n := <-got; n != 1 {
		t.Errorf("got %d events", n)
	}
}

func trimmed(t *testing.T, s lease.Store) {
	batch := make([]schemas.Event, 1000)
	for i := range 24 {
		for j := range batch {
			batch[j] = schemas.Event{Type: schemas.EventStep, Step: int64(i*1000 + j)}
		}
		if err := s.Append(t.Context(), "acme", "r1", batch...); err != nil {
			t.Fatal(err)
		}
	}
	ev, err := s.Tail(t.Context(), "acme", "r1", "", 1, 0)
	if err != nil || len(ev) != 1 || ev[0].Event.Step < 1000 || ev[0].Event.Step > 4000 {
		t.Errorf("the oldest kept event is %v, %v; about 20,000 of 24,000 should be kept", ev, err)
	}
}

func inventory(t *testing.T, s lease.Store) {
	a := lease.Worker{Name: "a", Incarnation: "ia", Pool: "cpu", Devices: 1, Started: time.Unix(1, 0).UTC()}
	b := lease.Worker{Name: "b", Incarnation: "ib", Pool: "cpu"}
	c := lease.Worker{Name: "c", Incarnation: "ic", Pool: "gpu"}
	if err := errors.Join(s.Register(t.Context(), a, time.Minute), s.Register(t.Context(), b, time.Minute), s.Register(t.Context(), c, time.Minute)); err != nil {
		t.Fatal(err)
	}
	if ws, err := s.Workers(t.Context(), "cpu"); err != nil || len(ws) != 2 {
		t.Errorf("%v, %v", ws, err)
	}
	if err := s.Register(t.Context(), b, short); err != nil { // the shorter life replaces the longer one
		t.Fatal(err)
	}
	eventually(t, "worker b's end", func() bool {
		ws, err := s.Workers(t.Context(), "cpu")
		return err == nil && len(ws) == 1 && reflect.DeepEqual(ws[0], a)
	})
	if err := s.Deregister(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	if ws, err := s.Workers(t.Context(), "cpu"); err != nil || len(ws) != 0 {
		t.Errorf("%v, %v", ws, err)
	}
}
