package train

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	toyVocab  = 97
	toyConfig = `{"architectures":["LlamaForCausalLM"],"vocab_size":97,"hidden_size":32,"intermediate_size":80,"num_hidden_layers":3,
"num_attention_heads":4,"num_key_value_heads":2,"max_position_embeddings":64}`
)

// toyData is token data of rows of several lengths: each follows a rule, so that there is something to learn.
type toyData struct{ rows []Sequence }

func newToyData(n int, seed uint64) *toyData {
	r := rand.New(rand.NewPCG(seed, 1))
	d := &toyData{}
	for range n {
		var s Sequence
		at := int32(r.IntN(toyVocab))
		for i := range 6 + r.IntN(8) {
			s.IDs = append(s.IDs, at)
			label := at
			if i < 2 {
				label = nn.IgnoreLabel
			}
			s.Labels = append(s.Labels, label)
			at = (at*3 + 1) % toyVocab
		}
		d.rows = append(d.rows, s)
	}
	return d
}

func (d *toyData) Len() int { return len(d.rows) }
func (d *toyData) LabelTokens(i int) int64 {
	return (&nn.Batch{Labels: d.rows[i].Labels}).LabelTokens()
}
func (d *toyData) Sequence(_ context.Context, i int) (Sequence, error) { return d.rows[i], nil }
func (d *toyData) Fingerprint() string                                 { return fmt.Sprintf("toy-%d", len(d.rows)) }
func (d *toyData) Close() error                                        { return nil }

// fleet is a run whose gangs are goroutines over a store in memory.
type fleet struct {
	t       testing.TB
	objects store.Objects
	heads   *checkpoint.Heads
	spec    *schemas.RunSpec
	rows    Dataset
	issue   uint64

	mu     sync.Mutex
	events []schemas.Event
	// seen is called with each event, when not nil.
	seen func(schemas.Event)
	// log is what all ranks say.
	log    bytes.Buffer
	logger *slog.Logger
}

func newFleet(t testing.TB, stages ...schemas.Stage) *fleet {
	t.Helper()
	f := &fleet{t: t, objects: memstore.New(), rows: newToyData(23, 5)}
	f.heads = checkpoint.NewHeads(f.objects, checkpoint.Config{})
	f.logger = slog.New(slog.NewTextHandler(&f.log, nil))
	f.spec = &schemas.RunSpec{Version: 1, ID: "r1", Tenant: "acme", Pool: "cpu", Seed: 99, Stages: stages}
	head := schemas.Head{Tenant: "acme", Run: "r1", State: schemas.RunRunning}
	for _, s := range stages {
		head.Stages = append(head.Stages, schemas.StageState{Name: s.Name, Kind: s.Kind, State: schemas.StagePending})
	}
	if _, err := f.heads.Create(t.Context(), head); err != nil {
		t.Fatal(err)
	}
	return f
}

// toyStage is a train stage over toyData.
func toyStage(name, method string) schemas.Stage {
	s := schemas.Stage{Name: name, Kind: schemas.KindTrain, Train: &schemas.TrainStage{Objective: "sft", Data: "prep/train", Method: method, Epochs: 2,
		MicroBatch: 2, Leaves: 3, DType: "fp32", Sharding: "zero3", Reduction: "canonical", CommitEvery: 2, World: schemas.World{Min: 1, Max: 3},
		Model: schemas.ModelSpec{Config: []byte(toyConfig)},
		Optim: schemas.OptimSpec{Name: "adamw", LR: 0.01, Beta1: 0.9, Beta2: 0.99, Eps: 1e-8, WeightDecay: 0.01, MaxGradNorm: 1, Schedule: "cosine", WarmupSteps: 1}}}
	if method == "lora" {
		s.Train.LoRA = &schemas.LoRA{Rank: 4, Alpha: 8, Targets: []string{"q_proj", "v_proj", "down_proj"}}
		s.Train.FreezeLayers = 1
	}
	return s
}

// stageTurn makes a stage the one that HEAD's gang fields describe, as control does.
func (f *fleet) stageTurn(name string) {
	f.t.Helper()
	_, err := f.heads.Swap(f.t.Context(), "acme", "r1", func(h *schemas.Head) error {
		if h.Stage == name {
			return checkpoint.ErrNoChange
		}
		if h.Manifest != nil && h.Manifest.Final {
			m := *h.Manifest
			h.StageByName(h.Stage).Manifest = &m
		}
		h.Stage, h.Manifest, h.Previous, h.Step = name, nil, nil, 0
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

// how a generation is to end.
type plan struct {
	world int
	// killAt makes rank kill's connection break after it reported this step (0: never).
	killAt int64
	kill   int
	// control is what the rank says from step controlAt on.
	control   schemas.Control
	controlAt int64
	// left is the time until the machine of the last rank goes, from controlAt on.
	left    time.Duration
	opts    Options
	threads int // of each rank, default 1
	// fenced: another generation ends this one.
	fenced bool
	// keep are the folders that outlive a rank of a worker, by rank; peers that ranks reach each other.
	keep  []string
	peers bool
	// wrap stands between a rank and its collective; step is the number of finished steps.
	wrap func(rank int, step *atomic.Int64, c consume.Collective) consume.Collective
	// listen is where a rank offers parts, default on the loopback.
	listen func(ctx context.Context, rank int) (net.Listener, string, error)
}

// generation forms a gang and runs it. It returns every rank's error.
func (f *fleet) generation(stage string, p plan) []error {
	f.t.Helper()
	ctx := f.t.Context()
	f.stageTurn(stage)
	var members []schemas.Member
	head, err := f.heads.Swap(ctx, "acme", "r1", func(h *schemas.Head) error {
		h.Seats, h.Members = nil, nil
		members = nil
		for i := range p.world {
			f.issue++
			h.Seats = append(h.Seats, schemas.Seat{Seat: i, Issue: f.issue})
			members = append(members, schemas.Member{Rank: i, Seat: i, Issue: f.issue, Worker: fmt.Sprint("w", i), Addr: fmt.Sprintf("host%d:%d", i%2, 1+i)})
		}
		return nil
	})
	if err != nil {
		f.t.Fatal(err)
	}
	if head, err = f.heads.FormGeneration(ctx, "acme", "r1", stage, checkpoint.Forming{Expect: head.Generation, Members: members}); err != nil {
		f.t.Fatal(err)
	}
	st, err := f.spec.StageOf(stage)
	if err != nil {
		f.t.Fatal(err)
	}
	if p.opts.OpenData == nil {
		p.opts.OpenData = func(context.Context, *consume.Task, string) (Dataset, error) { return f.rows, nil }
	}
	errs := make([]error, p.world)
	var wg sync.WaitGroup
	for r, c := range collective.NewLocal(p.world) {
		var step atomic.Int64
		var once sync.Once
		var leaveBy time.Time
		t := &consume.Task{Message: schemas.Message{Version: 1, Kind: schemas.KindTrain, Pool: "cpu", Tenant: "acme", Run: "r1", Stage: stage, Seat: r},
			Spec: f.spec, Stage: st, Objects: f.objects, Logger: f.logger, Worker: members[r].Worker, Dir: f.t.TempDir(), Threads: max(1, p.threads)}
		if p.keep != nil {
			t.Keep = p.keep[r]
		}
		t.Report = func(e schemas.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, e)
			if f.seen != nil {
				f.seen(e)
			}
		}
		t.Phase = func(name string, done, _ int64) {
			if name != consume.PhaseStep {
				return
			}
			step.Store(done)
			if p.killAt > 0 && done >= p.killAt && r == p.kill {
				c.Close()
			}
		}
		t.Gang = &consume.Gang{Generation: head.Generation, Rank: r, World: p.world, Members: members, Collective: c, Head: head,
			Control: func() schemas.Control {
				if p.control != "" && step.Load() >= p.controlAt {
					return p.control
				}
				return schemas.ControlNone
			},
			Left: func() time.Duration {
				if p.left > 0 && r == p.world-1 && step.Load() >= p.controlAt {
					once.Do(func() { leaveBy = time.Now().Add(p.left) })
					return time.Until(leaveBy)
				}
				return 0
			},
			Commit: func(ctx context.Context, m *schemas.Manifest) error {
				m.Tenant, m.Run, m.Stage, m.Generation, m.World = head.Tenant, head.Run, head.Stage, head.Generation, p.world
				_, err := f.heads.Commit(ctx, m)
				return err
			}}
		if p.peers {
			t.Gang.Listen = listenLoopback
		}
		if p.wrap != nil {
			t.Gang.Collective = p.wrap(r, &step, c)
		}
		if p.listen != nil {
			t.Gang.Listen = func(ctx context.Context) (net.Listener, string, error) { return p.listen(ctx, r) }
		}
		wg.Go(func() {
			errs[r] = NewHandler(p.opts)(ctx, t)
			c.Close()
		})
	}
	wg.Wait()
	if errors.Join(errs...) != nil && !p.fenced {
		if _, err := f.heads.EndGeneration(ctx, "acme", "r1", head.Generation, schemas.CauseInfrastructure, nil); err != nil {
			f.t.Fatal(err)
		}
	}
	return errs
}

func (f *fleet) head() *schemas.Head {
	f.t.Helper()
	h, _, err := f.heads.Read(f.t.Context(), "acme", "r1")
	if err != nil {
		f.t.Fatal(err)
	}
	return h
}

func (f *fleet) manifest() *schemas.Manifest {
	f.t.Helper()
	h := f.head()
	if h.Manifest == nil {
		f.t.Fatal("nothing was committed")
	}
	m, err := checkpoint.ReadManifest(f.t.Context(), f.objects, *h.Manifest)
	if err != nil {
		f.t.Fatal(err)
	}
	return m
}

// complete runs a stage undisturbed and returns its final manifest.
func (f *fleet) complete(stage string, world int) *schemas.Manifest {
	f.t.Helper()
	for r, err := range f.generation(stage, plan{world: world}) {
		if err != nil {
			f.t.Fatalf("rank %d of %d: %v", r, world, err)
		}
	}
	m := f.manifest()
	if !m.Final || m.StateHash == "" {
		f.t.Fatalf("the last commit is of step %d, final %v, hash %q", m.Step, m.Final, m.StateHash)
	}
	return m
}

func listenLoopback(ctx context.Context) (net.Listener, string, error) {
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, "", err
	}
	return ln, ln.Addr().String(), nil
}
