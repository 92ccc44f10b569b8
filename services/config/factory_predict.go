package config

import (
	"context"
	"path/filepath"

	"github.com/tunefleet/tunefleet/schemas"
)

// generation says how prompts are answered.
func (b *factoryBuilder) generation() schemas.Generation {
	v := b.v
	g := schemas.Generation{MaxNewTokens: v.whole("max_new_tokens"), Sample: v.truth("do_sample"), Temperature: v.number("temperature"), TopK: v.whole("top_k"), TopP: v.number("top_p"),
		RepetitionPenalty: v.number("repetition_penalty"), KeepSpecial: !v.truth("skip_special_tokens")}
	if !g.Sample {
		g.Temperature, g.TopK, g.TopP = 0, 0, 0
	}
	if n := v.whole("num_beams"); n > 1 {
		if g.Beams = n; g.Sample {
			v.bad("num_beams", "a beam search does not draw: set do_sample: false")
		}
		if v.given("length_penalty") {
			penalty := v.number("length_penalty")
			g.LengthPenalty = &penalty
		}
	}
	return g
}

// predict adds the stage that answers the prompts of the held-out data: with what was trained, or with the model and its adapters.
func (b *factoryBuilder) predict(ctx context.Context, spec *schemas.RunSpec) error {
	v := b.v
	p := &schemas.Prediction{Batch: v.whole("per_device_eval_batch_size"), Generation: b.generation()}
	needs := []string{"prep"}
	if v.truth("do_train") {
		p.Model.From, needs = "stage:train", append(needs, "train")
	} else {
		p.Model.Base = b.base
		var err error
		if p.Adapters, err = b.adapterRefs(ctx, "adapter_name_or_path"); err != nil {
			return err
		}
	}
	spec.Stages = append(spec.Stages, schemas.Stage{Name: "predict", Kind: schemas.KindEval, Needs: needs, Eval: &schemas.EvalStage{Data: "prep/eval", Slices: v.whole("num_workers"), Predict: p, DType: v.predictDType()}})
	return nil
}

// export is the only stage of a configuration of llamafactory-cli export: adapters merged into the model.
func (b *factoryBuilder) export(ctx context.Context, spec *schemas.RunSpec) error {
	adapters, err := b.adapterRefs(ctx, "adapter_name_or_path")
	if err != nil {
		return err
	}
	spec.Stages = []schemas.Stage{{Name: "export", Kind: schemas.KindExport, Export: &schemas.ExportStage{Model: &schemas.ModelSpec{Base: b.base}, Adapters: adapters,
		Formats: []string{"merged"}, Tokenizer: &b.tokenizer, DType: b.v.inferDType()}}}
	return nil
}

// predictDType is what predictions are computed in: after training what that was in, else what the flags say, infer_dtype, or the model's own.
func (v *factoryValues) predictDType() string {
	switch {
	case v.truth("do_train"):
		return ""
	case v.truth("bf16") || v.truth("pure_bf16"):
		return "bf16"
	case v.truth("fp16"):
		return "fp16"
	case v.given("precision"):
		return v.text("precision")
	}
	return v.inferDType()
}

// inferDType is infer_dtype in our words; "" is the model's own.
func (v *factoryValues) inferDType() string {
	return map[string]string{"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[v.text("infer_dtype")]
}

// adapterRefs are the PEFT folders that a key names, in order.
func (b *factoryBuilder) adapterRefs(ctx context.Context, key string) ([]schemas.Ref, error) {
	var out []schemas.Ref
	for _, name := range b.v.list(key) {
		if f := b.v.text("adapter_folder"); f != "" && key == "adapter_name_or_path" {
			name = filepath.Join(f, name)
		}
		ref, err := b.adapter(ctx, name)
		if err != nil {
			return nil, err
		}
		out = append(out, *ref)
	}
	return out, nil
}
