package check

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Kinds of events.
const (
	// KindExpect: a run is about to be submitted, and what must come of it.
	KindExpect = "expect"
	// KindAccepted: the front has acknowledged a run. KindCancelled: a cancel was acknowledged.
	KindAccepted  = "accepted"
	KindCancelled = "cancelled"
	// KindWrite and KindDelete: a request to the object store, with the store's answer (status 0: none was seen).
	KindWrite  = "write"
	KindDelete = "delete"
	// KindDeliver and KindAck: a work message was sent to a worker; a worker acknowledged one.
	KindDeliver = "deliver"
	KindAck     = "ack"
	// KindStep: an optimizer step, from the live stream.
	KindStep = "step"
	// KindFault and KindHeal: the nemesis acts and stops acting. KindKill: a process was ended by SIGKILL.
	KindFault = "fault"
	KindHeal  = "heal"
	KindKill  = "kill"
	// KindCorrupt: the nemesis changed the object Key; Body is its content before, as a JSON string of base64.
	KindCorrupt = "corrupt"
	// KindTrainer: something is done to the trainer of a run; Verb says what, Step which step, Key which object of its data. Twin is the same
	// run without it.
	KindTrainer = "trainer"
	// KindDemand: an autoscaler was told that Count workers are wanted and that Names may go. KindCloud: Count instances of at most Limit run.
	KindDemand = "demand"
	KindCloud  = "cloud"
	// KindStream: what a reader of a run's event stream saw: Names has "generation:step" in order. KindMemory: a process has Bytes resident
	// under Count streams, and may have Bound.
	KindStream = "stream"
	KindMemory = "memory"
	// KindQuiet: no more faults, no more submissions. KindDrained: every run had ended by then, or patience had.
	KindQuiet   = "quiet"
	KindDrained = "drained"
	// KindLeak: a process, file descriptor or secret that should not be where it is; Invariant says which rule.
	KindLeak = "leak"
	// KindNote is for people.
	KindNote = "note"
)

// Outcomes of Expect.
const (
	OutcomeSucceeded = "succeeded"
	OutcomeFailed    = "failed"
	OutcomeCancelled = "cancelled"
)

// OutOfMemory begins the name of a fault in which the lease server answers but stores nothing: leases then lapse for good reason.
const OutOfMemory = "out of memory"

// Expect is what must come of a run.
type Expect struct {
	// Outcomes are the states that the run may end in (a cancel may come too late).
	Outcomes []string `json:"outcomes"`
	// Stage is the train stage whose lineage and hash are judged; Hash what an undisturbed run ends with ("" = not known), Steps how many it
	// takes, Every the commit interval in steps.
	Stage string `json:"stage,omitempty"`
	Hash  string `json:"hash,omitempty"`
	Steps int64  `json:"steps,omitempty"`
	Every int64  `json:"every,omitempty"`
	// Poison marks a run that is wrong in itself: its generations may end for application causes.
	Poison bool `json:"poison,omitempty"`
}

// Event is one line of a history.
type Event struct {
	// At is in seconds since the start of the history; for requests when they were received, Ended when they were answered.
	At    float64 `json:"at"`
	Ended float64 `json:"ended,omitempty"`
	Kind  string  `json:"kind"`
	// Proc is the process that acts: the client of a request, the worker of a delivery, the target of a fault.
	Proc string `json:"proc,omitempty"`

	// Requests.
	Method    string          `json:"method,omitempty"`
	Key       string          `json:"key,omitempty"`
	Condition string          `json:"condition,omitempty"`
	Status    int             `json:"status,omitempty"`
	ETag      string          `json:"etag,omitempty"`
	Told      string          `json:"told,omitempty"`
	Bytes     int64           `json:"bytes,omitempty"`
	Body      json.RawMessage `json:"body,omitempty"`

	// Runs, steps, messages.
	Tenant     string  `json:"tenant,omitempty"`
	Run        string  `json:"run,omitempty"`
	Stage      string  `json:"stage,omitempty"`
	Step       int64   `json:"step,omitempty"`
	Generation uint64  `json:"generation,omitempty"`
	Loss       float64 `json:"loss,omitempty"`
	Subject    string  `json:"subject,omitempty"`
	Sequence   uint64  `json:"sequence,omitempty"`
	Verb       string  `json:"verb,omitempty"`
	Expect     *Expect `json:"expect,omitempty"`
	Twin       string  `json:"twin,omitempty"`

	// Autoscalers and streams.
	Count int      `json:"count,omitempty"`
	Limit int      `json:"limit,omitempty"`
	Names []string `json:"names,omitempty"`
	Bound int64    `json:"bound,omitempty"`

	// Faults.
	Row       int    `json:"row,omitempty"`
	Fault     string `json:"fault,omitempty"`
	Invariant string `json:"invariant,omitempty"`
	Note      string `json:"note,omitempty"`
}

// History collects events and writes each as a line. It is safe for concurrent use.
type History struct {
	start time.Time

	mu     sync.Mutex
	events []Event
	out    *bufio.Writer
	err    error
}

// NewHistory starts a history; out may be nil.
func NewHistory(out io.Writer) *History {
	h := &History{start: time.Now()}
	if out != nil {
		h.out = bufio.NewWriterSize(out, 1<<16)
	}
	return h
}

// Seconds is the history's time of t.
func (h *History) Seconds(t time.Time) float64 { return t.Sub(h.start).Seconds() }

// Add appends an event; without At it is of now.
func (h *History) Add(e Event) {
	if e.At == 0 {
		e.At = h.Seconds(time.Now())
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	if h.out == nil || h.err != nil {
		return
	}
	line, err := json.Marshal(e)
	if err == nil {
		_, err = h.out.Write(append(line, '\n'))
	}
	h.err = err
}

// Events returns a copy of what was added.
func (h *History) Events() []Event {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Event(nil), h.events...)
}

// Flush writes what is buffered and returns the first error of any write.
func (h *History) Flush() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.out == nil {
		return nil
	}
	if err := errors.Join(h.err, h.out.Flush()); err != nil {
		return fmt.Errorf("cannot write the history: %w", err)
	}
	return nil
}

// Read reads a history from JSON lines.
func Read(r io.Reader) ([]Event, error) {
	var out []Event
	s := bufio.NewScanner(r)
	s.Buffer(make([]byte, 64<<10), 64<<20)
	for n := 1; s.Scan(); n++ {
		var e Event
		if err := json.Unmarshal(s.Bytes(), &e); err != nil {
			return nil, fmt.Errorf("cannot read line %d of the history: %w", n, err)
		}
		out = append(out, e)
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the history: %w", err)
	}
	return out, nil
}
