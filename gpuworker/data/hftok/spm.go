package hftok

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// spModel is what is used of SentencePiece's ModelProto (sentencepiece_model.proto).
type spModel struct {
	pieces       []spPiece
	kind         uint64 // 1 unigram, 2 BPE
	byteFallback bool
	unkID        int
	unkPiece     string
	charsmap     []byte
}

type spPiece struct {
	text  string
	score float32
	kind  uint64 // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
}

// maxPieces and maxPiece bound the vocabulary and the bytes of one piece.
const (
	maxPieces = 1 << 21
	maxPiece  = 1 << 12
)

// errProto is the error of a file that is no ModelProto.
var errProto = errors.New("is no SentencePiece model")

// fields calls f for every field of a message: its number, and its bytes or its integer.
func fields(b []byte, f func(num protowire.Number, raw []byte, n uint64) error) error {
	for len(b) > 0 {
		num, typ, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errProto
		}
		b = b[n:]
		var raw []byte
		var v uint64
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b)
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b)
			v = uint64(x)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b)
		case protowire.BytesType:
			raw, n = protowire.ConsumeBytes(b)
		default:
			n = protowire.ConsumeFieldValue(num, typ, b)
		}
		if n < 0 {
			return errProto
		}
		b = b[n:]
		if err := f(num, raw, v); err != nil {
			return err
		}
	}
	return nil
}

func parseSentencePiece(b []byte) (*spModel, error) {
	m := &spModel{kind: 1, unkPiece: "<unk>"}
	err := fields(b, func(num protowire.Number, raw []byte, _ uint64) error {
		switch num {
		case 1:
			if len(m.pieces) >= maxPieces {
				return fmt.Errorf("has more than %d pieces", maxPieces)
			}
			p := spPiece{kind: 1}
			err := fields(raw, func(num protowire.Number, raw []byte, v uint64) error {
				switch num {
				case 1:
					p.text = string(raw)
				case 2:
					p.score = math.Float32frombits(uint32(v))
				case 3:
					p.kind = v
				}
				return nil
			})
			if err == nil && (len(p.text) > maxPiece || !utf8.ValidString(p.text)) {
				err = fmt.Errorf("piece %d is too long or no UTF-8", len(m.pieces))
			}
			m.pieces = append(m.pieces, p)
			return err
		case 2:
			return fields(raw, func(num protowire.Number, raw []byte, v uint64) error {
				switch num {
				case 3:
					m.kind = v
				case 35:
					m.byteFallback = v != 0
				case 40:
					m.unkID = int(v)
				case 45:
					m.unkPiece = string(raw)
				}
				return nil
			})
		case 3:
			return fields(raw, func(num protowire.Number, raw []byte, _ uint64) error {
				if num == 2 {
					m.charsmap = slices.Clone(raw)
				}
				return nil
			})
		}
		return nil
	})
	if err == nil && len(m.pieces) == 0 {
		err = errProto
	}
	return m, err
}

// convertSentencePiece makes the tokenizer.json that transformers' converters make of a tokenizer.model, for the class in cfg.
func convertSentencePiece(b []byte, cfg *config) ([]byte, error) {
	m, err := parseSentencePiece(b)
	if err != nil {
		return nil, err
	}
	model, err := m.model(cfg)
	if err != nil {
		return nil, err
	}
	var added []any
	for id, p := range m.pieces {
		if p.kind == 3 || p.kind == 4 {
			added = append(added, pyjson.NewObject("id", id, "content", p.text, "single_word", false, "lstrip", false, "rstrip", false, "normalized", false, "special", p.kind == 3))
		}
	}
	o := pyjson.NewObject("version", "1.0", "added_tokens", added)
	m.text(o, cfg)
	o.Set("post_processor", nil)
	o.Set("model", model)
	return []byte(pyjson.Dumps(o)), nil
}

func isGemma(cfg *config) bool { return cfg.class == "GemmaTokenizerFast" }

// isPlain reports whether the class's converter is the general one.
func isPlain(cfg *config) bool { return !cfg.template && cfg.class != "PreTrainedTokenizerFast" }

// text sets normalizer, pre-tokenizer and decoder.
func (m *spModel) text(o *pyjson.Object, cfg *config) {
	replace := func(from, to string) any {
		return pyjson.NewObject("type", "Replace", "pattern", pyjson.NewObject("String", from), "content", to)
	}
	seq := func(key string, list ...any) any { return pyjson.NewObject("type", "Sequence", key, list) }
	scheme := "always"
	switch {
	case !cfg.prefixSpace:
		scheme = "never"
	case !cfg.legacy:
		scheme = "first"
	}
	plain := []any{replace(metaspace, " "), pyjson.NewObject("type", "ByteFallback"), pyjson.NewObject("type", "Fuse")}
	switch {
	case isGemma(cfg):
		o.Set("normalizer", replace(" ", metaspace))
		o.Set("pre_tokenizer", pyjson.NewObject("type", "Split", "pattern", pyjson.NewObject("String", " "), "behavior", "MergedWithPrevious", "invert", false))
		o.Set("decoder", seq("decoders", plain...))
		return
	case isPlain(cfg):
		list := []any{pyjson.NewObject("type", "Strip", "strip_left", false, "strip_right", true),
			pyjson.NewObject("type", "Replace", "pattern", pyjson.NewObject("Regex", " {2,}"), "content", metaspace)}
		if len(m.charsmap) > 0 {
			list = append([]any{pyjson.NewObject("type", "Precompiled", "precompiled_charsmap", base64.StdEncoding.EncodeToString(m.charsmap))}, list...)
		}
		space := pyjson.NewObject("type", "Metaspace", "replacement", metaspace, "prepend_scheme", scheme, "split", true)
		o.Set("normalizer", seq("normalizers", list...))
		o.Set("pre_tokenizer", space)
		o.Set("decoder", space)
		return
	case cfg.legacy:
		list := []any{replace(" ", metaspace)}
		if cfg.prefixSpace {
			list = append([]any{pyjson.NewObject("type", "Prepend", "prepend", metaspace)}, list...)
		}
		o.Set("normalizer", seq("normalizers", list...))
		o.Set("pre_tokenizer", nil)
	default:
		o.Set("normalizer", nil)
		o.Set("pre_tokenizer", pyjson.NewObject("type", "Metaspace", "replacement", metaspace, "prepend_scheme", scheme, "split", false))
	}
	if cfg.prefixSpace {
		plain = append(plain, pyjson.NewObject("type", "Strip", "content", " ", "start", 1, "stop", 0))
	}
	o.Set("decoder", seq("decoders", plain...))
}

func (m *spModel) model(cfg *config) (any, error) {
	fallback := !isPlain(cfg)
	switch m.kind {
	case 1:
		vocab := make([]any, len(m.pieces))
		for i, p := range m.pieces {
			vocab[i] = []any{p.text, float64(p.score)}
		}
		return pyjson.NewObject("type", "Unigram", "unk_id", m.unkID, "vocab", vocab, "byte_fallback", fallback), nil
	case 2:
		vocab := &pyjson.Object{}
		for i, p := range m.pieces {
			vocab.Set(p.text, int64(i)) // of equal pieces the last one counts
		}
		merges := []any{}
		for _, p := range m.merges() {
			merges = append(merges, []any{p[0], p[1]})
		}
		return pyjson.NewObject("type", "BPE", "unk_token", m.unkPiece, "fuse_unk", true, "byte_fallback", fallback, "ignore_merges", false, "vocab", vocab, "merges", merges), nil
	}
	return nil, fmt.Errorf("has the model type %d; unigram (1) and BPE (2) are known", m.kind)
}

// merges lists which pairs of pieces make a piece: the best score first, of equal scores the longest left and then right part first, as
// transformers' generate_merges.
func (m *spModel) merges() [][2]string {
	ids := make(map[string]int, len(m.pieces))
	scores := make(map[string]float32, len(m.pieces))
	var order []string
	for i, p := range m.pieces {
		if _, ok := ids[p.text]; !ok {
			order = append(order, p.text)
		}
		ids[p.text], scores[p.text] = i, p.score
	}
	type cut struct {
		left, right       string
		score             float32
		lenLeft, lenRight int
	}
	var all []cut
	for _, s := range order {
		first := len(all)
		for i := range s {
			if i == 0 {
				continue
			}
			l, r := s[:i], s[i:]
			_, okl := ids[l]
			if _, okr := ids[r]; okl && okr {
				all = append(all, cut{l, r, scores[s], utf8.RuneCountInString(l), utf8.RuneCountInString(r)})
			}
		}
		slices.SortStableFunc(all[first:], func(a, b cut) int {
			return cmp.Or(cmp.Compare(ids[a.left], ids[b.left]), cmp.Compare(ids[a.right], ids[b.right]))
		})
	}
	slices.SortStableFunc(all, func(a, b cut) int {
		return -cmp.Or(cmp.Compare(a.score, b.score), cmp.Compare(a.lenLeft, b.lenLeft), cmp.Compare(a.lenRight, b.lenRight))
	})
	out := make([][2]string, len(all))
	for i, c := range all {
		out[i] = [2]string{c.left, c.right}
	}
	return out
}
