package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/clockfault"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// Row is one row of the chaos matrix.
type Row struct {
	Number int    `json:"row"`
	Name   string `json:"name"`
	// Skip says why the row is not run; "" when it is.
	Skip string `json:"skip,omitempty"`
	run  func(ctx context.Context, a *act) error
}

// act is one execution of a row.
type act struct {
	f   *fleet
	w   *workload
	rng *rand.Rand
	// what was done, for the history.
	what   string
	target string
}

// errNotReached: the moment that the row waits for did not come; that is no verdict.
var errNotReached = errors.New("the moment did not come")

func (a *act) pick(of []string) string { return of[a.rng.IntN(len(of))] }

func (a *act) between(low, high time.Duration) time.Duration {
	return low + time.Duration(a.rng.Int64N(int64(high-low)+1))
}

// begin notes the fault.
func (a *act) begin(row int, target, format string, args ...any) {
	a.what, a.target = fmt.Sprintf(format, args...), target
	a.f.history.Add(check.Event{Kind: check.KindFault, Row: row, Proc: target, Fault: a.what})
}

// Rows is the chaos matrix, in order.
func Rows() []Row {
	return []Row{
		{1, "worker: kill -9 at a random step", "", killWorker},
		{2, "worker: kill -9 at a named point of the commit", "", killAtPoint},
		{3, "worker: frozen for longer than its lease, then woken up", "", freezeWorker},
		{4, "worker: SIGTERM, or a Spot notice", "", leaveWorker},
		{5, "worker: a hung step while the agent lives", "", hangStep},
		{6, "worker: the rank is killed as for memory; poisoned runs are in the workload", "", killRank},
		{7, "workers, ranks, control: the wall clock jumps an hour forward, back, and right again; a Spot notice meanwhile", clockfault.Unsupported(), jumpClocks},
		{8, "worker: no scratch space; the store is full", "", fullDisk},
		{9, "workers: all killed, fewer come back", "", killAllWorkers},
		{10, "broker: kill -9 under load", "", killBroker},
		{11, "broker: frozen", "", freezeBroker},
		{12, "broker: wiped, restored to an older copy, or damaged on disk", "", wipeBroker},
		{13, "broker of three: leader killed, one frozen, rolling restart", "", clusterFaults},
		{14, "broker: a stale nak or ack for somebody else's delivery", "", staleAcks},
		{15, "broker: the producer submits again after the answer was lost", "", submitAgain},
		{16, "lease server: killed, flushed, away, slow, out of memory", "", troubleRedis},
		{17, "store: killed, 500, SlowDown, resets, truncated and slow bodies", "", troubleStore},
		{18, "store: the write is applied and the answer lost or 409", "", ambiguousWrites},
		{19, "store: a part of the newest commit is flipped, cut or deleted", "", corruptPart},
		{20, "store: conditional writes that are not atomic", "", unsafeStore},
		{21, "front: killed between storing a run and answering", "", killFront},
		{22, "API: thousands of event streams that nobody reads, slow readers, a kill -9", "", streams},
		{23, "autoscaler: two at once, one killed; the cloud throttles, hangs, is full, starts what never joins", "", autoscale},
		{24, "telemetry collector: black-holed", "", blackholeCollector},
		{25, "network: latency, one-way and full partitions, resets, slicing, per pair", "", troubleNetwork},
		{26, "trainer: a gradient's bit flips, a batch gives no number, a shard of the data is damaged", "", hurtTrainer},
		{27, "upgrade: a worker of an older build among new ones, or controls of one over new workers", "", olderBuild},
		{28, "everything: random kills of any process", "", killAnything},
	}
}

// member waits for a gang in training and picks one of its workers.
func (a *act) member(ctx context.Context, limit time.Duration) string {
	h := a.w.await(ctx, limit, func(*schemas.Head) bool { return true })
	if h == nil {
		return a.pick(a.f.workers())
	}
	return h.Members[a.rng.IntN(len(h.Members))].Worker
}

func killWorker(ctx context.Context, a *act) error {
	worker := a.member(ctx, 5*time.Second)
	pause(ctx, a.between(0, 300*time.Millisecond))
	a.begin(1, worker, "kill -9")
	if err := a.f.kill(worker); err != nil {
		return err
	}
	pause(ctx, a.between(0, 2*time.Second))
	return a.f.start(worker)
}

// points of the commit and of a part's life, told from the requests that the worker sends.
var points = []struct {
	name     string
	answered bool
	method   string
	contains []string
}{
	{"while a part is stored", false, http.MethodPut, []string{"/ckpt/", ".bin"}},
	{"after the parts, before the manifest", false, http.MethodPut, []string{"/ckpt/", "/manifest.json"}},
	{"after the manifest, before the swap of HEAD", true, http.MethodPut, []string{"/ckpt/", "/manifest.json"}},
	{"at the swap of HEAD, before the store has it", false, http.MethodPut, []string{"/HEAD.json"}},
	{"at the swap of HEAD, before the answer", true, http.MethodPut, []string{"/HEAD.json"}},
	{"after a result, before the ack", true, http.MethodPut, []string{"/stages/", "/part-"}},
	{"after the claim", true, http.MethodGet, []string{"/SPEC.json"}},
}

func killAtPoint(ctx context.Context, a *act) error {
	p := points[a.rng.IntN(len(points))]
	hit := a.f.arm(p.answered, func(q *faultproxy.Request) bool {
		ok := q.Method == p.method && strings.HasPrefix(q.Proc, "worker")
		for _, s := range p.contains {
			ok = ok && strings.Contains(q.Key, s)
		}
		return ok
	}, func(q *faultproxy.Request) error {
		a.begin(2, q.Proc, "kill -9 %s", p.name)
		return errors.Join(a.f.kill(q.Proc), errors.New("killed"))
	})
	return a.startAgain(ctx, hit, 10*time.Second)
}

// startAgain starts the process that a fault has hit anew, within a second; errNotReached when none is hit within a time.
func (a *act) startAgain(ctx context.Context, hit <-chan string, within time.Duration) error {
	select {
	case name := <-hit:
		pause(ctx, a.between(0, time.Second))
		return a.f.start(name)
	case <-time.After(within):
	case <-ctx.Done():
	}
	return errNotReached
}

func freezeWorker(ctx context.Context, a *act) error {
	withRank := a.rng.IntN(3) == 0
	var worker string
	if withRank {
		worker = a.member(ctx, 5*time.Second)
	} else if h := a.w.await(ctx, 6*time.Second, func(h *schemas.Head) bool { return len(h.Members) == 1 && a.w.remaining(h) > 3*a.f.shape.TTL }); h != nil {
		worker = h.Members[0].Worker // its rank trains on alone, and will want to commit
	} else {
		return errNotReached
	}
	a.begin(3, worker, "SIGSTOP (rank too: %v)", withRank)
	if err := a.f.freeze(worker, withRank); err != nil {
		return err
	}
	pause(ctx, 3*a.f.shape.TTL+a.between(0, time.Second))
	return a.f.thaw(worker)
}

// drainLimit is how long a worker that was told to leave may take, with room for a loaded machine.
const drainLimit = 40 * time.Second

func leaveWorker(ctx context.Context, a *act) error {
	worker := a.member(ctx, 5*time.Second)
	how := a.rng.IntN(3)
	switch how {
	case 0:
		a.begin(4, worker, "SIGTERM")
		if err := a.f.cell.Signal(worker, syscall.SIGTERM); err != nil {
			return err
		}
	default:
		a.begin(4, worker, "Spot notice of AWS, 2 minutes")
		a.f.spot.announce(worker, 2*time.Minute)
	}
	began := time.Now()
	if !a.f.cell.Wait(worker, drainLimit) {
		return fmt.Errorf("%s has not left %s after it was told to", worker, drainLimit)
	}
	a.what += fmt.Sprintf("; left after %.1f s", time.Since(began).Seconds())
	a.f.spot.clear()
	return a.f.start(worker)
}

// rank waits for a member of a gang whose rank process runs.
func (a *act) rank(ctx context.Context) (worker string, ranks []int) {
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		if worker = a.member(ctx, time.Second); worker != "" {
			if ranks = a.f.ranks(worker); len(ranks) > 0 {
				return worker, ranks
			}
		}
	}
	return worker, nil
}

// seated reports whether the process that runs as the worker now is a member of a gang, by what HEAD says now: HEAD may name one that was
// killed a moment ago, until control has noticed, and the inventory still lists that one until its entry expires.
func (a *act) seated(ctx context.Context, worker string) bool {
	live, err := a.f.direct.Leases.Workers(ctx, "cpu")
	if err != nil {
		return false
	}
	for _, h := range a.w.training() {
		now, _, err := a.f.heads.Read(ctx, h.Tenant, h.Run)
		if err != nil {
			continue
		}
		for _, m := range now.Members {
			if m.Worker == worker && slices.ContainsFunc(live, func(w lease.Worker) bool {
				return w.Name == worker && w.Incarnation == m.Incarnation && w.PID == a.f.cell.PID(worker) && w.Busy != ""
			}) {
				return true
			}
		}
	}
	return false
}

// intact reports whether every gang has the workers that its HEAD names, and not processes that were killed and not yet missed.
func (a *act) intact(ctx context.Context) bool {
	live, err := a.f.direct.Leases.Workers(ctx, "cpu")
	if err != nil {
		return false
	}
	for _, h := range a.w.training() {
		now, _, err := a.f.heads.Read(ctx, h.Tenant, h.Run)
		if err != nil {
			return false
		}
		for _, m := range now.Members {
			if !slices.ContainsFunc(live, func(w lease.Worker) bool { return w.Name == m.Worker && w.Incarnation == m.Incarnation }) {
				return false
			}
		}
	}
	return true
}

// stepping waits for a member of a gang whose rank makes steps: the same process before and after a commit of the gang. A rank that has only
// been started, or that is idle, has other limits than those of a step.
func (a *act) stepping(ctx context.Context) (worker string, ranks []int) {
	for end := time.Now().Add(12 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		heads := a.w.training()
		if len(heads) == 0 {
			continue
		}
		seen := heads[a.rng.IntN(len(heads))]
		worker = seen.Members[a.rng.IntN(len(seen.Members))].Worker
		ranks = a.f.ranks(worker)
		before, _, err := a.f.heads.Read(ctx, seen.Tenant, seen.Run)
		if err != nil || len(ranks) == 0 {
			continue
		}
		for again := time.Now().Add(3 * time.Second); time.Now().Before(again) && ctx.Err() == nil; pause(ctx, 20*time.Millisecond) {
			now, _, err := a.f.heads.Read(ctx, seen.Tenant, seen.Run)
			if err != nil || now.Generation != before.Generation || now.Stage != before.Stage || now.Manifest == nil || now.Manifest.Final {
				break
			}
			if now.Step > before.Step {
				if slices.Equal(ranks, a.f.ranks(worker)) && slices.ContainsFunc(now.Members, func(m schemas.Member) bool { return m.Worker == worker }) {
					return worker, ranks
				}
				break
			}
		}
	}
	return worker, nil
}

func hangStep(ctx context.Context, a *act) error {
	worker, ranks := a.stepping(ctx)
	if len(ranks) == 0 {
		return errNotReached
	}
	a.begin(5, worker, "SIGSTOP of the rank alone")
	for _, pid := range ranks {
		if err := ignoreGone(syscall.Kill(pid, syscall.SIGSTOP)); err != nil {
			return fmt.Errorf("cannot stop rank %d: %w", pid, err)
		}
	}
	if !a.seated(ctx, worker) { // its gang was lost meanwhile: what is stopped is the idle rank that a worker keeps ready
		for _, pid := range ranks {
			if err := ignoreGone(syscall.Kill(pid, syscall.SIGCONT)); err != nil {
				return fmt.Errorf("cannot wake rank %d: %w", pid, err)
			}
		}
		return errNotReached
	}
	// It may hang in a step, or while it still loads.
	const within = loadStall + 2*stepStall + 10*time.Second
	deadline := time.Now().Add(within)
	for time.Now().Before(deadline) && ctx.Err() == nil {
		if gone := syscall.Kill(ranks[0], 0); errors.Is(gone, syscall.ESRCH) {
			return nil // by its agent
		}
		pause(ctx, 100*time.Millisecond)
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return fmt.Errorf("the hung rank of %s still has its seat after %s without a step (stall limits %s, %s while it loads)", worker, within, stepStall, loadStall)
}

func killRank(ctx context.Context, a *act) error {
	worker, ranks := a.rank(ctx)
	if len(ranks) == 0 {
		return errNotReached
	}
	a.begin(6, worker, "SIGKILL of the rank alone")
	a.f.history.Add(check.Event{Kind: check.KindKill, Proc: "rank"})
	for _, pid := range ranks {
		if err := ignoreGone(syscall.Kill(pid, syscall.SIGKILL)); err != nil {
			return fmt.Errorf("cannot kill rank %d: %w", pid, err)
		}
	}
	return nil
}

func killAllWorkers(ctx context.Context, a *act) error {
	a.begin(9, "workers", "kill -9 of all")
	for _, w := range a.f.workers() {
		if err := a.f.kill(w); err != nil {
			return err
		}
	}
	back := a.f.workers()
	a.rng.Shuffle(len(back), func(i, j int) { back[i], back[j] = back[j], back[i] })
	k := 1 + a.rng.IntN(len(back)-1)
	pause(ctx, a.between(0, time.Second))
	for i, w := range back {
		if i == k {
			pause(ctx, a.between(time.Second, 4*time.Second))
		}
		if err := a.f.start(w); err != nil {
			return err
		}
	}
	return nil
}

func killFront(ctx context.Context, a *act) error {
	stored := a.rng.IntN(2) == 0
	hit := a.f.arm(stored, func(q *faultproxy.Request) bool {
		return q.Method == http.MethodPut && strings.HasPrefix(q.Key, "open/") && strings.HasPrefix(q.Proc, "control")
	}, func(q *faultproxy.Request) error {
		a.begin(21, q.Proc, "kill -9 of the front, the open object stored: %v", stored)
		return errors.Join(a.f.kill(q.Proc), errors.New("killed"))
	})
	return a.startAgain(ctx, hit, 15*time.Second)
}

// submitAgain lets the connection of the producer break while it waits for answers: the workload submits again with the same key.
func submitAgain(ctx context.Context, a *act) error {
	a.begin(15, "client", "connections of the producer are reset, three times")
	for range 3 {
		for _, b := range a.f.brokers() {
			a.f.links["client>"+b].Reset()
		}
		pause(ctx, a.between(200*time.Millisecond, 700*time.Millisecond))
	}
	return nil
}

func blackholeCollector(ctx context.Context, a *act) error {
	hole, err := faultproxy.Listen("127.0.0.1:9", nil)
	if err != nil {
		return err
	}
	defer hole.Close()
	hole.Set(faultproxy.Fault{HoldUp: true, HoldDown: true})
	worker := a.pick(a.f.workers())
	a.begin(24, worker, "restarted with a collector that never answers")
	a.f.mu.Lock()
	a.f.extra[worker] = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=http://" + hole.Addr(), "OTEL_TRACES_EXPORTER=otlp", "OTEL_METRICS_EXPORTER=otlp"}
	a.f.mu.Unlock()
	if err := a.f.kill(worker); err != nil {
		return err
	}
	if err := a.f.start(worker); err != nil {
		return err
	}
	before, began := a.f.swaps.Load(), time.Now()
	pause(ctx, a.between(4*time.Second, 8*time.Second))
	// What the fleet was still recovering from when this began, the kill of this worker too, is given the time that recovery may take.
	for a.f.swaps.Load() == before && ctx.Err() == nil {
		if time.Since(began) > a.f.shape.TTL+10*time.Second {
			return errors.New("nothing was committed while a worker's collector did not answer")
		}
		pause(ctx, 100*time.Millisecond)
	}
	if err := a.f.kill(worker); err != nil {
		return err
	}
	a.f.mu.Lock()
	delete(a.f.extra, worker)
	a.f.mu.Unlock()
	return a.f.start(worker)
}

// needOlder says what row 27 needs.
const needOlder = "give a binary of an earlier build with --older"

// olderBuild lets a worker of an earlier build work among new ones for a while, under new control, or the other way round: all controls are of
// the earlier build. What the one commits or decides the other goes on from.
func olderBuild(ctx context.Context, a *act) error {
	worker := a.pick(a.f.workers())
	d := a.between(8*time.Second, 12*time.Second)
	names, what := []string{worker}, worker
	if a.rng.IntN(2) == 0 {
		names, what = a.f.controls(), "controls"
	}
	a.begin(27, what, "of an older build for %s", d.Round(100*time.Millisecond))
	set := func(old bool) error {
		var errs []error
		for _, n := range names {
			a.f.mu.Lock()
			a.f.old[n] = old
			a.f.mu.Unlock()
			errs = append(errs, a.f.kill(n), a.f.start(n))
		}
		return errors.Join(errs...)
	}
	before := a.f.swaps.Load()
	if err := set(true); err != nil {
		return err
	}
	pause(ctx, d)
	alive := !slices.ContainsFunc(names, func(n string) bool { return !a.f.cell.Alive(n) })
	a.f.mu.Lock()
	took := a.f.latest[worker]
	a.f.mu.Unlock()
	if !alive && ctx.Err() == nil {
		return errors.Join(fmt.Errorf("%s of an older build has ended by itself", what), set(false))
	}
	if swaps := a.f.swaps.Load() - before; what == worker {
		a.what += "; its last message: " + took.Subject
	} else if a.what += fmt.Sprintf("; %d swaps of HEAD meanwhile", swaps); swaps == 0 && ctx.Err() == nil {
		return errors.Join(errors.New("nothing was committed under controls of an older build"), set(false))
	}
	return set(false)
}

// killAnything is a short storm over all processes.
func killAnything(ctx context.Context, a *act) error {
	a.begin(28, "fleet", "a storm of kill -9")
	return a.storm(ctx, 8*time.Second)
}

// storm kills processes at random until the time is over: one to three at once, which come back after a moment. Between two bursts the fleet
// has time to get a little further; a fleet that gets nowhere proves nothing.
func (a *act) storm(ctx context.Context, d time.Duration) error {
	all := a.f.all()
	var round []string
	next := func() string {
		if len(round) == 0 {
			round = append(round, all...)
			a.rng.Shuffle(len(round), func(i, j int) { round[i], round[j] = round[j], round[i] })
		}
		p := round[0]
		round = round[1:]
		return p
	}
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, a.between(300*time.Millisecond, 1300*time.Millisecond)) {
		var burst []string
		for range 1 + a.rng.IntN(3) {
			if p := next(); !slices.Contains(burst, p) {
				burst = append(burst, p)
			}
		}
		for _, p := range burst {
			if err := a.f.kill(p); err != nil {
				return err
			}
			pause(ctx, a.between(0, 100*time.Millisecond))
		}
		pause(ctx, a.between(0, 300*time.Millisecond))
		for _, p := range burst {
			if err := a.f.start(p); err != nil {
				return err
			}
		}
	}
	return nil
}
