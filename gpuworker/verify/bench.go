package verify

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/optim"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/kernels"
)

// BenchOptions of a timed training run.
type BenchOptions struct {
	Threads int
	Backend string
	// Steps timed after the first one; default 4.
	Steps int
	// Rows and Seq are the shape of a batch of random tokens; default 4 and 512.
	Rows, Seq int
	// Config is the model's config.json; default the llama of 34 M parameters that the bench task compares with PyTorch.
	Config []byte
	// Checkpoint recomputes blocks in the backward pass.
	Checkpoint bool
	// ProcessStart is when the user started waiting; zero: now.
	ProcessStart time.Time
}

// BenchResult is what the bench driver reads.
type BenchResult struct {
	Name       string `json:"name"`
	Version    string `json:"version,omitempty"`
	Threads    int    `json:"threads"`
	Parameters int64  `json:"parameters"`
	// ReadyS is the time until the first step began, FirstStepS until it ended.
	ReadyS          float64   `json:"ready_s"`
	FirstStepS      float64   `json:"first_step_s"`
	StepS           []float64 `json:"step_s"`
	TokensPerSecond float64   `json:"tokens_per_second"`
	PeakRSSBytes    int64     `json:"peak_rss_bytes"`
	DevicePeakBytes int64     `json:"device_peak_bytes"`
	// TapePeakBytes is the most that activations, their gradients and scratch took at once; WorkspaceBytes what kernels asked for beside.
	TapePeakBytes  int64     `json:"tape_peak_bytes"`
	WorkspaceBytes int64     `json:"workspace_bytes"`
	Losses         []float64 `json:"losses,omitempty"`
}

// BenchConfig is the configuration of the bench model: 512 hidden, 8 layers, 8 heads, intermediate 1408, vocabulary 8192.
func BenchConfig() []byte {
	b, _ := json.Marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "hidden_size": 512, "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8,
		"intermediate_size": 1408, "vocab_size": 8192, "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "tie_word_embeddings": false,
	})
	return b
}

func (o BenchOptions) withDefaults() BenchOptions {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&o.Steps, 4)
	def(&o.Rows, 4)
	def(&o.Seq, 512)
	if o.Config == nil {
		o.Config = BenchConfig()
	}
	if o.ProcessStart.IsZero() {
		o.ProcessStart = time.Now()
	}
	return o
}

// Bench trains a randomly initialized model on random tokens (AdamW, clipping at 1.0, fp32) and measures it.
func Bench(ctx context.Context, o BenchOptions) (*BenchResult, error) {
	o = o.withDefaults()
	m, err := zoo.New(o.Config)
	if err != nil {
		return nil, err
	}
	dev, err := kernels.Open(kernels.Options{Backend: o.Backend, Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	q, err := dev.NewQueue(kernels.Compute)
	if err != nil {
		return nil, err
	}
	mem := autograd.NewMemory(dev, q, 0)
	defer mem.Close()
	cfg := optim.Config{Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, WeightDecay: 0.1}
	st, err := newSharded(ctx, q, mem, m, cfg, 1, o.Checkpoint, func(_ context.Context, p *autograd.Param, start int64, dst kernels.Tensor) error {
		nn.InitRange(q, p, dst, start, 1)
		return q.Err()
	})
	if err != nil {
		return nil, err
	}
	defer st.close()
	info, err := dev.Info()
	if err != nil {
		return nil, err
	}
	res := &BenchResult{Name: "tunefleet", Version: info.Backend + " " + info.ISA, Threads: info.Threads}
	for _, p := range nn.Params(m.Root()) {
		res.Parameters += p.Len()
	}
	for step := range o.Steps + 1 {
		start := time.Now()
		if step == 0 {
			res.ReadyS = time.Since(o.ProcessStart).Seconds()
		}
		b := randomBatch(o, m.Info().Vocab, uint64(step))
		r, _, err := st.backward(ctx, b, b.LabelTokens())
		if err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
		if err := st.update(ctx, 1e-4, int64(step+1)); err != nil {
			return nil, fmt.Errorf("step %d: %w", step, err)
		}
		if err := q.Sync(); err != nil {
			return nil, err
		}
		res.Losses = append(res.Losses, r.Sum/float64(r.Targets))
		if step == 0 {
			res.FirstStepS = time.Since(o.ProcessStart).Seconds()
		} else {
			res.StepS = append(res.StepS, time.Since(start).Seconds())
		}
	}
	sorted := slices.Sorted(slices.Values(res.StepS))
	mid := (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
	res.TokensPerSecond = float64(o.Rows*o.Seq) / mid
	res.DevicePeakBytes = dev.Peak()
	res.PeakRSSBytes = peakRSS()
	res.TapePeakBytes, res.WorkspaceBytes = mem.Peak(), q.Workspace()
	return res, nil
}

func randomBatch(o BenchOptions, vocab int, seed uint64) *nn.Batch {
	rng := rand.New(rand.NewPCG(seed, 1))
	b := &nn.Batch{Rows: o.Rows, Seq: o.Seq, IDs: make([]int32, o.Rows*o.Seq)}
	for i := range b.IDs {
		b.IDs[i] = int32(rng.IntN(vocab))
	}
	b.Labels = b.IDs
	return b
}

// peakRSS reads the process's high-water mark from /proc, 0 where there is none.
func peakRSS() int64 {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		return 0
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(v), "kB")), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}
