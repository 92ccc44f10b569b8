// Package pytext holds Python's string methods where Go's differ: full case mappings (ß becomes SS, a sigma that ends a word its final form), and
// what counts as a digit, a number or a printable character. Templates and metrics of Python programs depend on them.
package pytext

import (
	"strings"
	"unicode"

	"golang.org/x/text/cases"
	"golang.org/x/text/language"
)

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// Lower is str.lower(): İ becomes two characters, and a sigma that ends a word its final form.
func Lower(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	r := []rune(s)
	var b strings.Builder
	b.Grow(len(s))
	for i := range r {
		lowerAt(&b, r, i)
	}
	return b.String()
}

// lowerAt writes the lower form of a character in its surroundings.
func lowerAt(b *strings.Builder, r []rune, i int) {
	switch c := r[i]; {
	case c == 'İ':
		b.WriteString("i̇")
	case c == 'Σ' && finalSigma(r, i):
		b.WriteRune('ς')
	default:
		b.WriteRune(unicode.ToLower(c))
	}
}

// finalSigma is Unicode's Final_Sigma: a cased letter before and none after, case-ignorable marks skipped.
func finalSigma(r []rune, i int) bool {
	j := i - 1
	for j >= 0 && caseIgnorable(r[j]) {
		j--
	}
	if j < 0 || !cased(r[j]) {
		return false
	}
	j = i + 1
	for j < len(r) && caseIgnorable(r[j]) {
		j++
	}
	return j == len(r) || !cased(r[j])
}

func isUpper(r rune) bool { return unicode.In(r, unicode.Lu, unicode.Other_Uppercase) }

func isLower(r rune) bool { return unicode.In(r, unicode.Ll, unicode.Other_Lowercase) }

func cased(r rune) bool { return isUpper(r) || isLower(r) || unicode.Is(unicode.Lt, r) }

func caseIgnorable(r rune) bool {
	return unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf, unicode.Lm, unicode.Sk) || strings.ContainsRune("'.:·’‧", r)
}

// Upper is str.upper(), with the mappings to more than one character.
func Upper(s string) string {
	if isASCII(s) {
		return strings.ToUpper(s)
	}
	return cases.Upper(language.Und).String(s)
}

// title is the title form of one character.
func title(r rune) string {
	if r < 0x80 {
		return string(unicode.ToUpper(r))
	}
	return cases.Title(language.Und, cases.NoLower).String(string(r))
}

// Title is str.title(): a character behind a cased one is lower, any other has its title form.
func Title(s string) string {
	r := []rune(s)
	var b strings.Builder
	before := false
	for i, c := range r {
		if before {
			lowerAt(&b, r, i)
		} else {
			b.WriteString(title(c))
		}
		before = cased(c)
	}
	return b.String()
}

// Capitalize is str.capitalize().
func Capitalize(s string) string {
	r := []rune(s)
	var b strings.Builder
	for i, c := range r {
		if i > 0 {
			lowerAt(&b, r, i)
		} else {
			b.WriteString(title(c))
		}
	}
	return b.String()
}

// SwapCase is str.swapcase().
func SwapCase(s string) string {
	r := []rune(s)
	var b strings.Builder
	for i, c := range r {
		switch {
		case isUpper(c):
			lowerAt(&b, r, i)
		case isLower(c):
			b.WriteString(Upper(string(c)))
		default:
			b.WriteRune(c)
		}
	}
	return b.String()
}

// Fold is str.casefold().
func Fold(s string) string { return cases.Fold().String(s) }
