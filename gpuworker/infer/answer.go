package infer

import (
	"context"
	"io"
	"slices"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/schemas"
)

// Request is a prompt to be answered.
type Request struct {
	// Prompt are the ids before the answer, at least one.
	Prompt []int32
	// MaxNewTokens bounds the answer; 0: as many as fit. What does not fit into the context is cut off.
	MaxNewTokens int
	// Stop are the ids that end an answer.
	Stop []int32
	// Sampling says how tokens are drawn; Seed and Row (of several answers to one prompt) decide the draws.
	generate.Sampling
	Seed, Row uint64
}

// Reason is why an answer ended.
type Reason string

// Reasons.
const (
	// ReasonStop: the model ended it, or a stop text was met. ReasonLength: it has as many tokens as it may have.
	ReasonStop   Reason = "stop"
	ReasonLength Reason = "length"
)

// Answer is an answer under way. Next may be called by one goroutine at a time.
type Answer struct {
	r      Request
	ctx    context.Context
	cancel context.CancelFunc
	// most is the number of tokens that it may have, made how many it has, reused how many of the prompt were not computed again; the engine's
	// goroutine alone writes them.
	most, made, reused int

	mu      sync.Mutex
	ids     []int32 // not read yet
	reason  Reason
	err     error
	over    bool
	changed chan struct{} // holds at most one token: something is new

	// asked, placed in a slot, first token, end.
	asked, placed, began, ended time.Time
}

// greedy reports whether the likeliest token is taken as it is.
func (a *Answer) greedy() bool {
	p := a.r.RepetitionPenalty
	return a.r.Temperature == 0 && (p == 0 || p == 1)
}

// add takes the next token; it ends the answer when that is a stop or the last that fits.
func (a *Answer) add(id int32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.made == 0 {
		a.began = time.Now()
	}
	a.made++
	a.ids = append(a.ids, id)
	switch {
	case slices.Contains(a.r.Stop, id):
		a.finish(ReasonStop, nil)
	case a.made >= a.most:
		a.finish(ReasonLength, nil)
	}
	a.signal()
}

// finish must be called with the lock.
func (a *Answer) finish(r Reason, err error) {
	if a.over {
		return
	}
	a.over, a.reason, a.err, a.ended = true, r, err, time.Now()
	a.cancel()
}

func (a *Answer) fail(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.finish("", err)
	a.signal()
}

func (a *Answer) signal() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// done reports whether the answer has ended, by itself or by its caller's context.
func (a *Answer) done() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.over
}

// Next waits for the next token, a stop id included; io.EOF is the end of the answer. An error of ctx leaves the answer under way.
func (a *Answer) Next(ctx context.Context) (int32, error) {
	for {
		a.mu.Lock()
		if len(a.ids) > 0 {
			id := a.ids[0]
			a.ids = a.ids[1:]
			a.mu.Unlock()
			return id, nil
		}
		over, err := a.over, a.err
		a.mu.Unlock()
		if over {
			if err == nil {
				err = io.EOF
			}
			return 0, err
		}
		select {
		case <-a.changed:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
}

// Cancel stops the answer; tokens that are there already can still be read.
func (a *Answer) Cancel() { a.cancel() }

// Stats are the figures of an answer.
type Stats struct {
	// Reason is why it ended, "" for one that was cancelled or failed or is under way.
	Reason Reason
	// Prompt and New are tokens, the stop id included; Reused are those of the prompt that were in the cache.
	Prompt, New, Reused int
	// Wait is from asking to the first token, Decode from there to the end.
	Wait, Decode time.Duration
}

// PerSecond is the number of tokens a second after the first one; 0 where there is no time to divide by.
func (s Stats) PerSecond() float64 {
	if s.New < 2 || s.Decode <= 0 {
		return 0
	}
	return float64(s.New-1) / s.Decode.Seconds()
}

// Stats are the answer's figures; final once Next has said io.EOF.
func (a *Answer) Stats() Stats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := Stats{Reason: a.reason, Prompt: len(a.r.Prompt), New: a.made, Reused: a.reused}
	if !a.began.IsZero() {
		end := a.ended
		if end.IsZero() {
			end = time.Now()
		}
		s.Wait, s.Decode = a.began.Sub(a.asked), end.Sub(a.began)
	}
	return s
}

// validate checks a request against the engine's bounds.
func (e *Engine) validate(r *Request) error {
	if len(r.Prompt) == 0 {
		return schemas.Errorf(schemas.CodeData, "prompt", "is empty")
	}
	if n := len(r.Prompt); n >= e.context {
		return &TooLongError{Prompt: n, Context: e.context}
	}
	vocab := e.model.loaded.Model.Info().Vocab
	for _, id := range r.Prompt {
		if id < 0 || int(id) >= vocab {
			return schemas.Errorf(schemas.CodeModel, "prompt", "token %d is none of the model's %d", id, vocab).
				WithHint("the tokenizer, or the template, belongs to another model")
		}
	}
	if r.MaxNewTokens < 0 {
		return schemas.Errorf(schemas.CodeInvalid, "max_new_tokens", "%d is negative", r.MaxNewTokens)
	}
	return r.Validate()
}
