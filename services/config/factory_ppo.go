package config

import (
	"context"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Settings of TRL's PPOConfig that LLaMA-Factory leaves as they are: what the divergence from the reference begins to weigh.
const ppoBeta = 0.2

// ppoRules are LLaMA-Factory's own checks of stage ppo, and what is not built of it.
func (v *factoryValues) ppoRules(method string) {
	kind := v.text("reward_model_type")
	switch {
	case !v.given("reward_model"):
		v.bad("reward_model", "is missing: stage ppo needs one")
	case !slices.Contains([]string{"lora", "full"}, kind):
		v.bad("reward_model_type", "is %q, expected lora or full: %s", kind, rewardTypes(kind))
	case kind == "lora" && method != "lora":
		v.bad("reward_model_type", "is lora, which needs finetuning_type lora, not %s", method)
	case kind == "lora" && len(v.list("reward_model_adapters")) > 0:
		v.bad("reward_model_adapters", "belongs to reward_model_type full")
	}
	if !v.truth("do_train") || v.doEval() || len(v.list("eval_dataset")) > 0 || v.number("val_size") > 0 {
		v.bad("stage", "ppo only trains: it needs do_train: true, without eval_dataset, val_size and evaluations")
	}
	if v.truth("pissa_init") {
		v.bad("pissa_init", "cannot be combined with stage ppo")
	}
	for _, key := range []string{"packing", "streaming", "shift_attn", "load_best_model_at_end"} {
		if v.truth(key) {
			v.bad(key, "cannot be combined with stage ppo")
		}
	}
	for _, key := range []string{"ref_model", "value_head", "tokenized_path"} {
		if v.given(key) {
			v.bad(key, "is not built for stage ppo")
		}
	}
	if v.whole("num_beams") > 1 || v.number("repetition_penalty") != 1 {
		v.bad("stage", "ppo draws completions, without num_beams and repetition_penalty")
	}
	if v.truth("do_sample") && v.number("temperature") <= 0 {
		v.bad("temperature", "is %v, must be positive where completions are drawn", v.number("temperature"))
	}
}

// rewardTypes says why a type of reward model is not possible.
func rewardTypes(kind string) string {
	switch kind {
	case "api":
		return "workers ask no server for rewards"
	case "oft":
		return "upstream's reward models of OFT are not built"
	}
	return "it is unknown"
}

// ppo fills what stage ppo needs: the reward model's folders, how completions are drawn, and how often the policy is updated from them.
func (b *factoryBuilder) ppo(ctx context.Context, t *schemas.TrainStage) error {
	v := b.v
	if t.Objective != "ppo" {
		return nil
	}
	beta := ppoBeta
	r := &schemas.RL{MaxNewTokens: v.whole("max_new_tokens"), Temperature: v.number("temperature"), TopK: v.whole("top_k"), TopP: v.number("top_p"),
		Epochs: v.whole("ppo_epochs"), Beta: &beta, Whiten: v.truth("ppo_whiten_rewards")}
	if !v.truth("do_sample") {
		r.Temperature, r.TopK, r.TopP = 1, 1, 0
	}
	_, enc, err := b.chatEncoder()
	if err != nil {
		return err
	}
	r.StopIDs = enc.StopIDs()
	if r.RewardFiles, err = b.rewardFiles(ctx); err != nil {
		return err
	}
	t.RL = r
	b.notes = append(b.notes, "ppo: the divergence from the reference weighs 0.2 throughout; upstream's moves towards ppo_target by at most a fifth of the batch in 10,000 a step")
	return nil
}

// rewardFiles finds the reward model: an adapter of the base (lora), or a model of its own with adapters (full). The head lies in the last adapter's
// folder, or in the model's.
func (b *factoryBuilder) rewardFiles(ctx context.Context) (*schemas.RewardFiles, error) {
	v, f := b.v, &schemas.RewardFiles{}
	head := v.text("reward_model")
	if v.text("reward_model_type") == "lora" {
		ref, err := b.adapter(ctx, head)
		if err != nil {
			return nil, rename(err, "adapter_name_or_path", "reward_model")
		}
		f.Base, f.Adapters = *b.base, []schemas.Ref{*ref}
	} else {
		folder, _, err := b.c.model(ctx, b.path(head), "")
		if err != nil {
			return nil, rename(err, "model.base_model", "reward_model")
		}
		if err := checkModelFolder(folder); err != nil {
			return nil, err
		}
		ref, err := b.c.ref(ctx, folder, modelFile)
		if err != nil {
			return nil, err
		}
		if f.Adapters, err = b.adapterRefs(ctx, "reward_model_adapters"); err != nil {
			return nil, err
		}
		f.Base, head = *ref, folder
		if names := v.list("reward_model_adapters"); len(names) > 0 {
			head = names[len(names)-1]
		}
	}
	ref, err := b.c.ref(ctx, b.path(head), func(n string) bool { return n == headFileName })
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, "reward_model", "%s has no %s: it is no reward model (%v)", strings.TrimSpace(head), headFileName, err).
			WithHint("train one with stage: rm")
	}
	f.Head = *ref
	return f, nil
}
