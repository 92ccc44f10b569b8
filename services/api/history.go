package api

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// replay completes a live tail with the segment logs of HEAD's lineage: for who joins after the tail was trimmed, and when the tail was
// lost. Steps are told once each, by (generation, step): a step that a later generation did again is told again.
type replay struct {
	s           *Server
	feed        *feed
	tenant, run string
	// resumed says that the client has what came before the tail's first event.
	resumed bool
	stages  map[string]*told
	read    map[string]bool // keys of manifests whose logs were told
}

// told is what was told of one stage.
type told struct {
	// spans are the steps that were told, in order and apart: few, since a generation's steps follow each other.
	spans []span
	// evals holds the same for evaluations.
	evals map[int64]uint64
	// upto is the highest step up to which gaps have been looked for.
	upto int64
}

// span is steps [from, to] that were told of one generation.
type span struct {
	from, to   int64
	generation uint64
}

// at is the index of the span that holds a step, or the one before which a span of it belongs.
func (t *told) at(step int64) (int, bool) {
	return slices.BinarySearchFunc(t.spans, step, func(s span, step int64) int {
		switch {
		case s.to < step:
			return -1
		case s.from > step:
			return 1
		}
		return 0
	})
}

func (t *told) has(e schemas.Event) bool {
	i, ok := t.at(e.Step)
	return ok && t.spans[i].generation >= max(1, e.Generation)
}

func (t *told) add(e schemas.Event) {
	g := max(1, e.Generation)
	i, ok := t.at(e.Step)
	if !ok {
		t.spans = slices.Insert(t.spans, i, span{e.Step, e.Step, g})
	} else if s := t.spans[i]; s.generation != g { // told again by another generation: what is around it stays as it was
		var parts []span
		for _, p := range []span{{s.from, e.Step - 1, s.generation}, {e.Step, e.Step, g}, {e.Step + 1, s.to, s.generation}} {
			if p.from <= p.to {
				parts = append(parts, p)
			}
		}
		t.spans = slices.Replace(t.spans, i, i+1, parts...)
		if e.Step > s.from {
			i++
		}
	}
	for _, k := range []int{i, i - 1} { // together what follows each other
		if k >= 0 && k+1 < len(t.spans) && t.spans[k].generation == t.spans[k+1].generation && t.spans[k].to+1 == t.spans[k+1].from {
			t.spans[k].to = t.spans[k+1].to
			t.spans = slices.Delete(t.spans, k+1, k+2)
		}
	}
}

// newReplay begins after the event that the client saw last ("" none). When that one is no longer in the tail, the client may have missed
// some, and everything is told.
func (s *Server) newReplay(ctx context.Context, f *feed, after string) *replay {
	tenant, run := f.tenant, f.run
	r := &replay{s: s, feed: f, tenant: tenant, run: run, stages: map[string]*told{}, read: map[string]bool{}}
	if after != "" {
		oldest, err := s.live.Tail(ctx, tenant, run, "", 1, 0)
		r.resumed = err == nil && len(oldest) == 1 && !idBefore(after, oldest[0].ID)
		if r.resumed {
			r.lookBack(ctx, after)
		}
	}
	return r
}

// lookBack finds, shortly before the event that the client saw last, the step that it was told last: those after it may be in the segment
// logs only, when a run ends whose last steps came to the tail late or never.
func (r *replay) lookBack(ctx context.Context, after string) {
	ms, _ := splitID(after)
	evs, err := r.s.live.Tail(ctx, r.tenant, r.run, strconv.FormatUint(ms-min(ms, lookBackMS), 10)+"-0", eventBatch, 0)
	if err != nil {
		return // as when there is none: what the tail says is told
	}
	for _, e := range evs {
		if idBefore(after, e.ID) {
			break
		}
		if isStep(e.Event) {
			t := &told{upto: e.Event.Step}
			t.add(e.Event)
			r.stages = map[string]*told{e.Event.Stage: t}
		}
	}
}

// lookBackMS is how far before a client's last event its last step is looked for, in milliseconds.
const lookBackMS = 1000

// splitID takes a stream id ("<milliseconds>-<number>") apart; a missing number is 0.
func splitID(id string) (ms, n uint64) {
	x, y, ok := strings.Cut(id, "-")
	if x != "" { // ids are digits
		ms, _ = strconv.ParseUint(x, 10, 64)
	}
	if ok {
		n, _ = strconv.ParseUint(y, 10, 64)
	}
	return ms, n
}

// idBefore orders stream ids.
func idBefore(a, b string) bool {
	am, an := splitID(a)
	bm, bn := splitID(b)
	return am < bm || am == bm && an < bn
}

// maxSteps bounds what is remembered of a stage; later steps are told as they come.
const maxSteps = 1 << 24

// isEval reports whether an event tells what an evaluation measured.
func isEval(e schemas.Event) bool {
	if e.Type != schemas.EventProgress || e.Stage == "" || e.Step < 0 {
		return false
	}
	for k := range e.Values {
		if strings.HasPrefix(k, "eval_") {
			return true
		}
	}
	return false
}

// addEval notes an evaluation; false when it was told already.
func (t *told) addEval(e schemas.Event) bool {
	g := max(1, e.Generation)
	if t.evals[e.Step] >= g {
		return false
	}
	if t.evals == nil {
		t.evals = map[int64]uint64{}
	}
	t.evals[e.Step] = g
	return true
}

func isStep(e schemas.Event) bool {
	return e.Type == schemas.EventStep && e.Stage != "" && e.Step > 0 && e.Step < maxSteps
}

// live handles an event of the tail: steps that are missing before it are told first; send is false for a step that was told already.
func (r *replay) live(ctx context.Context, e schemas.Event, tell func(schemas.Event) error) (send bool, err error) {
	if isEval(e) {
		if r.stages[e.Stage] == nil {
			r.stages[e.Stage] = &told{}
		}
		return r.stages[e.Stage].addEval(e), nil
	}
	if !isStep(e) {
		return true, nil
	}
	t := r.stages[e.Stage]
	if t == nil {
		t = &told{}
		r.stages[e.Stage] = t
		if r.resumed {
			t.upto = e.Step - 1
		}
	}
	if !t.has(e) && e.Step > t.upto+1 {
		if err := r.fill(ctx, tell); err != nil {
			return false, err
		}
	}
	t.upto = max(t.upto, e.Step)
	if t.has(e) {
		return false, nil
	}
	t.add(e)
	return true, nil
}

// fill tells every committed step and evaluation that was not told. Only an error of tell is one: history that cannot be read now is left out.
func (r *replay) fill(ctx context.Context, tell func(schemas.Event) error) error {
	head, err := r.feed.head(ctx, r.s.objects)
	if err != nil {
		return nil //nolint:nilerr // a run without HEAD has no history
	}
	var failed error
	known := func(m schemas.ManifestRef) bool { return r.read[m.Key] }
	done := map[string]bool{}
	err = r.feed.segments.History(ctx, r.s.objects, head, known, func(m schemas.ManifestRef, e schemas.Event) error {
		done[m.Key] = true
		if !isStep(e) && !isEval(e) {
			return nil
		}
		t := r.stages[e.Stage]
		if t == nil {
			if r.resumed {
				return nil // told before the client came back
			}
			t = &told{}
			r.stages[e.Stage] = t
		}
		if isEval(e) {
			if !r.resumed && t.addEval(e) {
				failed = tell(e)
			}
			return failed
		}
		if t.has(e) || r.resumed && (len(t.spans) == 0 || e.Step <= t.spans[0].from) {
			return nil
		}
		t.add(e)
		t.upto = max(t.upto, e.Step)
		failed = tell(e)
		return failed
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		r.s.log.DebugContext(ctx, "cannot read all of a run's history", "run", r.run, "error", err)
		return nil
	}
	for k := range done {
		r.read[k] = true
	}
	return nil
}
