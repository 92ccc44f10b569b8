package optim

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/schemas"
)

// Optimizer updates parameters from their gradients. An instance belongs to one queue's goroutine.
type Optimizer interface {
	// Whole reports whether stretches of this parameter must be all of it, and nothing else.
	Whole(p *autograd.Param) bool
	// State declares the tensors that a trainable parameter needs beside value and gradient. They begin as zeros.
	State(p *autograd.Param) []StateTensor
	// Group is what the parameter's update depends on beside its values.
	Group(p *autograd.Param) Group
	// Update changes values and state of the stretches. A step is one call or several, each with some of the model's stretches on this
	// rank, in any order.
	Update(q *kernels.Queue, s Step, stretches []Stretch) error
	// Close frees scratch memory, after the queue was synchronized.
	Close()
}

// Turns is an Optimizer that trains other parameters in other steps. The gradients of the rest are none in its reference, and do not count for
// the norm of the gradient.
type Turns interface {
	// Trains reports whether a parameter is trained in update n (from 1).
	Trains(p *autograd.Param, n int64) bool
}

// StateTensor declares one tensor of a parameter's state.
type StateTensor struct {
	// Name is the prefix in checkpoints ("adam_m").
	Name string
	// DType is kernels.F32 or kernels.U8.
	DType kernels.DType
	// Block is the number of consecutive elements of the parameter that share one element of the tensor: 1 for moments, the quantization
	// block for its scale. 0: the tensor belongs to the whole parameter and has Shape.
	Block int64
	Shape []int64
}

// Len is the number of elements of state for n elements of the parameter.
func (s StateTensor) Len(n int64) int64 {
	if s.Block > 0 {
		return (n + s.Block - 1) / s.Block
	}
	n = 1
	for _, d := range s.Shape {
		n *= d
	}
	return n
}

// Group is a parameter's place in the parameter groups.
type Group struct {
	// LRScale multiplies the learning rate; Decay is the weight decay.
	LRScale, Decay float64
}

// Step says which update is made.
type Step struct {
	// LR is the learning rate of the step; N counts from 1.
	LR float64
	N  int64
	// Clip multiplies the gradients.
	Clip float32
}

// Stretch is consecutive elements to update: values, gradients (which may be overwritten) and state are contiguous. A stretch of an
// elementwise optimizer may run over several parameters of one unit and group with equal declarations; Param is the first.
type Stretch struct {
	Param *autograd.Param
	// Start is the first element within Param; Len the number of elements.
	Start, Len int64
	Group
	P, G  kernels.Tensor
	State []kernels.Tensor
}

// Names of optimizers.
const (
	AdamW     = "adamw"
	AdamW8bit = "adamw_8bit"
	Adafactor = "adafactor"
	Lion      = "lion"
	SGD       = "sgd"
	GaLore    = "galore"
	Apollo    = "apollo"
	BAdam     = "badam"
	AdamMini  = "adam_mini"
	Muon      = "muon"
)

// Names lists the optimizers.
func Names() []string {
	return []string{AdamW, AdamW8bit, Adafactor, Lion, SGD, GaLore, Apollo, BAdam, AdamMini, Muon}
}

// Config of an optimizer. Fields that an optimizer does not know are ignored by it.
type Config struct {
	// Name is one of Names; default adamw.
	Name string
	// LR is the base learning rate; only LoRAPlusEmbeddingLR is related to it here.
	LR                             float64
	Beta1, Beta2, Eps, WeightDecay float64
	// SkipDecay exempts biases and norms from weight decay, as transformers' Trainer does. With OwnNorms only norms that are torch.nn.LayerNorm
	// are: RMS norms decay, as in the groups that LLaMA-Factory makes itself for GaLore, APOLLO and LoRA+.
	SkipDecay, OwnNorms bool
	// LoRAPlusRatio multiplies the learning rate of LoRA's B matrices and of trainable vectors, LoRAPlusEmbeddingLR replaces that of the B
	// matrices of embeddings (https://arxiv.org/abs/2402.12354); 0 means off.
	LoRAPlusRatio, LoRAPlusEmbeddingLR float64

	// Momentum of sgd and muon, with Nesterov's correction.
	Momentum  float64
	Nesterov  bool
	Adafactor AdafactorConfig
	LowRank   LowRankConfig
	Blocks    BlockConfig
	Muon      MuonConfig
	// HeadDim is the rows of an attention head, the block of query and key matrices in adam_mini.
	HeadDim int64
	// Seed of random projections.
	Seed uint64
}

// AdafactorConfig is what transformers.optimization.Adafactor takes beside lr, beta1 and weight decay. Trainer's defaults are
// ScaleParameter and RelativeStep off.
type AdafactorConfig struct {
	// Eps1 regularizes squares, Eps2 the parameter's scale.
	Eps1, Eps2                               float64
	ClipThreshold, DecayRate                 float64
	ScaleParameter, RelativeStep, WarmupInit bool
	// FirstMoment keeps a moving average with Beta1.
	FirstMoment bool
}

// LowRankConfig is for galore (https://arxiv.org/abs/2403.03507) and apollo (https://arxiv.org/abs/2412.05270).
type LowRankConfig struct {
	Rank int
	// Every is the number of steps between two projections.
	Every int64
	Scale float64
	// Proj is "std", "reverse_std", "left" or "right".
	Proj string
	// ScaleType of apollo is "channel" or "tensor"; ScaleFront scales before the norm limiter.
	ScaleType  string
	ScaleFront bool
	// Targets are parts of the names of the linear layers that are projected; empty: every one but the head, "all": as LLaMA-Factory finds them,
	// which is the same but for GPT-NeoX's head "embed_out".
	Targets []string
	// Torch draws apollo's matrices as apollo-torch does with torch's generator, default by Philox from Seed; Layerwise as where each parameter
	// has an optimizer of its own.
	Torch, Layerwise bool
}

// BlockConfig is for badam (https://arxiv.org/abs/2404.02827).
type BlockConfig struct {
	// Every is the number of steps that a block trains.
	Every int64
	// Mode is "ascending", "descending", "random" or "fixed"; Start, when not nil, the first block.
	Mode  string
	Start *int
}

// MuonConfig is for muon (https://kellerjordan.github.io/posts/muon/).
type MuonConfig struct {
	// Iterations of Newton-Schulz.
	Iterations int
	// AdjustLR is "original" (sqrt(max(1, rows/columns))) or "match_rms_adamw" (0.2 sqrt(max(rows, columns))).
	AdjustLR string
	// Moonlight computes as LLaMA-Factory's copy of Moonlight's example does; see muon.
	Moonlight bool
}

// WithDefaults fills what is zero with the defaults of the reference implementations (as LLaMA-Factory passes them).
func (c Config) WithDefaults() Config {
	str := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	num := func(p *float64, v float64) {
		if *p == 0 {
			*p = v
		}
	}
	str(&c.Name, AdamW)
	if c.Name == Muon {
		num(&c.Momentum, 0.95)
	}
	num(&c.Adafactor.Eps1, 1e-30)
	num(&c.Adafactor.Eps2, 1e-3)
	num(&c.Adafactor.ClipThreshold, 1)
	num(&c.Adafactor.DecayRate, -0.8)
	if c.LowRank.Rank == 0 {
		c.LowRank.Rank = 16
	}
	if c.LowRank.Every == 0 {
		c.LowRank.Every = 200
	}
	if c.Name == Apollo {
		num(&c.LowRank.Scale, 32)
	}
	num(&c.LowRank.Scale, 2)
	str(&c.LowRank.Proj, "std")
	str(&c.LowRank.ScaleType, "channel")
	if c.Blocks.Every == 0 {
		c.Blocks.Every = 50
	}
	str(&c.Blocks.Mode, "ascending")
	if c.Muon.Iterations == 0 {
		c.Muon.Iterations = 5
	}
	str(&c.Muon.AdjustLR, "match_rms_adamw")
	return c
}

// Validate reports all problems at once.
func (c Config) Validate() error {
	var errs []error
	check := func(ok bool, key string, v any, want string) {
		if !ok {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "optim."+key, "%v is not %s", v, want))
		}
	}
	oneOf := func(key, v string, known ...string) {
		if !slices.Contains(known, v) {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, "optim."+key, "%q is unknown (%s)", v, strings.Join(known, ", ")))
		}
	}
	if c.Name != "" {
		oneOf("name", c.Name, Names()...)
	}
	check(c.Beta1 >= 0 && c.Beta1 < 1, "beta1", c.Beta1, "in [0, 1)")
	check(c.Beta2 >= 0 && c.Beta2 < 1, "beta2", c.Beta2, "in [0, 1)")
	check(c.Eps >= 0, "eps", c.Eps, "0 or more")
	check(c.WeightDecay >= 0, "weight_decay", c.WeightDecay, "0 or more")
	check(c.LoRAPlusRatio >= 0, "loraplus_ratio", c.LoRAPlusRatio, "0 or more")
	check(c.Momentum >= 0 && c.Momentum < 1, "momentum", c.Momentum, "in [0, 1)")
	d := c.WithDefaults()
	check(!d.Nesterov || d.Name != SGD || d.Momentum > 0, "nesterov", true, "possible without momentum")
	check(d.LowRank.Rank >= 1, "rank", d.LowRank.Rank, "1 or more")
	check(d.LowRank.Every >= 1, "update_interval", d.LowRank.Every, "1 or more")
	oneOf("proj_type", d.LowRank.Proj, "std", "reverse_std", "left", "right")
	oneOf("scale_type", d.LowRank.ScaleType, "channel", "tensor")
	check(d.Blocks.Every >= 1, "switch_interval", d.Blocks.Every, "1 or more")
	oneOf("switch_mode", d.Blocks.Mode, "ascending", "descending", "random", "fixed")
	check(d.Muon.Iterations >= 1 && d.Muon.Iterations < 100, "ns_steps", d.Muon.Iterations, "between 1 and 99")
	oneOf("adjust_lr", d.Muon.AdjustLR, "original", "match_rms_adamw")
	check(d.Name != AdamMini || d.HeadDim >= 0, "head_dim", d.HeadDim, "0 or more")
	check(!d.Adafactor.WarmupInit || d.Adafactor.RelativeStep, "warmup_init", true, "possible without relative_step")
	return errors.Join(errs...)
}

// Decays reports whether weight decay applies to a parameter.
func (c Config) Decays(p *autograd.Param) bool {
	return !c.SkipDecay || p.Role != autograd.RoleBias && (p.Role != autograd.RoleNorm || c.OwnNorms && p.Bare)
}

// Group places a parameter in the groups that transformers' Trainer, PEFT's LoRA+ or neither would make.
func (c Config) Group(p *autograd.Param) Group {
	g := Group{LRScale: 1}
	if c.Decays(p) {
		g.Decay = c.WeightDecay
	}
	if c.LoRAPlusRatio > 0 {
		switch {
		case strings.Contains(p.Name, "lora_embedding_B"):
			if c.LoRAPlusEmbeddingLR > 0 && c.LR > 0 {
				g.LRScale = c.LoRAPlusEmbeddingLR / c.LR
			}
		case p.Role == autograd.RoleLoRAB, len(p.Shape) == 1:
			g.LRScale = c.LoRAPlusRatio
		}
	}
	return g
}

// New makes an optimizer for the units of a model, whose adapters and frozen flags are final.
func New(c Config, units []*autograd.Unit) (Optimizer, error) {
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("cannot make an optimizer: %w", err)
	}
	c = c.WithDefaults()
	switch c.Name {
	case AdamW8bit:
		return &adam8{adamw{c}}, nil
	case Adafactor:
		return &adafactor{Config: c}, nil
	case Lion:
		return &lion{Config: c}, nil
	case SGD:
		return &sgd{Config: c}, nil
	case GaLore, Apollo:
		o := &lowRank{Config: c}
		if c.Name == Apollo && c.LowRank.Torch {
			o.project = newApolloDraws(o, units, c.LowRank.Layerwise).draw
		}
		return o, nil
	case BAdam:
		return newBAdam(c, units)
	case AdamMini:
		return &adamMini{Config: c}, nil
	case Muon:
		return &muon{adamw: adamw{c}}, nil
	}
	return &adamw{c}, nil
}

// moments are the two moving averages of Adam under the names that checkpoints of AdamW have had from the first version.
func moments() []StateTensor {
	return []StateTensor{{Name: "adam_m", DType: kernels.F32, Block: 1}, {Name: "adam_v", DType: kernels.F32, Block: 1}}
}

// done turns a failure of the queue into the optimizer's.
func done(q *kernels.Queue) error {
	if err := q.Err(); err != nil {
		return fmt.Errorf("cannot update parameters: %w", err)
	}
	return nil
}
