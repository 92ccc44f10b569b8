package schemas

import (
	"encoding/json"
	"time"
)

// MaxOpenBatchBytes is the largest OpenBatch.
const MaxOpenBatchBytes = 4 << 20

// OpenBatch is what the open objects of runs that were accepted together hold, in one object: see OpenBatchKey.
type OpenBatch struct {
	Version int `json:"version"`
	// Specs are the accepted specs, byte for byte as beside HEAD; all of one pool.
	Specs []json.RawMessage `json:"specs"`
}

// MaxMessageBytes is the largest work message (64 KiB); anything larger travels as a claim check.
const MaxMessageBytes = 64 << 10

// Message is one pullable unit on JetStream. For train it is the right of one worker to hold one seat; for the other kinds it is one
// part of the stage's work.
type Message struct {
	Version int       `json:"version"`
	Kind    StageKind `json:"kind"`
	Pool    string    `json:"pool"`
	Tenant  string    `json:"tenant"`
	Run     string    `json:"run"`
	Stage   string    `json:"stage"`
	// Spec is the key of the object holding the RunSpec (the open object).
	Spec string `json:"spec"`
	// Seat and Issue: train only. Issue also counts re-publications of a part.
	Seat  int    `json:"seat"`
	Issue uint64 `json:"issue"`
	// Part is 0..Parts-1; Part == Parts is the reduce step of a stage that has one.
	Part  int `json:"part"`
	Parts int `json:"parts,omitempty"`
}

// HeaderWarm is the header of a seat's message that names, separated by commas, the workers of the gang that gave the seats back: all others
// leave the message to them for a moment.
const HeaderWarm = "tunefleet-warm"

// Index is the seat of a train message, the part of any other.
func (m Message) Index() int {
	if m.Kind == KindTrain {
		return m.Seat
	}
	return m.Part
}

// StageResult is the result object of one part of a prep, eval or export stage (written with If-None-Match; its existence is the
// commit of the part), and, merged by control or the reducer, of the stage.
type StageResult struct {
	Version int       `json:"version"`
	Run     string    `json:"run"`
	Tenant  string    `json:"tenant"`
	Stage   string    `json:"stage"`
	Kind    StageKind `json:"kind"`
	Part    int       `json:"part"`
	Parts   int       `json:"parts"`
	Worker  string    `json:"worker"`
	// Objects are what the part wrote.
	Objects []Object `json:"objects,omitempty"`
	// Counters are additive (rows, tokens, dropped_duplicates, ...).
	Counters map[string]int64 `json:"counters,omitempty"`
	// Values are anything else the handler reports (metrics of an eval report, for instance).
	Values map[string]any `json:"values,omitempty"`
	At     time.Time      `json:"at"`
}

// Object is a stored object that a result points at.
type Object struct {
	// Name is the logical name: "clauses/shard", "peft/adapter_config.json", "report.json".
	Name   string `json:"name"`
	Key    string `json:"key"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// Failure is the record of a failed attempt at a part (prep, eval, export), read by control for the retry budget.
type Failure struct {
	Version int       `json:"version"`
	Stage   string    `json:"stage"`
	Part    int       `json:"part"`
	Issue   uint64    `json:"issue"`
	Worker  string    `json:"worker"`
	Cause   Cause     `json:"cause"`
	Error   ErrorInfo `json:"error"`
	At      time.Time `json:"at"`
}

// Event is one thing that happened to a run, in the live stream (Redis), in segment logs and in the CLI's --json output.
type Event struct {
	At time.Time `json:"at"`
	// Type is one of the Event* names.
	Type   string `json:"type"`
	Tenant string `json:"tenant,omitempty"`
	Run    string `json:"run,omitempty"`
	Stage  string `json:"stage,omitempty"`
	// Generation and Step place the event in the lineage: the live stream is deduplicated by them.
	Generation uint64 `json:"generation,omitempty"`
	Step       int64  `json:"step,omitempty"`
	Worker     string `json:"worker,omitempty"`
	Message    string `json:"message,omitempty"`
	// Values holds numbers: loss, grad_norm, learning_rate, tokens_per_second, rows, total, ...
	Values map[string]float64 `json:"values,omitempty"`
	Error  *ErrorInfo         `json:"error,omitempty"`
}

// Event types.
const (
	EventSubmitted  = "run.submitted"
	EventState      = "run.state"
	EventStage      = "stage.state"
	EventProgress   = "progress"
	EventStep       = "train.step"
	EventCommit     = "checkpoint.committed"
	EventGeneration = "gang.generation"
	EventMemberLost = "gang.member_lost"
	EventFenced     = "gang.fenced"
	EventPreempt    = "preemption.notice"
	EventWarning    = "warning"
	EventReport     = "eval.report"
	EventAnomaly    = "train.anomaly"
	// EventNote: a decision in words, such as the precision that was chosen; nothing is wrong.
	EventNote = "note"
	// EventFallback: a corrupt checkpoint was passed over, HEAD went back to its parent.
	EventFallback = "checkpoint.fallback"
)
