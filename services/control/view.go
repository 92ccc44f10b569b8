package control

import (
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// Limits are the thresholds that Decide applies.
type Limits struct {
	// LeaseTTL is the time to live of leases (default lease.TTL). Absence counts only after two of them of unbroken contact.
	LeaseTTL time.Duration
	// LapseGrace is how long a lease that was seen must be absent (default LeaseTTL/5).
	LapseGrace time.Duration
	// Forming is how long a gang may take to form (default 60 s).
	Forming time.Duration
	// ReformYield is how long a gang that lost members keeps its seats while another one has the turn (default 30 s).
	ReformYield time.Duration
	// Republish is how often the message of an unleased seat or part is published again in case the stream lost it (default 2 s).
	Republish time.Duration
	// PauseGrace is how long a gang may take to commit before a pause or preemption is enforced (default 20 s).
	PauseGrace time.Duration
	// Attempts is the number of application failures of a part, or of a gang without a step of progress, that fails the run (default 3).
	Attempts int
	// Retry is how long a gang that failed, or a failed part, waits until it is tried again, holding no worker (default 2 s); it doubles with
	// each failure in a row, up to RetryMost (default 2 minutes).
	Retry, RetryMost time.Duration
	// Reserve is how long smaller gangs may start on the workers that a waiting larger one will need; past it they are left idle for it,
	// and gangs of its priority that started while it waited are asked to yield (default 60 s).
	Reserve time.Duration
	// Grow is how long a generation must have trained before it is offered more seats (default 30 s).
	Grow time.Duration
	// Quantum is what a start charges its tenant in advance, in seconds of its seats, so that one decision does not serve one tenant alone
	// (default 10 minutes).
	Quantum time.Duration
	// Losses is the number of attempts of a part, or of generations in a row without a step of progress, lost for whatever reason but
	// preemption, that fails the run (default 30): what kills every host it touches must end some time.
	Losses int
}

// WithDefaults fills what is unset.
func (l Limits) WithDefaults() Limits {
	def := func(d *time.Duration, v time.Duration) {
		if *d <= 0 {
			*d = v
		}
	}
	def(&l.LeaseTTL, lease.TTL)
	def(&l.LapseGrace, l.LeaseTTL/5)
	def(&l.Forming, time.Minute)
	def(&l.ReformYield, 30*time.Second)
	def(&l.Republish, 2*time.Second)
	def(&l.PauseGrace, 20*time.Second)
	def(&l.Reserve, time.Minute)
	def(&l.Retry, 2*time.Second)
	def(&l.RetryMost, 2*time.Minute)
	def(&l.Grow, 30*time.Second)
	def(&l.Quantum, 10*time.Minute)
	if l.Attempts <= 0 {
		l.Attempts = 3
	}
	if l.Losses <= 0 {
		l.Losses = 30
	}
	return l
}

// View is what a decision about one pool is made from. Times are on the owner's monotonic clock, counted from its start.
type View struct {
	Pool   string
	Limits Limits
	// Ledger is the pool's ledger, owned by the decider.
	Ledger schemas.Ledger
	// Policy is the operator's word; nil admits everybody alike.
	Policy *schemas.Policy
	// Wall is the wall clock (UTC): not_before is compared with it, and the times that control itself wrote.
	Wall time.Time
	// Reserved names the run ("tenant/id") that the last decision kept workers for, ReservedFor how long it has been that run.
	Reserved    string
	ReservedFor time.Duration
	// Terse leaves Decision.Reasons empty.
	Terse bool
	// Contact is how long the lease server has been reachable without a break and with the same boot id; 0 = not now.
	Contact time.Duration
	// Workers counts the live workers of every pool that the runs use.
	Workers map[string]Workers
	// Runs are the open runs of the pool.
	Runs []Run
}

// Workers counts the live workers of a pool that are not draining.
type Workers struct {
	Live int
	// Busy counts those that say they hold something.
	Busy int
	// Idle is how long there has been an idle one without a break.
	Idle time.Duration
}

// Run is one open run.
type Run struct {
	Spec *schemas.RunSpec
	// Head is nil for a queued run.
	Head *schemas.Head
	// Submitted orders runs of equal priority and usage.
	Submitted time.Time
	// Forming is how long the gang has had seats and no members.
	Forming time.Duration
	// Asked is how long the control word of HEAD has been set.
	Asked time.Duration
	// Age is how long ago the run made its first transition.
	Age time.Duration
	// Steady is how long the current generation has had its members, Growing how long seats beyond them have been wanted.
	Steady, Growing time.Duration
	// Failed is how long ago the end of the newest generation was first seen.
	Failed time.Duration
	// Parents holds the state of the runs of Spec.After that are known; one that is not known has not ended.
	Parents map[string]schemas.RunState
	// Held is the number of wanted seats that have a live holder; see CountHeld.
	Held int
	// Claims holds what is known of each wanted seat and unfinished part.
	Claims map[ClaimKey]Claim
	// Stages holds what running prep, eval and export stages have stored.
	Stages map[string]StageView

	mark mark // of the decision that is being made
}

// ClaimKey names a seat or part at an issue.
type ClaimKey struct {
	Stage string
	Index int
	Issue uint64
}

// Claim is what is known of a seat or part: by the lease server, and by the decider's own memory.
type Claim struct {
	// Holder is the live holder at this issue, nil when there is none.
	Holder *lease.Owner
	// Known is when the decider first knew of the claim.
	Known time.Duration
	// Seen is when a holder was last seen; Ever says that there was one.
	Seen time.Duration
	Ever bool
	// Published is when the decider last published the message; WasPublished says that it did.
	Published    time.Duration
	WasPublished bool
}

// CountHeld sets Held from Head and Claims.
func (r *Run) CountHeld() {
	r.Held = 0
	if h := r.Head; h != nil {
		for _, s := range h.Seats {
			if r.Claims[ClaimKey{h.Stage, s.Seat, s.Issue}].Holder != nil {
				r.Held++
			}
		}
	}
}

// StageView is what the parts of a stage have stored.
type StageView struct {
	// Results holds the parts whose result object exists.
	Results map[int]bool
	// Failures are the failed attempts, Failed how long ago each was first seen.
	Failures []schemas.Failure
	Failed   []time.Duration
}

// Kind says what an action does.
type Kind string

// Kinds of actions.
const (
	// ActStart creates HEAD (state running), with the seats of its first gang where the action has some.
	ActStart Kind = "start"
	// ActStageStart moves a prep, eval or export stage to running; ActPublish follows.
	ActStageStart Kind = "stage-start"
	// ActPublish publishes messages; a message that is there already is no error.
	ActPublish Kind = "publish"
	// ActPartReissue gives parts new issues: HEAD, then the old messages are deleted and the new ones published.
	ActPartReissue Kind = "part-reissue"
	// ActStageDone merges the results of a stage and marks it succeeded.
	ActStageDone Kind = "stage-done"
	// ActTurn and ActTurnEnd write the pool's ledger.
	ActTurn    Kind = "turn"
	ActTurnEnd Kind = "turn-end"
	// ActSeats issues the seats of a gang and publishes their messages.
	ActSeats Kind = "seats"
	// ActSeatReissue gives seats new issues, ends the generation if there is one, and replaces the messages.
	ActSeatReissue Kind = "seat-reissue"
	// ActRetire drops wanted seats of a gang that has no generation.
	ActRetire Kind = "retire"
	// ActGiveBack takes all seats of a gang back.
	ActGiveBack Kind = "give-back"
	// ActTrainDone closes a train stage whose final commit HEAD names.
	ActTrainDone Kind = "train-done"
	// ActPaused ends the gang and moves the run to paused.
	ActPaused Kind = "paused"
	// ActPreempt asks a gang to commit and yield to one of higher priority; ActGiveBack follows.
	ActPreempt Kind = "preempt"
	// ActGrow wants more seats for a gang that trains; ActShed drops those of them that found no holder. Neither touches the generation.
	ActGrow Kind = "grow"
	ActShed Kind = "shed"
	// ActRegroup asks a gang to commit and form again with the seats that it grew by; ActRegrouped lets it, once the generation has ended.
	ActRegroup   Kind = "regroup"
	ActRegrouped Kind = "regrouped"
	// ActSkip ends a queued run whose parent did not end as it must.
	ActSkip Kind = "skip"
	// ActFail fails the run.
	ActFail Kind = "fail"
	// ActClose cleans up after a run that has ended: messages, then the open object.
	ActClose Kind = "close"
)

// Action is one thing to do. Rev is the revision of HEAD that it was decided on: a HEAD that has moved on makes it void.
type Action struct {
	Kind   Kind
	Tenant string
	Run    string
	Stage  string
	Rev    uint64
	// Seats: for ActSeats all wanted seats, for ActSeatReissue those with their new issues, for ActRetire those dropped.
	Seats []schemas.Seat
	// Parts: part and new issue for ActPartReissue.
	Parts []schemas.Seat
	// Publish and Delete are messages.
	Publish []schemas.Message
	Delete  []schemas.Message
	Turn    *schemas.Turn
	Error   *schemas.ErrorInfo
	Reason  string
}

// Decision is the outcome of Decide.
type Decision struct {
	Actions []Action
	// Reasons says for each run ("tenant/id") what it waits for or does, for people.
	Reasons map[string]string
	// Reason says the same of the pool.
	Reason string
	// Reserved names the run that waits first for workers that the pool has: the next view says for how long.
	Reserved string
	// Demand is the autoscaling signal: workers that running gangs, the turn, outstanding parts and waiting gangs could use.
	Demand int
}
