package schemas

import "time"

// Head is the one object per run that says what is true (S3, single PUT with If-Match, rev+1 and a writer nonce at every swap).
//
// Writers of its fields, one each: Manifest, Step: rank 0 of the current generation. State, Stages, Stage, Seats, Control: control or
// the API. Generation, Members: a seat holder forming the gang, an anomaly rollback, or a cancel. Ended: whoever ends the generation.
type Head struct {
	Version int    `json:"version"`
	Tenant  string `json:"tenant"`
	Run     string `json:"run"`
	// Rev increases by one at every swap.
	Rev uint64 `json:"rev"`
	// Nonce is the writer's: after an ambiguous swap "my nonce" means the swap happened.
	Nonce string   `json:"nonce"`
	State RunState `json:"state"`
	// Reason says why the run is in its state, for people.
	Reason  string       `json:"reason,omitempty"`
	Error   *ErrorInfo   `json:"error,omitempty"`
	Control Control      `json:"control,omitempty"`
	Stages  []StageState `json:"stages"`
	// Stage is the train stage whose gang the fields below describe; empty when no train stage runs.
	Stage string `json:"stage,omitempty"`
	// Generation is the fencing token: minted by a swap, in every key, handshake and frame. It never repeats within a run.
	Generation uint64   `json:"generation"`
	Members    []Member `json:"members,omitempty"`
	// Warm names the workers of the gang that yielded last, until another one forms or a seat goes to somebody else: their disks have its
	// parts. A hint (DESIGN 3).
	Warm []string `json:"warm,omitempty"`
	// Seats maps each wanted seat to its issue.
	Seats []Seat `json:"seats,omitempty"`
	// LastIssue is the highest seat issue ever given in this run: issues are never reused.
	LastIssue uint64 `json:"last_issue,omitempty"`
	// Manifest is the newest commit of Stage (nil before the first).
	Manifest *ManifestRef `json:"manifest,omitempty"`
	// Previous is Manifest's parent, so that a reader can walk back even when the manifest itself cannot be read.
	Previous *ManifestRef `json:"previous,omitempty"`
	Step     int64        `json:"step"`
	// Numerics is the fingerprint of the arithmetic of the last generation formed (kernel ABI, ISA path, versions).
	Numerics string `json:"numerics,omitempty"`
	// Ended has one record per ended generation.
	Ended []GenerationEnd `json:"ended,omitempty"`
	// Judged is the newest generation whose failure control has answered; see Unjudged.
	Judged uint64 `json:"judged,omitempty"`
	// Time is what the run's time went to, kept by every swap.
	Time    TimeUse   `json:"time,omitzero"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Control is a request to a running gang, read at boundaries.
type Control string

// Control words.
const (
	ControlNone    Control = ""
	ControlCancel  Control = "cancel"
	ControlPause   Control = "pause"
	ControlPreempt Control = "preempt"
	// ControlRegroup asks a gang to commit and to form again with the seats that were added.
	ControlRegroup Control = "regroup"
)

// StageState is the progress of one stage in HEAD.
type StageState struct {
	Name  string     `json:"name"`
	Kind  StageKind  `json:"kind"`
	State StagePhase `json:"state"`
	// Result is the key of the stage's result object (a StageResult).
	Result  string    `json:"result,omitempty"`
	Started time.Time `json:"started,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	// Manifest is the final commit of a train stage.
	Manifest *ManifestRef `json:"manifest,omitempty"`
	// Issues holds the current issue of each part that was issued again (prep, eval, export); all others are at issue 1.
	Issues map[int]uint64 `json:"issues,omitempty"`
}

// PartIssue is the current issue of a part of a prep, eval or export stage.
func (s *StageState) PartIssue(part int) uint64 {
	if n := s.Issues[part]; n > 0 {
		return n
	}
	return 1
}

// Member is one seat's holder in the current generation; Rank is its place in the gang (0..n-1), Addr where its collective listens.
type Member struct {
	Rank        int    `json:"rank"`
	Seat        int    `json:"seat"`
	Issue       uint64 `json:"issue"`
	Worker      string `json:"worker"`
	Incarnation string `json:"incarnation"`
	Addr        string `json:"addr"`
}

// Seat is one wanted seat and its current issue.
type Seat struct {
	Seat  int    `json:"seat"`
	Issue uint64 `json:"issue"`
}

// ManifestRef points at a manifest, by key and content.
type ManifestRef struct {
	Key        string `json:"key"`
	SHA256     string `json:"sha256"`
	Stage      string `json:"stage"`
	Step       int64  `json:"step"`
	Generation uint64 `json:"generation"`
	// Final marks the last commit of its stage.
	Final bool `json:"final,omitempty"`
}

// Cause says why a generation ended; retry budgets are sums over it.
type Cause string

// Causes.
const (
	CausePreempted      Cause = "preempted"
	CauseInfrastructure Cause = "infrastructure"
	CauseApplication    Cause = "application"
	CausePoison         Cause = "poison"
	CauseDone           Cause = "done"
)

// GenerationEnd records the end of a generation, written by the swap that ends it.
type GenerationEnd struct {
	Generation uint64     `json:"generation"`
	Cause      Cause      `json:"cause"`
	Step       int64      `json:"step"`
	Error      *ErrorInfo `json:"error,omitempty"`
	At         time.Time  `json:"at"`
}

// Disband takes the members out of HEAD. Those of a gang that yields are kept as Warm; when any other ends, who was in it says nothing.
func (h *Head) Disband(cause Cause) {
	switch {
	case cause != CausePreempted:
		h.Warm = nil
	case len(h.Members) > 0 && len(h.Members) <= maxWarm:
		h.Warm = make([]string, len(h.Members))
		for i, m := range h.Members {
			h.Warm[i] = m.Worker
		}
	}
	h.Members = nil
}

// maxWarm bounds the hint: the names go into the header of each seat's message.
const maxWarm = 128

// Unjudged reports whether the newest generation failed by its own doing and control has still to say whether, and when, it is tried again:
// seat holders form no other one by themselves.
func (h *Head) Unjudged() bool {
	if len(h.Ended) == 0 {
		return false
	}
	e := h.Ended[len(h.Ended)-1]
	return e.Generation == h.Generation && (e.Cause == CauseApplication || e.Cause == CausePoison) && h.Judged < h.Generation
}

// WantsSeat reports whether HEAD still wants the seat at this issue: the negation is "obsolete" (DESIGN 2, rule 4).
func (h *Head) WantsSeat(stage string, seat int, issue uint64) bool {
	if h == nil {
		return true
	}
	if h.State.Terminal() || h.State == RunPaused || h.Stage != stage {
		return false
	}
	if h.Manifest != nil && h.Manifest.Final && h.Manifest.Stage == stage {
		return false
	}
	for _, s := range h.Seats {
		if s.Seat == seat {
			return s.Issue == issue
		}
	}
	return false
}

// WantsPart reports whether HEAD still wants that part of a prep, eval or export stage at this issue. A part whose result object exists
// is done whatever HEAD says.
func (h *Head) WantsPart(stage string, part int, issue uint64) bool {
	if h == nil {
		return true
	}
	st := h.StageByName(stage)
	if h.State.Terminal() || h.State == RunPaused || st == nil || st.State.Terminal() {
		return false
	}
	return issue >= st.PartIssue(part)
}

// StageByName returns the state of a stage, nil when there is none.
func (h *Head) StageByName(name string) *StageState {
	for i := range h.Stages {
		if h.Stages[i].Name == name {
			return &h.Stages[i]
		}
	}
	return nil
}

// Manifest lists the parts of one checkpoint. Any world size loads any manifest: tensors are flat ranges cut at chunk boundaries.
type Manifest struct {
	Version    int    `json:"version"`
	Tenant     string `json:"tenant"`
	Run        string `json:"run"`
	Stage      string `json:"stage"`
	Step       int64  `json:"step"`
	Generation uint64 `json:"generation"`
	World      int    `json:"world"`
	// Parent is the previous commit of the lineage.
	Parent *ManifestRef `json:"parent,omitempty"`
	Parts  []Part       `json:"parts"`
	// Log is the key of the segment's metrics and events (JSONL).
	Log Part `json:"log"`
	// State is the trainer's own state (data cursor, RNG, schedule); opaque to everything but the handler.
	State map[string]string `json:"state,omitempty"`
	// StateHash is the SHA-256 over the canonical content of all tensors (independent of world size).
	StateHash string `json:"state_hash,omitempty"`
	Final     bool   `json:"final,omitempty"`
	// Closing says that the gang stops at this commit.
	Closing bool `json:"closing,omitempty"`
	// Spent is rank 0's seconds by cause (Time*) since the boundary before, or since it was connected.
	Spent   map[string]float64 `json:"spent,omitempty"`
	Created time.Time          `json:"created"`
	// Taken is when the boundary's snapshot was taken, by the committing process's monotonic clock.
	Taken time.Time `json:"-"`
}

// Part is one immutable object of a checkpoint.
type Part struct {
	Key    string `json:"key"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
	Rank   int    `json:"rank"`
	// Blocks are the SHA-256 of each BlockBytes of the part, the last one shorter: a reader verifies the ranges that it reads. Parts of one
	// block have none.
	Blocks []string `json:"blocks,omitempty"`
	// Ranges says which elements of which tensors the part holds, in order.
	Ranges []Range `json:"ranges,omitempty"`
}

// Range is elements [From, To) of a flat tensor (fp32), stored at byte Offset of the part.
type Range struct {
	// Tensor names parameter and slot: "param/<name>", "adam_m/<name>", "adam_v/<name>".
	Tensor string `json:"tensor"`
	From   int64  `json:"from"`
	To     int64  `json:"to"`
	Offset int64  `json:"offset"`
	// Shape is the tensor's full shape.
	Shape []int64 `json:"shape,omitempty"`
}

// BlockBytes is the unit in which parts of checkpoints are read and verified.
const BlockBytes = 4 << 20

// ChunkElements is the unit that flat tensors are cut at, for sharding, norms and checkpoints.
const ChunkElements = 4096

// Ledger is the one object per pool that says what spans runs: who schedules it, whose turn it is, what each tenant has used.
type Ledger struct {
	Version int    `json:"version"`
	Pool    string `json:"pool"`
	Rev     uint64 `json:"rev"`
	Nonce   string `json:"nonce"`
	// Owner is the control replica (incarnation) that schedules the pool. A replica that saw the same rev for longer than TTL by its own
	// monotonic clock may take the ledger over.
	Owner string        `json:"owner"`
	TTL   time.Duration `json:"ttl"`
	Turn  *Turn         `json:"turn,omitempty"`
	// Usage is virtual device-seconds per tenant, decaying with a half-life of a day.
	Usage map[string]float64 `json:"usage,omitempty"`
	// Month is the calendar month (UTC, "2006-01") that Spent counts device-seconds of, per tenant with a quota of device-hours.
	Month string             `json:"month,omitempty"`
	Spent map[string]float64 `json:"spent,omitempty"`
	// Updated is for people; nothing compares it.
	Updated time.Time `json:"updated"`
}

// Turn is the one gang of the pool that may be forming.
type Turn struct {
	Tenant string `json:"tenant"`
	Run    string `json:"run"`
	Stage  string `json:"stage"`
	Seats  int    `json:"seats"`
	// Reform marks a gang that lost members, as opposed to a first forming.
	Reform bool   `json:"reform,omitempty"`
	Reason string `json:"reason,omitempty"`
	// Since is for people; deadlines run on the owner's monotonic clock.
	Since time.Time `json:"since"`
}
