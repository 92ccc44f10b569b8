package pyjson

import (
	"iter"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Python's texts can hold one half of a surrogate pair by itself, which no UTF-8 text and no tokenizer takes. Here such a half is what UTF-8 would
// make of its number (WTF-8): three bytes that begin with surrogateLead and that Go takes for invalid.
const surrogateLead = 0xed

// WriteRune appends a character, also half of a surrogate pair.
func WriteRune(b *strings.Builder, r rune) {
	if !utf16.IsSurrogate(r) {
		b.WriteRune(r)
		return
	}
	b.WriteByte(surrogateLead)
	b.WriteByte(0x80 | byte(r>>6)&0x3f)
	b.WriteByte(0x80 | byte(r)&0x3f)
}

// surrogate is the half of a pair that a text begins with, 0 for none.
func surrogate(s string) rune {
	if len(s) < 3 || s[0] != surrogateLead || s[1] < 0xa0 || s[1] > 0xbf || s[2] < 0x80 || s[2] > 0xbf {
		return 0
	}
	return 0xd000 | rune(s[1]&0x3f)<<6 | rune(s[2]&0x3f)
}

// HasSurrogate reports whether a text holds half of a surrogate pair.
func HasSurrogate(s string) bool {
	for {
		i := strings.IndexByte(s, surrogateLead)
		if i < 0 {
			return false
		}
		if surrogate(s[i:]) != 0 {
			return true
		}
		s = s[i+1:]
	}
}

// runes are the characters of a text, halves of surrogate pairs among them.
func runes(s string) iter.Seq[rune] {
	return func(yield func(rune) bool) {
		for len(s) > 0 {
			r, n := utf8.DecodeRuneInString(s)
			if r == utf8.RuneError && n == 1 {
				if half := surrogate(s); half != 0 {
					r, n = half, 3
				}
			}
			if !yield(r) {
				return
			}
			s = s[n:]
		}
	}
}
