// Package plantedbug marks the places where a bug can be planted, so that the chaos suite can be tested itself: a checker that finds no
// planted bug proves nothing by finding no real one. Without the build tag plantedbug, Is is constant and the bugs are not in the binary.
package plantedbug

// Variable selects the bug, by its name, in a binary built with the tag.
const Variable = "TUNEFLEET_PLANTED_BUG"

// The bugs.
const (
	// AckBeforeWork acknowledges a part's message before its result is stored.
	AckBeforeWork = "ack-before-work"
	// AckSeatAtOnce acknowledges a seat's message when it is taken.
	AckSeatAtOnce = "ack-seat-at-once"
	// NoFencing lets an old generation commit.
	NoFencing = "no-fencing"
	// UnverifiedParts loads checkpoints without comparing hashes.
	UnverifiedParts = "unverified-parts"
	// StepTwice does the last committed step again after loading.
	StepTwice = "step-twice"
	// CommitOutsideHead stores a manifest without swapping HEAD, except for the final one.
	CommitOutsideHead = "commit-outside-head"
	// PreemptionIsFailure records a preemption as an application failure.
	PreemptionIsFailure = "preemption-is-failure"
	// LeaseIsPermission gives a seat up when the lease server cannot be reached.
	LeaseIsPermission = "lease-is-permission"
	// LoseOpenObject deletes the open object when a run starts.
	LoseOpenObject = "lose-open-object"
	// GenerationReused forms a gang again without a new generation.
	GenerationReused = "generation-reused"
	// CancelIsNotFinal lets a gang commit after a cancel.
	CancelIsNotFinal = "cancel-is-not-final"
	// AcknowledgeUnstored acknowledges a submitted run that could not be stored.
	AcknowledgeUnstored = "acknowledge-unstored"
	// PruneNeeded deletes the parts of the commit before the newest.
	PruneNeeded = "prune-needed"
	// SwapBlindly writes HEAD without a condition.
	SwapBlindly = "swap-blindly"
)

// Names lists the bugs.
func Names() []string {
	return []string{AckBeforeWork, AckSeatAtOnce, NoFencing, UnverifiedParts, StepTwice, CommitOutsideHead, PreemptionIsFailure, LeaseIsPermission,
		LoseOpenObject, GenerationReused, CancelIsNotFinal, AcknowledgeUnstored, PruneNeeded, SwapBlindly}
}
