package checkpoint_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

const (
	tenant = "acme"
	run    = "run00001"
	stage  = "tune"
)

// newRun makes a store with a running run whose gang of n seats has formed generation 1.
func newRun(t *testing.T, n int) (*storetest.Faulty, *checkpoint.Heads) {
	t.Helper()
	faulty := storetest.NewFaulty(memstore.New())
	heads := checkpoint.NewHeads(faulty, checkpoint.Config{Budget: 30 * time.Second})
	head := schemas.Head{Tenant: tenant, Run: run, State: schemas.RunRunning, Stage: stage,
		Stages: []schemas.StageState{{Name: stage, Kind: schemas.KindTrain, State: schemas.StageRunning}}}
	for i := range n {
		head.Seats = append(head.Seats, schemas.Seat{Seat: i, Issue: 1})
	}
	if _, err := heads.Create(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	form(t, heads, 0, n)
	return faulty, heads
}

func members(n int, issue uint64) []schemas.Member {
	var out []schemas.Member
	for i := range n {
		out = append(out, schemas.Member{Rank: i, Seat: i, Issue: issue, Worker: fmt.Sprint("w", i), Incarnation: fmt.Sprint("i", i), Addr: "127.0.0.1:1"})
	}
	return out
}

func form(t *testing.T, heads *checkpoint.Heads, expect uint64, n int) *schemas.Head {
	t.Helper()
	head, err := heads.FormGeneration(t.Context(), tenant, run, stage, checkpoint.Forming{Expect: expect, Members: members(n, 1), Numerics: "x"})
	if err != nil {
		t.Fatal(err)
	}
	if head.Generation != expect+1 || len(head.Members) != n || head.Numerics != "x" {
		t.Fatalf("formed generation %d with %d members, numerics %q", head.Generation, len(head.Members), head.Numerics)
	}
	return head
}

// tensors of the test model: element i of a tensor is f(name, i, step).
var shapes = map[string][]int64{"param/a": {3, schemas.ChunkElements}, "adam_m/a": {3, schemas.ChunkElements}, "param/b": {5000}, "param/c": {7}}

func value(name string, i, step int64) float32 {
	return float32(len(name)*1000) + float32(i) + float32(step)/1024
}

func total(shape []int64) int64 {
	n := int64(1)
	for _, d := range shape {
		n *= d
	}
	return n
}

// cut is the share of a rank: whole chunks of ChunkElements.
func cut(n int64, rank, world int) (from, to int64) {
	chunks := (n + schemas.ChunkElements - 1) / schemas.ChunkElements
	at := func(r int) int64 { return min(n, chunks*int64(r)/int64(world)*schemas.ChunkElements) }
	return at(rank), at(rank + 1)
}

func fill(name string, from, to, step int64) []float32 {
	out := make([]float32, to-from)
	for i := range out {
		out[i] = value(name, from+int64(i), step)
	}
	return out
}

// store writes the parts of a checkpoint as a gang of world ranks would and returns the manifest.
func storeParts(t *testing.T, objects store.Objects, step int64, generation uint64, world int) *schemas.Manifest {
	t.Helper()
	m := &schemas.Manifest{Tenant: tenant, Run: run, Stage: stage, Step: step, Generation: generation, World: world}
	for rank := range world {
		w, err := checkpoint.NewPartWriter(t.TempDir(), checkpoint.PartKey(tenant, run, step, generation, rank, 0), rank)
		if err != nil {
			t.Fatal(err)
		}
		for name, shape := range shapes {
			from, to := cut(total(shape), rank, world)
			if err := w.Add(name, shape, from, fill(name, from, to, step)); err != nil {
				t.Fatal(err)
			}
		}
		p, err := w.Upload(t.Context(), objects)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		m.Parts = append(m.Parts, p)
	}
	var err error
	if m.Log, err = checkpoint.UploadBytes(t.Context(), objects, schemas.LogKey(tenant, run, step, generation), []byte("{}\n")); err != nil {
		t.Fatal(err)
	}
	return m
}

func commit(t *testing.T, heads *checkpoint.Heads, step int64, generation uint64, world int) *schemas.Head {
	t.Helper()
	head, err := heads.Commit(t.Context(), storeParts(t, heads.Objects(), step, generation, world))
	if err != nil {
		t.Fatal(err)
	}
	return head
}

func TestAnyWorldLoadsAnyCheckpoint(t *testing.T) {
	faulty, heads := newRun(t, 2)
	var hash string
	for i, world := range []int{1, 2, 3, 5} {
		step := int64(10 * (i + 1))
		head := commit(t, heads, step, 1, world)
		if head.Step != step || head.Manifest.Step != step {
			t.Fatalf("HEAD has step %d, manifest %+v", head.Step, head.Manifest)
		}
		r, err := checkpoint.Open(t.Context(), faulty, *head.Manifest, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		for _, readers := range []int{1, 2, 4} {
			for rank := range readers {
				for name, shape := range shapes {
					from, to := cut(total(shape), rank, readers)
					got := make([]float32, to-from)
					if err := r.ReadAt(t.Context(), name, from, got); err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(got, fill(name, from, to, step)) {
						t.Fatalf("world %d, rank %d of %d: %s differs", world, rank, readers, name)
					}
				}
			}
		}
		// The same content under another world size has the same hash.
		other := storeParts(t, faulty, step, 99, world+1)
		hash, err = r.StateHash(t.Context(), nil)
		if err != nil || len(hash) != 64 {
			t.Fatalf("hash %q: %v", hash, err)
		}
		or := openManifest(t, faulty, other)
		if h2, err := or.StateHash(t.Context(), nil); err != nil || h2 != hash {
			t.Fatalf("world %d has hash %s, world %d %s: %v", world, hash, world+1, h2, err)
		}
		if err := errors.Join(r.Close(), or.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

// openManifest opens a manifest that HEAD does not name, by writing it as generation 99 of a run of its own.
func openManifest(t *testing.T, objects store.Objects, m *schemas.Manifest) *checkpoint.Reader {
	t.Helper()
	mem := memstore.New()
	heads := checkpoint.NewHeads(mem, checkpoint.Config{})
	if _, err := heads.Create(t.Context(), schemas.Head{Tenant: tenant, Run: run, State: schemas.RunRunning, Stage: stage, Generation: m.Generation}); err != nil {
		t.Fatal(err)
	}
	for _, p := range append(slices.Clone(m.Parts), m.Log) {
		data, _, err := objects.Get(t.Context(), p.Key, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := mem.Put(t.Context(), p.Key, data, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	head, err := heads.Commit(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	r, err := checkpoint.Open(t.Context(), mem, *head.Manifest, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestCommitIsIdempotentAndChecksParts(t *testing.T) {
	faulty, heads := newRun(t, 1)
	m := storeParts(t, faulty, 5, 1, 1)
	first, err := heads.Commit(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := heads.Commit(t.Context(), m)
	if err != nil || again.Rev != first.Rev {
		t.Fatalf("a second commit of the same manifest gave revision %d after %d: %v", again.Rev, first.Rev, err)
	}
	m.Final = true
	if _, err := heads.Commit(t.Context(), m); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("a commit became final after the fact: %v", err)
	}
	m = storeParts(t, faulty, 6, 1, 1)
	m.Parts[0].Bytes += 4
	if _, err := heads.Commit(t.Context(), m); err == nil || !strings.Contains(err.Error(), m.Parts[0].Key) {
		t.Fatalf("a part of the wrong size was committed: %v", err)
	}
	m.Parts[0].Bytes -= 4
	if err := faulty.Delete(t.Context(), m.Parts[0].Key); err != nil {
		t.Fatal(err)
	}
	if _, err := heads.Commit(t.Context(), m); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a missing part was committed: %v", err)
	}
	if head, _, err := heads.Read(t.Context(), tenant, run); err != nil || head.Step != 5 {
		t.Fatalf("HEAD moved to step %d: %v", head.Step, err)
	}
}

func TestZombieGenerationIsFenced(t *testing.T) {
	faulty, heads := newRun(t, 1)
	zombie := storeParts(t, faulty, 7, 1, 1)
	if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseInfrastructure, nil); err != nil {
		t.Fatal(err)
	}
	form(t, heads, 1, 1)
	commit(t, heads, 6, 2, 1)
	for _, step := range []int64{7} {
		if _, err := heads.Commit(t.Context(), zombie); !schemas.IsCode(err, schemas.CodeFenced) {
			t.Fatalf("generation 1 committed step %d under generation 2: %v", step, err)
		}
	}
	if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseApplication, nil); !schemas.IsCode(err, schemas.CodeFenced) {
		t.Fatalf("generation 1 was ended under generation 2: %v", err)
	}
	head, _, err := heads.Read(t.Context(), tenant, run)
	if err != nil || head.Step != 6 || head.Manifest.Generation != 2 || len(head.Ended) != 1 || head.Ended[0].Cause != schemas.CauseInfrastructure {
		t.Fatalf("HEAD %+v: %v", head, err)
	}
}

func TestCommitAfterCancelIsFenced(t *testing.T) {
	faulty, heads := newRun(t, 1)
	m := storeParts(t, faulty, 3, 1, 1)
	// The cancel comes between the writing of the manifest and the swap of HEAD.
	faulty.Inject(storetest.Rule{Op: "put", Key: "HEAD.json", Fault: storetest.FailBefore, Err: store.ErrAmbiguous})
	done := make(chan error, 1)
	go func() { _, err := heads.Commit(t.Context(), m); done <- err }()
	if _, err := heads.Swap(t.Context(), tenant, run, func(h *schemas.Head) error {
		h.State = schemas.RunCancelled
		h.Generation++
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	err := <-done
	head, _, rerr := heads.Read(t.Context(), tenant, run)
	if rerr != nil || head.State != schemas.RunCancelled {
		t.Fatalf("HEAD %+v: %v", head, rerr)
	}
	// Either the commit came first, or it was fenced; never afterwards.
	if err == nil && head.Step != 3 || err != nil && (!schemas.IsCode(err, schemas.CodeFenced) || head.Step != 0) {
		t.Fatalf("commit: %v, HEAD at step %d", err, head.Step)
	}
}

func TestAmbiguousSwapsCountOnce(t *testing.T) {
	faulty, heads := newRun(t, 1)
	for i, fault := range []storetest.Fault{storetest.FailAfter, storetest.FailBefore, storetest.FailAfter} {
		faulty.Inject(storetest.Rule{Op: "put", Key: "HEAD.json", Fault: fault, Err: []error{store.ErrAmbiguous, store.ErrAmbiguous, store.ErrUnavailable}[i]})
		before, _, err := heads.Read(t.Context(), tenant, run)
		if err != nil {
			t.Fatal(err)
		}
		after, err := heads.Swap(t.Context(), tenant, run, func(h *schemas.Head) error { h.Reason += "x"; return nil })
		if err != nil || after.Rev != before.Rev+1 || after.Reason != before.Reason+"x" {
			t.Fatalf("fault %d: revision %d after %d, reason %q: %v", i, after.Rev, before.Rev, after.Reason, err)
		}
	}
	// The commit's own writes: manifest and HEAD each of unknown outcome.
	m := storeParts(t, faulty, 4, 1, 1)
	faulty.Inject(storetest.Rule{Op: "put", Key: "manifest.json", Fault: storetest.FailAfter, Err: store.ErrAmbiguous})
	faulty.Inject(storetest.Rule{Op: "put", Key: "HEAD.json", Fault: storetest.FailAfter, Err: store.ErrAmbiguous})
	head, err := heads.Commit(t.Context(), m)
	if err != nil || head.Step != 4 {
		t.Fatalf("step %d: %v", head.Step, err)
	}
	if _, err := checkpoint.ReadManifest(t.Context(), faulty, *head.Manifest); err != nil {
		t.Fatal(err)
	}
}

func TestCreateOnce(t *testing.T) {
	faulty := storetest.NewFaulty(memstore.New())
	heads := checkpoint.NewHeads(faulty, checkpoint.Config{})
	faulty.Inject(storetest.Rule{Op: "put", Fault: storetest.FailAfter, Err: store.ErrAmbiguous})
	base := schemas.Head{Tenant: tenant, Run: run, State: schemas.RunRunning}
	if _, err := heads.Create(t.Context(), base); err != nil {
		t.Fatal(err)
	}
	if _, err := heads.Create(t.Context(), base); !errors.Is(err, checkpoint.ErrExists) {
		t.Fatalf("created twice: %v", err)
	}
}

func TestConcurrentWritersLoseNothing(t *testing.T) {
	_, heads := newRun(t, 1)
	const writers, each = 8, 10
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				if _, err := heads.Swap(t.Context(), tenant, run, func(h *schemas.Head) error { h.LastIssue++; return nil }); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	head, _, err := heads.Read(t.Context(), tenant, run)
	if err != nil || head.LastIssue != writers*each {
		t.Fatalf("%d increments of %d: %v", head.LastIssue, writers*each, err)
	}
}

func TestSwapGivesUpOnADeadStore(t *testing.T) {
	faulty, _ := newRun(t, 1)
	heads := checkpoint.NewHeads(faulty, checkpoint.Config{Budget: 50 * time.Millisecond})
	faulty.Inject(storetest.Rule{Op: "get", Count: 1 << 30, Err: store.ErrUnavailable})
	if _, err := heads.Swap(t.Context(), tenant, run, func(*schemas.Head) error { return nil }); !errors.Is(err, store.ErrUnavailable) {
		t.Fatalf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	heads = checkpoint.NewHeads(faulty, checkpoint.Config{})
	if _, err := heads.Swap(ctx, tenant, run, func(*schemas.Head) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
}

func TestFormGenerationWantsTheSeats(t *testing.T) {
	_, heads := newRun(t, 2)
	try := func(expect uint64, ms []schemas.Member) error {
		_, err := heads.FormGeneration(t.Context(), tenant, run, stage, checkpoint.Forming{Expect: expect, Members: ms})
		return err
	}
	if err := try(1, members(2, 1)); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Fatalf("a generation was formed over a living one: %v", err)
	}
	if err := try(0, members(2, 2)); !schemas.IsCode(err, schemas.CodeFenced) {
		t.Fatalf("an old generation was formed again: %v", err)
	}
	if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseInfrastructure, nil); err != nil {
		t.Fatal(err)
	}
	for name, ms := range map[string][]schemas.Member{"one missing": members(1, 1), "old issue": members(2, 7), "none": nil, "rank twice": append(members(1, 1), members(1, 1)...)} {
		if err := try(1, ms); !schemas.IsCode(err, schemas.CodeConflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := try(1, members(2, 1)); err != nil {
		t.Fatal(err)
	}
	if err := try(1, members(2, 1)); err != nil {
		t.Fatalf("the same forming again: %v", err)
	}
}

func TestCorruptPartWalksBack(t *testing.T) {
	for _, what := range []string{"rank-00001-000.bin", "manifest.json"} {
		t.Run(what, func(t *testing.T) {
			faulty, heads := newRun(t, 2)
			good := commit(t, heads, 10, 1, 2).Manifest
			head := commit(t, heads, 20, 1, 2)
			key := schemas.CheckpointPrefix(tenant, run, 20, 1) + what
			data, _, err := faulty.Get(t.Context(), key, 1<<30)
			if err != nil {
				t.Fatal(err)
			}
			data[len(data)/2] ^= 1
			if _, err := faulty.Put(t.Context(), key, data, store.Condition{}); err != nil {
				t.Fatal(err)
			}
			r, err := checkpoint.Open(t.Context(), faulty, *head.Manifest, t.TempDir())
			if err == nil {
				err = r.Verify(t.Context())
			}
			var bad *checkpoint.CorruptError
			if !errors.As(err, &bad) || bad.Key != key || !schemas.IsCode(err, schemas.CodeVerify) {
				t.Fatalf("got %v", err)
			}
			// The error reaches the agent wrapped, and loses its place.
			info := schemas.AsErrorInfo(fmt.Errorf("cannot resume: %w", err))
			head, err = heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseApplication, info)
			if err != nil {
				t.Fatal(err)
			}
			if head.Step != 10 || *head.Manifest != *good || head.Generation != 2 || len(head.Members) != 0 || head.Ended[0].Cause != schemas.CauseInfrastructure {
				t.Fatalf("HEAD %+v", head)
			}
			if _, err := heads.Commit(t.Context(), storeParts(t, faulty, 30, 1, 2)); !schemas.IsCode(err, schemas.CodeFenced) {
				t.Fatalf("the generation of the corrupt commit went on: %v", err)
			}
			nr, skipped, err := checkpoint.OpenNewest(t.Context(), faulty, *good, t.TempDir())
			if err != nil || len(skipped) != 0 {
				t.Fatalf("skipped %v: %v", skipped, err)
			}
			if err := nr.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestOpenNewestSkipsCorruptParts(t *testing.T) {
	faulty, heads := newRun(t, 1)
	commit(t, heads, 10, 1, 1)
	head := commit(t, heads, 20, 1, 1)
	if err := faulty.Delete(t.Context(), checkpoint.PartKey(tenant, run, 20, 1, 0, 0)); err != nil {
		t.Fatal(err)
	}
	r, skipped, err := checkpoint.OpenNewest(t.Context(), faulty, *head.Manifest, t.TempDir())
	if err != nil || r.Manifest().Step != 10 || len(skipped) != 1 {
		t.Fatalf("skipped %v: %v", skipped, err)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestDamageOnTheWayIsReadAgain(t *testing.T) {
	faulty, heads := newRun(t, 1)
	head := commit(t, heads, 10, 1, 1)
	faulty.Inject(storetest.Rule{Op: "get", Key: "manifest", Fault: storetest.FlipBit})
	faulty.Inject(storetest.Rule{Op: "open", Fault: storetest.Truncate})
	r, err := checkpoint.Open(t.Context(), faulty, *head.Manifest, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Verify(t.Context()), r.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestReadAtRefusesWhatIsNotThere(t *testing.T) {
	faulty, heads := newRun(t, 1)
	head := commit(t, heads, 1, 1, 1)
	r, err := checkpoint.Open(t.Context(), faulty, *head.Manifest, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		from int64
		n    int
	}{{"param/none", 0, 1}, {"param/c", -1, 1}, {"param/c", 5, 3}} {
		if err := r.ReadAt(t.Context(), c.name, c.from, make([]float32, c.n)); !schemas.IsCode(err, schemas.CodeNotFound) {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if names := r.Tensors(); len(names) != len(shapes) || names[1].Name != "param/a" || names[1].Elements != 3*schemas.ChunkElements || !r.Has("param/b") {
		t.Errorf("tensors %+v", names)
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPruneKeepsWhatIsNeeded(t *testing.T) {
	faulty, heads := newRun(t, 1)
	for step := int64(1); step <= 5; step++ {
		commit(t, heads, step, 1, 1)
	}
	if _, err := faulty.Put(t.Context(), checkpoint.PinPrefix(tenant, run)+fmt.Sprintf("%012d-%06d", 2, 1), nil, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	head, _, err := heads.Read(t.Context(), tenant, run)
	if err != nil {
		t.Fatal(err)
	}
	// Of the living generation the steps before the last two commits are superseded; 2 is pinned. A part of step 6 is under way.
	late := checkpoint.PartKey(tenant, run, 6, 1, 0, 0)
	if _, err := faulty.Put(t.Context(), late, []byte("x"), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	living, err := checkpoint.Droppable(t.Context(), faulty, head)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range living {
		if !strings.Contains(o.Key, "000000000001-") && !strings.Contains(o.Key, "000000000003-") || o.Bytes == 0 {
			t.Errorf("of the living generation %+v may go", o)
		}
	}
	if len(living) != 2 {
		t.Errorf("of the living generation %v may go", living)
	}
	if err := faulty.Delete(t.Context(), late); err != nil {
		t.Fatal(err)
	}
	if _, err := heads.EndGeneration(t.Context(), tenant, run, 1, schemas.CauseInfrastructure, nil); err != nil {
		t.Fatal(err)
	}
	head = form(t, heads, 1, 1)
	dropped, err := checkpoint.Prune(t.Context(), faulty, head)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range dropped {
		if !strings.Contains(key, "000000000001-") && !strings.Contains(key, "000000000003-") {
			t.Errorf("pruned %s", key)
		}
	}
	if len(dropped) != 2 {
		t.Errorf("pruned %v", dropped)
	}
	over := *head
	over.State = schemas.RunSucceeded
	over.Stages = []schemas.StageState{{Name: stage, Manifest: head.Manifest}}
	over.Manifest, over.Previous, over.Generation = nil, nil, 1
	if dropped, err := checkpoint.Prune(t.Context(), faulty, &over); err != nil || len(dropped) != 1 || !strings.Contains(dropped[0], "000000000004-") {
		t.Errorf("pruned %v of a run that is over: %v", dropped, err)
	}
	if m, err := checkpoint.ReadManifest(t.Context(), faulty, *head.Manifest); err != nil || m.Parent == nil {
		t.Fatalf("manifest %+v: %v", m, err)
	} else if _, err := checkpoint.ReadManifest(t.Context(), faulty, *m.Parent); err != nil {
		t.Fatal(err)
	}
}

// TestManyWritersUnderFaults races commits of one generation with control's swaps on a store that fails at random: steps never go back and
// every commit that was acknowledged is in the lineage.
func TestManyWritersUnderFaults(t *testing.T) {
	faulty, heads := newRun(t, 1)
	rng := rand.New(rand.NewPCG(1, 2))
	for range 60 {
		faulty.Inject(storetest.Rule{Op: "put", Fault: storetest.Fault(rng.IntN(2)), Err: []error{store.ErrAmbiguous, store.ErrUnavailable}[rng.IntN(2)], Count: 1 + rng.IntN(2)})
	}
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := heads.Swap(t.Context(), tenant, run, func(h *schemas.Head) error { h.LastIssue++; return nil }); err != nil {
				t.Error(err)
				return
			}
		}
	})
	const last = 15
	for step := int64(1); step <= last; step++ {
		commit(t, heads, step, 1, 1)
	}
	close(stop)
	wg.Wait()
	head, _, err := heads.Read(t.Context(), tenant, run)
	if err != nil {
		t.Fatal(err)
	}
	ref := head.Manifest
	for step := int64(last); step >= 1; step-- {
		if ref == nil || ref.Step != step {
			t.Fatalf("the lineage has %+v instead of step %d", ref, step)
		}
		m, err := checkpoint.ReadManifest(t.Context(), faulty, *ref)
		if err != nil {
			t.Fatal(err)
		}
		ref = m.Parent
	}
	if ref != nil {
		t.Fatalf("the first commit has the parent %+v", ref)
	}
}

func FuzzDecodeHead(f *testing.F) {
	f.Add([]byte(`{"version":1,"tenant":"a","run":"b","state":"running"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := checkpoint.DecodeHead(b)
		if (h == nil) == (err == nil) {
			t.Fatalf("head %v, error %v", h, err)
		}
	})
}
