package config

import (
	"encoding/json"
	"os"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/schemas"
)

// collatorMultiple is what upstream's collator rounds the length of a batch up to in training.
const collatorMultiple = 8

// padding makes training compute the padding of batches where it changes the result: where the model is trained on it, and where the length of
// a batch says what tokens see.
func (b *factoryBuilder) padding(t *schemas.TrainStage) error {
	v := b.v
	preference := t.Objective == "dpo" || t.Objective == "kto"
	if t.Objective != "sft" && !preference || !v.padLoss() && (preference || !v.truth("shift_attn")) {
		return nil
	}
	packed := v.truth("packing") || v.truth("neat_packing")
	if packed && (!v.truth("do_train") || v.whole("cutoff_len")%collatorMultiple == 0) {
		return nil // packed sequences have the length of batches already
	}
	id, err := b.padToken()
	if err != nil {
		return err
	}
	t.Pad = &schemas.Padding{ID: id, Multiple: 1, Labels: v.padLoss()}
	if v.truth("do_train") || preference {
		t.Pad.Multiple = collatorMultiple
	}
	if packed {
		t.Pad.Whole = v.whole("cutoff_len")
	}
	return nil
}

// padToken is the id that fills batches, under the template.
func (b *factoryBuilder) padToken() (int32, error) {
	_, enc, err := b.chatEncoder()
	if err != nil {
		return 0, err
	}
	if enc.PadID() == chat.NoID {
		return 0, schemas.Errorf(schemas.CodeModel, "tokenizer", "has no token to fill batches with")
	}
	return enc.PadID(), nil
}

// tokenizerBytes reads one of the tokenizer's files; nil when it is not among them.
func (b *factoryBuilder) tokenizerBytes(name string) ([]byte, error) {
	i := slices.IndexFunc(b.tokenizer.Files, func(x schemas.File) bool { return x.Path == name })
	if i < 0 {
		return nil, nil
	}
	k := slices.IndexFunc(b.c.inputs, func(in Input) bool { return in.File.SHA256 == b.tokenizer.Files[i].SHA256 })
	if k < 0 {
		return nil, schemas.Errorf(schemas.CodeInternal, name, "is not among the files of this run")
	}
	raw, err := os.ReadFile(b.c.inputs[k].Local)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, b.c.inputs[k].Local, "cannot be read: %v", err)
	}
	return raw, nil
}

// chatEncoder is the tokenizer under the template.
func (b *factoryBuilder) chatEncoder() (*hftok.Tokenizer, *chat.Encoder, error) {
	var f hftok.Files
	for name, dst := range map[string]*[]byte{"tokenizer.json": &f.Tokenizer, "tokenizer.model": &f.SentencePiece, "tokenizer_config.json": &f.Config,
		"special_tokens_map.json": &f.SpecialMap, "chat_template.jinja": &f.ChatTemplate} {
		raw, err := b.tokenizerBytes(name)
		if err != nil {
			return nil, nil, err
		}
		*dst = raw
	}
	tok, err := hftok.New("tokenizer", f)
	if err != nil {
		return nil, nil, err
	}
	c, err := chat.ForTokenizer(b.template, tok, time.Now())
	if err != nil {
		return nil, nil, err
	}
	enc, err := chat.NewEncoder(c, tok)
	return tok, enc, err
}

// generatingEval makes the evaluations of a training answer prompts. Those while it trains are as upstream's, which forgets its settings there:
// the model's generation_config.json, cutoff_len for prompt, padding and answer together, and answers behind the padding of a batch. The last one
// is as configured.
func (b *factoryBuilder) generatingEval(t *schemas.TrainStage) error {
	last := b.generation()
	tok, enc, err := b.chatEncoder()
	if err != nil {
		return err
	}
	if enc.PadID() == chat.NoID {
		return schemas.Errorf(schemas.CodeModel, "tokenizer", "has no token to fill batches with")
	}
	g := schemas.Generation{MaxNewTokens: last.MaxNewTokens, MaxLength: b.v.whole("cutoff_len"), Beams: 0}
	if id := enc.EOSID(); id != chat.NoID {
		g.Stop = append(g.Stop, id)
	}
	var c struct {
		Sample            bool     `json:"do_sample"`
		Temperature       *float64 `json:"temperature"`
		TopK              *int     `json:"top_k"`
		TopP              *float64 `json:"top_p"`
		RepetitionPenalty float64  `json:"repetition_penalty"`
		EOS               any      `json:"eos_token_id"`
	}
	if raw, err := b.tokenizerBytes("generation_config.json"); err != nil {
		return err
	} else if raw != nil {
		if err := json.Unmarshal(raw, &c); err != nil {
			return schemas.Errorf(schemas.CodeModel, "generation_config.json", "cannot be parsed: %v", err)
		}
	}
	ends, _ := c.EOS.([]any)
	if one, ok := c.EOS.(float64); ok {
		ends = []any{one}
	}
	for _, x := range ends {
		if id, ok := x.(float64); ok && id >= 0 && int(id) < tok.Len() && !slices.Contains(g.Stop, int32(id)) {
			g.Stop = append(g.Stop, int32(id))
		}
	}
	g.RepetitionPenalty = c.RepetitionPenalty
	if c.Sample {
		g.Sample, g.Temperature, g.TopK, g.TopP = true, 1, 50, 1 // transformers' defaults
		if c.Temperature != nil {
			g.Temperature = *c.Temperature
		}
		if c.TopK != nil {
			g.TopK = *c.TopK
		}
		if c.TopP != nil {
			g.TopP = *c.TopP
		}
	}
	t.Eval, t.EvalGenerate, t.EvalLast, t.EvalPad = "prep/eval", &g, &last, &schemas.Padding{ID: enc.PadID(), Multiple: collatorMultiple}
	b.notes = append(b.notes, "evaluations while it trains answer behind the padding of a batch, by the model's generation_config.json and up to cutoff_len, as LLaMA-Factory's do; the last one as configured")
	return nil
}
