package api_test

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// counted counts what waits for events, and looks at runs.
type counted struct {
	lease.Store
	waits atomic.Int64
}

func (c *counted) Tail(ctx context.Context, tenant, run, after string, limit int, wait time.Duration) ([]lease.StreamEvent, error) {
	if wait > 0 {
		c.waits.Add(1)
	}
	return c.Store.Tail(ctx, tenant, run, after, limit, wait)
}

type countedRuns struct {
	api.Runs
	gets atomic.Int64
}

func (c *countedRuns) Get(ctx context.Context, tenant, run string) (*schemas.RunView, error) {
	c.gets.Add(1)
	return c.Runs.Get(ctx, tenant, run)
}

// TestManyStreamsShareOneReader: hundreds of clients of a run get all its events in order, and cost the lease server and the store what one does.
// One of them reads nothing until more has come than is kept in memory.
func TestManyStreamsShareOneReader(t *testing.T) {
	objects, live := memstore.New(), &counted{Store: memlease.New()}
	runs := &countedRuns{Runs: control.NewService(objects, live, nil, nil)}
	const poll = 200 * time.Millisecond
	s, err := api.New(api.Config{Token: token, Poll: poll, Grace: time.Millisecond}, api.Services{Runs: runs, Objects: objects, Live: live})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	defer srv.Close()
	reply, err := runs.Submit(t.Context(), spec("many"))
	if err != nil {
		t.Fatal(err)
	}
	const clients, events, chunk = 300, 3000, 50
	open := func(after string) *http.Response {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/v1/runs/acme/"+reply.Run+"/events", nil)
		if err != nil {
			t.Error(err)
			return nil
		}
		req.Header.Set("Authorization", "Bearer "+token)
		if after != "" {
			req.Header.Set("Last-Event-ID", after)
		}
		resp, err := srv.Client().Do(req)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Errorf("%v, %v", resp, err)
			return nil
		}
		return resp
	}
	var ready, all sync.WaitGroup
	follow := func(resp *http.Response, first int, started func()) {
		defer resp.Body.Close()
		want := first
		for lines := bufio.NewScanner(resp.Body); want <= events && lines.Scan(); {
			_, note, ok := strings.Cut(lines.Text(), `"message":"note `)
			if !ok {
				continue
			}
			var n int
			if _, err := fmt.Sscanf(note, "%d", &n); err != nil || n != want {
				t.Errorf("event %d came where %d belongs (%v)", n, want, err)
				return
			}
			if want++; started != nil && n == first {
				started()
			}
		}
		if want <= events {
			t.Errorf("the stream ended before event %d", want)
		}
	}
	say := func(from, to int) {
		batch := make([]schemas.Event, 0, to-from)
		for n := from; n < to; n++ {
			batch = append(batch, schemas.Event{Type: schemas.EventNote, Tenant: "acme", Run: reply.Run, Message: fmt.Sprintf("note %d", n)})
		}
		if err := live.Append(t.Context(), "acme", reply.Run, batch...); err != nil {
			t.Fatal(err)
		}
	}
	say(1, 2)
	ready.Add(clients)
	for range clients {
		resp := open("")
		if resp == nil {
			t.FailNow()
		}
		all.Go(func() { follow(resp, 1, ready.Done) })
	}
	late := open("") //nolint:bodyclose // by follow
	if late == nil {
		t.FailNow()
	}
	ready.Wait()
	live.waits.Store(0)
	runs.gets.Store(0)
	began := time.Now()
	for n := 2; n <= events; n += chunk {
		say(n, min(n+chunk, events+1))
	}
	all.Wait()
	// The reader waits once for each chunk at most, and looks at the run once in a poll.
	took := time.Since(began)
	if n := live.waits.Load(); n > events/chunk+int64(took/poll)+10 {
		t.Errorf("%d streams waited %d times for %d appends in %s", clients, n, events/chunk, took)
	}
	if n := runs.gets.Load(); n > int64(took/poll)+10 {
		t.Errorf("%d streams looked %d times at the run in %s", clients, n, took)
	}
	follow(late, 1, nil)
	// Who comes back goes on after what it has seen, also far behind what is kept in memory.
	evs, err := live.Tail(t.Context(), "acme", reply.Run, "", events, 0)
	if err != nil {
		t.Fatal(err)
	}
	seen := slices.IndexFunc(evs, func(e lease.StreamEvent) bool { return e.Event.Message == "note 1500" })
	if seen < 0 {
		t.Fatal("event 1500 is gone")
	}
	back := open(evs[seen].ID) //nolint:bodyclose // by follow
	if back == nil {
		t.FailNow()
	}
	follow(back, 1501, nil)
}
