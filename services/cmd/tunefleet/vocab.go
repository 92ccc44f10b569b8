package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/zoo"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
)

// checkVocabularies refuses a template whose tokens the model has no rows for: an end of a turn, for instance, that was added to the tokenizer.
// Training would end at its first step. What lies in the store, or cannot be read here, is left to the workers.
func checkVocabularies(r *config.Resolved) error {
	seen := map[string]bool{}
	for i := range r.Spec.Stages {
		st := &r.Spec.Stages[i]
		var model *schemas.ModelSpec
		var refs []string
		switch {
		case st.Train != nil:
			model, refs = &st.Train.Model, []string{st.Train.Data, st.Train.Eval}
		case st.Eval != nil && st.Eval.Predict != nil && len(st.Eval.Predict.Adapters) == 0:
			model, refs = &st.Eval.Predict.Model, []string{st.Eval.Data}
		default:
			continue
		}
		vocab := modelVocabulary(r, model)
		if vocab == 0 {
			continue
		}
		for _, ref := range refs {
			// Training and evaluation rows of one preparation have one template.
			key := fmt.Sprintf("%s %d", strings.SplitN(ref, "/", 2)[0], vocab)
			if seen[key] {
				continue
			}
			seen[key] = true
			if err := checkTemplate(r, ref, vocab); err != nil {
				return err
			}
		}
	}
	return nil
}

// modelVocabulary is the number of tokens that a model has, 0 where that is not known here.
func modelVocabulary(r *config.Resolved, m *schemas.ModelSpec) int {
	raw := m.Config
	switch {
	case m.Vocab > 0:
		return m.Vocab
	case m.Base != nil:
		raw = inputFile(r, m.Base, "config.json", 1<<20)
	}
	if len(raw) == 0 {
		return 0
	}
	model, err := zoo.New(raw)
	if err != nil {
		return 0 // told with the file's place elsewhere
	}
	return model.Info().Vocab
}

// inputFile reads a file of a ref that lies on this machine; nil when it cannot be read here.
func inputFile(r *config.Resolved, ref *schemas.Ref, name string, limit int64) []byte {
	for _, f := range ref.Files {
		i := slices.IndexFunc(r.Inputs, func(in config.Input) bool { return in.File.SHA256 == f.SHA256 })
		if f.Path != name || i < 0 || f.Bytes > limit {
			continue
		}
		if raw, err := os.ReadFile(r.Inputs[i].Local); err == nil {
			return raw
		}
	}
	return nil
}

// preparation is the preparation stage of that name, nil without one.
func preparation(s *schemas.RunSpec, name string) *schemas.Stage {
	i := slices.IndexFunc(s.Stages, func(st schemas.Stage) bool { return st.Name == name && st.Prep != nil })
	if i < 0 {
		return nil
	}
	return &s.Stages[i]
}

// checkTemplate compares the tokens of a turn under the template of "<prep stage>/<output>" with a vocabulary.
func checkTemplate(r *config.Resolved, ref string, vocab int) error {
	name, output, _ := strings.Cut(ref, "/")
	st := preparation(r.Spec, name)
	if st == nil || st.Prep.Factory != nil && st.Prep.Factory.Tokenized {
		return nil
	}
	at := slices.IndexFunc(st.Prep.Outputs, func(o schemas.PrepOutput) bool { return o.Name == output })
	if at < 0 {
		return nil
	}
	o := &st.Prep.Outputs[at]
	ids, token := turnTokens(r, st.Prep, o)
	if len(ids) == 0 {
		return nil
	}
	most := slices.Max(ids)
	if int(most) < vocab {
		return nil
	}
	template := o.Template
	if template == "" {
		template = "of the tokenizer"
	}
	e := schemas.Errorf(schemas.CodeInvalid, "template", "the template %s writes token %d (%s), and the model has rows for %d tokens only", template, most, token(most), vocab)
	if st.Prep.Factory != nil {
		return e.WithHint("set resize_vocab: true, which grows the model, or take a template whose tokens the model knows")
	}
	return e.WithHint("take a template whose tokens the model knows, or the tokenizer that the model was made with")
}

// turnTokens are the ids of one turn, or of one text, and what says how a token is written; none where the tokenizer or the template cannot be
// used, which the preparation tells.
func turnTokens(r *config.Resolved, p *schemas.PrepStage, o *schemas.PrepOutput) (ids []int32, token func(int32) string) {
	var files hftok.Files
	for name, dst := range map[string]*[]byte{"tokenizer.json": &files.Tokenizer, "tokenizer.model": &files.SentencePiece, "tokenizer_config.json": &files.Config,
		"special_tokens_map.json": &files.SpecialMap, "chat_template.jinja": &files.ChatTemplate} {
		*dst = inputFile(r, &p.Tokenizer, name, hftok.MaxBytes)
	}
	tok, err := hftok.New("tokenizer", files)
	if err != nil {
		return nil, nil
	}
	if p.Factory == nil {
		plain, err := data.NewTokenizer("tokenizer", files.Tokenizer)
		if err != nil {
			return nil, nil
		}
		t, err := data.OutputTemplate(o)
		if err != nil {
			return nil, nil
		}
		row := &data.Row{Prompt: "a", Response: "a"}
		token = func(id int32) string { return tok.Decode([]int32{id}, false) }
		if o.Form == "pt" {
			return data.EncodeText(plain, t, row).IDs, token
		}
		return data.EncodeChat(plain, t, row, 1<<20).IDs, token
	}
	enc, err := prep.NewChatEncoder(tok, o, p.Factory)
	if err != nil {
		return nil, nil
	}
	token = func(id int32) string { return enc.Tokenizer.Decode([]int32{id}, false) }
	if o.Form == "pt" {
		if id := enc.EOSID(); id != chat.NoID && o.Template != "llama3" { // whose documents end with text
			ids = append(ids, id)
		}
		return ids, token
	}
	pair, err := enc.OneTurn([]chat.Message{{Role: "user", Content: "a"}, {Role: "assistant", Content: "a"}}, "", "")
	if err != nil {
		return nil, nil
	}
	return slices.Concat(pair.Prompt, pair.Response), token
}
