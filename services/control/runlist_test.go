package control_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// TestListFiltersAndCounts: what a list selects by state, pool, name and time, and how it counts the rest.
func TestListFiltersAndCounts(t *testing.T) {
	w := newWorld(t)
	var ids []string
	for i := range 5 {
		s := spec(t, fmt.Sprint(i), "prep")
		s.Name = fmt.Sprintf("Review-%d", i)
		if i == 4 {
			s.Pool = "gpu"
		}
		ids = append(ids, w.submit(s))
	}
	for _, id := range ids[:2] {
		if _, err := w.service.Cancel(t.Context(), "acme", id, ""); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	for name, c := range map[string]struct {
		f    schemas.RunFilter
		want int
	}{
		"all":               {schemas.RunFilter{}, 5},
		"state":             {schemas.RunFilter{States: []schemas.RunState{schemas.RunCancelled}}, 2},
		"two states":        {schemas.RunFilter{States: []schemas.RunState{schemas.RunCancelled, schemas.RunQueued}}, 5},
		"pool":              {schemas.RunFilter{Pool: "gpu"}, 1},
		"name, any case":    {schemas.RunFilter{Name: "rEVIEW-3"}, 1},
		"id":                {schemas.RunFilter{Name: ids[2][:12]}, 1},
		"another tenant":    {schemas.RunFilter{Tenant: "other"}, 0},
		"since an hour":     {schemas.RunFilter{Since: now.Add(-time.Hour)}, 5},
		"since the future":  {schemas.RunFilter{Since: now.Add(time.Hour)}, 0},
		"until an hour ago": {schemas.RunFilter{Until: now.Add(-time.Hour)}, 0},
		"state and name":    {schemas.RunFilter{States: []schemas.RunState{schemas.RunQueued}, Name: "review-1"}, 0},
	} {
		list, err := w.service.List(t.Context(), c.f)
		if err != nil || len(list.Runs) != c.want || list.Total != c.want || list.Unread != 0 {
			t.Errorf("%s: %d runs of %d, %d unread, want %d: %v", name, len(list.Runs), list.Total, list.Unread, c.want, err)
		}
	}
	list, err := w.service.List(t.Context(), schemas.RunFilter{Counts: true, States: []schemas.RunState{schemas.RunQueued}, Limit: 1})
	if err != nil || list.Counts[schemas.RunQueued] != 3 || list.Counts[schemas.RunCancelled] != 2 || list.Total != 3 || len(list.Runs) != 1 || list.Next == "" {
		t.Errorf("counts %v, %d in all, %d on the page, %v", list.Counts, list.Total, len(list.Runs), err)
	}
	for name, f := range map[string]schemas.RunFilter{"state": {States: []schemas.RunState{"sleeping"}}, "tenant": {Tenant: "../x"}, "pool": {Pool: "A B"}, "page": {After: "acme/x"}} {
		if _, err := w.service.List(t.Context(), f); !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("a bad %s: %v", name, err)
		}
	}
}

// TestListFollowsTheStore: a list that has read runs before shows those that were added, moved and ended since.
func TestListFollowsTheStore(t *testing.T) {
	w := newWorld(t)
	a := w.submit(spec(t, "a", "prep"))
	counts := func() map[schemas.RunState]int {
		t.Helper()
		list, err := w.service.List(t.Context(), schemas.RunFilter{Counts: true})
		if err != nil {
			t.Fatal(err)
		}
		return list.Counts
	}
	if n := counts(); n[schemas.RunQueued] != 1 {
		t.Fatalf("counts %v", n)
	}
	other := control.NewService(w.objects, nil, nil, nil) // another replica: nothing is told within the process
	if _, err := other.Submit(t.Context(), spec(t, "b", "prep")); err != nil {
		t.Fatal(err)
	}
	if n := counts(); n[schemas.RunQueued] != 2 {
		t.Fatalf("counts %v", n)
	}
	w.control("c1")
	w.worker("w1")
	w.ends(a, schemas.RunSucceeded)
	deadline := time.Now().Add(30 * time.Second)
	for counts()[schemas.RunSucceeded] != 2 {
		if time.Now().After(deadline) {
			t.Fatalf("counts %v", counts())
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n := counts(); n[schemas.RunQueued]+n[schemas.RunRunning] != 0 {
		t.Errorf("counts %v", n)
	}
}
