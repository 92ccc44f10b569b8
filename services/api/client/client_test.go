package client

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

const testToken = "0123456789abcdef0123456789abcdef"

func server(t *testing.T, h http.HandlerFunc) *Client {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := New(srv.URL, testToken)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	c.Retry = time.Millisecond
	return c
}

// hang keeps a request until its client leaves.
func hang(r *http.Request) { <-r.Context().Done() }

func TestServerThatNeverAnswers(t *testing.T) {
	c := server(t, func(_ http.ResponseWriter, r *http.Request) { hang(r) })
	c.Timeout = 50 * time.Millisecond
	if _, err := c.Get(t.Context(), "a", "b"); !schemas.IsCode(err, schemas.CodeTimeout) {
		t.Errorf("get: %v", err)
	}
	if _, _, err := c.Policy(t.Context(), "cpu"); !schemas.IsCode(err, schemas.CodeTimeout) {
		t.Errorf("policy: %v", err)
	}
	if err := c.DropDeadLetter(t.Context(), "a", "b"); !schemas.IsCode(err, schemas.CodeTimeout) {
		t.Errorf("drop: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Get(ctx, "a", "b"); err != context.Canceled { //nolint:errorlint // nothing may be wrapped around it
		t.Errorf("a caller that gives up got %v", err)
	}
}

// TestFollowTellsOfLostServer breaks the stream of a server that is then away for a while, and one that stands and says nothing.
func TestFollowTellsOfLostServer(t *testing.T) {
	var calls atomic.Int32
	c := server(t, func(w http.ResponseWriter, r *http.Request) {
		n := calls.Add(1)
		w.Header().Set("Content-Type", "text/event-stream")
		switch n {
		case 1: // one event, then nothing more
			fmt.Fprint(w, "id: 1-0\ndata: {\"type\":\"train.step\",\"step\":1}\n\n")
			w.(http.Flusher).Flush()
			hang(r)
		case 2, 3, 4:
			w.WriteHeader(http.StatusBadGateway)
		default:
			if got := r.Header.Get("Last-Event-ID"); got != "1-0" {
				t.Errorf("resumed after %q", got)
			}
			fmt.Fprint(w, "data: {\"type\":\"run.state\",\"message\":\"succeeded\"}\n\n")
		}
	})
	c.Silence = 100 * time.Millisecond
	var told []bool
	c.Lost = func(err error) { told = append(told, err != nil) }
	var events []string
	err := c.Follow(t.Context(), "a", "b", "", func(_ string, e schemas.Event) error { events = append(events, e.Type); return nil })
	if err != nil || !slices.Equal(events, []string{schemas.EventStep, schemas.EventState}) || !slices.Equal(told, []bool{true, false}) {
		t.Errorf("events %v, lost %v: %v", events, told, err)
	}
}
