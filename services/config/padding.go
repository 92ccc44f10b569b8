package config

import (
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
	if t.Objective != "sft" || !v.padLoss() && !v.truth("shift_attn") {
		return nil
	}
	id, err := b.padToken()
	if err != nil {
		return err
	}
	t.Pad = &schemas.Padding{ID: id, Multiple: 1, Labels: v.padLoss()}
	if v.truth("do_train") {
		t.Pad.Multiple = collatorMultiple
	}
	return nil
}

// padToken is the id that fills batches, under the template.
func (b *factoryBuilder) padToken() (int32, error) {
	var f hftok.Files
	for name, dst := range map[string]*[]byte{"tokenizer.json": &f.Tokenizer, "tokenizer.model": &f.SentencePiece, "tokenizer_config.json": &f.Config,
		"special_tokens_map.json": &f.SpecialMap, "chat_template.jinja": &f.ChatTemplate} {
		i := slices.IndexFunc(b.tokenizer.Files, func(x schemas.File) bool { return x.Path == name })
		if i < 0 {
			continue
		}
		k := slices.IndexFunc(b.c.inputs, func(in Input) bool { return in.File.SHA256 == b.tokenizer.Files[i].SHA256 })
		if k < 0 {
			return 0, schemas.Errorf(schemas.CodeInternal, name, "is not among the files of this run")
		}
		raw, err := os.ReadFile(b.c.inputs[k].Local)
		if err != nil {
			return 0, schemas.Errorf(schemas.CodeModel, b.c.inputs[k].Local, "cannot be read: %v", err)
		}
		*dst = raw
	}
	tok, err := hftok.New("tokenizer", f)
	if err != nil {
		return 0, err
	}
	c, err := chat.ForTokenizer(b.template, tok, time.Now())
	if err != nil {
		return 0, err
	}
	enc, err := chat.NewEncoder(c, tok)
	if err != nil {
		return 0, err
	}
	if enc.PadID() == chat.NoID {
		return 0, schemas.Errorf(schemas.CodeModel, "tokenizer", "has no token to fill batches with")
	}
	return enc.PadID(), nil
}
