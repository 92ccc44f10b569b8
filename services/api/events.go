package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// eventBatch is how many events are read from the lease server at a time, streamBatch how many a stream holds while it writes: one that is not
// read holds them for as long as it stands.
const (
	eventBatch  = 500
	streamBatch = 50
)

var streamID = regexp.MustCompile(`^[0-9]{1,20}(-[0-9]{1,20})?$`)

// events streams a run's events as SSE until the run is over and its last event is sent, or the client leaves: the live tail, and from the
// segment logs the steps that the tail does not hold any more. The final state is read from HEAD and not from the stream, which may be lost
// at any time.
func (s *Server) events(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	after := r.Header.Get("Last-Event-ID")
	if q := r.URL.Query().Get("after"); after == "" {
		after = q
	}
	if after != "" && !streamID.MatchString(after) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "Last-Event-ID", "%q is no event id", after))
		return
	}
	feed := s.hub.join(tenant, run)
	defer feed.leave()
	view := feed.state()
	if view == nil {
		if view, err = s.runs.Get(r.Context(), tenant, run); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	out := http.NewResponseController(w)
	flush := func() error {
		if err := out.Flush(); err != nil {
			return err
		}
		return s.patient(out)
	}
	if s.patient(out) != nil {
		return
	}
	defer func() { _ = out.SetWriteDeadline(time.Time{}) }() // the connection may serve another request
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("X-Accel-Buffering", "no")
	w.WriteHeader(http.StatusOK)
	write := func(frame []byte, err error) error {
		if err == nil {
			_, err = w.Write(frame)
		}
		return err
	}
	history := s.newReplay(r.Context(), feed, after)
	tale := narrator{tell: func(e schemas.Event) error { return write(frame("", e)) }}
	past, fresh := tale.event, after == ""
	caughtUp := history.resumed
	beat := time.Now()
	// HEAD is swapped before the last events are appended: told says that the last one has come, ended since when it is awaited.
	var told bool
	var ended time.Time
	for r.Context().Err() == nil {
		// The state is read before the tail: a terminal run whose tail is then empty has nothing more to say.
		if v := feed.state(); v != nil {
			view = v
		} else if v, err := s.runs.Get(r.Context(), tenant, run); err == nil {
			view = v
		}
		wait, last := s.cfg.Poll, false
		if view.State.Terminal() {
			if ended.IsZero() {
				ended = time.Now()
			}
			if last = told || time.Since(ended) >= s.cfg.Grace; last {
				wait = 0
			} else {
				wait = min(wait, s.cfg.Grace)
			}
		}
		if !caughtUp {
			wait = 0 // what there is comes at once
		}
		evs, err := feed.tail(r.Context(), after, streamBatch, wait)
		if err != nil && r.Context().Err() == nil {
			s.log.DebugContext(r.Context(), "cannot read live events", "run", run, "error", err)
			pause(r, s.cfg.Poll)
		}
		if fresh && err == nil {
			fresh, tale.rest = false, story(view, evs)
		}
		for _, e := range evs {
			wanted, err := history.live(r.Context(), e.event, past)
			if err != nil || wanted && (tale.end() != nil || write(e.frame()) != nil) {
				return
			}
			after = e.id
			told = told || e.event.Type == schemas.EventState && schemas.RunState(e.event.Message).Terminal()
		}
		over := len(evs) == 0 && last
		if err == nil && len(evs) < streamBatch && !caughtUp || over {
			// The tail begins late, or is gone.
			if history.fill(r.Context(), past) != nil || tale.end() != nil {
				return
			}
			caughtUp = true
		}
		if over {
			final := schemas.Event{At: view.Updated, Type: schemas.EventState, Tenant: tenant, Run: run, Message: string(view.State), Error: view.Error}
			if tale.tell(final) == nil {
				_ = flush()
			}
			return
		}
		if time.Since(beat) >= s.cfg.Heartbeat {
			if _, err := fmt.Fprint(w, ": still here\n\n"); err != nil {
				return
			}
			beat = time.Now()
		}
		if flush() != nil {
			return
		}
	}
}

// frame is an event as SSE; those of the segment logs have no id.
func frame(id string, e schemas.Event) ([]byte, error) {
	data, err := json.Marshal(e)
	if err != nil {
		return nil, fmt.Errorf("cannot encode an event: %w", err)
	}
	if id != "" {
		id = "id: " + id + "\n"
	}
	return fmt.Appendf(nil, "%sevent: %s\ndata: %s\n\n", id, e.Type, data), nil
}

// patient gives a client time for what is written next.
func (s *Server) patient(out *http.ResponseController) error {
	if err := out.SetWriteDeadline(time.Now().Add(s.cfg.WriteLimit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	return nil
}

func pause(r *http.Request, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-r.Context().Done():
	case <-t.C:
	}
}
