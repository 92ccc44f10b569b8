package schemas

import (
	"maps"
	"time"
)

// What the time of a run goes to. Together the causes make up its wall time: from its acceptance to the last swap of HEAD, or to now.
//
// A gang's time is settled when it commits (by its rank 0's own clock) and when its generation ends. The definitions are those of
// goodput accounting (https://cloud.google.com/blog/products/ai-machine-learning/goodput-metric-as-measure-of-ml-productivity): a step
// counts once its result is committed, whatever the time of another try at it.
const (
	// TimeStep is steps whose result is committed, TimeEval evaluation within training.
	TimeStep = "step"
	TimeEval = "eval"
	// TimePrep, TimeEvalStage and TimeExport are stages of those kinds while no gang runs, waiting for workers included.
	TimePrep      = "prep_stage"
	TimeEvalStage = "eval_stage"
	TimeExport    = "export_stage"
	// TimeQueue is from acceptance, or from a yield, until the gang has its workers; TimePaused while the run is paused.
	TimeQueue  = "queue"
	TimePaused = "paused"
	// TimeStart is from the minting of a generation until its ranks are connected; TimeLoad opening data, compiling, loading and restoring.
	TimeStart = "start"
	TimeLoad  = "load"
	// TimeCheckpoint is what steps wait for checkpoints, and the wait for the commit at which a gang stops.
	TimeCheckpoint = "checkpoint"
	// TimeLost is steps of a generation after its last commit, and the time until its loss was noticed.
	TimeLost = "lost"
	// TimeRegroup is from the end of a generation until the next is minted.
	TimeRegroup = "regroup"
	// TimeIdle is between stages; TimeUncommitted the gang's since its last commit, before it is known what it is; TimeOther what the
	// gang's rank 0 cannot explain.
	TimeIdle        = "idle"
	TimeUncommitted = "uncommitted"
	TimeOther       = "other"
)

// TimeCauses lists the causes in the order of display: what is useful first.
func TimeCauses() []string {
	return []string{TimeStep, TimeEval, TimePrep, TimeEvalStage, TimeExport, TimeUncommitted, TimeQueue, TimePaused, TimeStart, TimeLoad, TimeCheckpoint,
		TimeLost, TimeRegroup, TimeIdle, TimeOther}
}

// TimeUse is the account of a run's time in HEAD, kept by every swap: the time since the swap before goes to what the run was doing.
type TimeUse struct {
	// Seconds by cause, from HEAD's creation on.
	Seconds map[string]float64 `json:"seconds,omitempty"`
	// Open is the seconds of the gang since the boundary of its newest commit, or since its minting: they are settled by the next commit or
	// by the generation's end.
	Open float64 `json:"open,omitempty"`
	// Committed says that the living generation has committed, Closing that it stops at the newest commit.
	Committed bool `json:"committed,omitempty"`
	Closing   bool `json:"closing,omitempty"`
}

// add adds seconds to a cause in a map of its own: what was copied from this account stays as it was.
func (u *TimeUse) add(cause string, seconds float64) {
	if seconds == 0 {
		return
	}
	u.Seconds = maps.Clone(u.Seconds)
	if u.Seconds == nil {
		u.Seconds = map[string]float64{}
	}
	u.Seconds[cause] += seconds
}

// Doing is the cause that the run's time goes to as HEAD stands; TimeUncommitted while a gang runs, "" after the run's end.
func (h *Head) Doing() string {
	switch {
	case h.State.Terminal():
		return ""
	case h.State == RunPaused:
		return TimePaused
	case len(h.Members) > 0:
		return TimeUncommitted
	}
	kinds := map[StageKind]bool{}
	begun := false
	for i := range h.Stages {
		if h.Stages[i].State == StageRunning {
			kinds[h.Stages[i].Kind] = true
		}
		begun = begun || h.Stages[i].State != StagePending
	}
	if kinds[KindTrain] && len(h.Seats) > 0 && h.formedSince(h.StageByName(h.Stage)) {
		return TimeRegroup
	}
	for _, k := range []struct {
		kind  StageKind
		cause string
	}{{KindPrep, TimePrep}, {KindEval, TimeEvalStage}, {KindExport, TimeExport}} {
		if kinds[k.kind] {
			return k.cause
		}
	}
	if kinds[KindTrain] || !begun {
		return TimeQueue
	}
	return TimeIdle
}

// formedSince reports whether the stage's gang has run before and did not yield its seats.
func (h *Head) formedSince(st *StageState) bool {
	if st == nil || len(h.Ended) == 0 {
		return false
	}
	return !h.Ended[len(h.Ended)-1].At.Before(st.Started)
}

// Account adds the time from before's last swap to now, and settles the gang's open time when h, the state after this swap, has a commit
// that before had not, or ends its generation. It sets h.Updated. commit is the manifest that this swap commits, nil when it commits none.
func (h *Head) Account(before *Head, commit *Manifest, now time.Time) {
	if now.Before(before.Updated) {
		now = before.Updated // another machine's clock
	}
	dt := now.Sub(before.Updated).Seconds()
	h.Updated = now
	u := before.Time
	switch cause := before.Doing(); cause {
	case "":
	case TimeUncommitted:
		u.Open += dt
	default:
		u.add(cause, dt)
	}
	if commit != nil {
		u.settle(commit)
	}
	if len(before.Members) > 0 && (len(h.Members) == 0 || h.Generation != before.Generation) {
		cause := TimeLost
		if u.Closing {
			cause = TimeCheckpoint
		}
		u.add(cause, u.Open)
		u.Open = 0
	}
	if len(h.Members) == 0 || h.Generation != before.Generation {
		u.Closing, u.Committed = false, false
	}
	h.Time = u
}

// settle divides the open time up to a commit's boundary as its writer measured.
func (u *TimeUse) settle(m *Manifest) {
	since := 0.0
	if !m.Taken.IsZero() {
		since = min(u.Open, time.Since(m.Taken).Seconds())
	}
	rest := u.Open - since
	if len(m.Spent) == 0 {
		u.add(TimeStep, rest) // its writer measures nothing
		rest = 0
	}
	total := 0.0
	for _, s := range m.Spent {
		total += s
	}
	scale := 1.0
	if total > rest && total > 0 {
		scale = rest / total // clocks of two machines: what HEAD saw is the whole
	}
	for _, cause := range TimeCauses() {
		u.add(cause, scale*m.Spent[cause])
	}
	if rest -= scale * total; rest > 1e-9 {
		if u.Committed {
			u.add(TimeOther, rest)
		} else {
			u.add(TimeStart, rest)
		}
	}
	u.Open, u.Committed, u.Closing = since, true, m.Closing || m.Final
}

// RunTime is how a run's wall time was used.
type RunTime struct {
	// Wall is seconds from acceptance to the run's end, or to now. The Seconds by cause add up to it.
	Wall    float64            `json:"wall"`
	Seconds map[string]float64 `json:"seconds"`
	// Goodput is the share of Wall in useful work: committed steps, evaluation, and the work of other stages.
	Goodput float64 `json:"goodput"`
	// Training is the share of committed steps in the time that train stages had workers or waited to regroup: the effective training time.
	Training float64 `json:"training"`
}

// TimeOf is the account of a run that was accepted at submitted, as of now for one that is not over.
func (h *Head) TimeOf(submitted, now time.Time) *RunTime {
	u := h.Time
	u.Seconds = maps.Clone(u.Seconds)
	u.add(TimeQueue, max(0, h.Created.Sub(submitted).Seconds()))
	open := u.Open
	if cause := h.Doing(); cause == TimeUncommitted {
		open += max(0, now.Sub(h.Updated).Seconds())
	} else if cause != "" {
		u.add(cause, max(0, now.Sub(h.Updated).Seconds()))
	}
	u.add(TimeUncommitted, open)
	out := &RunTime{Seconds: u.Seconds}
	if out.Seconds == nil {
		out.Seconds = map[string]float64{}
	}
	for _, s := range out.Seconds {
		out.Wall += s
	}
	sum := func(causes ...string) (n float64) {
		for _, c := range causes {
			n += out.Seconds[c]
		}
		return n
	}
	if out.Wall > 0 {
		out.Goodput = sum(TimeStep, TimeEval, TimePrep, TimeEvalStage, TimeExport) / out.Wall
	}
	if training := sum(TimeStep, TimeEval, TimeStart, TimeLoad, TimeCheckpoint, TimeLost, TimeRegroup, TimeOther); training > 0 {
		out.Training = sum(TimeStep, TimeEval) / training
	}
	return out
}
