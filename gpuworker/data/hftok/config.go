package hftok

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/schemas"
)

// tokenizerJSON is tokenizer.json.
type tokenizerJSON struct {
	Added        []AddedToken       `json:"added_tokens"`
	Normalizer   *normalizerJSON    `json:"normalizer"`
	PreTokenizer *pretokenizerJSON  `json:"pre_tokenizer"`
	Post         *postprocessorJSON `json:"post_processor"`
	Decoder      *decoderJSON       `json:"decoder"`
	Model        modelJSON          `json:"model"`
}

type modelJSON struct {
	Type         string           `json:"type"`
	Vocab        map[string]int32 `json:"-"`
	Merges       [][2]string      `json:"-"`
	RawVocab     json.RawMessage  `json:"vocab"`
	RawMerges    json.RawMessage  `json:"merges"`
	Dropout      *float64         `json:"dropout"`
	UnkToken     *string          `json:"unk_token"`
	Prefix       *string          `json:"continuing_subword_prefix"`
	Suffix       *string          `json:"end_of_word_suffix"`
	FuseUnk      bool             `json:"fuse_unk"`
	ByteFallback bool             `json:"byte_fallback"`
	IgnoreMerges bool             `json:"ignore_merges"`
}

// parse reads vocabulary and merges of a BPE model.
func (m *modelJSON) parse() error {
	if m.Type != "" && m.Type != "BPE" || m.Dropout != nil && *m.Dropout != 0 || m.Prefix != nil && *m.Prefix != "" || m.Suffix != nil && *m.Suffix != "" {
		return unsupported("the model %s with dropout, subword prefix or suffix, or another kind of model", m.Type)
	}
	if err := json.Unmarshal(m.RawVocab, &m.Vocab); err != nil {
		return fmt.Errorf("cannot read the vocabulary: %w", err)
	}
	if json.Unmarshal(m.RawMerges, &m.Merges) == nil {
		return nil
	}
	m.Merges = nil
	var lines []string
	if err := json.Unmarshal(m.RawMerges, &lines); err != nil {
		return fmt.Errorf("cannot read the merges: %w", err)
	}
	for i, l := range lines {
		a, b, ok := strings.Cut(l, " ")
		if !ok || strings.Contains(b, " ") {
			return fmt.Errorf("cannot read merge %d: %q is not two tokens", i, l)
		}
		m.Merges = append(m.Merges, [2]string{a, b})
	}
	return nil
}

type postprocessorJSON struct {
	Type       string              `json:"type"`
	Processors []postprocessorJSON `json:"processors"`
	Single     []struct {
		SpecialToken *struct {
			ID string `json:"id"`
		} `json:"SpecialToken"`
		Sequence *struct {
			ID string `json:"id"`
		} `json:"Sequence"`
	} `json:"single"`
	SpecialTokens map[string]struct {
		IDs []int32 `json:"ids"`
	} `json:"special_tokens"`
	Cls []any `json:"cls"`
	Sep []any `json:"sep"`
}

// around returns the ids that are put before and behind a text.
func (p *postprocessorJSON) around() (before, behind []int32) {
	if p == nil {
		return nil, nil
	}
	seen := false
	put := func(ids ...int32) {
		if seen {
			behind = append(behind, ids...)
		} else {
			before = append(before, ids...)
		}
	}
	switch p.Type {
	case "TemplateProcessing":
		for _, s := range p.Single {
			if s.Sequence != nil {
				seen = true
			} else if s.SpecialToken != nil {
				put(p.SpecialTokens[s.SpecialToken.ID].IDs...)
			}
		}
	case "BertProcessing", "RobertaProcessing":
		for _, x := range [][]any{p.Cls, p.Sep} {
			if len(x) == 2 {
				if id, ok := x[1].(float64); ok {
					put(int32(id))
				}
			}
			seen = true
		}
	case "Sequence":
		for i := range p.Processors {
			b, e := p.Processors[i].around()
			before, behind = append(b, before...), append(behind, e...)
		}
	}
	return before, behind
}

// Special names a special token's role, in the order in which transformers lists them.
type Special string

// The roles.
const (
	BOS  Special = "bos_token"
	EOS  Special = "eos_token"
	Unk  Special = "unk_token"
	Sep  Special = "sep_token"
	Pad  Special = "pad_token"
	Cls  Special = "cls_token"
	Mask Special = "mask_token"
)

func roles() []Special { return []Special{BOS, EOS, Unk, Sep, Pad, Cls, Mask} }

// config is what tokenizer_config.json and the tokenizer's class say.
type config struct {
	class         string
	special       map[Special]string
	additional    []string
	decoderTokens []AddedToken // of added_tokens_decoder, by id
	paddingSide   string
	cleanUp       bool
	addBOS        bool
	addEOS        bool
	// template says that the class makes its own post-processor from addBOS and addEOS.
	template     bool
	chatTemplate *string
	// legacy and prefixSpace are for the conversion of SentencePiece models.
	legacy, prefixSpace bool
	modelMax            int64
}

// classDefaults are the defaults of transformers' fast tokenizer classes (4.57).
func classDefaults(class string) config {
	c := config{class: class, special: map[Special]string{}, paddingSide: "right", legacy: true, prefixSpace: true}
	set := func(bos, eos, unk, pad string) {
		for k, v := range map[Special]string{BOS: bos, EOS: eos, Unk: unk, Pad: pad} {
			if v != "" {
				c.special[k] = v
			}
		}
	}
	switch class {
	case "LlamaTokenizerFast", "CodeLlamaTokenizerFast":
		set("<s>", "</s>", "<unk>", "")
		c.paddingSide, c.template, c.addBOS = "left", true, true
	case "GemmaTokenizerFast":
		set("<bos>", "<eos>", "<unk>", "<pad>")
		c.paddingSide, c.template, c.addBOS = "left", true, true
	case "CohereTokenizerFast":
		set("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>", "<UNK>", "")
		c.paddingSide, c.template, c.addBOS = "left", true, true
	case "GPT2TokenizerFast":
		set("<|endoftext|>", "<|endoftext|>", "<|endoftext|>", "")
	case "Qwen2TokenizerFast":
		set("", "<|endoftext|>", "<|endoftext|>", "<|endoftext|>")
	case "BloomTokenizerFast":
		set("<s>", "</s>", "<unk>", "<pad>")
		c.paddingSide = "left"
	}
	return c
}

func content(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return x, true
	case *pyjson.Object:
		s, ok := x.Value("content").(string)
		return s, ok
	}
	return "", false
}

// parseConfig reads tokenizer_config.json, special_tokens_map.json and chat_template.jinja, each of which may be absent (nil).
func parseConfig(place string, f Files) (*config, error) {
	o := &pyjson.Object{}
	if f.Config != nil {
		var err error
		if o, err = pyjson.ParseObject(string(f.Config)); err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, place+"/tokenizer_config.json", "%v", err)
		}
	}
	if _, ok := o.Get("added_tokens_decoder"); !ok && f.SpecialMap != nil {
		m, err := pyjson.ParseObject(string(f.SpecialMap))
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, place+"/special_tokens_map.json", "%v", err)
		}
		for _, k := range m.Keys() {
			o.Set(k, m.Value(k))
		}
	}
	class, _ := o.Value("tokenizer_class").(string)
	if class == "" {
		class = "PreTrainedTokenizer"
	}
	if !strings.HasSuffix(class, "Fast") {
		class += "Fast"
	}
	c := classDefaults(class)
	for _, r := range roles() {
		if v, ok := o.Get(string(r)); ok {
			delete(c.special, r)
			if s, ok := content(v); ok {
				c.special[r] = s
			}
		}
	}
	list, _ := o.Value("additional_special_tokens").([]any)
	for _, v := range list {
		if s, ok := content(v); ok {
			c.additional = append(c.additional, s)
		}
	}
	if s, ok := o.Value("padding_side").(string); ok {
		c.paddingSide = s
	}
	if b, ok := o.Value("clean_up_tokenization_spaces").(bool); ok {
		c.cleanUp = b
	}
	if b, ok := o.Value("add_bos_token").(bool); ok && (c.template || class == "GPT2TokenizerFast") {
		c.addBOS = b
	}
	if b, ok := o.Value("add_eos_token").(bool); ok && c.template {
		c.addEOS = b
	}
	if b, ok := o.Value("legacy").(bool); ok {
		c.legacy = b
	}
	if b, ok := o.Value("add_prefix_space").(bool); ok {
		c.prefixSpace = b
	}
	c.modelMax, _ = o.Value("model_max_length").(int64)
	c.readChatTemplate(o, f)
	return &c, c.readDecoder(place, o)
}

func (c *config) readChatTemplate(o *pyjson.Object, f Files) {
	switch x := o.Value("chat_template").(type) {
	case string:
		c.chatTemplate = &x
	case []any:
		for _, v := range x {
			if t, ok := v.(*pyjson.Object); ok && t.Value("name") == "default" {
				if s, ok := t.Value("template").(string); ok {
					c.chatTemplate = &s
				}
			}
		}
	}
	if f.ChatTemplate != nil {
		s := string(f.ChatTemplate)
		c.chatTemplate = &s
	}
}

func (c *config) readDecoder(place string, o *pyjson.Object) error {
	d, _ := o.Value("added_tokens_decoder").(*pyjson.Object)
	type entry struct {
		id int
		t  AddedToken
	}
	var all []entry
	for _, k := range d.Keys() {
		var e entry
		if _, err := fmt.Sscanf(k, "%d", &e.id); err != nil {
			return schemas.Errorf(schemas.CodeModel, place+"/tokenizer_config.json", "added_tokens_decoder: %q is no id", k)
		}
		if err := json.Unmarshal([]byte(pyjson.Dumps(d.Value(k))), &e.t); err != nil {
			return schemas.Errorf(schemas.CodeModel, place+"/tokenizer_config.json", "added_tokens_decoder: %s: %v", k, err)
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b entry) int { return a.id - b.id })
	for _, e := range all {
		c.decoderTokens = append(c.decoderTokens, e.t)
	}
	return nil
}
