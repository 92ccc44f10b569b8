package hftok

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

type normalizerJSON struct {
	Type        string           `json:"type"`
	Normalizers []normalizerJSON `json:"normalizers"`
	Prepend     string           `json:"prepend"`
	Pattern     patternJSON      `json:"pattern"`
	Content     string           `json:"content"`
	Left        bool             `json:"strip_left"`
	Right       bool             `json:"strip_right"`
}

// normalizer is a function on text; nil changes nothing.
type normalizer func(string) string

func newNormalizer(n *normalizerJSON) (normalizer, error) {
	if n == nil {
		return nil, nil
	}
	form := func(f norm.Form) normalizer {
		return func(s string) string {
			if f.IsNormalString(s) {
				return s
			}
			return f.String(s)
		}
	}
	switch n.Type {
	case "NFC":
		return form(norm.NFC), nil
	case "NFD":
		return form(norm.NFD), nil
	case "NFKC":
		return form(norm.NFKC), nil
	case "NFKD":
		return form(norm.NFKD), nil
	case "Lowercase":
		return strings.ToLower, nil
	case "Prepend":
		return func(s string) string {
			if s == "" {
				return s
			}
			return n.Prepend + s
		}, nil
	case "Strip":
		return func(s string) string {
			if n.Left {
				s = strings.TrimLeftFunc(s, unicode.IsSpace)
			}
			if n.Right {
				s = strings.TrimRightFunc(s, unicode.IsSpace)
			}
			return s
		}, nil
	case "Replace":
		if n.Pattern.Regex == "" {
			return func(s string) string { return strings.ReplaceAll(s, n.Pattern.String, n.Content) }, nil
		}
		re, err := translate(n.Pattern.Regex)
		if err != nil {
			return nil, err
		}
		return func(s string) string { return re.ReplaceAllLiteralString(s, n.Content) }, nil
	case "Sequence":
		var all []normalizer
		for i := range n.Normalizers {
			f, err := newNormalizer(&n.Normalizers[i])
			if err != nil {
				return nil, err
			}
			if f != nil {
				all = append(all, f)
			}
		}
		return func(s string) string {
			for _, f := range all {
				s = f(s)
			}
			return s
		}, nil
	}
	return nil, unsupported("the normalizer %s", n.Type)
}
