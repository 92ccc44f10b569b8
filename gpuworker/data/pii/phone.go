package pii

import (
	"regexp"
	"slices"
	"strings"
)

// phone finds phone numbers: international ones after a plus, Chinese mobiles and landlines, North American, British and other national
// forms that begin with 0.
func (c *cluster) phone(i int) (Span, int) {
	if s, n := c.international(i); n > 0 {
		return s, n
	}
	for n := min(6, len(c.groups)-i); n >= 1; n-- {
		kind := c.national(i, n)
		if kind == notPhone {
			continue
		}
		start, end := c.bounds(i, n)
		whole := c.extension(end, i+n)
		if !c.freeBefore(start, i) || whole == end && !c.freeAfter(end, i+n) || c.measured(end) {
			continue
		}
		k := c.d.context(start)
		if k == "other" || kind == needsWord && k != "phone" || k == "card" || k == "id" {
			continue
		}
		// Blanks only, and more groups on a side: a table of numbers rather than a phone.
		if n > 1 && k != "phone" && c.blanksOnly(i, n) && (i > 0 && c.groups[i].sep == " " || i+n < len(c.groups) && c.groups[i+n].sep == " ") && kind != surePhone {
			continue
		}
		return Span{start, whole, Phone}, n
	}
	return Span{}, 0
}

// bounds are the span of groups with the parentheses and the plus that belong to them.
func (c *cluster) bounds(i, n int) (start, end int) {
	start, end = c.groups[i].start, c.groups[i+n-1].end
	if c.d.char(start-1) == '(' && c.closes(i, n) {
		start--
	}
	return start, end
}

// closes reports whether a parenthesis before group i is closed within the groups.
func (c *cluster) closes(i, n int) bool {
	for _, g := range c.groups[i+1 : i+n] {
		if strings.Contains(g.sep, ")") {
			return true
		}
	}
	return false
}

func (c *cluster) blanksOnly(i, n int) bool {
	for _, g := range c.groups[i+1 : i+n] {
		if g.sep != " " {
			return false
		}
	}
	return true
}

// units stand behind amounts.
var units = regexp.MustCompile(`^ ?(?:元|块|美元|美金|欧元|英镑|日元|万|亿|千|个|件|台|米|公里|克|千克|公斤|吨|人|次|条|字节|秒|毫秒|岁|年|%|(?i:usd|eur|cny|rmb|bytes?|kb|mb|gb|users?|items?|units?|people|ms|seconds?|steps?|tokens?|rows?|views?|km|kg|dollars?)\b)`)

func (c *cluster) measured(end int) bool {
	return units.MatchString(string(c.d.r[end:min(len(c.d.r), end+10)]))
}

type phoneKind int

const (
	notPhone phoneKind = iota
	// needsWord is a phone only behind a word that says so.
	needsWord
	likelyPhone
	surePhone
)

var (
	mobileRE = regexp.MustCompile(`^1[3-9]\d{9}$`)
	// landlineRE: Beijing, the cities with two-digit codes and 8 digits; three-digit codes and 7 or 8.
	landlineRE = regexp.MustCompile(`^0(?:10|2[0-57-9])[2-8]\d{7}$|^0[3-9]\d{2}[2-8]\d{6,7}$`)
	nanpRE     = regexp.MustCompile(`^1?[2-9]\d{2}[2-9]\d{6}$`)
)

// national classifies groups i to i+n by their lengths and digits.
func (c *cluster) national(i, n int) phoneKind {
	lens := make([]int, n)
	seps := map[string]bool{}
	for k, g := range c.groups[i : i+n] {
		lens[k] = g.len()
		if k > 0 {
			seps[strings.Trim(g.sep, " ()")] = true
			if len(g.sep) > 2 || strings.Contains(g.sep, "/") {
				return notPhone
			}
		}
	}
	if seps["."] && len(seps) > 1 || len(seps) > 2 {
		return notPhone
	}
	digits := c.digits(i, n)
	if len(digits) < 7 {
		return notPhone
	}
	is := func(want ...int) bool { return slices.Equal(lens, want) }
	switch {
	case mobileRE.MatchString(digits) && (is(11) || is(3, 4, 4) || is(3, 3, 5) || is(4, 3, 4) || is(5, 6)):
		return surePhone
	case (strings.HasPrefix(digits, "86") && mobileRE.MatchString(digits[2:]) && (is(13) || is(2, 11) || is(2, 3, 4, 4))) ||
		strings.HasPrefix(digits, "0086") && mobileRE.MatchString(digits[4:]) && (is(15) || is(4, 11) || is(4, 3, 4, 4)):
		return surePhone
	case landlineRE.MatchString(digits) && n == 1:
		return needsWord
	case landlineRE.MatchString(digits) && (lens[0] == 3 || lens[0] == 4) && (n == 2 || is(3, 4, 4) || is(4, 4, 4) || is(4, 3, 4)):
		return likelyPhone
	case (strings.HasPrefix(digits, "400") || strings.HasPrefix(digits, "800")) && (is(3, 3, 4) || is(3, 4, 3)):
		return likelyPhone
	case nanpRE.MatchString(digits) && (is(3, 3, 4) || is(1, 3, 3, 4)):
		return likelyPhone
	case strings.HasPrefix(digits, "001") && nanpRE.MatchString(digits[2:]) && is(3, 3, 3, 4):
		return likelyPhone
	case nanpRE.MatchString(digits) && is(3, 7) && c.closes(i, n):
		return likelyPhone
	case nanpRE.MatchString(digits) && (is(10) || is(11) || is(3, 7) || is(6, 4)):
		return needsWord
	case digits[0] == '0' && digits[1] != '0' && !seps["."]:
		return trunk(digits, lens, n)
	case len(digits) >= 7 && len(digits) <= 8 && (is(3, 4) || is(4, 4)) && n == 2 && c.groups[i+1].sep == "-":
		return needsWord
	}
	return notPhone
}

// trunk are national numbers with the trunk prefix 0: British, French, German, Japanese ways of grouping.
func trunk(digits string, lens []int, n int) phoneKind {
	if len(digits) < 9 || len(digits) > 12 {
		return notPhone
	}
	if n == 1 {
		return needsWord
	}
	if slices.Equal(lens, []int{2, 2, 2, 2, 2}) && digits[1] != '0' {
		return likelyPhone
	}
	if lens[0] < 2 || lens[0] > 5 || n > 4 {
		return notPhone
	}
	for _, l := range lens[1:] {
		if l < 3 || l > 8 {
			return notPhone
		}
	}
	return likelyPhone
}

// callingCodes are the country codes of one and two digits; all of three digits begin with one of 21 to 26, 29, 35, 37, 38, 42, 50, 59,
// 67 to 69, 80, 85, 87, 88, 96 to 99.
var callingCodes = []string{"1", "7", "20", "27", "30", "31", "32", "33", "34", "36", "39", "40", "41", "43", "44", "45", "46", "47", "48", "49", "51", "52",
	"53", "54", "55", "56", "57", "58", "60", "61", "62", "63", "64", "65", "66", "81", "82", "84", "86", "90", "91", "92", "93", "94", "95", "98",
	"21", "22", "23", "24", "25", "26", "29", "35", "37", "38", "42", "50", "59", "67", "68", "69", "80", "85", "87", "88", "96", "97", "99"}

// international finds + and 8 to 15 digits (ITU-T E.164), in as many groups as fit.
func (c *cluster) international(i int) (Span, int) {
	start := c.groups[i].start
	plus := start - 1
	if c.d.char(plus) != '+' {
		return Span{}, 0
	}
	start = plus
	if c.d.char(start-1) == '(' {
		start--
	}
	if before := c.d.char(start - 1); isAlnum(before) || before == '+' || before == '_' {
		return Span{}, 0
	}
	digits := c.digits(i, 1)
	if !slices.ContainsFunc(callingCodes, func(code string) bool { return strings.HasPrefix(digits, code) }) {
		return Span{}, 0
	}
	best := 0
	for n := 1; n <= 7 && i+n <= len(c.groups); n++ {
		if n > 1 {
			g := c.groups[i+n-1]
			if strings.Contains(g.sep, "/") || len(g.sep) > 2 && !strings.ContainsAny(g.sep, "()") {
				break
			}
			// A number that stands for itself begins something else: "+44 20 7946 0958 2024-01-15".
			if g.sep == " " && best > 0 && (g.len() > 4 && best > 1 || mobileRE.MatchString(string(c.d.r[g.start:g.end]))) {
				break
			}
		}
		total := len(c.digits(i, n))
		if total > 15 {
			break
		}
		if most := countryMost(digits); total > most {
			break
		}
		if total >= 8 {
			best = n
		}
	}
	if best == 0 {
		return Span{}, 0
	}
	end := c.groups[i+best-1].end
	if c.d.char(start) == '(' && !c.closes(i, best) {
		start++
	}
	whole := c.extension(end, i+best)
	if after := c.d.char(end); whole == end && (isAlnum(after) || after == '_' || c.measured(end) && best == 1) {
		return Span{}, 0
	}
	return Span{start, whole, Phone}, best
}

// countryMost is the most digits of a number with its country code, where it is fixed.
func countryMost(first string) int {
	switch {
	case strings.HasPrefix(first, "1"), strings.HasPrefix(first, "7"):
		return 11
	case strings.HasPrefix(first, "86"):
		return 14
	case strings.HasPrefix(first, "44"), strings.HasPrefix(first, "33"), strings.HasPrefix(first, "61"):
		return 13
	case strings.HasPrefix(first, "852"), strings.HasPrefix(first, "853"):
		return 11
	}
	return 15
}

var extensionRE = regexp.MustCompile(`^(?: ?(?:ext\.?|extension|x|转|分机|#) ?\d{1,5}|-\d{1,5})`)

// extension takes the extension of a number in: "ext. 12", "转8012", "-801" behind a landline.
func (c *cluster) extension(end, next int) int {
	text := string(c.d.r[end:min(len(c.d.r), end+18)])
	m := extensionRE.FindString(text)
	if m == "" {
		return end
	}
	n := len([]rune(m))
	if after := c.d.char(end + n); isAlnum(after) || m[0] == '-' && (next >= len(c.groups) || after == '-') {
		return end
	}
	return end + n
}
