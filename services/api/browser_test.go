package api_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

const hostile = `<img src=x onerror="document.title='taken over'"><script>document.title='taken over'</script>`

// TestDashboardInABrowser: every page loads without an error on the console and without a violation of the content security policy, signs in
// by a code that is gone from the address at once, and a chart gains the points that are trained, each once, also when its stream breaks.
func TestDashboardInABrowser(t *testing.T) {
	b := openTab(t)
	objects, live := memstore.New(), memlease.New()
	service := control.NewService(objects, live, nil, nil)
	s, err := api.New(api.Config{Token: token, Poll: 50 * time.Millisecond, Version: "test"},
		api.Services{Runs: service, Fleet: service, Operator: service, Checkpoints: service, Objects: objects, Live: live})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })

	ids := map[schemas.RunState]string{}
	for _, state := range []schemas.RunState{schemas.RunQueued, schemas.RunRunning, schemas.RunFailed, schemas.RunSucceeded} {
		sp := spec("browser " + string(state))
		sp.Name = string(state) + " " + hostile
		r, err := service.Submit(t.Context(), sp)
		if err != nil {
			t.Fatal(err)
		}
		ids[state] = r.Run
		if state == schemas.RunQueued {
			continue
		}
		now := time.Now().UTC()
		h := &schemas.Head{Version: 1, Tenant: "acme", Run: r.Run, State: state, Created: now.Add(-time.Minute), Updated: now, Generation: 2, Reason: hostile,
			Ended: []schemas.GenerationEnd{{Generation: 1, Cause: schemas.CauseInfrastructure, Step: 2, At: now.Add(-30 * time.Second), Error: schemas.Errorf(schemas.CodeInternal, "", "%s", hostile)}},
			Stages: []schemas.StageState{{Name: "prep", Kind: schemas.KindPrep, State: schemas.StageSucceeded, Started: now.Add(-time.Minute), Ended: now.Add(-50 * time.Second)},
				{Name: "base", Kind: schemas.KindTrain, State: schemas.StageRunning, Started: now.Add(-50 * time.Second)}}}
		if state == schemas.RunRunning {
			h.Stage, h.Members = "base", []schemas.Member{{Worker: "w1"}}
		}
		if state == schemas.RunFailed {
			h.Error = schemas.Errorf(schemas.CodeData, "rows.jsonl:1", "%s", hostile).WithHint("%s", hostile)
		}
		data, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := objects.Put(t.Context(), schemas.HeadKey("acme", r.Run), data, store.Condition{Absent: true}); err != nil {
			t.Fatal(err)
		}
	}
	run := ids[schemas.RunRunning]
	train := func(from, to int64) {
		t.Helper()
		for i := from; i <= to; i++ {
			e := schemas.Event{At: time.Now(), Type: schemas.EventStep, Tenant: "acme", Run: run, Stage: "base", Generation: 2, Step: i,
				Values: map[string]float64{"loss": 5 / float64(i), "learning_rate": 1e-3, "tokens": 100, "total": 100}}
			if err := live.Append(t.Context(), "acme", run, e); err != nil {
				t.Fatal(err)
			}
		}
	}
	train(1, 5)
	if err := live.Append(t.Context(), "acme", run, schemas.Event{At: time.Now(), Type: schemas.EventWarning, Tenant: "acme", Run: run, Stage: "base", Worker: hostile, Message: hostile}); err != nil {
		t.Fatal(err)
	}

	calm := func(page string) {
		t.Helper()
		if p := b.taken(); len(p) > 0 {
			t.Errorf("%s: %q", page, p)
		}
		if title := b.eval("document.title"); title == "taken over" || title == "" {
			t.Errorf("%s: title %q", page, title)
		}
	}
	b.call("Page.navigate", map[string]any{"url": srv.URL + "/"}, nil)
	b.until("who is not signed in is asked for the token", "document.querySelector('#login').open")
	b.taken() // the refused request

	b.call("Page.navigate", map[string]any{"url": "about:blank"}, nil)
	b.call("Page.navigate", map[string]any{"url": srv.URL + "/#code=" + s.SignInCode()}, nil)
	b.until("runs are listed", fmt.Sprintf("document.querySelectorAll('#run-rows tr').length === %d", len(ids)))
	if address := b.eval("location.href"); address != srv.URL+"/#/runs" {
		t.Errorf("the code stays in the address: %s", address)
	}
	calm("runs")
	pages := []struct{ hash, ready string }{
		{"#/runs?state=failed", "document.querySelectorAll('#run-rows tr').length === 1"},
		{"#/runs?q=nothing-of-that-name", "document.querySelector('main').innerText.includes('No run is selected')"},
		{"#/fleet", "document.querySelector('main').innerText.includes('No workers')"},
		{"#/compare", "document.querySelector('main').innerText.includes('Add runs here')"},
		{"#/compare?runs=acme/" + run + ",acme/" + ids[schemas.RunSucceeded], "document.querySelectorAll('.chart').length > 0"},
		{"#/nothing", "document.querySelector('main').innerText.includes('No such page')"},
	}
	for _, state := range slices.Sorted(func(yield func(string) bool) {
		for st := range ids {
			if !yield(string(st)) {
				return
			}
		}
	}) {
		for _, tab := range []string{"overview", "charts", "logs", "checkpoints", "evaluation", "files", "config"} {
			pages = append(pages, struct{ hash, ready string }{"#/run/acme/" + ids[schemas.RunState(state)] + "?tab=" + tab,
				fmt.Sprintf("document.querySelector('#tab-%s')?.getAttribute('aria-selected') === 'true' && document.querySelector('#run-title')?.innerText.includes('%s') && !document.querySelector('#panel').innerText.includes('Loading')", tab, state)})
		}
	}
	for _, p := range pages {
		b.eval(fmt.Sprintf("location.hash = %q", p.hash))
		b.until(p.hash, p.ready)
		calm(p.hash)
	}

	const points = "document.querySelector('.chart .plot')?.getAttribute('aria-label')?.includes('over %d points')"
	b.eval(fmt.Sprintf("location.hash = %q", "#/run/acme/"+run+"?tab=charts"))
	b.until("a chart of 5 steps", fmt.Sprintf(points, 5))
	train(6, 12)
	b.until("a chart of 12 steps", fmt.Sprintf(points, 12))
	train(10, 12) // told again
	srv.CloseClientConnections()
	train(13, 15)
	b.until("a chart of 15 steps after the connection broke", fmt.Sprintf(points, 15))
	if p := b.taken(); len(p) > 0 {
		t.Errorf("charts: %q", p)
	}
	if held := b.eval("JSON.stringify([localStorage, sessionStorage, document.cookie, location.href])"); held == "" || strings.Contains(held, token) {
		t.Errorf("the page holds the token: %s", held)
	}
	http.DefaultClient.CloseIdleConnections()
}
