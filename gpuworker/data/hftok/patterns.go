package hftok

import (
	"unicode"
	"unicode/utf8"
)

// nextFunc returns the end of the pre-token that begins at i < len(s).
type nextFunc func(s string, i int) int

// The regular expressions of well-known pre-tokenizers, for which there is a hand-written matcher: Go's regexp has no look-ahead.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// knownPattern returns the matcher of a regular expression, nil when there is none.
func knownPattern(re string) nextFunc {
	switch re {
	case patternGPT2:
		return nextGPT2
	case patternLlama3:
		return func(s string, i int) int { return nextCL100K(s, i, 3) }
	case patternQwen2:
		return func(s string, i int) int { return nextCL100K(s, i, 1) }
	}
	return nil
}

type class uint8

const (
	other class = iota
	letter
	number
	space
	newline // \r and \n, which are spaces, too
)

//nolint:gochecknoglobals // a constant table
var asciiClass = func() (t [utf8.RuneSelf]class) {
	for c := range t {
		t[c] = unicodeClass(rune(c))
	}
	return t
}()

func unicodeClass(r rune) class {
	switch {
	case r == '\r' || r == '\n':
		return newline
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.Is(unicode.White_Space, r):
		return space
	}
	return other
}

// classAt is the class of the character at i and its length, 0 at the end.
func classAt(s string, i int) (class, int) {
	if i >= len(s) {
		return other, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return asciiClass[c], 1
	}
	r, n := utf8.DecodeRuneInString(s[i:])
	return unicodeClass(r), n
}

// while returns the end of the run of characters of the class that goes through i.
func while(s string, i int, want class) int {
	for {
		c, n := classAt(s, i)
		if n == 0 || c != want {
			return i
		}
		i += n
	}
}

// contraction returns the length of an English contraction that begins at i ('s 't 're 've 'm 'll 'd), 0 for none.
func contraction(s string, i int, fold bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return 0
	}
	lower := func(k int) byte {
		if k >= len(s) {
			return 0
		}
		if fold && s[k] >= 'A' && s[k] <= 'Z' {
			return s[k] + 'a' - 'A'
		}
		return s[k]
	}
	switch a, b := lower(i+1), lower(i+2); {
	case a == 's' || a == 't' || a == 'm' || a == 'd':
		return 2
	case a == 'r' && b == 'e', a == 'v' && b == 'e', a == 'l' && b == 'l':
		return 3
	}
	if fold && len(s) >= i+3 && s[i+1:i+3] == "ſ" { // the long s folds to s
		return 3
	}
	return 0
}

// spaces matches \s+(?!\S)|\s+ at i, where a space begins.
func spaces(s string, i int) int {
	end, last := i, i
	for {
		c, n := classAt(s, end)
		if n == 0 {
			return end // at the end of the text the look-ahead holds
		}
		if c != space && c != newline {
			break
		}
		last = end
		end += n
	}
	if last > i {
		return last // the last space belongs to what follows
	}
	return end
}

func nextGPT2(s string, i int) int {
	if n := contraction(s, i, false); n > 0 {
		return i + n
	}
	start := i
	c, n := classAt(s, i)
	if s[i] == ' ' {
		if c2, n2 := classAt(s, i+1); n2 > 0 && c2 != space && c2 != newline {
			c, n, start = c2, n2, i+1
		}
	}
	if c == space || c == newline {
		return spaces(s, i)
	}
	return while(s, start+n, c)
}

func nextCL100K(s string, i, digits int) int {
	if n := contraction(s, i, true); n > 0 {
		return i + n
	}
	c, n := classAt(s, i)
	switch c {
	case letter:
		return while(s, i+n, letter)
	case number:
		end := i + n
		for k := 1; k < digits; k++ {
			c, n := classAt(s, end)
			if n == 0 || c != number {
				break
			}
			end += n
		}
		return end
	case other, space:
		c2, n2 := classAt(s, i+n)
		if n2 > 0 && c2 == letter {
			return while(s, i+n+n2, letter)
		}
		if c == other {
			return newlines(s, while(s, i+n, other))
		}
		if s[i] == ' ' && n2 > 0 && c2 == other {
			return newlines(s, while(s, i+n+n2, other))
		}
	}
	// \s*[\r\n]+ reaches to the last newline of the run of spaces.
	end, last := i, -1
	for {
		c, n := classAt(s, end)
		if n == 0 || c != space && c != newline {
			break
		}
		end += n
		if c == newline {
			last = end
		}
	}
	if last >= 0 {
		return last
	}
	return spaces(s, i)
}

func newlines(s string, i int) int {
	for i < len(s) && (s[i] == '\n' || s[i] == '\r') {
		i++
	}
	return i
}
