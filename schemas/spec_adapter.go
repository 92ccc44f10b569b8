package schemas

import (
	"fmt"
	"slices"
)

// Methods lists what TrainStage.Method may be.
func Methods() []string { return []string{"full", "freeze", "lora", "oft", "bottleneck"} }

// LoRA configures low-rank adapters in PEFT's terms.
type LoRA struct {
	// Rank is r; Alpha is lora_alpha (default twice the rank): the update is scaled by alpha/r, with RSLoRA by alpha/sqrt(r).
	Rank  int     `json:"rank" jsonschema:"minimum=1"`
	Alpha float64 `json:"alpha"`
	// Dropout acts on the adapter's input while training.
	Dropout float64 `json:"dropout,omitempty"`
	// Targets are module names ("q_proj"), or "all": every linear module but the output head. Empty means all.
	Targets []string `json:"targets,omitempty"`
	// RSLoRA scales by alpha/sqrt(r) (https://arxiv.org/abs/2312.03732).
	RSLoRA bool `json:"rslora,omitempty"`
	// DoRA trains magnitude and direction apart (https://arxiv.org/abs/2402.09353).
	DoRA bool `json:"dora,omitempty"`
	// PlusRatio multiplies the learning rate of the B matrices (LoRA+, https://arxiv.org/abs/2402.12354); 0 means 1. PlusEmbeddingLR is the
	// learning rate of adapters of embeddings then (0: the stage's own).
	PlusRatio       float64 `json:"plus_ratio,omitempty"`
	PlusEmbeddingLR float64 `json:"plus_embedding_lr,omitempty"`
	// PiSSA starts from the principal singular vectors of the base (https://arxiv.org/abs/2404.02948). PiSSAIter is the number of subspace
	// iterations of a fast decomposition, -1 the exact one (default 16). Exports are always the plain LoRA of the unchanged base with twice
	// the rank, with or without PiSSAConvert.
	PiSSA        bool `json:"pissa,omitempty"`
	PiSSAIter    int  `json:"pissa_iter,omitempty"`
	PiSSAConvert bool `json:"pissa_convert,omitempty"`
	// LlamaPro, when positive, adapts the modules of this many blocks alone, spread evenly over the model: those that block expansion added.
	// Targets are then parts of module paths.
	LlamaPro int `json:"llama_pro,omitempty" jsonschema:"minimum=0"`
	// ModulesToSave are modules that are trained whole and stored with the adapter (LLaMA-Factory's additional_target).
	ModulesToSave []string `json:"modules_to_save,omitempty"`
	// RankPattern and AlphaPattern give modules whose name matches a pattern another rank or alpha.
	RankPattern  map[string]int     `json:"rank_pattern,omitempty"`
	AlphaPattern map[string]float64 `json:"alpha_pattern,omitempty"`
}

// OFT configures orthogonal fine-tuning (https://arxiv.org/abs/2306.07280) in PEFT's terms: the input of a module is rotated by blocks.
type OFT struct {
	// Rank is the number of blocks, BlockSize their size; exactly one of them is positive (default: blocks of 32).
	Rank      int `json:"rank,omitempty"`
	BlockSize int `json:"block_size,omitempty"`
	// Targets and LlamaPro as for LoRA.
	Targets  []string `json:"targets,omitempty"`
	LlamaPro int      `json:"llama_pro,omitempty" jsonschema:"minimum=0"`
	// ModulesToSave as for LoRA.
	ModulesToSave []string `json:"modules_to_save,omitempty"`
}

// Bottleneck configures adapters of two small layers with an activation between them, after a sublayer.
type Bottleneck struct {
	// Kind is "houlsby" (after attention and feed-forward, https://arxiv.org/abs/1902.00751) or "pfeiffer" (after feed-forward only,
	// https://arxiv.org/abs/2005.00247).
	Kind string `json:"kind" jsonschema:"enum=houlsby,enum=pfeiffer"`
	// Size is the width of the bottleneck (default 64).
	Size int `json:"size" jsonschema:"minimum=1"`
	// Activation is "relu", "gelu", "silu" or "tanh" (default relu).
	Activation string `json:"activation,omitempty" jsonschema:"enum=relu,enum=gelu,enum=silu,enum=tanh"`
	// ModulesToSave as for LoRA.
	ModulesToSave []string `json:"modules_to_save,omitempty"`
}

// Freeze says what the method "freeze" trains, as LLaMA-Factory's options of the same names do. Everything else is frozen.
type Freeze struct {
	// TrainableLayers trains the last n blocks, or the first -n when it is negative.
	TrainableLayers int `json:"trainable_layers"`
	// Modules names what is trained within those blocks ("mlp", "self_attn"); empty or "all": everything.
	Modules []string `json:"modules,omitempty"`
	// Extra names modules outside of blocks that are trained too ("embed_tokens", "norm"); a parameter matches when its name contains it.
	Extra []string `json:"extra,omitempty"`
	// LlamaPro trains TrainableLayers blocks spread evenly over the model instead: those that block expansion added.
	LlamaPro bool `json:"llama_pro,omitempty"`
}

// Quantization stores the frozen matrices of the blocks in few bits (QLoRA, https://arxiv.org/abs/2305.14314).
type Quantization struct {
	// Bits is 4 or 8.
	Bits int `json:"bits" jsonschema:"enum=4,enum=8"`
	// Type is "nf4" (4 bits) or "int8" (8 bits); default by Bits.
	Type string `json:"type,omitempty" jsonschema:"enum=nf4,enum=int8"`
	// Double quantizes the scales of blocks too (nf4).
	Double bool `json:"double,omitempty"`
}

// adapterDefaults fills what the method's options leave out.
func (t *TrainStage) adapterDefaults() {
	if l := t.LoRA; l != nil {
		if l.Alpha == 0 {
			l.Alpha = float64(2 * l.Rank)
		}
		if l.PiSSA && l.PiSSAIter == 0 {
			l.PiSSAIter = 16
		}
	}
	if o := t.OFT; o != nil && o.Rank == 0 && o.BlockSize == 0 {
		o.BlockSize = 32
	}
	if b := t.Bottleneck; b != nil {
		if b.Size == 0 {
			b.Size = 64
		}
		if b.Activation == "" {
			b.Activation = "relu"
		}
	}
	if q := t.Quant; q != nil && q.Type == "" {
		q.Type = map[int]string{4: "nf4", 8: "int8"}[q.Bits]
	}
}

// method checks the method and its options.
func (p *problems) method(t *TrainStage, at string) {
	p.check(slices.Contains(Methods(), t.Method), at+".method", "%q is unknown (full, freeze, lora, oft, bottleneck)", t.Method)
	for _, m := range []struct {
		name string
		set  bool
	}{{"lora", t.LoRA != nil}, {"oft", t.OFT != nil}, {"bottleneck", t.Bottleneck != nil}} {
		p.check((t.Method == m.name) == m.set, at+"."+m.name, "must be given exactly when method is %s", m.name)
	}
	p.check(t.Freeze == nil || t.Method == "freeze", at+".freeze", "belongs to method freeze, not %s", t.Method)
	p.check(t.Method != "freeze" || t.FreezeLayers > 0 || t.Freeze != nil, at+".freeze_layers", "must be positive when method is freeze, or freeze must be given")
	p.check(t.Freeze == nil || t.FreezeLayers == 0, at+".freeze_layers", "cannot be given beside freeze")
	p.check(t.FreezeLayers >= 0, at+".freeze_layers", "is %d, must be >= 0", t.FreezeLayers)
	p.check(t.ExpandBlocks >= 0 && t.ExpandBlocks <= 1024, at+".expand_blocks", "is %d, must be 0 to 1024", t.ExpandBlocks)
	p.lora(t.LoRA, at+".lora")
	if o := t.OFT; o != nil {
		p.check(o.Rank >= 0 && o.BlockSize >= 0 && (o.Rank > 0) != (o.BlockSize > 0), at+".oft", "exactly one of rank (%d) and block_size (%d) must be positive", o.Rank, o.BlockSize)
		p.check(o.LlamaPro >= 0, at+".oft.llama_pro", "is %d, must be >= 0", o.LlamaPro)
	}
	if b := t.Bottleneck; b != nil {
		p.check(b.Kind == "houlsby" || b.Kind == "pfeiffer", at+".bottleneck.kind", "%q is unknown (houlsby, pfeiffer)", b.Kind)
		p.check(b.Size >= 1 && b.Size <= 1<<16, at+".bottleneck.size", "is %d, must be 1 to 65536", b.Size)
		p.check(slices.Contains([]string{"relu", "gelu", "silu", "tanh"}, b.Activation), at+".bottleneck.activation", "%q is unknown (relu, gelu, silu, tanh)", b.Activation)
	}
	if f := t.Freeze; f != nil {
		p.check(f.TrainableLayers != 0 || len(f.Extra) > 0, at+".freeze.trainable_layers", "is 0 and extra is empty: nothing would be trained")
		p.check(!f.LlamaPro || f.TrainableLayers > 0, at+".freeze.trainable_layers", "is %d, must be positive with llama_pro", f.TrainableLayers)
	}
	if q := t.Quant; q != nil {
		p.check(q.Bits == 4 && q.Type == "nf4" || q.Bits == 8 && q.Type == "int8", at+".quant", "%d bits of type %q are unknown (4 nf4, 8 int8)", q.Bits, q.Type)
		p.check(t.Method != "full" && t.Method != "freeze", at+".quant", "a quantized base can only be trained by adapters, not by method %s", t.Method)
		p.check(t.LoRA == nil || !t.LoRA.PiSSA, at+".quant", "PiSSA needs a base that is not quantized")
	}
	for i, r := range t.Adapters {
		p.ref(r, fmt.Sprintf("%s.adapters[%d]", at, i))
	}
	p.check(len(t.Adapters) == 0 || t.Method != "full" && t.Method != "freeze", at+".adapters", "are valid for the methods lora, oft and bottleneck only, not %s", t.Method)
	p.check(!t.CreateNewAdapter || len(t.Adapters) > 0, at+".create_new_adapter", "needs adapters to merge")
}

func (p *problems) lora(l *LoRA, at string) {
	if l == nil {
		return
	}
	p.check(l.Rank >= 1 && l.Rank <= 4096, at+".rank", "is %d, must be 1 to 4096", l.Rank)
	p.check(finite(l.Alpha) && l.Alpha > 0, at+".alpha", "is %g, must be positive", l.Alpha)
	p.check(l.Dropout >= 0 && l.Dropout < 1, at+".dropout", "is %g, must be in [0, 1)", l.Dropout)
	p.check(finite(l.PlusRatio) && l.PlusRatio >= 0, at+".plus_ratio", "is %g, must be >= 0", l.PlusRatio)
	p.check(finite(l.PlusEmbeddingLR) && l.PlusEmbeddingLR >= 0, at+".plus_embedding_lr", "is %g, must be >= 0", l.PlusEmbeddingLR)
	p.check(l.LlamaPro >= 0, at+".llama_pro", "is %d, must be >= 0", l.LlamaPro)
	p.check(l.PiSSAIter >= -1 && l.PiSSAIter <= 1000, at+".pissa_iter", "is %d, must be -1 to 1000", l.PiSSAIter)
	for k, r := range l.RankPattern {
		p.check(r >= 1 && r <= 4096, at+".rank_pattern."+k, "is %d, must be 1 to 4096", r)
	}
	for k, a := range l.AlphaPattern {
		p.check(finite(a) && a > 0, at+".alpha_pattern."+k, "is %g, must be positive", a)
	}
}
