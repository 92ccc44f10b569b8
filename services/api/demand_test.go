package api_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestDemandNamesWhoMayGo: an autoscaler reads what the pool could use, and which workers hold nothing, those that drain first.
func TestDemandNamesWhoMayGo(t *testing.T) {
	b := start(t)
	get := func(pool string) (int, schemas.PoolDemand) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, b.url+"/v1/pools/"+pool+"/demand", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		r, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		var d schemas.PoolDemand
		if r.StatusCode == http.StatusOK {
			if err := json.NewDecoder(r.Body).Decode(&d); err != nil {
				t.Fatal(err)
			}
		}
		return r.StatusCode, d
	}
	if code, _ := get("spot"); code != http.StatusNotFound {
		t.Errorf("an unknown pool answers %d", code)
	}
	if _, err := b.objects.Put(t.Context(), schemas.LedgerKey("spot"), []byte(`{"version":1,"pool":"spot"}`), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	view, err := json.Marshal(schemas.PoolView{Pool: "spot", WorkersDemanded: 2})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.live.SetProgress(t.Context(), schemas.PoolTenant, "spot", map[string]string{"view": string(view)}); err != nil {
		t.Fatal(err)
	}
	for _, w := range []lease.Worker{{Name: "a", Busy: "acme/r/t/0"}, {Name: "b"}, {Name: "c", Draining: true}, {Name: "d", Draining: true, Busy: "acme/r/t/1"}} {
		w.Pool, w.Incarnation = "spot", w.Name
		if err := b.live.Register(t.Context(), w, time.Minute); err != nil {
			t.Fatal(err)
		}
	}
	code, d := get("spot")
	if code != http.StatusOK || d.WorkersDemanded != 2 || d.Workers != 4 || d.Surplus != 2 || !slices.Equal(d.Removable, []string{"c", "b"}) {
		t.Errorf("%d %+v", code, d)
	}
}
