package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

// gate holds PUTs of the index back until it is opened, and counts all PUTs and the entries of those that it holds.
type gate struct {
	store.Objects
	open chan struct{}
	mu   sync.Mutex
	puts int
	held int
}

func (g *gate) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	entries := 0
	if strings.HasPrefix(key, "open/") {
		entries = 1
		var b schemas.OpenBatch
		if strings.Contains(key, "batch-") {
			if err := json.Unmarshal(data, &b); err != nil {
				return "", err
			}
			entries = len(b.Specs)
		}
	}
	g.mu.Lock()
	g.puts++
	g.held += entries
	g.mu.Unlock()
	if entries > 0 {
		<-g.open
	}
	return g.Objects.Put(ctx, key, data, c)
}

func (g *gate) count() (puts, held int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.puts, g.held
}

// submitAll submits n runs at a time while the index is held back by the gate, opens it when all specs are stored, and returns the ids.
func submitAll(t *testing.T, w *world, g *gate, n int) []string {
	t.Helper()
	front := control.NewFront(g, w.work, w.log)
	ids := make([]string, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			reply, err := front.Accept(t.Context(), spec(t, fmt.Sprint("k", i), "prep"))
			if err != nil || reply.Duplicate {
				t.Errorf("run %d: %+v: %v", i, reply, err)
				return
			}
			ids[i] = reply.Run
		})
	}
	// The first write takes the entries that had come until it began: mostly one, sometimes more. All others come to wait behind it.
	begun := time.Now()
	for held := 0; held+front.Waiting() < n; _, held = g.count() {
		if time.Since(begun) > time.Minute {
			t.Errorf("after a minute %d of %d entries wait, and %d are being written", front.Waiting(), n, held)
			break
		}
		time.Sleep(time.Millisecond)
	}
	close(g.open)
	wg.Wait()
	return ids
}

// TestRunsAcceptedTogetherShareAnObject: n runs are accepted by little more than n writes, each of them is found by a control that knows
// nothing else, listed before there is one, and met by a second submission; each runs once.
func TestRunsAcceptedTogetherShareAnObject(t *testing.T) {
	const n = 20
	w := newWorld(t)
	g := &gate{Objects: w.objects, open: make(chan struct{})}
	ids := submitAll(t, w, g, n)
	if t.Failed() {
		return
	}
	if puts, _ := g.count(); puts > n+3 {
		t.Errorf("%d runs took %d writes", n, puts)
	}
	list, err := w.service.List(t.Context(), schemas.RunFilter{Tenant: "acme", Limit: 100})
	if err != nil || len(list.Runs) != n {
		t.Fatalf("%d of %d runs are listed: %v", len(list.Runs), n, err)
	}
	again, err := w.service.Submit(t.Context(), spec(t, "k3", "prep"))
	if err != nil || !again.Duplicate || again.Run != ids[3] {
		t.Fatalf("reply %+v: %v", again, err)
	}
	w.control("c1")
	w.worker("w1")
	for _, id := range ids {
		if v := w.ends(id, schemas.RunSucceeded); v.Stages[0].Issues != nil {
			t.Errorf("run %s was given out again: %+v", id, v.Stages)
		}
	}
	for info := range w.objects.List(t.Context(), "open/") {
		t.Errorf("%s is left", info.Key)
	}
}

// TestBatchIsUnpackedAgain: a control that dies between any two writes of taking a batch apart leaves what the next one finishes.
func TestBatchIsUnpackedAgain(t *testing.T) {
	for _, rule := range []storetest.Rule{
		{Op: "put", Key: "open/", Count: 7},
		{Op: "put", Key: "open/", Count: 7, Fault: storetest.FailAfter, Err: store.ErrAmbiguous},
		{Op: "delete", Key: "batch-", Count: 3},
		{Op: "delete", Key: "batch-", Count: 3, Fault: storetest.FailAfter},
		{Op: "get", Key: "batch-", Count: 3},
	} {
		t.Run(fmt.Sprint(rule.Op, rule.Fault), func(t *testing.T) {
			w := newWorld(t)
			ids := submitAll(t, w, &gate{Objects: w.objects, open: make(chan struct{})}, 6)
			faulty := storetest.NewFaulty(w.objects)
			faulty.Inject(rule)
			w.controlOn("c1", faulty)
			w.worker("w1")
			for _, id := range ids {
				w.ends(id, schemas.RunSucceeded)
			}
		})
	}
}

// TestUnstoredIndexIsNoAcknowledgement: when the shared object cannot be stored, none of its runs is acknowledged, and submitting again
// works.
func TestUnstoredIndexIsNoAcknowledgement(t *testing.T) {
	const n = 5
	w := newWorld(t)
	faulty := storetest.NewFaulty(w.objects)
	faulty.Inject(storetest.Rule{Op: "put", Key: "open/", Count: 1000, Err: errors.New("no")})
	front := control.NewFront(faulty, w.work, w.log)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if reply, err := front.Accept(t.Context(), spec(t, fmt.Sprint("k", i), "prep")); err == nil {
				t.Errorf("acknowledged: %+v", reply)
			}
		})
	}
	wg.Wait()
	w.control("c1")
	w.worker("w1")
	for i := range n {
		reply, err := w.service.Submit(t.Context(), spec(t, fmt.Sprint("k", i), "prep"))
		if err != nil {
			t.Fatal(err)
		}
		w.ends(reply.Run, schemas.RunSucceeded)
	}
}
