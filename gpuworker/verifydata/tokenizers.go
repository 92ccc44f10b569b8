package verifydata

import (
	"context"
	"path"
	"path/filepath"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// Tokenizer loads a tokenizer of the folder or the base by its name, once. The caller clones it before changing it.
func (e *Env) Tokenizer(name string) (*hftok.Tokenizer, error) {
	v, err := e.Shared("tokenizer "+name, func() (any, error) {
		// A folder of cases may lack the tokenizer itself.
		p, err := e.Find("tokenizers/" + name + "/tokenizer.json")
		if err != nil {
			if p, err = e.Find("tokenizers/" + name + "/tokenizer.model"); err != nil {
				return nil, err
			}
		}
		return hftok.Load(filepath.Dir(p))
	})
	if err != nil {
		return nil, err
	}
	return v.(*hftok.Tokenizer), nil //nolint:forcetypeassert // made above
}

func tokenizerSuite() Suite {
	return Suite{
		Name: "tokenizer",
		Match: func(p string) bool {
			ok, _ := path.Match("tokenizers/*/*_cases.jsonl", p)
			return ok || isResolved(p)
		},
		Input: func(p string) bool {
			return strings.HasPrefix(p, "tokenizers/") && strings.HasPrefix(path.Base(p), "tokenizer") || path.Base(p) == "special_tokens_map.json"
		},
		Run: runTokenizer,
	}
}

func isResolved(p string) bool {
	ok, _ := path.Match("tokenizers/*/resolved.json", p)
	return ok
}

func runTokenizer(ctx context.Context, env *Env, f *File) ([]Case, error) {
	name := strings.Split(f.Path, "/")[1]
	t, err := env.Tokenizer(name)
	if err != nil {
		return nil, err
	}
	if isResolved(f.Path) {
		return []Case{{Fields: resolved(name, t), Order: []string{"name", "transformers_class", "vocab_size", "bos_token", "bos_token_id", "eos_token", "eos_token_id",
			"pad_token", "pad_token_id", "unk_token", "unk_token_id", "all_special_ids", "padding_side", "clean_up_tokenization_spaces", "add_bos_token"}}}, nil
	}
	out := make([]Case, len(f.Rows))
	for i := range f.Rows {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if strings.HasSuffix(f.Path, "/decode_cases.jsonl") {
			out[i] = decodeCase(t, f.Row(i))
		} else {
			out[i] = encodeCase(t, f.Row(i), strings.HasSuffix(f.Path, "/llamacpp_cases.jsonl"))
		}
	}
	return out, nil
}

func resolved(name string, t *hftok.Tokenizer) []Field {
	fields := []Field{{Key: "name", Value: name}, {Key: "transformers_class", Value: t.Class()}, {Key: "vocab_size", Value: t.Len()}}
	for _, r := range []hftok.Special{hftok.BOS, hftok.EOS, hftok.Pad, hftok.Unk} {
		s, id := specialValues(t, r)
		fields = append(fields, Field{Key: string(r), Value: s}, Field{Key: string(r) + "_id", Value: id})
	}
	var ids []any
	for _, s := range t.SpecialTokens() {
		if id, ok := t.ConvertToken(s); ok {
			ids = append(ids, int64(id))
		}
	}
	return append(fields, Field{Key: "all_special_ids", Value: ids}, Field{Key: "padding_side", Value: t.PaddingSide()},
		Field{Key: "clean_up_tokenization_spaces", Value: t.CleanUpSpaces()}, Field{Key: "add_bos_token", Value: t.AddBOS()})
}

// specialValues are the token and the id of a role, nil for none.
func specialValues(t *hftok.Tokenizer, r hftok.Special) (token, id any) {
	if s, ok := t.Special(r); ok {
		token = s
	}
	if i, ok := t.SpecialID(r); ok {
		id = int64(i)
	}
	return token, id
}

func encodeCase(t *hftok.Tokenizer, row *pyjson.Object, short bool) Case {
	text, _ := row.Value("text").(string)
	ids, tokens := t.EncodeTokens(text)
	if short {
		c := Case{Fields: []Field{{Key: "ids", Value: anys(ids)}}, Order: []string{"text", "ids", "hf_equal"}}
		// hf_equal says whether llama.cpp's ids, which the row holds, are the library's.
		if _, ok := row.Get("hf_equal"); !ok {
			c.Fields = append(c.Fields, Field{Key: "hf_equal", Value: true})
		}
		return c
	}
	plain, skipped := t.Decode(ids, false), t.Decode(ids, true)
	return Case{Fields: []Field{{Key: "ids", Value: anys(ids)}, {Key: "tokens", Value: anys(tokens)}, {Key: "ids_with_special", Value: anys(t.EncodeSpecial(text))},
		{Key: "decode", Value: plain}, {Key: "decode_skip_special", Value: skipped}, {Key: "decode_default", Value: cleaned(t, plain)},
		{Key: "decode_default_skip_special", Value: cleaned(t, skipped)}},
		Order: []string{"text", "ids", "tokens", "ids_with_special", "decode", "decode_skip_special", "decode_default", "decode_default_skip_special"}}
}

func decodeCase(t *hftok.Tokenizer, row *pyjson.Object) Case {
	ids := idsOf(row.Value("ids"))
	return Case{Fields: []Field{{Key: "decode", Value: t.Decode(ids, false)}, {Key: "decode_default_skip_special", Value: cleaned(t, t.Decode(ids, true))}},
		Order: []string{"ids", "decode", "decode_default_skip_special"}}
}

func cleaned(t *hftok.Tokenizer, s string) string {
	if t.CleanUpSpaces() {
		return hftok.CleanUp(s)
	}
	return s
}

// idsOf reads a list of ids.
func idsOf(v any) []int32 {
	list, _ := v.([]any)
	out := make([]int32, 0, len(list))
	for _, x := range list {
		n, _ := x.(int64)
		out = append(out, int32(n))
	}
	return out
}
