package simulate_test

import (
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control/simulate"
)

// check holds a report to what the scheduler promises.
func check(t *testing.T, r *simulate.Report) {
	t.Helper()
	t.Logf("%+v", *r)
	if r.Utilization < 0.9 || r.Held < 0.97 {
		t.Errorf("utilization %.3f, held %.3f of an overloaded pool", r.Utilization, r.Held)
	}
	if r.Busy == 0 || r.Fairness < 0.9 {
		t.Errorf("fairness %.3f of %d busy tenants, want at least 0.9", r.Fairness, r.Busy)
	}
	if w := r.Waits[0]; w.Unstarted > 0 || w.Max > 10*time.Minute {
		t.Errorf("runs of the first priority wait: %+v", w)
	}
	if r.Waits[2].Median < r.Waits[1].Median || r.Waits[1].Median < r.Waits[0].Median {
		t.Errorf("medians do not follow the priorities: %+v", r.Waits)
	}
}

// TestDay: a small pool over half a day. Gangs of all sizes start, priorities hold, tenants that are always busy get equal shares.
func TestDay(t *testing.T) {
	if testing.Short() {
		t.Skip("simulates a day")
	}
	r, err := simulate.Run(t.Context(), simulate.Config{Workers: 300, Tenants: 30, Runs: 2500, Duration: 12 * time.Hour, Largest: 8 * time.Hour, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
	again, err := simulate.Run(t.Context(), simulate.Config{Workers: 100, Tenants: 5, Runs: 300, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	same, err := simulate.Run(t.Context(), simulate.Config{Workers: 100, Tenants: 5, Runs: 300, Seed: 7})
	if err != nil {
		t.Fatal(err)
	}
	if again.Took, same.Took = 0, 0; !reflect.DeepEqual(again, same) {
		t.Errorf("the same seed gave %+v and %+v", again, same)
	}
	other, err := simulate.Run(t.Context(), simulate.Config{Workers: 100, Tenants: 5, Runs: 300, Seed: 8})
	if err != nil {
		t.Fatal(err)
	}
	if again.Hash == "" || other.Hash == again.Hash {
		t.Errorf("seeds 7 and 8 gave the decisions %q and %q", again.Hash, other.Hash)
	}
}

// TestLargeDay is the day that the project's figures are for.
func TestLargeDay(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") == "" {
		t.Skip("takes a minute; set TUNEFLEET_TEST_FULL=1")
	}
	r, err := simulate.Run(t.Context(), simulate.Config{Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	check(t, r)
}

// TestShares: a tenant of three times the share gets three times the device-seconds.
func TestShares(t *testing.T) {
	p := &schemas.Policy{Pool: "sim", Tenants: map[string]schemas.Quota{"tenant0000": {Share: 3}}}
	r, err := simulate.Run(t.Context(), simulate.Config{Workers: 200, Tenants: 6, Heavy: 1, Runs: 8000, Largest: time.Hour, Load: 3, Duration: 6 * time.Hour, Policy: p, Seed: 3})
	if err != nil {
		t.Fatal(err)
	}
	if r.Busy != 6 || r.Fairness < 0.9 {
		t.Errorf("fairness %.3f of %d busy tenants, counted by share", r.Fairness, r.Busy)
	}
}

func TestBadConfig(t *testing.T) {
	_, err := simulate.Run(t.Context(), simulate.Config{Workers: -1, Tenants: -1, Heavy: 2})
	if err == nil || !strings.Contains(err.Error(), "workers") || !strings.Contains(err.Error(), "tenants") || !strings.Contains(err.Error(), "heavy") {
		t.Fatalf("error %v", err)
	}
}

func BenchmarkHour(b *testing.B) {
	for b.Loop() {
		if _, err := simulate.Run(b.Context(), simulate.Config{Runs: 6000, Duration: time.Hour}); err != nil {
			b.Fatal(err)
		}
	}
}
