package check

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// Invariants are the rules judged, by name.
func Invariants() map[string]string {
	return map[string]string{
		"I1":  "every acknowledged run ends once, as it should, or is still known",
		"I2":  "one result: terminal is final, results and manifests are written once",
		"I3":  "generations only rise; HEAD changes by its owner's conditional swaps only",
		"I4":  "each step counts once in the final lineage, whose hash is the undisturbed run's",
		"I5":  "what HEAD names is stored and verifies",
		"I6":  "no orphaned checkpoint stays for ever",
		"I7":  "the causes that a run's time goes to add up to its wall time",
		"I8":  "no process is left behind",
		"I9":  "no secret in a log, event or object",
		"I10": "a cancel is final: no commit after it, no step later than the grace",
		"I11": "no run names another run's objects",
		"I12": "after the last fault every run ends within the bound",
		"R4":  "a message is acknowledged only when it is obsolete",
		"R6":  "a preemption or a lost host is not a failure of the run",
		"R8":  "a trainer's fault that comes once changes nothing; one that comes again is told, skipped where that is wanted, or ends the run within its budget",
		"R9":  "no worker with a seat is called removable, no more workers are asked for than open runs can use, a group never exceeds its maximum",
		"R10": "readers of event streams miss nothing and see nothing twice, however often the API dies; its memory stays bounded",
		"R7":  "a lease is a hint: losing Redis alone ends no generation",
		"R11": "nothing is decided by the wall clock: one that jumps ends no generation",
	}
}

// Violation is a broken invariant.
type Violation struct {
	Invariant string  `json:"invariant"`
	Subject   string  `json:"subject"`
	At        float64 `json:"at,omitempty"`
	Text      string  `json:"text"`
}

// Limits bound what takes time.
type Limits struct {
	// Cancel is how long after an acknowledged cancel a step may still be made, in seconds (default 5).
	Cancel float64
	// Drain is how long the runs may take to end after the last fault, in seconds (default 120).
	Drain float64
}

// Report is the verdict.
type Report struct {
	Violations []Violation `json:"violations"`
	// Checked counts the judgements made for each invariant: an invariant that nothing was judged by is not proven.
	Checked map[string]int `json:"checked"`
	// Runs counts acknowledged runs, Lost those that are neither known nor ended; Terminal the runs with exactly one terminal record.
	Runs     int `json:"runs"`
	Lost     int `json:"lost"`
	Terminal int `json:"terminal"`
	// Manifests counts stored commits, Doubled those of one generation and step that were written twice.
	Manifests int `json:"manifests"`
	Doubled   int `json:"doubled"`
	// Hashes counts runs whose final hash was compared with the undisturbed one's, Unequal those that differ.
	Hashes  int `json:"hashes"`
	Unequal int `json:"unequal"`
	// Corrupted counts objects that the nemesis damaged, WalkedBack the times that HEAD went back from one.
	Corrupted  int `json:"corrupted"`
	WalkedBack int `json:"walked_back"`
	// Kills counts SIGKILLs by process.
	Kills map[string]int `json:"kills"`
	// Generations counts ended generations by cause.
	Generations map[string]int `json:"generations"`
}

// OK reports whether nothing was violated.
func (r *Report) OK() bool { return len(r.Violations) == 0 }

type run struct {
	name, tenant, id string
	expect           Expect
	accepted         float64
	known            bool // accepted
	versions         []version
	// named are the manifests that HEAD named.
	named map[string]bool
	final *schemas.Head
}

type checker struct {
	history []Event
	objects map[string][]byte
	limits  Limits
	rep     *Report
	runs    map[string]*run
	// first is the first write of each key that may have been applied; manifests are the applied writes of manifests by run, in order.
	first     map[string]Event
	manifests map[string][]Event
	heads     map[string][]Event
	// opened is the first write of each run's open object.
	opened map[string]Event
	// batched names the runs of each batch that was written before any open object of theirs.
	batched map[string][]string
	failed  map[string]bool
}

// Check judges a history and the final content of the store (key to bytes).
func Check(history []Event, objects map[string][]byte, limits Limits) *Report {
	if limits.Cancel == 0 {
		limits.Cancel = 5
	}
	if limits.Drain == 0 {
		limits.Drain = 120
	}
	c := &checker{history: slices.Clone(history), objects: map[string][]byte{}, limits: limits, runs: map[string]*run{}, first: map[string]Event{},
		manifests: map[string][]Event{}, heads: map[string][]Event{}, opened: map[string]Event{}, batched: map[string][]string{}, failed: map[string]bool{},
		rep: &Report{Checked: map[string]int{}, Kills: map[string]int{}, Generations: map[string]int{}}}
	slices.SortStableFunc(c.history, func(a, b Event) int { return cmp.Compare(a.At, b.At) })
	for k, v := range objects {
		c.objects[k] = v
	}
	c.collect()
	for _, name := range sortedKeys(c.runs) {
		r := c.runs[name]
		if data := c.objects[schemas.HeadKey(r.tenant, r.id)]; data != nil {
			head, err := checkpoint.DecodeHead(data)
			if err != nil {
				c.fail("I5", name, 0, "HEAD cannot be read at the end: %v", err)
			} else {
				r.final = head
			}
			r.versions = c.chain(name, c.heads[name], data)
		}
		c.transitions(r)
		c.outside(r)
		c.outcome(r)
		c.lineage(r)
		c.orphans(r)
		c.timeUse(r)
	}
	c.acks()
	c.deletes()
	c.harmless()
	c.trainer()
	c.autoscale()
	c.streams()
	c.cancels()
	c.drain()
	c.leaks()
	slices.SortStableFunc(c.rep.Violations, func(a, b Violation) int { return cmp.Compare(a.At, b.At) })
	return c.rep
}

func (c *checker) fail(invariant, subject string, at float64, format string, args ...any) {
	v := Violation{Invariant: invariant, Subject: subject, At: at, Text: fmt.Sprintf(format, args...)}
	if key := v.Invariant + v.Subject + v.Text; !c.failed[key] {
		c.failed[key] = true
		c.rep.Violations = append(c.rep.Violations, v)
	}
}

func (c *checker) count(invariant string) { c.rep.Checked[invariant]++ }

// collect sorts the events by what they are about.
func (c *checker) collect() {
	get := func(e Event) *run {
		name := e.Tenant + "/" + e.Run
		r := c.runs[name]
		if r == nil {
			r = &run{name: name, tenant: e.Tenant, id: e.Run, named: map[string]bool{}}
			c.runs[name] = r
		}
		return r
	}
	for _, e := range c.history {
		switch e.Kind {
		case KindExpect:
			if e.Expect != nil {
				get(e).expect = *e.Expect
			}
		case KindAccepted:
			if r := get(e); !r.known {
				r.known, r.accepted = true, e.At
			}
		case KindWrite:
			c.write(e)
		case KindKill:
			c.rep.Kills[e.Proc]++
		case KindCorrupt:
			c.rep.Corrupted++
			// What the nemesis damaged is judged by what came of it: a run that used it has another hash.
			if _, ok := c.objects[e.Key]; ok {
				c.objects[e.Key] = Bytes(e.Body)
			}
		}
	}
}

// write notes a write and judges that what must exist once is written once, and with a condition.
func (c *checker) write(e Event) {
	if e.Told == "error" || e.Status != 0 && (e.Status < 200 || e.Status > 299) {
		return
	}
	_, seen := c.first[e.Key]
	rest, ok := strings.CutPrefix(e.Key, "runs/")
	if !ok {
		if !seen {
			c.first[e.Key] = e
		}
		if tenant, id, ok := openRun(e.Key); ok && c.opened[tenant+"/"+id].Key == "" {
			c.opened[tenant+"/"+id] = e
		}
		if schemas.IsOpenBatch(e.Key) && !seen {
			c.batch(e)
		}
		return
	}
	f := strings.SplitN(rest, "/", 3)
	if len(f) < 3 {
		return
	}
	name, what := f[0]+"/"+f[1], f[2]
	manifest := strings.HasSuffix(what, "/manifest.json")
	once := manifest || what == "SPEC.json" || strings.HasPrefix(what, "stages/")
	switch {
	case what == "HEAD.json":
		c.heads[name] = append(c.heads[name], e)
	case once:
		c.count("I2")
		if e.Condition == "" {
			c.fail("I2", name, e.At, "%s wrote %s without a condition", e.Proc, e.Key)
		}
		if seen && e.Status != 0 && c.first[e.Key].Status != 0 {
			c.fail("I2", name, e.At, "%s was written twice: by %s and by %s", e.Key, c.first[e.Key].Proc, e.Proc)
			if manifest {
				c.rep.Doubled++
			}
		}
	}
	if manifest && (!seen || c.first[e.Key].Status == 0) {
		c.manifests[name] = append(c.manifests[name], e)
		if !seen {
			c.rep.Manifests++
		}
	}
	if !seen || c.first[e.Key].Status == 0 && e.Status != 0 {
		if seen { // the time of the first attempt counts: it may have been applied
			e.At = c.first[e.Key].At
		}
		c.first[e.Key] = e
	}
}

// batch notes the runs that were accepted together.
func (c *checker) batch(e Event) {
	var b schemas.OpenBatch
	if err := json.Unmarshal(e.Body, &b); err != nil {
		c.fail("I1", e.Key, e.At, "%s is no batch of accepted runs: %v", e.Key, err)
		return
	}
	for _, raw := range b.Specs {
		var s struct{ Tenant, ID string }
		if err := json.Unmarshal(raw, &s); err != nil {
			c.fail("I1", e.Key, e.At, "%s holds what is no spec: %v", e.Key, err)
			continue
		}
		if name := s.Tenant + "/" + s.ID; c.opened[name].Key == "" {
			c.opened[name] = e
			c.batched[e.Key] = append(c.batched[e.Key], name)
		}
	}
}

// unpacked judges the deletion of a batch: each of its runs must have an open object of its own by then, or have ended.
func (c *checker) unpacked(e Event) {
	for _, name := range c.batched[e.Key] {
		r := c.runs[name]
		own := slices.ContainsFunc(c.history, func(w Event) bool {
			tenant, id, ok := openRun(w.Key)
			return w.Kind == KindWrite && (w.Status < 300 || w.Status == http.StatusPreconditionFailed) && ok && tenant+"/"+id == name && w.At <= e.At
		})
		if r != nil && !own {
			c.fail("I1", name, e.At, "%s deleted the batch of a run that has no open object of its own: nothing would find the run again", e.Proc)
		}
	}
}

// outcome judges that an acknowledged run is known and ended as it should.
func (c *checker) outcome(r *run) {
	if !r.known {
		return
	}
	c.rep.Runs++
	c.count("I1")
	open, ok := c.opened[r.name]
	if !ok || open.At > r.accepted {
		c.fail("I1", r.name, r.accepted, "the run was acknowledged before it was stored")
	}
	if r.final == nil {
		_, there := c.objects[open.Key]
		if schemas.IsOpenBatch(open.Key) { // taken apart since, perhaps
			for key := range c.objects {
				tenant, id, ok := openRun(key)
				there = there || ok && tenant+"/"+id == r.name
			}
		}
		if !there {
			c.rep.Lost++
			c.fail("I1", r.name, r.accepted, "the acknowledged run is lost: there is neither an open object nor a HEAD")
			return
		}
		c.fail("I12", r.name, r.accepted, "the acknowledged run never started")
		return
	}
	for _, e := range r.final.Ended {
		c.rep.Generations[string(e.Cause)]++
	}
	if !r.final.State.Terminal() {
		c.fail("I12", r.name, r.accepted, "the run has not ended: it is %s (%s)", r.final.State, r.final.Reason)
		return
	}
	if !slices.Contains(r.expect.Outcomes, string(r.final.State)) {
		c.fail("I1", r.name, r.accepted, "the run is %s (%s; %v), it should be %s", r.final.State, r.final.Reason, r.final.Error, strings.Join(r.expect.Outcomes, " or "))
	}
	if _, ok := c.objects[schemas.EndedKey(r.tenant, r.id)]; !ok {
		c.fail("I1", r.name, r.accepted, "the run has ended without a terminal record")
	} else {
		c.rep.Terminal++
	}
}

// lineage judges the final commit of the train stage: steps, logs, parts, hash.
func (c *checker) lineage(r *run) {
	if r.final == nil || r.final.State != schemas.RunSucceeded || r.expect.Stage == "" {
		return
	}
	c.count("I4")
	c.count("I5")
	objects := memstore.New()
	ctx := context.Background()
	prefix := schemas.RunPrefix(r.tenant, r.id)
	for k, data := range c.objects {
		if strings.HasPrefix(k, prefix) {
			if _, err := objects.Put(ctx, k, data, store.Condition{}); err != nil {
				c.fail("I5", r.name, 0, "cannot copy %s: %v", k, err)
			}
		}
	}
	l, err := chaostest.ReadLineage(ctx, objects, r.final, r.expect.Stage)
	if err != nil {
		c.fail("I4", r.name, 0, "the final lineage is broken: %v", err)
		return
	}
	if r.expect.Steps > 0 && l.Steps != r.expect.Steps {
		c.fail("I4", r.name, 0, "the run ended after %d steps of %d", l.Steps, r.expect.Steps)
	}
	if r.expect.Hash != "" {
		c.rep.Hashes++
		if l.Hash != r.expect.Hash {
			c.rep.Unequal++
			c.fail("I4", r.name, 0, "the final state is %s, an undisturbed run's %s", l.Hash, r.expect.Hash)
		}
	}
	st := r.final.StageByName(r.expect.Stage)
	m, err := checkpoint.ReadManifest(ctx, objects, *st.Manifest)
	if err == nil {
		err = checkpoint.VerifyParts(ctx, objects, *st.Manifest, m)
	}
	if err != nil {
		c.fail("I5", r.name, 0, "the final commit does not verify: %v", err)
	}
}

// orphans judges what is left of checkpoints after a run was closed: zombies may have left a few parts, no more.
func (c *checker) orphans(r *run) {
	if r.final == nil || !r.final.State.Terminal() {
		return
	}
	c.count("I6")
	objects := memstore.New()
	ctx := context.Background()
	var all, drop int64
	prefix := schemas.RunPrefix(r.tenant, r.id) + "ckpt/"
	for k, data := range c.objects {
		if strings.HasPrefix(k, prefix) && !strings.HasSuffix(k, "/manifest.json") {
			all++
			if _, err := objects.Put(ctx, k, data, store.Condition{}); err != nil {
				c.fail("I6", r.name, 0, "cannot copy %s: %v", k, err)
			}
		}
	}
	left, err := checkpoint.Droppable(ctx, objects, r.final)
	if err != nil {
		c.fail("I6", r.name, 0, "cannot tell what is orphaned: %v", err)
	}
	drop = int64(len(left))
	if world := int64(8); drop > 4*world {
		c.fail("I6", r.name, 0, "%d of %d parts of checkpoints are orphaned", drop, all)
	}
}

// subject is a work message's subject, taken apart.
type subject struct {
	kind              schemas.StageKind
	tenant, run, name string
	stage             string
	index             int
	issue             uint64
}

func parseSubject(s string) (subject, error) {
	f := strings.Split(s, ".") // tf.work.<kind>.<pool>.<tenant>.<run>.<stage>.<index>.<issue>
	if len(f) != 9 || f[0] != "tf" || f[1] != "work" {
		return subject{}, errors.New("no work message")
	}
	index, err := strconv.Atoi(f[7])
	issue, ierr := strconv.ParseUint(f[8], 10, 64)
	if err != nil || ierr != nil {
		return subject{}, errors.Join(err, ierr)
	}
	return subject{kind: schemas.StageKind(f[2]), tenant: f[4], run: f[5], name: f[4] + "/" + f[5], stage: f[6], index: index, issue: issue}, nil
}

// acks judges every acknowledgement: when it was sent, the message had to be obsolete.
func (c *checker) acks() {
	for _, e := range c.history {
		if e.Kind != KindAck || e.Verb != "+ACK" {
			continue
		}
		s, err := parseSubject(e.Subject)
		if err != nil {
			continue
		}
		c.count("R4")
		if !c.obsoleteAt(s, e.At) {
			c.fail("R4", s.name, e.At, "%s acknowledged %s while HEAD still wanted it and no result was stored", e.Proc, e.Subject)
		}
	}
}

func (c *checker) obsoleteAt(s subject, at float64) bool {
	r := c.runs[s.name]
	if r == nil {
		return false
	}
	wants := func(h *schemas.Head) bool {
		if s.kind == schemas.KindTrain {
			return h.WantsSeat(s.stage, s.index, s.issue)
		}
		return h.WantsPart(s.stage, s.index, s.issue)
	}
	// Before it was wanted for the first time there was no message to acknowledge.
	from := max(0, slices.IndexFunc(r.versions, func(v version) bool { return wants(v.head) }))
	for _, v := range r.versions[from:] {
		if v.write.At > at {
			break
		}
		if !wants(v.head) {
			return true
		}
	}
	if s.kind == schemas.KindTrain {
		return false
	}
	for _, key := range []string{schemas.ResultKey(s.tenant, s.run, s.stage, s.index), schemas.FailureKey(s.tenant, s.run, s.stage, s.index, s.issue)} {
		if w, ok := c.first[key]; ok && w.At <= at {
			return true
		}
	}
	return false
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
