package hftok

import "strings"

// native is the engine of this package.
type native struct {
	*bpe
	// next cuts the text when the pre-tokenizer is one pattern and the byte-level encoding; steps are used otherwise.
	next  nextFunc
	steps []step
	dec   decoder
}

func newNative(j *tokenizerJSON) (*native, normalizer, error) {
	if err := j.Model.parse(); err != nil {
		return nil, nil, err
	}
	norm, err := newNormalizer(j.Normalizer)
	if err != nil {
		return nil, nil, err
	}
	n := &native{}
	list := j.PreTokenizer.flat()
	byteLevel := false
	for _, p := range list {
		byteLevel = byteLevel || p.Type == "ByteLevel"
		s, err := newStep(p)
		if err != nil {
			return nil, nil, err
		}
		n.steps = append(n.steps, s)
	}
	n.next = fastPath(list)
	if n.dec, err = newDecoder(j.Decoder); err != nil {
		return nil, nil, err
	}
	n.bpe, err = newBPE(&j.Model, byteLevel)
	return n, norm, err
}

// fastPath is the one pattern that cuts raw text, nil when the steps must be gone through.
func fastPath(list []pretokenizerJSON) nextFunc {
	plain := func(p pretokenizerJSON, regex bool) bool {
		return p.Type == "ByteLevel" && !p.AddPrefixSpace && (p.UseRegex == nil || *p.UseRegex) == regex
	}
	switch {
	case len(list) == 1 && plain(list[0], true):
		return nextGPT2
	case len(list) == 2 && list[0].Type == "Split" && list[0].Behavior == "Isolated" && !list[0].Invert && plain(list[1], false):
		return knownPattern(list[0].Pattern.Regex)
	}
	return nil
}

func (n *native) append(dst []int32, text string, first bool) []int32 {
	if n.next != nil {
		for i := 0; i < len(text); {
			j := n.next(text, i)
			dst = n.bpe.append(dst, text[i:j])
			i = j
		}
		return dst
	}
	if text == "" {
		return dst
	}
	pieces := []piece{{text, first}}
	for _, s := range n.steps {
		pieces = s(pieces)
	}
	for _, p := range pieces {
		if n.byteLevel {
			// All characters stand for bytes, since the byte-level step made them.
			p.text, _ = fromByteChars(p.text)
		}
		dst = n.bpe.append(dst, p.text)
	}
	return dst
}

func (n *native) decode(tokens []string) string { return strings.Join(n.dec(tokens), "") }

func (n *native) tokenID(token string) (int32, bool) { id, ok := n.vocab[token]; return id, ok }

func (n *native) token(id int32) (string, bool) {
	if id < 0 || int(id) >= len(n.tokens) {
		return "", false
	}
	if s := n.tokens[id]; s != "" {
		return s, true
	}
	empty, ok := n.vocab[""]
	return "", ok && empty == id
}

func (n *native) size() int32 { return int32(len(n.vocab)) }

func (n *native) each(f func(string)) {
	for t := range n.vocab {
		f(t)
	}
}
