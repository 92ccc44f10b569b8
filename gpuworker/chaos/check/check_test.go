package check

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume/chaostest"
	"github.com/tunefleet/tunefleet/schemas"
)

// story writes the history of one run as a healthy fleet makes it; a test breaks one thing at a time.
type story struct {
	t       *testing.T
	events  []Event
	objects map[string][]byte
	spec    *schemas.RunSpec
	head    schemas.Head
	etag    string
	at      float64
	worker  string
	log     []byte
	state   [4][32]byte
	// notes are anomalies that the log tells of, by step.
	notes map[int64]string
}

const steps, every = 6, 2

func newStory(t *testing.T) *story {
	t.Helper()
	s := &story{t: t, objects: map[string][]byte{}, worker: "worker-1"}
	s.spec = chaostest.Spec(chaostest.Options{Steps: steps, CommitEvery: every, World: 1, Seed: 3})
	s.spec.Tenant, s.spec.ID = "alpha", strings.Repeat("a", 26)
	hash, err := chaostest.Expected(s.spec)
	if err != nil {
		t.Fatal(err)
	}
	for i := range s.state {
		s.state[i] = sha256.Sum256(fmt.Appendf(nil, "seed %d shard %d", s.spec.Seed, i))
	}
	s.add(Event{Kind: KindExpect, Expect: &Expect{Outcomes: []string{OutcomeSucceeded}, Stage: "tune", Hash: hash, Steps: steps, Every: every}})
	return s
}

func (s *story) add(e Event) *Event {
	s.at += 0.1
	e.At, e.Tenant, e.Run = s.at, s.spec.Tenant, s.spec.ID
	s.events = append(s.events, e)
	return &s.events[len(s.events)-1]
}

func (s *story) put(key, condition string, data []byte) {
	s.objects[key] = data
	e := Event{Kind: KindWrite, Proc: s.worker, Key: key, Condition: condition, Status: 200, ETag: etagOf(data)}
	if strings.HasSuffix(key, "HEAD.json") || strings.HasSuffix(key, "manifest.json") || schemas.IsOpenBatch(key) {
		e.Body = Body(data)
	}
	s.add(e)
}

func (s *story) swap(change func(h *schemas.Head)) {
	condition := "absent"
	if s.head.Rev > 0 {
		condition = "etag:" + s.etag
	}
	s.head.Version, s.head.Tenant, s.head.Run = 1, s.spec.Tenant, s.spec.ID
	s.head.Rev++
	s.head.Nonce = fmt.Sprint(s.head.Rev)
	change(&s.head)
	data, err := json.Marshal(&s.head)
	if err != nil {
		s.t.Fatal(err)
	}
	s.put(schemas.HeadKey(s.spec.Tenant, s.spec.ID), condition, data)
	s.etag = etagOf(data)
}

func (s *story) submit() {
	s.put(schemas.SpecKey(s.spec.Tenant, s.spec.ID), "absent", []byte("{}"))
	s.put(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID), "absent", []byte("{}"))
	s.add(Event{Kind: KindAccepted})
}

// submitTogether is submit as a busy front does it; control takes the batch apart, properly or not.
func (s *story) submitTogether(proper bool) {
	batch := schemas.OpenBatchKey("cpu", "01")
	s.put(schemas.SpecKey(s.spec.Tenant, s.spec.ID), "absent", []byte("{}"))
	s.put(batch, "absent", fmt.Appendf(nil, `{"version":1,"specs":[{"tenant":%q,"id":%q},{"tenant":"other","id":"other"}]}`, s.spec.Tenant, s.spec.ID))
	s.add(Event{Kind: KindAccepted})
	if proper {
		s.put(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID), "absent", []byte("{}"))
	}
	s.remove(batch)
	if !proper {
		s.put(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID), "absent", []byte("{}"))
	}
}

func (s *story) start() {
	s.swap(func(h *schemas.Head) {
		h.State = schemas.RunRunning
		h.Stages = []schemas.StageState{{Name: "prep", Kind: schemas.KindPrep, State: schemas.StageRunning}, {Name: "tune", Kind: schemas.KindTrain, State: schemas.StagePending}}
	})
	s.put(schemas.ResultKey(s.spec.Tenant, s.spec.ID, "prep", 0), "absent", []byte("{}"))
	s.ack("tf.work.prep.cpu.alpha." + s.spec.ID + ".prep.0.1")
	s.swap(func(h *schemas.Head) {
		h.Stages = slices.Clone(h.Stages)
		h.Stages[0].State, h.Stages[1].State = schemas.StageSucceeded, schemas.StageRunning
		h.Stage, h.Seats, h.LastIssue = "tune", []schemas.Seat{{Seat: 0, Issue: 1}}, 1
	})
}

func (s *story) ack(subject string) {
	s.add(Event{Kind: KindAck, Proc: s.worker, Verb: "+ACK", Subject: subject})
}

func (s *story) form() {
	s.swap(func(h *schemas.Head) {
		h.Generation++
		h.Members = []schemas.Member{{Seat: 0, Issue: h.LastIssue, Worker: s.worker, Incarnation: s.worker}}
	})
}

// lose ends the generation as control does when a lease has lapsed.
func (s *story) lose(cause schemas.Cause) {
	s.swap(func(h *schemas.Head) {
		h.Ended = append(slices.Clone(h.Ended), schemas.GenerationEnd{Generation: h.Generation, Cause: cause, Step: h.Step})
		h.Members = nil
		h.LastIssue++
		h.Seats = []schemas.Seat{{Seat: 0, Issue: h.LastIssue}}
	})
	s.worker = "worker-2"
}

// train makes the steps up to the next commit and stores it.
func (s *story) train() *schemas.ManifestRef {
	s.log = nil
	from := s.head.Step
	for step := from + 1; step <= from+every; step++ {
		s.step(step)
	}
	return s.store(from + every)
}

func (s *story) step(step int64) {
	var all []byte
	for i := range s.state {
		all = append(all, s.state[i][:]...)
	}
	for i := range s.state {
		b := append(append([]byte(nil), s.state[i][:]...), byte(step), 0, 0, 0, 0, 0, 0, 0)
		s.state[i] = sha256.Sum256(append(b, all...))
	}
	line, _ := json.Marshal(schemas.Event{Type: schemas.EventStep, Step: step, Generation: s.head.Generation})
	s.log = append(append(s.log, line...), '\n')
	if note := s.notes[step]; note != "" {
		line, _ := json.Marshal(schemas.Event{Type: schemas.EventAnomaly, Step: step, Message: note})
		s.log = append(append(s.log, line...), '\n')
	}
	s.add(Event{Kind: KindStep, Step: step, Generation: s.head.Generation})
}

func part(key string, data []byte) schemas.Part {
	sum := sha256.Sum256(data)
	return schemas.Part{Key: key, Bytes: int64(len(data)), SHA256: hex.EncodeToString(sum[:])}
}

func (s *story) store(step int64) *schemas.ManifestRef {
	t, r, g := s.spec.Tenant, s.spec.ID, s.head.Generation
	var data []byte
	for i := range s.state {
		data = append(append(data, byte(i)), s.state[i][:]...)
	}
	key := schemas.CheckpointPrefix(t, r, step, g) + "rank-00000-000.bin"
	s.put(key, "", data)
	s.put(schemas.LogKey(t, r, step, g), "", s.log)
	m := schemas.Manifest{Version: 1, Tenant: t, Run: r, Stage: "tune", Step: step, Generation: g, World: 1, Parent: s.head.Manifest, Final: step == steps,
		Parts: []schemas.Part{part(key, data)}, Log: part(schemas.LogKey(t, r, step, g), s.log), Created: time.Unix(1, 0)}
	raw, _ := json.Marshal(&m)
	mkey := schemas.ManifestKey(t, r, step, g)
	s.put(mkey, "absent", raw)
	return &schemas.ManifestRef{Key: mkey, SHA256: part("", raw).SHA256, Stage: "tune", Step: step, Generation: g, Final: m.Final}
}

func (s *story) commit(ref *schemas.ManifestRef) {
	s.swap(func(h *schemas.Head) { h.Previous, h.Manifest, h.Step = h.Manifest, ref, ref.Step })
}

func (s *story) finish() {
	s.ack(fmt.Sprintf("tf.work.train.cpu.alpha.%s.tune.0.%d", s.spec.ID, s.head.LastIssue))
	s.swap(func(h *schemas.Head) {
		h.Stages = slices.Clone(h.Stages)
		h.Stages[1].State, h.Stages[1].Manifest = schemas.StageSucceeded, h.Manifest
		h.Ended = append(slices.Clone(h.Ended), schemas.GenerationEnd{Generation: h.Generation, Cause: schemas.CauseDone, Step: h.Step})
		h.Members, h.Seats, h.Stage, h.Manifest, h.Previous, h.Step, h.State = nil, nil, "", nil, nil, 0, schemas.RunSucceeded
	})
	s.put(schemas.EndedKey(s.spec.Tenant, s.spec.ID), "", []byte("{}"))
	s.remove(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID))
	s.drain(1)
}

func (s *story) remove(key string) {
	delete(s.objects, key)
	s.add(Event{Kind: KindDelete, Proc: "control-1", Key: key, Status: 204})
}

func (s *story) drain(seconds float64) {
	s.add(Event{Kind: KindQuiet})
	s.at += seconds
	s.add(Event{Kind: KindDrained})
}

// reload is what a new generation starts from.
func (s *story) reload() {
	data := s.objects[schemas.CheckpointPrefix(s.spec.Tenant, s.spec.ID, s.head.Manifest.Step, s.head.Manifest.Generation)+"rank-00000-000.bin"]
	for len(data) >= 33 {
		s.state[data[0]] = [32]byte(data[1:33])
		data = data[33:]
	}
}

// whole is a run with one lost host and one preemption.
func whole(t *testing.T) *story {
	s := newStory(t)
	s.submit()
	return s.through()
}

// through is the life of an accepted run.
func (s *story) through() *story {
	s.start()
	s.form()
	s.commit(s.train())
	s.step(3) // lost
	s.add(Event{Kind: KindKill, Proc: s.worker})
	s.lose(schemas.CauseInfrastructure)
	s.reload()
	s.form()
	s.commit(s.train())
	s.lose(schemas.CausePreempted)
	s.form()
	s.commit(s.train())
	s.finish()
	return s
}

// TestAcceptedTogether: a run whose index entry was first one of a batch is as healthy.
func TestAcceptedTogether(t *testing.T) {
	s := newStory(t)
	s.submitTogether(true)
	s.through()
	if rep := Check(s.events, s.objects, Limits{}); !rep.OK() || rep.Runs != 1 {
		t.Fatalf("%d runs, violations: %+v", rep.Runs, rep.Violations)
	}
}

func TestHealthy(t *testing.T) {
	s := whole(t)
	rep := Check(s.events, s.objects, Limits{})
	if !rep.OK() {
		t.Fatalf("violations of a healthy run: %+v", rep.Violations)
	}
	if rep.Runs != 1 || rep.Terminal != 1 || rep.Hashes != 1 || rep.Manifests != 3 || rep.Kills["worker-1"] != 1 || rep.Generations["preempted"] != 1 {
		t.Errorf("report %+v", rep)
	}
	for _, n := range []string{"I1", "I2", "I3", "I4", "I5", "I6", "I11", "I12", "R4", "R6"} {
		if rep.Checked[n] == 0 {
			t.Errorf("%s was not judged", n)
		}
	}
	// The same through a file.
	var buf bytes.Buffer
	h := NewHistory(&buf)
	for _, e := range s.events {
		h.Add(e)
	}
	if err := h.Flush(); err != nil {
		t.Fatal(err)
	}
	events, err := Read(&buf)
	if err != nil {
		t.Fatal(err)
	}
	if rep := Check(events, s.objects, Limits{}); !rep.OK() || rep.Hashes != 1 {
		t.Errorf("read again: %+v", rep)
	}
}

// TestLostAnswers: writes whose answer nobody saw are part of the life of HEAD.
func TestLostAnswers(t *testing.T) {
	s := whole(t)
	for i := range s.events {
		if strings.HasSuffix(s.events[i].Key, "HEAD.json") {
			s.events[i].Status, s.events[i].ETag = 0, ""
		}
	}
	if rep := Check(s.events, s.objects, Limits{}); !rep.OK() {
		t.Fatalf("%+v", rep.Violations)
	}
}

func TestViolations(t *testing.T) {
	begin := func(t *testing.T) *story {
		s := newStory(t)
		s.submit()
		s.start()
		s.form()
		return s
	}
	cases := []struct {
		name, want string
		story      func(t *testing.T) *story
	}{
		{"acknowledged before it was stored", "I1", func(t *testing.T) *story {
			s := newStory(t)
			s.add(Event{Kind: KindAccepted})
			s.submit()
			s.start()
			s.form()
			s.commit(s.train())
			s.commit(s.train())
			s.commit(s.train())
			s.finish()
			return s
		}},
		{"acknowledged and lost", "I1", func(t *testing.T) *story {
			s := newStory(t)
			s.add(Event{Kind: KindAccepted})
			s.drain(1)
			return s
		}},
		{"open object deleted too early", "I1", func(t *testing.T) *story {
			s := begin(t)
			s.remove(schemas.OpenKey("cpu", 1, s.spec.Tenant, s.spec.ID))
			s.commit(s.train())
			s.commit(s.train())
			s.commit(s.train())
			s.finish()
			return s
		}},
		{"batch deleted too early", "I1", func(t *testing.T) *story {
			s := newStory(t)
			s.submitTogether(false)
			return s.through()
		}},
		{"no terminal record", "I1", func(t *testing.T) *story {
			s := whole(t)
			delete(s.objects, schemas.EndedKey(s.spec.Tenant, s.spec.ID))
			return s
		}},
		{"failed instead of succeeded", "I1", func(t *testing.T) *story {
			s := begin(t)
			s.swap(func(h *schemas.Head) { h.State = schemas.RunFailed })
			s.put(schemas.EndedKey(s.spec.Tenant, s.spec.ID), "", []byte("{}"))
			return s
		}},
		{"swap after the end", "I2", func(t *testing.T) *story {
			s := whole(t)
			s.swap(func(h *schemas.Head) { h.State = schemas.RunRunning })
			return s
		}},
		{"result written twice", "I2", func(t *testing.T) *story {
			s := whole(t)
			s.put(schemas.ResultKey(s.spec.Tenant, s.spec.ID, "prep", 0), "absent", []byte("{}"))
			return s
		}},
		{"manifest without a condition", "I2", func(t *testing.T) *story {
			s := whole(t)
			for i := range s.events {
				if strings.HasSuffix(s.events[i].Key, "manifest.json") {
					s.events[i].Condition = ""
				}
			}
			return s
		}},
		{"an old generation commits", "I3", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.lose(schemas.CauseInfrastructure)
			s.form()
			s.worker = "worker-1"
			s.commit(ref)
			return s
		}},
		{"another than rank 0 commits", "I3", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.worker = "worker-9"
			s.commit(ref)
			return s
		}},
		{"a generation used twice", "I3", func(t *testing.T) *story {
			s := begin(t)
			s.commit(s.train())
			s.lose(schemas.CauseInfrastructure)
			s.form()
			s.head.Generation-- // undone below: the swap writes generation 1 again
			s.swap(func(h *schemas.Head) { h.Members = []schemas.Member{{Worker: "worker-3"}} })
			return s
		}},
		{"HEAD written blindly", "I3", func(t *testing.T) *story {
			s := begin(t)
			s.commit(s.train())
			s.events[len(s.events)-1].Condition = ""
			return s
		}},
		{"a swap overwritten unseen", "I3", func(t *testing.T) *story {
			s := begin(t)
			before, head := s.etag, s.head
			s.commit(s.train())
			s.etag, s.head = before, head
			s.swap(func(h *schemas.Head) { h.Reason = "did not see it" })
			return s
		}},
		{"a step counted twice", "I4", func(t *testing.T) *story {
			s := begin(t)
			s.commit(s.train())
			s.step(2) // once more
			s.commit(s.train())
			s.commit(s.train())
			s.finish()
			return s
		}},
		{"a commit past HEAD", "I4", func(t *testing.T) *story {
			s := begin(t)
			s.train() // stored, HEAD not swapped
			s.head.Step = every
			s.commit(s.train())
			return s
		}},
		{"parts after HEAD", "I5", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.commit(ref)
			for i := range s.events {
				if strings.HasSuffix(s.events[i].Key, ".bin") {
					s.events[i].At = s.at + 1
				}
			}
			return s
		}},
		{"a part that HEAD needs is deleted", "I5", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.commit(ref)
			s.remove(strings.TrimSuffix(ref.Key, "manifest.json") + "rank-00000-000.bin")
			return s
		}},
		{"a damaged final part", "I4", func(t *testing.T) *story {
			s := whole(t)
			for k, d := range s.objects {
				if strings.HasSuffix(k, ".bin") {
					d = bytes.Clone(d)
					d[5] ^= 1
					s.objects[k] = d
				}
			}
			return s
		}},
		{"commit after a cancel", "I10", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.swap(func(h *schemas.Head) { h.State = schemas.RunCancelled })
			s.add(Event{Kind: KindCancelled})
			s.commit(ref)
			return s
		}},
		{"steps after a cancel", "I10", func(t *testing.T) *story {
			s := begin(t)
			s.swap(func(h *schemas.Head) { h.State = schemas.RunCancelled })
			s.add(Event{Kind: KindCancelled})
			s.at += 9
			s.step(4)
			return s
		}},
		{"a manifest names another run's part", "I11", func(t *testing.T) *story {
			s := begin(t)
			ref := s.train()
			s.commit(ref)
			for i := range s.events {
				if s.events[i].Key == ref.Key {
					s.events[i].Body = bytes.ReplaceAll(s.events[i].Body, []byte("runs/alpha/"), []byte("runs/omega/"))
				}
			}
			return s
		}},
		{"never ends", "I12", func(t *testing.T) *story {
			s := begin(t)
			s.drain(1)
			return s
		}},
		{"ends too late", "I12", func(t *testing.T) *story {
			s := whole(t)
			s.drain(1000)
			return s
		}},
		{"ack before the result", "R4", func(t *testing.T) *story {
			s := whole(t)
			for i := range s.events {
				if s.events[i].Kind == KindAck && strings.Contains(s.events[i].Subject, ".prep.") {
					s.events[i].At -= 0.15
				}
			}
			return s
		}},
		{"ack of a seat that is wanted", "R4", func(t *testing.T) *story {
			s := begin(t)
			s.ack("tf.work.train.cpu.alpha." + s.spec.ID + ".tune.0.1")
			return s
		}},
		{"a preemption is a failure", "R6", func(t *testing.T) *story {
			s := begin(t)
			s.commit(s.train())
			s.lose(schemas.CauseApplication)
			return s
		}},
		{"a wall clock that jumps ends a generation", "R11", func(t *testing.T) *story {
			s := begin(t)
			s.at += 10
			s.add(Event{Kind: KindFault, Row: 7, Proc: "clocks"})
			s.lose(schemas.CauseInfrastructure)
			s.add(Event{Kind: KindHeal, Row: 7, Proc: "clocks"})
			return s
		}},
		{"losing Redis ends a generation", "R7", func(t *testing.T) *story {
			s := begin(t)
			s.at += 10
			s.add(Event{Kind: KindFault, Row: 16, Proc: "redis"})
			s.lose(schemas.CauseInfrastructure)
			s.add(Event{Kind: KindHeal, Row: 16, Proc: "redis"})
			return s
		}},
		{"a process stays", "I8", func(t *testing.T) *story {
			s := whole(t)
			s.add(Event{Kind: KindLeak, Invariant: "I8", Note: "rank 17 survives"})
			return s
		}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := c.story(t)
			rep := Check(s.events, s.objects, Limits{})
			if !slices.ContainsFunc(rep.Violations, func(v Violation) bool { return v.Invariant == c.want }) {
				t.Errorf("%s is not found; violations: %+v", c.want, rep.Violations)
			}
		})
	}
}

// TestRedisAlone: a generation that ends during a lease server's trouble is no fault of it when something else happened too.
func TestRedisAlone(t *testing.T) {
	s := newStory(t)
	s.submit()
	s.start()
	s.form()
	s.at += 10
	s.add(Event{Kind: KindFault, Row: 16, Proc: "redis"})
	s.add(Event{Kind: KindKill, Proc: "worker-1"})
	s.lose(schemas.CauseInfrastructure)
	s.add(Event{Kind: KindHeal, Row: 16, Proc: "redis"})
	rep := Check(s.events, s.objects, Limits{})
	if slices.ContainsFunc(rep.Violations, func(v Violation) bool { return v.Invariant == "R7" }) {
		t.Errorf("%+v", rep.Violations)
	}
}

// TestRedisAfterAKill: a gang that had lost a member well before the lease server's trouble ends for that, though it is seen during the trouble;
// the kill of a worker that holds no seat, or that held one before this gang formed, excuses nothing.
func TestRedisAfterAKill(t *testing.T) {
	kill := func(worker string) func(*story) {
		return func(s *story) { s.add(Event{Kind: KindKill, Proc: worker}) }
	}
	redisAfter(t, map[string]earlier{
		"a member":                        {kill("worker-1"), false, false},
		"somebody else":                   {kill("worker-9"), false, true},
		"a member, before the gang stood": {kill("worker-1"), true, true},
	})
}

// TestRedisAfterAStrangersAck: a gang whose message was answered by somebody else has only its lease: losing that too is no fault of one alone. An
// answer for another run's message, or to one of an earlier gang, excuses nothing.
func TestRedisAfterAStrangersAck(t *testing.T) {
	ack := func(id string) func(*story) {
		return func(s *story) {
			id := cmp.Or(id, s.spec.ID)
			s.add(Event{Kind: KindFault, Row: 14, Proc: "worker-1", Fault: "+ACK for tf.work.train.cpu." + s.spec.Tenant + "." + id + ".tune.0.1 from elsewhere"})
			s.add(Event{Kind: KindHeal, Row: 14, Proc: "worker-1"})
		}
	}
	redisAfter(t, map[string]earlier{
		"its message":                        {ack(""), false, false},
		"another run's":                      {ack("other"), false, true},
		"its message, before the gang stood": {ack(""), true, true},
	})
}

// earlier is what happens well before the lease server's trouble, once the gang stands or before; broken says whether R7 is.
type earlier struct {
	happens        func(*story)
	before, broken bool
}

func redisAfter(t *testing.T, cases map[string]earlier) {
	t.Helper()
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			s := newStory(t)
			s.submit()
			s.start()
			if c.before {
				c.happens(s)
			}
			s.form()
			if !c.before {
				s.at += 1
				c.happens(s)
			}
			s.at += 10
			s.add(Event{Kind: KindFault, Row: 16, Proc: "redis"})
			s.lose(schemas.CauseInfrastructure)
			s.add(Event{Kind: KindHeal, Row: 16, Proc: "redis"})
			rep := Check(s.events, s.objects, Limits{})
			if got := slices.ContainsFunc(rep.Violations, func(v Violation) bool { return v.Invariant == "R7" }); got != c.broken {
				t.Errorf("R7 broken: %t, want %t; %+v", got, c.broken, rep.Violations)
			}
		})
	}
}

func TestPoisonedRunsMayFail(t *testing.T) {
	s := newStory(t)
	s.events[0].Expect = &Expect{Outcomes: []string{OutcomeFailed}, Poison: true}
	s.submit()
	s.start()
	s.form()
	s.swap(func(h *schemas.Head) {
		h.Ended = append(slices.Clone(h.Ended), schemas.GenerationEnd{Generation: h.Generation, Cause: schemas.CauseApplication})
		h.State, h.Members = schemas.RunFailed, nil
		h.Generation++
	})
	s.put(schemas.EndedKey(s.spec.Tenant, s.spec.ID), "", []byte("{}"))
	if rep := Check(s.events, s.objects, Limits{}); !rep.OK() {
		t.Errorf("%+v", rep.Violations)
	}
}
