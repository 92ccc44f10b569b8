// Package zoo holds the model architectures, one file each: a configuration with Hugging Face's JSON names, a struct of modules whose
// hf tags are the checkpoint keys, the forward pass of a block, and a description. What all share (embedding, blocks, final norm, head,
// loss, cache) is causal.go's. Nothing here knows adapters, sharding or optimizers.
package zoo

import (
	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/schemas"
)

// Modules is a model as a tree of modules.
type Modules interface {
	// Info says what callers need to know without the architecture.
	Info() Info
	// Root is the struct whose hf tags name the parameters (see nn.Walk).
	Root() any
	// TiedHead is the output head of a model that ties it to the embedding, and the head's path; nil otherwise. The layer has the embedding's
	// weight and is no part of the tree. An adapter on it, or another weight in it, changes what the head computes and not what is looked up.
	TiedHead() (path string, head *nn.Linear)
	// Units lists the groups of parameters in the order of the forward pass. With tied weights the embedding's unit spans the whole pass
	// and there is no unit of the head.
	Units() []*nn.Unit
}

// Trainer computes what losses are made of.
type Trainer interface {
	// LogProbs computes the log-probability of every target (b.Targets) as f32 [tokens]; ignored ones give 0. When the tape records,
	// Backward then yields the gradients of scale * sum(-logp).
	LogProbs(t *autograd.Tape, b *nn.Batch, scale float32) autograd.Value
	// TokenLogProbs computes the same, but Backward takes the gradient of each log-probability from Tape.Seed (f32 [tokens]) or from
	// operations that follow.
	TokenLogProbs(t *autograd.Tape, b *nn.Batch) autograd.Value
	// Hidden computes the final norm's output [tokens, hidden], what a value head reads. Backward takes its gradient from Tape.Seed or
	// from operations that follow.
	Hidden(t *autograd.Tape, b *nn.Batch) autograd.Value
	// HiddenLogProbs computes both of one pass.
	HiddenLogProbs(t *autograd.Tape, b *nn.Batch) (hidden, logp autograd.Value)
}

// Decoder generates.
type Decoder interface {
	// Logits computes [tokens, vocab] without recording.
	Logits(t *autograd.Tape, b *nn.Batch) autograd.Value
	// Decode appends b to the cache and computes the logits [rows, vocab] of each row's last position.
	Decode(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value
	// Continue computes the log-probabilities of the targets of b as a continuation of what the cache holds, as LogProbs does without
	// recording. The cache's length stays as it is, so several continuations can be scored one after another.
	Continue(t *autograd.Tape, b *nn.Batch, c *Cache) autograd.Value
}

// Trainable is nil for a model that trains as transformers trains it; CodeUnsupported, naming the keys, for one whose training would make
// random choices that are not made here.
func (i Info) Trainable() error {
	var p problems
	for _, k := range [...]struct{ key, what string }{{LayerDrop, "layers are not left out at random"}, {RouterJitter, "routers' inputs are not shaken"}, {InputJitter, "routers' inputs are not shaken"}} {
		if v := i.Dropout[k.key]; v != 0 {
			p.errs = append(p.errs, schemas.Errorf(schemas.CodeUnsupported, "config.json:"+k.key, "%s (%g) in training", k.what, v).
				WithHint("set it to 0 in the model's config.json to train without; verifying, evaluating, generating and exporting do not depend on it"))
		}
	}
	return p.err()
}

// The keys of config.json that training refuses when they are not 0.
const (
	LayerDrop    = "layerdrop"           // OPT
	RouterJitter = "router_jitter_noise" // Mixtral
	InputJitter  = "input_jitter_noise"  // Phi MoE
)

// Model is a causal language model.
type Model interface {
	Modules
	Trainer
	Decoder
}

// Info describes a model.
type Info struct {
	// Architecture is the class in transformers ("LlamaForCausalLM").
	Architecture string
	// ModelType is transformers' model_type.
	ModelType string
	// Prefix is the path of the base model ("model", "transformer"): checkpoints saved without a head lack it. HeadKey is the head's
	// tensor, which checkpoints of tied models may hold once more.
	Prefix, HeadKey                         string
	Vocab, Hidden, Layers, KVHeads, HeadDim int
	// ValueDim is the length of a value, default HeadDim.
	ValueDim     int
	MaxPositions int
	Tied         bool
	// LengthLimit is the number of positions beyond which rotary frequencies depend on the length, so that cached generation differs
	// from a full pass; 0: never.
	LengthLimit int
	// LengthSwitch is the number of positions beyond which transformers computes a cache again, with other rotary frequencies; 0: never.
	LengthSwitch int
	// Experts is the number of experts of a layer where the routers' load-balancing loss can be had (see nn.Batch.Balance), else 0.
	Experts int
	// RouterAuxCoef is the weight of that loss in the configuration, and RouterAux whether training adds it.
	RouterAuxCoef float64
	RouterAux     bool
	// DropoutKeys are the keys of Dropout that act in training.
	DropoutKeys []string
	// Dropout holds the probabilities of dropout other than 0, by their keys in config.json. They act in training passes with noise, where
	// transformers applies them; keys that it never reads (embd_pdrop of phi3, emb_pdrop and resid_pdrop of mpt) are not there.
	Dropout map[string]float64
	// Config is the config.json it was made from.
	Config json.RawMessage
}
