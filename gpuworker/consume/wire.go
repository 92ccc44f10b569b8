package consume

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxLine bounds one line between agent and rank (HEAD, the largest thing sent, is at most 4 MiB).
const maxLine = 16 << 20

// order is a line from the agent to its rank. Exactly one member is set.
type order struct {
	Start *startOrder `json:"start,omitempty"`
	Form  *formOrder  `json:"form,omitempty"`
	// Control is the newest control word; Stop ends the work at once.
	Control *schemas.Control `json:"control,omitempty"`
	// Left is the time until the rank's machine goes, 0 when nobody said so. It comes with Control.
	Left time.Duration `json:"left,omitempty"`
	Stop bool          `json:"stop,omitempty"`
}

// startOrder says what to work on.
type startOrder struct {
	Message     schemas.Message  `json:"message"`
	Spec        *schemas.RunSpec `json:"spec"`
	Worker      string           `json:"worker"`
	Dir         string           `json:"dir"`
	Keep        string           `json:"keep,omitempty"`
	Threads     int              `json:"threads"`
	Backend     string           `json:"backend,omitempty"`
	Bind        string           `json:"bind"`
	Advertise   string           `json:"advertise"`
	TraceParent string           `json:"traceparent,omitempty"`
}

// formOrder makes the rank a member of a generation.
type formOrder struct {
	Rank        int           `json:"rank"`
	Head        *schemas.Head `json:"head"`
	Secret      []byte        `json:"secret"`
	FormTimeout int64         `json:"form_timeout_ns"`
	OpTimeout   int64         `json:"op_timeout_ns"`
}

// notice is a line from a rank to its agent. Exactly one member is set.
type notice struct {
	// Ready: the rank listens at this address (train).
	Ready *readyNotice `json:"ready,omitempty"`
	// Formed: the mesh of this generation stands.
	Formed uint64 `json:"formed,omitempty"`
	// Committed: HEAD was swapped.
	Committed *schemas.ManifestRef `json:"committed,omitempty"`
	Event     *schemas.Event       `json:"event,omitempty"`
	Phase     *phaseNotice         `json:"phase,omitempty"`
	Done      *doneNotice          `json:"done,omitempty"`
}

type readyNotice struct {
	Addr string `json:"addr"`
}

type phaseNotice struct {
	Name  string `json:"name"`
	Done  int64  `json:"done"`
	Total int64  `json:"total"`
}

// outcome classes of a handler's return.
type outcome string

const (
	outcomeDone        outcome = "done"
	outcomeFailed      outcome = "failed"      // Error says how
	outcomePeerLost    outcome = "peer_lost"   // another rank is gone
	outcomeFenced      outcome = "fenced"      // a newer generation exists
	outcomeInterrupted outcome = "interrupted" // stopped at an agreed step after a commit, or when told to
	outcomeCrashed     outcome = "crashed"     // the rank process died
	outcomeStalled     outcome = "stalled"     // a phase did not advance
)

type doneNotice struct {
	Outcome outcome            `json:"outcome"`
	Error   *schemas.ErrorInfo `json:"error,omitempty"`
}

// classify turns a handler's error into what the agent acts on.
func classify(err error, stopped bool) doneNotice {
	switch {
	case err == nil:
		return doneNotice{Outcome: outcomeDone}
	case errors.Is(err, collective.ErrPeerLost) && !errors.Is(err, collective.ErrMismatch):
		return doneNotice{Outcome: outcomePeerLost, Error: schemas.AsErrorInfo(err)}
	case schemas.IsCode(err, schemas.CodeFenced):
		return doneNotice{Outcome: outcomeFenced, Error: schemas.AsErrorInfo(err)}
	case schemas.IsCode(err, schemas.CodeInterrupted), stopped:
		return doneNotice{Outcome: outcomeInterrupted, Error: schemas.AsErrorInfo(err)}
	}
	info := schemas.AsErrorInfo(err)
	if info.Code == schemas.CodeInternal {
		c := *info
		switch {
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrAmbiguous):
			c.Code = schemas.CodeUnavailable
		case errors.Is(err, store.ErrFull), errors.Is(err, syscall.ENOSPC):
			c.Code = schemas.CodeDiskFull
		}
		info = &c
	}
	return doneNotice{Outcome: outcomeFailed, Error: info}
}

// causeOf says which retry budget a failure counts against.
func causeOf(d doneNotice) schemas.Cause {
	if d.Outcome == outcomeFailed && d.Error != nil && d.Error.Code != schemas.CodeUnavailable && d.Error.Code != schemas.CodeTimeout {
		return schemas.CauseApplication
	}
	if d.Outcome == outcomeInterrupted && plantedbug.Is(plantedbug.PreemptionIsFailure) {
		return schemas.CauseApplication
	}
	if d.Outcome == outcomeInterrupted {
		return schemas.CausePreempted
	}
	if d.Outcome == outcomeCrashed && d.Error != nil && d.Error.Code == schemas.CodeInternal {
		return schemas.CauseApplication
	}
	return schemas.CauseInfrastructure
}

// lines writes JSON lines; safe for concurrent use. After the first failed write it fails for good.
type lines struct {
	mu  sync.Mutex
	w   io.Writer
	err error
	// patience bounds one write when the writer can do so: a stopped rank must not block its agent.
	patience time.Duration
}

func (l *lines) write(v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode %T: %w", v, err)
	}
	if len(raw) > maxLine {
		return fmt.Errorf("cannot send %T: %d bytes are over the limit of %d", v, len(raw), maxLine)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err == nil {
		if d, ok := l.w.(interface{ SetWriteDeadline(time.Time) error }); ok && l.patience > 0 {
			_ = d.SetWriteDeadline(time.Now().Add(l.patience)) // a pipe without deadlines just blocks longer
		}
		_, l.err = l.w.Write(append(raw, '\n'))
	}
	return l.err
}

// readLines calls fn for each line until the stream or fn ends it; unknown fields are refused, since both ends are the same binary.
func readLines[T any](r io.Reader, fn func(T) error) error {
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), maxLine+1)
	for s.Scan() {
		v, err := decodeLine[T](s.Bytes())
		if err != nil {
			return err
		}
		if err := fn(v); err != nil {
			return err
		}
	}
	return s.Err()
}

func decodeLine[T any](line []byte) (T, error) {
	var v T
	d := json.NewDecoder(bytes.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&v); err != nil {
		return v, fmt.Errorf("cannot decode a line between agent and rank: %w", err)
	}
	return v, nil
}
