package control_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/queue/memq"
	"github.com/tunefleet/tunefleet/services/registry"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const ttl = 200 * time.Millisecond

// world is the three servers, in memory, with a service over them.
type world struct {
	t       *testing.T
	objects *memstore.Store
	work    *memq.Queue
	leases  *memlease.Store
	heads   *checkpoint.Heads
	service *control.Service
	log     *slog.Logger
}

func newWorld(t *testing.T) *world {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w := &world{t: t, objects: memstore.New(), work: memq.New(2 * time.Second), leases: memlease.New(), log: log}
	w.heads = checkpoint.NewHeads(w.objects, checkpoint.Config{})
	w.service = control.NewService(w.objects, w.leases, w.work, log)
	return w
}

// control starts a replica; the returned function stops it as a crash would (its ledger is not given up when crash is set).
func (w *world) control(name string) (stop func()) {
	w.t.Helper()
	return w.controlOn(name, w.objects)
}

func (w *world) controlOn(name string, objects store.Objects) (stop func()) {
	w.t.Helper()
	return w.controlWith(name, objects, limits())
}

func limits() control.Limits {
	return control.Limits{LeaseTTL: ttl, Retry: 20 * time.Millisecond, Forming: 5 * time.Second, Republish: 50 * time.Millisecond, PauseGrace: 200 * time.Millisecond}
}

func (w *world) controlWith(name string, objects store.Objects, l control.Limits) (stop func()) {
	w.t.Helper()
	c, err := control.New(objects, w.work, w.leases, control.Config{Name: name, Interval: 10 * time.Millisecond, LedgerTTL: 300 * time.Millisecond, EnsureEvery: 100 * time.Millisecond,
		Limits: l, Logger: w.log})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.background(c.Run)
}

func (w *world) background(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil {
			w.t.Error(err)
		}
	}()
	stop = sync.OnceFunc(func() { cancel(); <-done })
	w.t.Cleanup(stop)
	return stop
}

// worker starts a fake worker that does what DESIGN asks of one, with toy work: parts store their result at once, a gang commits 4 steps.
// The returned function kills it: it releases nothing.
func (w *world) worker(name string) (kill func()) {
	return w.workerOf("cpu", name)
}

func (w *world) workerOf(pool, name string) (kill func()) {
	f := &fakeWorker{world: w, name: name, pool: pool}
	return w.background(f.run)
}

type fakeWorker struct {
	*world
	name string
	pool string
	busy string
}

func (f *fakeWorker) register(ctx context.Context) {
	_ = f.leases.Register(ctx, lease.Worker{Name: f.name, Incarnation: f.name, Pool: f.pool, Busy: f.busy}, 2*ttl)
}

func (f *fakeWorker) run(ctx context.Context) error {
	for ctx.Err() == nil {
		f.busy = ""
		f.register(ctx)
		for _, kind := range []schemas.StageKind{schemas.KindTrain, schemas.KindPrep, schemas.KindEval, schemas.KindExport} {
			d, err := f.work.Pull(ctx, kind, f.pool, time.Millisecond)
			if err == nil {
				f.take(ctx, d.Message(), d.Ack)
				break
			}
		}
	}
	return nil
}

func (f *fakeWorker) take(ctx context.Context, m schemas.Message, ack func(context.Context) error) {
	key := schemas.LeaseKey(m.Tenant, m.Run, m.Stage, m.Index())
	owner := lease.Owner{Worker: f.name, Incarnation: f.name, Issue: m.Issue}
	if _, err := f.leases.Acquire(ctx, key, owner, ttl); err != nil {
		return
	}
	f.busy = m.Run
	for ctx.Err() == nil {
		f.register(ctx)
		if _, err := f.leases.Renew(ctx, key, owner, ttl); errors.Is(err, lease.ErrLost) {
			return
		}
		head, _, err := f.heads.Read(ctx, m.Tenant, m.Run)
		if err != nil {
			continue
		}
		if m.Kind == schemas.KindTrain && !head.WantsSeat(m.Stage, m.Seat, m.Issue) || m.Kind != schemas.KindTrain && (!head.WantsPart(m.Stage, m.Part, m.Issue) || f.part(ctx, m)) {
			_ = ack(ctx)
			_ = f.leases.Release(ctx, key, owner)
			_ = f.work.Poke(ctx, m.Tenant, m.Run)
			return
		}
		if m.Kind == schemas.KindTrain {
			f.train(ctx, m, head)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// part stores the result of a part; the first attempts of part 1 of a stage called "flaky" fail.
func (f *fakeWorker) part(ctx context.Context, m schemas.Message) bool {
	key, body := schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part), any(schemas.StageResult{Version: 1, Stage: m.Stage, Part: m.Part, Worker: f.name,
		Counters: map[string]int64{"rows": 10}, Objects: []schemas.Object{{Name: fmt.Sprint("o", m.Part)}}})
	if m.Stage == "flaky" && m.Part == 1 && m.Issue < 3 || m.Stage == "broken" {
		key, body = schemas.FailureKey(m.Tenant, m.Run, m.Stage, m.Part, m.Issue), schemas.Failure{Version: 1, Stage: m.Stage, Part: m.Part, Issue: m.Issue,
			Cause: schemas.CauseApplication, Error: schemas.ErrorInfo{Code: schemas.CodeInternal, Message: "flaky"}}
	}
	data, err := json.Marshal(body)
	if err != nil {
		f.t.Error(err)
	}
	_, err = f.objects.Put(ctx, key, data, store.Condition{Absent: true})
	return err == nil || errors.Is(err, store.ErrPrecondition)
}

// train forms when every seat has a live holder and this is the first, and commits a step as rank 0.
func (f *fakeWorker) train(ctx context.Context, m schemas.Message, head *schemas.Head) {
	if len(head.Members) == 0 {
		var keys []string
		for _, s := range head.Seats {
			keys = append(keys, schemas.LeaseKey(m.Tenant, m.Run, m.Stage, s.Seat))
		}
		holders, err := f.leases.Holders(ctx, keys)
		if err != nil || len(holders) != len(keys) || head.Seats[0].Seat != m.Seat {
			return
		}
		var members []schemas.Member
		for i, s := range head.Seats {
			if h := holders[keys[i]]; h.Issue == s.Issue {
				members = append(members, schemas.Member{Rank: i, Seat: s.Seat, Issue: s.Issue, Worker: h.Worker, Incarnation: h.Incarnation, Addr: "x"})
			}
		}
		_, _ = f.heads.FormGeneration(ctx, m.Tenant, m.Run, m.Stage, checkpoint.Forming{Expect: head.Generation, Members: members})
		return
	}
	if head.Members[0].Incarnation != f.name || head.Control == schemas.ControlPause {
		return
	}
	for _, o := range head.Members {
		h, err := f.leases.Holders(ctx, []string{schemas.LeaseKey(m.Tenant, m.Run, m.Stage, o.Seat)})
		if err != nil || len(h) == 0 {
			return // a member that is gone: no step
		}
	}
	step := head.Step + 1
	p, err := checkpoint.UploadBytes(ctx, f.objects, checkpoint.PartKey(m.Tenant, m.Run, step, head.Generation, 0, 0), []byte("part"))
	if err != nil {
		return
	}
	_, _ = f.heads.Commit(ctx, &schemas.Manifest{Tenant: m.Tenant, Run: m.Run, Stage: m.Stage, Step: step, Generation: head.Generation, World: len(head.Members),
		Parts: []schemas.Part{p}, Final: step >= f.lastStep(m.Stage)})
}

func (f *fakeWorker) lastStep(stage string) int64 {
	if stage == "long" {
		return 1 << 30
	}
	return 4
}

const text = `{"name":"rows","form":"sft","split":"train","template":"llama3","cutoff_len":64,"rows":true}`

// spec makes a valid spec from JSON of stages.
func spec(t *testing.T, key string, stages ...string) *schemas.RunSpec {
	t.Helper()
	file := func(name string) string {
		return fmt.Sprintf(`{"files":[{"path":%q,"sha256":"%064d","bytes":1}]}`, name, 1)
	}
	all := map[string]string{
		"prep":   `{"name":"prep","kind":"prep","prep":{"data":` + file("a.jsonl") + `,"tokenizer":` + file("tokenizer.json") + `,"clean":{},"split":{},"outputs":[` + text + `],"parts":3}}`,
		"flaky":  `{"name":"flaky","kind":"prep","prep":{"data":` + file("a.jsonl") + `,"tokenizer":` + file("tokenizer.json") + `,"clean":{},"split":{},"outputs":[` + text + `],"parts":2}}`,
		"broken": `{"name":"broken","kind":"prep","prep":{"data":` + file("a.jsonl") + `,"tokenizer":` + file("tokenizer.json") + `,"clean":{},"split":{},"outputs":[` + text + `],"parts":2}}`,
		"tune":   `{"name":"tune","kind":"train","needs":["prep"],"train":{"objective":"sft","data":"prep/rows","model":{"config":{"model_type":"llama"}},"method":"full","steps":4,"micro_batch":1,"leaves":2,"optim":{"name":"adamw","lr":0.001,"schedule":"constant"},"world":{"min":2,"max":2}}}`,
		"long":   `{"name":"long","kind":"train","needs":["prep"],"train":{"objective":"sft","data":"prep/rows","model":{"config":{"model_type":"llama"}},"method":"full","steps":4,"micro_batch":1,"leaves":2,"optim":{"name":"adamw","lr":0.001,"schedule":"constant"},"world":{"min":1,"max":2}}}`,
		"eval":   `{"name":"eval","kind":"eval","needs":["prep","tune"],"eval":{"models":[{"name":"tuned","from":"stage:tune"}],"data":"prep/rows","slices":2,"labels":["a","b"]}}`,
		"export": `{"name":"export","kind":"export","needs":["tune"],"export":{"from":"stage:tune","formats":["merged"]}}`,
	}
	s := `{"version":1,"tenant":"acme","key":"` + key + `","pool":"cpu","priority":1,"seed":1,"stages":[`
	for i, n := range stages {
		if i > 0 {
			s += ","
		}
		s += all[n]
	}
	out, err := schemas.DecodeSpec([]byte(s + "]}"))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (w *world) submit(s *schemas.RunSpec) string {
	w.t.Helper()
	reply, err := w.service.Submit(w.t.Context(), s)
	if err != nil {
		w.t.Fatal(err)
	}
	return reply.Run
}

// until polls the run until cond holds.
func (w *world) until(run, what string, cond func(v *schemas.RunView) bool) *schemas.RunView {
	w.t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		v, err := w.service.Get(w.t.Context(), "acme", run)
		if err != nil {
			w.t.Fatal(err)
		}
		if cond(v) {
			return v
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("no %s: %+v", what, v)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func (w *world) ends(run string, want schemas.RunState) *schemas.RunView {
	w.t.Helper()
	v := w.until(run, string(want), func(v *schemas.RunView) bool { return v.State.Terminal() })
	if v.State != want {
		w.t.Fatalf("run is %s: %s %v", v.State, v.Reason, v.Error)
	}
	// The open object goes last.
	open := schemas.OpenKey("cpu", 1, "acme", run)
	deadline := time.Now().Add(10 * time.Second)
	for {
		_, err := w.objects.Stat(w.t.Context(), open)
		if errors.Is(err, store.ErrNotFound) {
			return v
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("%s is still there: %v", open, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func TestRunGoesThroughItsStages(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	w.worker("w1")
	w.worker("w2")
	run := w.submit(spec(t, "k", "prep", "tune", "eval", "export"))
	v := w.ends(run, schemas.RunSucceeded)
	for _, st := range v.Stages {
		if st.State != schemas.StageSucceeded || st.Started.IsZero() || st.Ended.IsZero() {
			t.Errorf("stage %+v", st)
		}
	}
	if m := v.Stages[1].Manifest; m == nil || m.Step != 4 || !m.Final {
		t.Errorf("manifest %+v", m)
	}
	if len(v.Ended) != 1 || v.Ended[0].Cause != schemas.CauseDone {
		t.Errorf("ended %+v", v.Ended)
	}
	data, _, err := w.objects.Get(t.Context(), v.Stages[0].Result, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var res schemas.StageResult
	if err := json.Unmarshal(data, &res); err != nil || res.Counters["rows"] != 30 || len(res.Objects) != 3 || res.Objects[2].Name != "o2" {
		t.Errorf("result %+v: %v", res, err)
	}
	list, err := w.service.List(t.Context(), schemas.RunFilter{Tenant: "acme", States: []schemas.RunState{schemas.RunSucceeded}})
	if err != nil || len(list.Runs) != 1 || list.Runs[0].Run != run || list.Next != "" {
		t.Errorf("list %+v: %v", list, err)
	}
	pools, err := w.service.Pools(t.Context())
	if err != nil || len(pools.Pools) != 1 || pools.Pools[0].Owner != "c1" {
		t.Errorf("pools %+v: %v", pools, err)
	}
	versions, err := registry.New(w.objects).List(t.Context(), "acme", run)
	if err != nil || len(versions) != 1 || versions[0].Number != 1 || len(versions[0].Lineage.Train) != 1 || len(versions[0].Objects) != 1 {
		t.Errorf("versions %+v: %v", versions, err)
	}
	events, err := w.leases.Tail(t.Context(), "acme", run, "", 100, 0)
	if err != nil {
		t.Fatal(err)
	}
	var types []string
	for _, e := range events {
		types = append(types, e.Event.Type+" "+e.Event.Stage+" "+e.Event.Message)
	}
	for _, want := range []string{"run.submitted  ", "stage.state prep running", "stage.state tune succeeded", "run.state  succeeded"} {
		if !slices.Contains(types, want) {
			t.Errorf("no event %q in %q", want, types)
		}
	}
}

func TestRetriesMeetTheSameRun(t *testing.T) {
	w := newWorld(t)
	first := spec(t, "same", "prep")
	reply, err := w.service.Submit(t.Context(), first)
	if err != nil || reply.Duplicate || reply.State != schemas.RunQueued {
		t.Fatalf("reply %+v: %v", reply, err)
	}
	second := spec(t, "same", "prep")
	second.Priority = 3
	again, err := w.service.Submit(t.Context(), second)
	if err != nil || !again.Duplicate || again.Run != reply.Run {
		t.Fatalf("reply %+v: %v", again, err)
	}
	n := 0
	for range w.objects.List(t.Context(), "open/") {
		n++
	}
	if n != 1 {
		t.Fatalf("%d open objects", n)
	}
	w.control("c1")
	w.worker("w1")
	w.ends(reply.Run, schemas.RunSucceeded)
	if again, err = w.service.Submit(t.Context(), second); err != nil || !again.Duplicate || again.State != schemas.RunSucceeded {
		t.Fatalf("reply %+v: %v", again, err)
	}
	other := spec(t, "", "prep")
	fresh := w.submit(other)
	if fresh == reply.Run {
		t.Fatal("a spec without key met another run")
	}
	w.ends(fresh, schemas.RunSucceeded)
}

func TestFlakyPartIsTriedAgainAndABrokenOneFailsTheRun(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	w.worker("w1")
	ok := w.submit(spec(t, "a", "flaky"))
	bad := w.submit(spec(t, "b", "broken"))
	if v := w.ends(ok, schemas.RunSucceeded); v.Stages[0].Issues[1] != 3 {
		t.Errorf("stage %+v", v.Stages[0])
	}
	if v := w.ends(bad, schemas.RunFailed); v.Error == nil || v.Error.Message != "flaky" || v.Stages[0].State != schemas.StageFailed {
		t.Errorf("run %+v", v)
	}
}

func TestDeadWorkerLosesItsSeat(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	kill := w.worker("w1")
	w.worker("w2")
	run := w.submit(spec(t, "k", "prep", "long"))
	w.until(run, "commit of two", func(v *schemas.RunView) bool { return v.Step > 3 && len(v.Members) == 2 })
	kill()
	v := w.until(run, "new generation", func(v *schemas.RunView) bool { return v.Generation > 1 && v.Step > 10 && len(v.Members) > 0 })
	if len(v.Members) != 1 || v.Members[0].Worker != "w2" || v.Ended[0].Cause != schemas.CauseInfrastructure {
		t.Fatalf("run %+v", v)
	}
	step := v.Step
	if _, err := w.service.Cancel(t.Context(), "acme", run, "enough"); err != nil {
		t.Fatal(err)
	}
	v = w.ends(run, schemas.RunCancelled)
	if v.Reason != "enough" || v.Step < step {
		t.Fatalf("run %+v", v)
	}
	if _, err := w.service.Cancel(t.Context(), "acme", run, ""); err != nil {
		t.Fatalf("a second cancel: %v", err)
	}
	if _, err := w.service.Pause(t.Context(), "acme", run); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("a cancelled run was paused: %v", err)
	}
}

func TestPauseAndResume(t *testing.T) {
	w := newWorld(t)
	queued := w.submit(spec(t, "q", "prep"))
	if v, err := w.service.Pause(t.Context(), "acme", queued); err != nil || v.State != schemas.RunPaused {
		t.Fatalf("run %+v: %v", v, err)
	}
	w.control("c1")
	w.worker("w1")
	w.worker("w2")
	run := w.submit(spec(t, "k", "prep", "long"))
	w.until(run, "commits", func(v *schemas.RunView) bool { return v.Step > 3 })
	if _, err := w.service.Pause(t.Context(), "acme", run); err != nil {
		t.Fatal(err)
	}
	v := w.until(run, "pause", func(v *schemas.RunView) bool { return v.State == schemas.RunPaused })
	step := v.Step
	if v.Ended[len(v.Ended)-1].Cause != schemas.CausePreempted || len(v.Members) != 0 {
		t.Fatalf("run %+v", v)
	}
	if _, err := w.service.Resume(t.Context(), "acme", run); err != nil {
		t.Fatal(err)
	}
	w.until(run, "progress", func(v *schemas.RunView) bool { return v.Step > step+3 })
	if v, err := w.service.Get(t.Context(), "acme", queued); err != nil || v.State != schemas.RunPaused {
		t.Fatalf("run %+v: %v", v, err)
	}
	if _, err := w.service.Cancel(t.Context(), "acme", run, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := w.service.Resume(t.Context(), "acme", queued); err != nil {
		t.Fatal(err)
	}
	w.ends(queued, schemas.RunSucceeded)
}

func TestCancelOfAQueuedRun(t *testing.T) {
	w := newWorld(t)
	run := w.submit(spec(t, "k", "prep"))
	if v, err := w.service.Cancel(t.Context(), "acme", run, ""); err != nil || v.State != schemas.RunCancelled {
		t.Fatalf("run %+v: %v", v, err)
	}
	w.control("c1")
	w.ends(run, schemas.RunCancelled)
}

func TestWipedStreamAndLeasesLoseNoRun(t *testing.T) {
	w := newWorld(t)
	w.control("c1")
	var runs []string
	for i := range 4 {
		runs = append(runs, w.submit(spec(t, fmt.Sprint(i), "prep", "tune", "eval")))
	}
	w.until(runs[0], "start", func(v *schemas.RunView) bool { return v.State == schemas.RunRunning })
	w.work.Wipe()
	w.worker("w1")
	w.worker("w2")
	w.until(runs[0], "training", func(v *schemas.RunView) bool { return v.Stages[0].State == schemas.StageSucceeded })
	w.leases.Wipe()
	w.work.Wipe()
	for _, r := range runs {
		w.ends(r, schemas.RunSucceeded)
	}
}

// cut is a store whose connection can be cut: what a control that is killed, or partitioned, sees.
type cut struct {
	store.Objects
	after int
	mu    sync.Mutex
	done  chan struct{}
}

func (c *cut) Put(ctx context.Context, key string, data []byte, cond store.Condition) (string, error) {
	c.mu.Lock()
	c.after--
	dead := c.after < 0
	if c.after == 0 {
		close(c.done)
	}
	c.mu.Unlock()
	if dead {
		return "", fmt.Errorf("cannot put %s: %w", key, store.ErrUnavailable)
	}
	return c.Objects.Put(ctx, key, data, cond)
}

// TestStandbyTakesOverAtAnyWrite lets the owner die after its n-th write, for every n up to well into the run: the standby finishes it.
func TestStandbyTakesOverAtAnyWrite(t *testing.T) {
	for after := 1; after <= 16; after++ {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.worker("w1")
			w.worker("w2")
			first := &cut{Objects: w.objects, after: after, done: make(chan struct{})}
			run := w.submit(spec(t, "k", "prep", "tune"))
			w.controlOn("c1", first)
			select {
			case <-first.done:
			case <-time.After(20 * time.Second):
				t.Fatal("the first control does not write")
			}
			w.control("c2")
			v := w.ends(run, schemas.RunSucceeded)
			if m := v.Stages[1].Manifest; m == nil || m.Step != 4 {
				t.Fatalf("run %+v", v)
			}
		})
	}
}

func TestBadSpecsAreRefused(t *testing.T) {
	w := newWorld(t)
	front := control.NewFront(w.objects, w.work, nil)
	for name, body := range map[string]string{"no JSON": "{", "unknown key": `{"version":1,"pol":"cpu"}`, "no stages": `{"version":1,"tenant":"a","pool":"cpu"}`,
		"bad id": `{"version":1,"tenant":"a","pool":"cpu","id":"a-b-c-d-e","stages":[{"name":"x","kind":"export","export":{"from":"run:a/b/c","formats":["peft"]}}]}`} {
		var reply schemas.SubmitReply
		if err := json.Unmarshal(front.Handle(t.Context(), []byte(body), nil), &reply); err != nil || reply.Error == nil || reply.Error.Code != schemas.CodeInvalid {
			t.Errorf("%s: reply %+v: %v", name, reply, err)
		}
	}
	for range w.objects.List(t.Context(), "") {
		t.Fatal("something was stored")
	}
	if _, err := w.service.Get(t.Context(), "acme", "none"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := w.service.Cancel(t.Context(), "../x", "none", ""); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestListPages(t *testing.T) {
	w := newWorld(t)
	for i := range 7 {
		w.submit(spec(t, fmt.Sprint(i), "prep"))
	}
	var got []schemas.RunView
	after := ""
	for {
		list, err := w.service.List(t.Context(), schemas.RunFilter{Tenant: "acme", Limit: 3, After: after})
		if err != nil {
			t.Fatal(err)
		}
		if list.Total != 7 {
			t.Fatalf("%d runs in all", list.Total)
		}
		got = append(got, list.Runs...)
		if after = list.Next; after == "" {
			break
		}
	}
	seen := map[string]bool{}
	for i, r := range got {
		seen[r.Run] = true
		if i > 0 && r.Created.After(got[i-1].Created) {
			t.Errorf("run %s of %s comes after one of %s", r.Run, r.Created, got[i-1].Created)
		}
	}
	if len(got) != 7 || len(seen) != 7 {
		t.Fatalf("%d runs, %d of them different", len(got), len(seen))
	}
}
