package hftok

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/schemas"
)

// MaxBytes bounds an accepted tokenizer file.
const MaxBytes = 128 << 20

// Files are the contents of a tokenizer's folder. Tokenizer (tokenizer.json) or SentencePiece (tokenizer.model) is needed, the others may be
// nil.
type Files struct {
	Tokenizer, SentencePiece, Config, SpecialMap, ChatTemplate []byte
}

// Tokenizer turns text into ids and back. It is safe for concurrent use, but for the methods that add tokens or change special ones.
type Tokenizer struct {
	place     string
	cfg       *config
	model     engine
	added     *addedVocabulary
	before    []int32 // ids that EncodeSpecial puts around a text
	behind    []int32
	normalize normalizer
}

// engine is what lies below the added tokens.
type engine interface {
	// append adds the ids of a normalized text without added tokens; first says that it is the start of the whole text.
	append(dst []int32, text string, first bool) []int32
	decode(tokens []string) string
	tokenID(token string) (int32, bool)
	token(id int32) (string, bool)
	size() int32
	each(func(token string))
}

// Load reads a folder that holds tokenizer.json or tokenizer.model. Errors have CodeModel or CodeNotFound and the place.
func Load(dir string) (*Tokenizer, error) {
	var f Files
	for name, b := range map[string]*[]byte{"tokenizer.json": &f.Tokenizer, "tokenizer.model": &f.SentencePiece, "tokenizer_config.json": &f.Config,
		"special_tokens_map.json": &f.SpecialMap, "chat_template.jinja": &f.ChatTemplate} {
		p := filepath.Join(dir, name)
		info, err := os.Stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil && info.Size() > MaxBytes {
			err = schemas.Errorf(schemas.CodeModel, p, "has %d bytes, the limit is %d", info.Size(), MaxBytes)
		}
		if err == nil {
			*b, err = os.ReadFile(p)
		}
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, p, "cannot read: %v", err)
		}
	}
	return New(dir, f)
}

// New makes a tokenizer of file contents; place is for messages. Errors have CodeModel or CodeNotFound.
func New(place string, f Files) (*Tokenizer, error) {
	if f.Tokenizer == nil && f.SentencePiece == nil {
		return nil, schemas.Errorf(schemas.CodeNotFound, place, "there is neither tokenizer.json nor tokenizer.model")
	}
	cfg, err := parseConfig(place, f)
	if err != nil {
		return nil, err
	}
	raw := f.Tokenizer
	if raw == nil {
		if raw, err = convertSentencePiece(f.SentencePiece, cfg); err != nil {
			return nil, schemas.Errorf(schemas.CodeModel, place+"/tokenizer.model", "%v", err)
		}
	}
	if len(raw) > MaxBytes {
		return nil, schemas.Errorf(schemas.CodeModel, place, "the tokenizer has %d bytes, the limit is %d", len(raw), MaxBytes)
	}
	var j tokenizerJSON
	if err := json.Unmarshal(raw, &j); err != nil || j.Model.RawVocab == nil {
		return nil, schemas.Errorf(schemas.CodeModel, place, "is not a tokenizer.json: %v", err).
			WithHint("give the tokenizer.json of Hugging Face's tokenizers library")
	}
	t := &Tokenizer{place: place, cfg: cfg, added: newAddedVocabulary()}
	if err := t.build(raw, &j); err != nil {
		return nil, schemas.Errorf(schemas.CodeModel, place, "%v", err)
	}
	t.before, t.behind = j.Post.around()
	if f.Config == nil && f.SpecialMap == nil {
		t.guessSpecial(j.Added)
	}
	t.addConfigured(j.Added)
	return t, nil
}

func (t *Tokenizer) build(raw []byte, j *tokenizerJSON) error {
	native, norm, err := newNative(j)
	var u *unsupportedError
	switch {
	case err == nil:
		t.model, t.normalize = native, norm
		return nil
	case !errors.As(err, &u):
		return err
	}
	t.model, err = newLibrary(raw)
	return err
}

// guessSpecial finds begin and end of a sequence by their usual names, for a tokenizer.json without any configuration.
func (t *Tokenizer) guessSpecial(added []AddedToken) {
	for r, names := range map[Special][]string{
		BOS: {"<s>", "<|begin_of_text|>", "<bos>", "<｜begin▁of▁sentence｜>"},
		EOS: {"</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>", "<|im_end|>", "<|eot_id|>", "<｜end▁of▁sentence｜>"},
	} {
		for _, n := range names {
			_, ok := t.model.tokenID(n)
			if ok || slices.ContainsFunc(added, func(a AddedToken) bool { return a.Content == n }) {
				t.cfg.special[r] = n
				break
			}
		}
	}
}

// addConfigured adds the tokens of tokenizer.json and those that transformers adds from the configuration when it loads a tokenizer.
func (t *Tokenizer) addConfigured(file []AddedToken) {
	t.addTokens(file)
	var more []AddedToken
	known := map[string]bool{}
	have := map[AddedToken]bool{}
	for _, a := range t.added.byID {
		known[a.Content], have[a] = true, true
	}
	special := t.SpecialTokens()
	for _, a := range t.cfg.decoderTokens {
		if !have[a] {
			a.Special = a.Special || slices.Contains(special, a.Content)
			more = append(more, a)
			known[a.Content] = true
		}
	}
	for _, s := range special {
		if !known[s] {
			more = append(more, AddedToken{Content: s, Special: true})
		}
	}
	if len(more) > 0 {
		t.addTokens(more)
	}
	if t.cfg.template {
		t.resetProcessor()
	}
}

// resetProcessor makes the class's own post-processor of the present special tokens.
func (t *Tokenizer) resetProcessor() {
	t.before, t.behind = nil, nil
	if id, ok := t.SpecialID(BOS); ok && t.cfg.addBOS {
		t.before = []int32{id}
	}
	if id, ok := t.SpecialID(EOS); ok && t.cfg.addEOS {
		t.behind = []int32{id}
	}
}

func (t *Tokenizer) addTokens(tokens []AddedToken) int {
	return t.added.add(tokens, t.model.tokenID, t.model.size(), t.normalize)
}

// Clone returns a copy whose added and special tokens can be changed without changing t.
func (t *Tokenizer) Clone() *Tokenizer {
	c, cfg := *t, *t.cfg
	cfg.special, cfg.additional = maps.Clone(cfg.special), slices.Clone(cfg.additional)
	c.cfg, c.added = &cfg, t.added.clone()
	return &c
}

// Encode returns the ids of a text; added tokens are recognized within it, no special ones are put around it.
func (t *Tokenizer) Encode(text string) []int32 { return t.AppendEncode(nil, text) }

// AppendEncode adds the ids of a text to dst. Invalid UTF-8 becomes U+FFFD.
func (t *Tokenizer) AppendEncode(dst []int32, text string) []int32 { return t.encode(dst, text, nil) }

// EncodeTokens is Encode with the tokens as the library's Encoding.tokens has them: an added token with the white space it swallowed.
func (t *Tokenizer) EncodeTokens(text string) (ids []int32, tokens []string) {
	matched := map[int]string{}
	ids = t.encode(nil, text, func(i int, s string) { matched[i] = s })
	tokens = make([]string, len(ids))
	for i, id := range ids {
		s, ok := matched[i]
		if !ok {
			s, _ = t.Token(id)
		}
		tokens[i] = s
	}
	return ids, tokens
}

// encode adds ids to dst; added, when not nil, hears of the added tokens: their place among the ids and what they matched.
func (t *Tokenizer) encode(dst []int32, text string, added func(at int, s string)) []int32 {
	if text == "" {
		return dst
	}
	if !utf8.ValidString(text) {
		text = strings.ToValidUTF8(text, "\uFFFD")
	}
	var buf [8]span
	spans := append(buf[:0], span{0, len(text), -1})
	if !t.added.raw.empty() {
		spans = t.added.appendSpans(buf[:0], text, t.added.raw)
	}
	for _, s := range spans {
		if s.id >= 0 {
			if added != nil {
				added(len(dst), text[s.from:s.to])
			}
			dst = append(dst, s.id)
			continue
		}
		dst = t.section(dst, text[s.from:s.to], s.from == 0, added)
	}
	return dst
}

func (t *Tokenizer) section(dst []int32, text string, first bool, added func(at int, s string)) []int32 {
	if t.normalize != nil {
		text = t.normalize(text)
	}
	if t.added.normal.empty() {
		return t.model.append(dst, text, first)
	}
	for _, s := range t.added.appendSpans(nil, text, t.added.normal) {
		if s.id < 0 {
			dst = t.model.append(dst, text[s.from:s.to], first && s.from == 0)
			continue
		}
		if added != nil {
			added(len(dst), text[s.from:s.to])
		}
		dst = append(dst, s.id)
	}
	return dst
}

// EncodeSpecial is Encode with the special tokens that the tokenizer puts around a text.
func (t *Tokenizer) EncodeSpecial(text string) []int32 {
	return append(t.AppendEncode(slices.Clone(t.before), text), t.behind...)
}

// Decode is the text of ids, without cleaning up. Ids without a token are left out, and special tokens when asked to.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	tokens := make([]string, 0, len(ids))
	for _, id := range ids {
		s, ok := t.Token(id)
		if !ok || skipSpecial && t.added.isSpecial[s] {
			continue
		}
		tokens = append(tokens, s)
	}
	return t.model.decode(tokens)
}

// Token is the token of an id as the vocabulary writes it.
func (t *Tokenizer) Token(id int32) (string, bool) {
	if a, ok := t.added.byID[id]; ok {
		return a.Content, true
	}
	return t.model.token(id)
}

// TokenID is the id of a token as the vocabulary writes it.
func (t *Tokenizer) TokenID(token string) (int32, bool) {
	if id, ok := t.added.ids[token]; ok {
		return id, true
	}
	return t.model.tokenID(token)
}

// ConvertToken is TokenID, with the unknown token's id for tokens that are not there, as convert_tokens_to_ids; false when there is none.
func (t *Tokenizer) ConvertToken(token string) (int32, bool) {
	if id, ok := t.TokenID(token); ok {
		return id, true
	}
	return t.SpecialID(Unk)
}

// Len is the number of different tokens, added ones included: len(tokenizer) in Python.
func (t *Tokenizer) Len() int {
	n := 0
	t.model.each(func(string) { n++ })
	for s := range t.added.ids {
		if _, ok := t.model.tokenID(s); !ok {
			n++
		}
	}
	return n
}

// Special is the token of a role; false when there is none.
func (t *Tokenizer) Special(r Special) (string, bool) { s, ok := t.cfg.special[r]; return s, ok }

// SpecialID is the id of the token of a role; false when there is none.
func (t *Tokenizer) SpecialID(r Special) (int32, bool) {
	s, ok := t.cfg.special[r]
	if !ok {
		return 0, false
	}
	if id, ok := t.TokenID(s); ok {
		return id, true
	}
	if u, ok := t.cfg.special[Unk]; ok && u != s {
		return t.TokenID(u)
	}
	return 0, false
}

// SpecialTokens lists the special tokens: those of the roles, then the additional ones, each once.
func (t *Tokenizer) SpecialTokens() []string {
	var out []string
	for _, r := range roles() {
		if s, ok := t.cfg.special[r]; ok && !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	for _, s := range t.cfg.additional {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// AddSpecial gives a role a token, added to the vocabulary when it is new, and returns how many tokens that are.
func (t *Tokenizer) AddSpecial(r Special, token string) int {
	t.cfg.special[r] = token
	return t.addTokens([]AddedToken{{Content: token, Special: true}})
}

// SetSpecial gives a role a token without adding it to the vocabulary.
func (t *Tokenizer) SetSpecial(r Special, token string) { t.cfg.special[r] = token }

// AddAdditional adds to the additional special tokens those that are not there, and returns how many tokens are new.
func (t *Tokenizer) AddAdditional(tokens []string) int {
	var add []AddedToken
	for _, s := range tokens {
		if !slices.Contains(t.cfg.additional, s) {
			add = append(add, AddedToken{Content: s, Special: true})
		}
	}
	for _, a := range add {
		t.cfg.additional = append(t.cfg.additional, a.Content)
	}
	return t.addTokens(add)
}

// AddTokens adds tokens that are found in text (add_tokens, or with special set add_special_tokens of the YAML) and returns how many are new.
func (t *Tokenizer) AddTokens(tokens []string, special bool) int {
	var add []AddedToken
	for _, s := range tokens {
		add = append(add, AddedToken{Content: s, Special: special, Normalized: !special})
	}
	if special {
		t.cfg.additional = append(t.cfg.additional, tokens...)
	}
	return t.addTokens(add)
}

// Added returns the ids of all added tokens by their content.
func (t *Tokenizer) Added() map[string]int32 { return maps.Clone(t.added.ids) }

// Class is the name of transformers' class.
func (t *Tokenizer) Class() string { return t.cfg.class }

// PaddingSide is "left" or "right".
func (t *Tokenizer) PaddingSide() string { return t.cfg.paddingSide }

// CleanUpSpaces is clean_up_tokenization_spaces.
func (t *Tokenizer) CleanUpSpaces() bool { return t.cfg.cleanUp }

// AddBOS is the add_bos_token attribute; false for classes without it.
func (t *Tokenizer) AddBOS() bool { return t.cfg.addBOS }

// ChatTemplate is the Jinja chat template; false when the tokenizer has none.
func (t *Tokenizer) ChatTemplate() (string, bool) {
	if t.cfg.chatTemplate == nil {
		return "", false
	}
	return *t.cfg.chatTemplate, true
}
