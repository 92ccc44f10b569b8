package simulate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control"
)

// Report is the outcome of a simulation. Shares are of the device-seconds that live workers had.
type Report struct {
	Workers  int           `json:"workers"`
	Tenants  int           `json:"tenants"`
	Runs     int           `json:"runs"`
	Duration time.Duration `json:"duration_ns"`
	Seed     uint64        `json:"seed"`
	// Ended, Running and Queued count runs at the end.
	Ended   int `json:"ended"`
	Running int `json:"running"`
	Queued  int `json:"queued"`
	// Utilization is the share of time that workers trained and that counted in the end, Held the share that they held seats.
	Utilization float64 `json:"utilization"`
	Held        float64 `json:"held"`
	// Lost is the share of training that was done again.
	Lost float64 `json:"lost"`
	// Fairness is the least over the greatest device-seconds, divided by their shares, that tenants got which always had runs of the
	// commonest priority queued, from the tenth of the time on by which the heavy ones have submitted all; Busy is how many they are
	// (0: nobody was, and Fairness means nothing).
	Fairness float64 `json:"fairness"`
	Busy     int     `json:"busy_tenants"`
	// Waits tells by priority how long runs waited for their first gang.
	Waits [4]Wait `json:"waits"`
	// Largest is the longest wait of a run by its least world.
	Largest map[int]time.Duration `json:"longest_wait_by_min_world_ns"`
	// Taken counts workers taken away, Formed generations, Preempted gangs asked to yield, Decisions calls of Decide.
	Taken     int `json:"workers_taken"`
	Formed    int `json:"generations"`
	Preempted int `json:"preempted"`
	Decisions int `json:"decisions"`
	// Hash is the SHA-256 over every action of every decision, in hex: two days with the same one were scheduled alike to the last seat.
	Hash string        `json:"hash"`
	Took time.Duration `json:"took_ns"`
}

// Wait is the distribution of waiting times of started runs of one priority; Unstarted counts those still waiting at the end.
type Wait struct {
	Runs      int           `json:"runs"`
	Unstarted int           `json:"unstarted"`
	Median    time.Duration `json:"median_ns"`
	P95       time.Duration `json:"p95_ns"`
	Max       time.Duration `json:"max_ns"`
}

type stats struct {
	lost, trained, held, live float64
	taken, formed             int
	preempted, decisions      int
	ended, demand             int
	waits                     [4][]time.Duration
	largest                   map[int]time.Duration
	// got is what each tenant trained, in device-seconds; hungry the tenants that had queued runs at every tick since the heavy ones
	// submitted all of theirs.
	got    map[string]float64
	hungry map[string]bool
	// hash takes in every action; see record.
	hash hash.Hash
	buf  []byte
}

func (s *stats) init(Config) {
	s.hash = sha256.New()
	s.got, s.largest = map[string]float64{}, map[int]time.Duration{}
}

// settleAfter is when fairness begins to be measured: by then the heavy tenants have submitted everything.
func (w *world) settleAfter() time.Duration { return w.cfg.Duration / 10 }

func (s *stats) did(r *run, deviceSeconds float64) {
	s.trained += deviceSeconds
	s.got[r.view.Spec.Tenant] += deviceSeconds
}

func (s *stats) waited(w *world, r *run) {
	spec := r.view.Spec
	d := w.now - r.submitted
	s.waits[spec.Priority] = append(s.waits[spec.Priority], d)
	least := spec.Stages[0].Train.World.Min
	s.largest[least] = max(s.largest[least], d)
}

// record adds an action, and the time it was decided at, to the hash of the day.
func (s *stats) record(now time.Duration, a *control.Action) {
	num := func(n uint64) { s.buf = binary.AppendUvarint(s.buf, n) }
	word := func(w string) {
		num(uint64(len(w)))
		s.buf = append(s.buf, w...)
	}
	seats := func(list []schemas.Seat) {
		num(uint64(len(list)))
		for _, x := range list {
			num(uint64(x.Seat)) //nolint:gosec // never negative
			num(x.Issue)
		}
	}
	messages := func(list []schemas.Message) {
		num(uint64(len(list)))
		for i := range list {
			num(uint64(list[i].Index())) //nolint:gosec // never negative
			num(list[i].Issue)
		}
	}
	s.buf = s.buf[:0]
	num(uint64(now)) //nolint:gosec // never negative
	word(string(a.Kind))
	word(a.Run)
	word(a.Reason)
	num(a.Rev)
	seats(a.Seats)
	seats(a.Parts)
	messages(a.Publish)
	messages(a.Delete)
	_, _ = s.hash.Write(s.buf) // never fails
}

func (s *stats) finish(*world, *run) { s.ended++ }

// measure adds up a tick: what is held is charged to the tenants' usage, as the ledger's owner does.
func (w *world) measure() {
	dt := w.cfg.Tick.Seconds()
	s := &w.stats
	live := len(w.workers) - len(w.dead)
	s.live += dt * float64(live)
	s.held += dt * float64(live-len(w.idle))
	if m := w.start.Add(w.now).Format("2006-01"); w.ledger.Month != m {
		w.ledger.Month, w.ledger.Spent = m, map[string]float64{}
	}
	for _, r := range w.active {
		if n := len(r.view.Head.Members); n > 0 {
			w.ledger.Usage[r.view.Spec.Tenant] += dt * float64(n)
			w.ledger.Spent[r.view.Spec.Tenant] += dt * float64(n)
		}
	}
	if w.now <= w.settleAfter() {
		return
	}
	// Hungry is who has a run of the commonest class in line: the classes above are served first anyway.
	queued := func(t string) bool { return len(w.lines[2][t]) > 0 }
	if s.hungry == nil {
		s.hungry = map[string]bool{}
		for t := range w.lines[2] {
			s.hungry[t] = true
		}
	}
	for t := range s.hungry {
		if !queued(t) {
			delete(s.hungry, t)
		}
	}
}

func (w *world) report(took time.Duration) *Report {
	s := &w.stats
	r := &Report{Workers: w.cfg.Workers, Tenants: w.cfg.Tenants, Runs: w.cfg.Runs, Duration: w.cfg.Duration, Seed: w.cfg.Seed, Ended: s.ended, Running: len(w.active), Queued: w.queued + len(w.arrivals),
		Utilization: (s.trained - s.lost) / s.live, Held: s.held / s.live, Lost: s.lost / max(1, s.trained), Largest: s.largest, Taken: s.taken, Formed: s.formed, Preempted: s.preempted,
		Decisions: s.decisions, Took: took, Hash: hex.EncodeToString(s.hash.Sum(nil))}
	least, most := 0.0, 0.0
	for t := range s.hungry {
		x := s.got[t] / w.cfg.Policy.Of(t).Share
		if r.Busy == 0 || x < least {
			least = x
		}
		most = max(most, x)
		r.Busy++
	}
	if most > 0 {
		r.Fairness = least / most
	}
	for p := range r.Waits {
		d := s.waits[p]
		slices.Sort(d)
		x := Wait{Runs: len(d)}
		for _, line := range w.lines[p] {
			x.Unstarted += len(line)
		}
		if n := len(d); n > 0 {
			x.Median, x.P95, x.Max = d[n/2], d[min(n-1, n*95/100)], d[n-1]
		}
		r.Waits[p] = x
	}
	return r
}
