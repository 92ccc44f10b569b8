package chaos

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
)

// Machine is what the figures were measured on.
type Machine struct {
	Cores int    `json:"cores"`
	Arch  string `json:"arch"`
	OS    string `json:"os"`
	// Load is the load average of the last minute before the start.
	Load float64 `json:"load"`
}

func machine() Machine {
	return Machine{Cores: runtime.NumCPU(), Arch: runtime.GOARCH, OS: runtime.GOOS, Load: load()}
}

// load is the machine's load average over a minute, 0 where it is not known.
func load() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var l float64
	if _, err := fmt.Sscan(string(raw), &l); err != nil {
		return 0
	}
	return l
}

// Figure is one line of the table.
type Figure struct {
	Name string `json:"name"`
	// Value is what was measured, Must what it has to be, both for people.
	Value string `json:"value"`
	Must  string `json:"must"`
	// How is "real" (processes, clock and servers as in production, the toy's arithmetic) or "simulated".
	How string `json:"how"`
	// Pass is "pass", "FAIL" or "not measured".
	Pass string `json:"pass"`
}

// missed is the verdict on a figure that is not what it has to be.
const missed = "FAIL"

// Result is what a whole run of the suite came to.
type Result struct {
	Seed     uint64     `json:"seed"`
	Minutes  float64    `json:"minutes"`
	Started  time.Time  `json:"started"`
	Machine  Machine    `json:"machine"`
	Load     float64    `json:"load_at_end"`
	Episodes []*Episode `json:"episodes"`
	// Training is the real model's part, nil when there was none.
	Training *Training `json:"training,omitempty"`
	Figures  []Figure  `json:"figures"`
	Kills    int       `json:"kills"`
	// Older: a worker of an earlier build took part.
	Older bool `json:"older,omitempty"`
	// OK: every invariant held, every row did what it demands, and no figure was missed.
	OK bool `json:"ok"`
}

// reports are the checker's, of the episodes and of the training.
func (r *Result) reports() (out []*check.Report) {
	for _, e := range r.Episodes {
		out = append(out, e.Report)
	}
	if r.Training != nil {
		out = append(out, r.Training.Report)
	}
	return out
}

// finish adds the episodes up.
func (r *Result) finish() {
	r.OK = true
	reports := r.reports()
	var runs, lost, terminal, manifests, doubled, hashes, unequal, corrupted int
	var loss Losses
	for _, e := range r.Episodes {
		r.OK = r.OK && e.OK()
		loss.Killed, loss.Over, loss.Steps = loss.Killed+e.Lost.Killed, loss.Over+e.Lost.Over, max(loss.Steps, e.Lost.Steps)
		loss.Preempted, loss.PreemptedSteps = loss.Preempted+e.Lost.Preempted, loss.PreemptedSteps+e.Lost.PreemptedSteps
	}
	for _, p := range reports {
		for _, n := range p.Kills {
			r.Kills += n
		}
		runs, lost, terminal = runs+p.Runs, lost+p.Lost, terminal+p.Terminal
		manifests, doubled, hashes, unequal, corrupted = manifests+p.Manifests, doubled+p.Doubled, hashes+p.Hashes, unequal+p.Unequal, corrupted+p.Corrupted
	}
	add := func(ok, measured bool, name, must, format string, args ...any) {
		f := Figure{Name: name, Value: fmt.Sprintf(format, args...), Must: must, How: "real", Pass: missed}
		if ok {
			f.Pass = "pass"
		}
		if !measured {
			f.Pass, f.Value = "not measured", "-"
		}
		r.OK = r.OK && f.Pass != missed
		r.Figures = append(r.Figures, f)
	}
	add(lost == 0, runs > 0, "acknowledged runs lost", "0", "%d of %d, %d kill -9", lost, runs, r.Kills)
	add(terminal == runs, runs > 0, "terminal records", "1 a run", "%d of %d runs", terminal, runs)
	add(doubled == 0, manifests > 0, "manifests per generation and step", "1", "%d doubled of %d", doubled, manifests)
	add(unequal == 0, hashes > 0, "final state against undisturbed", "equal", "%d unequal of %d", unequal, hashes)
	add(loss.Over == 0, loss.Killed > 0, "lost steps, no notice", "<= 1 interval", "%d over, at most %d steps, %d generations", loss.Over, loss.Steps, loss.Killed)
	add(loss.PreemptedSteps == 0, loss.Preempted > 0, "lost steps, SIGTERM or notice", "0", "%d in %d generations", loss.PreemptedSteps, loss.Preempted)
	add(unequal == 0, corrupted > 0, "damaged checkpoints used, in the fleet", "0", "%d of %d", unequal, corrupted)
	r.training(add)
}

// training adds the figures of the real model.
func (r *Result) training(add func(ok, measured bool, name, must, format string, args ...any)) {
	t := r.Training
	if t == nil {
		return
	}
	r.OK = r.OK && t.Report.OK() && t.Hash == t.Calm && t.Loaded == 0
	add(t.Hash == t.Calm && t.Hash != "", true, "trained weights against undisturbed", "identical hash", "%.12s and %.12s after %d faults", t.Hash, t.Calm, len(t.Faults))
	add(t.Loaded == 0, t.Flips > 0, "damaged checkpoints loaded, bit flips (in memory)", "0 of >= 500", "%d of %d", t.Loaded, t.Flips)
	add(t.Lost.Over == 0, t.Lost.Killed > 0, "lost steps in training, no notice", "<= 1 interval", "at most %d steps of %d", t.Lost.Steps, trainCommit)
	add(t.Lost.PreemptedSteps == 0, t.Lost.Preempted > 0, "lost steps in training, SIGTERM", "0", "%d in %d generations", t.Lost.PreemptedSteps, t.Lost.Preempted)
	var worst [2]float64
	for _, f := range t.Faults {
		switch {
		case f.Recovery > 0 && strings.HasPrefix(f.What, "kill"):
			worst[0] = max(worst[0], f.Recovery)
		case f.Recovery > 0:
			worst[1] = max(worst[1], f.Recovery)
		case f.Down > 0:
			add(!f.Ended && f.Steps > 0, true, f.What, "0 steps lost, training goes on", "%.0f s: %d steps meanwhile, generation lost: %v", f.Down, f.Steps, f.Ended)
		}
	}
	limit := (trainTTL + 10*time.Second).Seconds()
	add(worst[0] <= limit, worst[0] > 0, "recovery after kill -9, leases of 10 s", "<= 20 s", "at most %.1f s", worst[0])
	add(worst[1] <= 5, worst[1] > 0, "recovery after SIGTERM", "<= 5 s", "at most %.1f s", worst[1])
	// By what and how often it was disturbed.
	often := t.Every < 600
	must := map[bool]float64{true: 0.70, false: 0.93}[often]
	if t.Kind == FaultsNotice {
		must = map[bool]float64{true: 0.85, false: 0.97}[often]
	}
	add(t.Effective >= must, t.Kind != FaultsServers, "effective training time", fmt.Sprintf(">= %.0f %%", 100*must), "%.1f %% over %.0f s, a fault every %.0f s (undisturbed %.1f %%)", 100*t.Effective,
		t.Seconds, t.Every, 100*t.CalmEffective)
	// While the store is away, a gang that is to stop waits for it: that is no cost of checkpoints. The undisturbed run is told, not judged: its steps
	// are as fast as they can be (4 ms on a quiet machine, 11 under load), so that a commit is due every 0.1 to 0.2 s, and one that takes longer holds
	// training (ADR 0006).
	add(t.Stall <= maxStall, t.Kind != FaultsServers && t.Kind != FaultsAll, "wait for checkpoints", "<= 3.5 %",
		"%.2f %% of training time (undisturbed, a commit every %d steps without pause: %.2f %%)", 100*t.Stall, trainCommit, 100*t.CalmStall)
}

// maxStall is how much of training time may go to checkpoints.
const maxStall = 0.035

// JSON is the result for files.
func (r *Result) JSON() ([]byte, error) {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return nil, fmt.Errorf("cannot encode the result: %w", err)
	}
	return append(data, '\n'), nil
}
