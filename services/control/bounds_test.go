package control_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// started says that a run has made its first transition.
func started(v *schemas.RunView) bool { return v.State != schemas.RunQueued }

// waits polls until a queued run says what it waits for.
func (w *world) waits(run, reason string) {
	w.t.Helper()
	v := w.until(run, reason, func(v *schemas.RunView) bool { return started(v) || strings.Contains(v.Reason, reason) })
	if started(v) {
		w.t.Fatalf("run %s is %s, it should wait: %q", run, v.State, reason)
	}
}

// TestRunStartsNotBeforeItsTime: with idle workers all the while.
func TestRunStartsNotBeforeItsTime(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	w.worker("w1")
	s := spec(t, "later", "prep")
	s.NotBefore = time.Now().Add(700 * time.Millisecond).UTC()
	run := w.submit(s)
	w.waits(run, "waiting until")
	w.ends(run, schemas.RunSucceeded)
	if h, _, err := w.heads.Read(t.Context(), "acme", run); err != nil || h.Created.Before(s.NotBefore) {
		t.Errorf("it started at %s, not before %s was asked: %v", h.Created, s.NotBefore, err)
	}
}

// TestMaxRuntimeEndsARun: a run that trains longer than it may fails with what it has committed, and its workers do other work.
func TestMaxRuntimeEndsARun(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	w.worker("w1")
	s := spec(t, "endless", "prep", "long")
	s.MaxRuntimeS = 1
	run := w.submit(s)
	began := w.until(run, "gang", formed)
	v := w.ends(run, schemas.RunFailed)
	if v.Error == nil || !strings.Contains(v.Error.Error(), "max_runtime_s") || v.Step == 0 {
		t.Errorf("it ended as %+v", v)
	}
	h, _, err := w.heads.Read(t.Context(), "acme", run)
	if err != nil || h.Updated.Sub(h.Created) < time.Second || h.Updated.Sub(h.Created) > 5*time.Second {
		t.Errorf("it ran %s of 1 s: %v", h.Updated.Sub(began.Created), err)
	}
	w.ends(w.submit(spec(t, "next", "prep")), schemas.RunSucceeded)
}

// TestQuotasOfAPool: a tenant's running runs are bounded in the pool whose policy says so, and in no other.
func TestQuotasOfAPool(t *testing.T) {
	w := newWorld(t)
	policy := &schemas.Policy{Pool: "cpu", Tenants: map[string]schemas.Quota{"acme": {Running: 1}}}
	if _, _, err := w.service.SetPolicy(t.Context(), policy, ""); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		w.workerOf("cpu", n)
		w.workerOf("gpu", "g"+n)
	}
	w.control("c1")
	first := w.submit(gang(t, "first", "cpu", "long", 1, 1))
	w.until(first, "gang", formed)
	second := w.submit(gang(t, "second", "cpu", "tune", 2, 2))
	w.waits(second, "runs 1 of at most 1 runs")
	for _, key := range []string{"other1", "other2"} {
		w.until(w.submit(gang(t, key, "gpu", "long", 1, 1)), "gang in another pool", formed)
	}
	w.waits(second, "runs 1 of at most 1 runs")
	if _, err := w.service.Cancel(t.Context(), "acme", first, ""); err != nil {
		t.Fatal(err)
	}
	w.ends(second, schemas.RunSucceeded)
}

// TestDeviceHoursAreSpent: what gangs use is counted in the ledger, also across a change of its owner; a tenant that has used up the month
// starts nothing more until it may use more.
func TestDeviceHoursAreSpent(t *testing.T) {
	w := newWorld(t)
	policy := &schemas.Policy{Pool: "cpu", Tenants: map[string]schemas.Quota{"acme": {DeviceHours: 1.0 / 3600}}}
	_, version, err := w.service.SetPolicy(t.Context(), policy, "")
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"a", "b", "c", "d"} {
		w.worker(n)
	}
	stop := w.control("c1")
	first := w.submit(gang(t, "first", "cpu", "long", 2, 2))
	w.until(first, "gang", formed)
	began := time.Now()
	for spent := 0.0; spent < 1; time.Sleep(5 * time.Millisecond) {
		l, err := w.ledger("cpu")
		if err != nil {
			t.Fatal(err)
		}
		if spent = l.Spent["acme"]; spent > 2*time.Since(began).Seconds()+1 {
			t.Fatalf("two seats have used %.1f device-seconds in %s", spent, time.Since(began))
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("two seats have used %.1f device-seconds in 20 s", spent)
		}
	}
	second := w.submit(gang(t, "second", "cpu", "tune", 2, 2)) // its data are prepared: that takes no device
	held := func() {
		v := w.until(second, "has used its", func(v *schemas.RunView) bool { return v.Generation > 0 || strings.Contains(v.Reason, "has used its") })
		if v.Generation > 0 {
			t.Fatalf("a gang formed: %+v", v)
		}
	}
	held()
	stop()
	w.control("c2")
	w.until(second, "the word of the next owner", func(v *schemas.RunView) bool {
		l, err := w.ledger("cpu")
		return err == nil && l.Owner == "c2"
	})
	held()
	if v := w.until(first, "view", func(*schemas.RunView) bool { return true }); !formed(v) {
		t.Errorf("the gang that runs was stopped: %+v", v)
	}
	policy.Tenants["acme"] = schemas.Quota{DeviceHours: 1}
	if _, _, err := w.service.SetPolicy(t.Context(), policy, version); err != nil {
		t.Fatal(err)
	}
	w.ends(second, schemas.RunSucceeded)
}

func (w *world) ledger(pool string) (*schemas.Ledger, error) {
	data, _, err := w.objects.Get(w.t.Context(), schemas.LedgerKey(pool), 1<<20)
	if err != nil {
		return nil, err
	}
	var l schemas.Ledger
	return &l, json.Unmarshal(data, &l)
}
