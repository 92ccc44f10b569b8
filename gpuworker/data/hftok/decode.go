package hftok

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

type decoderJSON struct {
	Type          string        `json:"type"`
	Decoders      []decoderJSON `json:"decoders"`
	Pattern       patternJSON   `json:"pattern"`
	Content       string        `json:"content"`
	Start         int           `json:"start"`
	Stop          int           `json:"stop"`
	Replacement   string        `json:"replacement"`
	PrependScheme string        `json:"prepend_scheme"`
}

// decoder turns tokens into parts of text that are joined.
type decoder func([]string) []string

func newDecoder(d *decoderJSON) (decoder, error) {
	if d == nil {
		return func(tokens []string) []string { return []string{strings.Join(tokens, " ")} }, nil
	}
	each := func(f func(int, string) string) decoder {
		return func(tokens []string) []string {
			out := make([]string, len(tokens))
			for i, t := range tokens {
				out[i] = f(i, t)
			}
			return out
		}
	}
	switch d.Type {
	case "ByteLevel":
		return decodeByteLevel, nil
	case "ByteFallback":
		return decodeByteFallback, nil
	case "Fuse":
		return func(tokens []string) []string { return []string{strings.Join(tokens, "")} }, nil
	case "Replace":
		if d.Pattern.Regex != "" {
			re, err := translate(d.Pattern.Regex)
			if err != nil {
				return nil, err
			}
			return each(func(_ int, t string) string { return re.ReplaceAllLiteralString(t, d.Content) }), nil
		}
		return each(func(_ int, t string) string { return strings.ReplaceAll(t, d.Pattern.String, d.Content) }), nil
	case "Strip":
		return each(func(_ int, t string) string { return strip(t, d.Content, d.Start, d.Stop) }), nil
	case "Metaspace":
		return each(func(i int, t string) string {
			if i == 0 && d.PrependScheme != "never" {
				return strings.ReplaceAll(t, d.Replacement, "")
			}
			return strings.ReplaceAll(t, d.Replacement, " ")
		}), nil
	case "Sequence":
		var all []decoder
		for i := range d.Decoders {
			f, err := newDecoder(&d.Decoders[i])
			if err != nil {
				return nil, err
			}
			all = append(all, f)
		}
		return func(tokens []string) []string {
			for _, f := range all {
				tokens = f(tokens)
			}
			return tokens
		}, nil
	}
	return nil, unsupported("the decoder %s", d.Type)
}

func strip(t, content string, start, stop int) string {
	if content == "" {
		return t
	}
	for ; start > 0 && strings.HasPrefix(t, content); start-- {
		t = t[len(content):]
	}
	for ; stop > 0 && strings.HasSuffix(t, content); stop-- {
		t = t[:len(t)-len(content)]
	}
	return t
}

func decodeByteLevel(tokens []string) []string {
	var b []byte
	for _, t := range tokens {
		if raw, ok := fromByteChars(t); ok {
			b = append(b, raw...)
		} else {
			b = append(b, t...)
		}
	}
	return []string{lossy(b)}
}

func decodeByteFallback(tokens []string) []string {
	var out []string
	var bytes []byte
	flush := func() {
		if utf8.Valid(bytes) {
			out = append(out, string(bytes))
		} else {
			out = append(out, strings.Repeat("\uFFFD", len(bytes)))
		}
		bytes = bytes[:0]
	}
	for _, t := range tokens {
		if len(t) == 6 && strings.HasPrefix(t, "<0x") && t[5] == '>' {
			if n, err := strconv.ParseUint(t[3:5], 16, 8); err == nil {
				bytes = append(bytes, byte(n))
				continue
			}
		}
		flush()
		out = append(out, t)
	}
	flush()
	return out
}

// lossy decodes UTF-8 with one U+FFFD for each maximal part that cannot be the start of a character, as Rust and the WHATWG do.
func lossy(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for i := 0; i < len(b); {
		r, n := utf8.DecodeRune(b[i:])
		if r != utf8.RuneError || n > 1 {
			out.Write(b[i : i+n])
			i += n
			continue
		}
		out.WriteRune(utf8.RuneError)
		i += badLength(b[i:])
	}
	return out.String()
}

// badLength is the length of the ill-formed sequence at the start of b: the longest prefix of a well-formed one, at least 1.
func badLength(b []byte) int {
	want, low, high := 0, byte(0x80), byte(0xbf)
	switch c := b[0]; {
	case c >= 0xc2 && c <= 0xdf:
		want = 1
	case c == 0xe0:
		want, low = 2, 0xa0
	case c == 0xed:
		want, high = 2, 0x9f
	case c >= 0xe1 && c <= 0xef:
		want = 2
	case c == 0xf0:
		want, low = 3, 0x90
	case c == 0xf4:
		want, high = 3, 0x8f
	case c >= 0xf1 && c <= 0xf3:
		want = 3
	}
	n := 1
	for n <= want && n < len(b) && b[n] >= low && b[n] <= high {
		n++
		low, high = 0x80, 0xbf
	}
	return n
}

// CleanUp undoes spaces before punctuation and English contractions, as transformers' clean_up_tokenization does.
func CleanUp(s string) string {
	for _, p := range [...][2]string{{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"}, {" 's", "'s"},
		{" 've", "'ve"}, {" 're", "'re"}} {
		s = strings.ReplaceAll(s, p[0], p[1])
	}
	return s
}
