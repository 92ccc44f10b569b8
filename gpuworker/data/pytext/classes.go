package pytext

import (
	"strings"
	"unicode"
)

// digits are the characters of Numeric_Type=Digit that are no decimals: str.isdigit() takes them.
var digits = [][2]rune{
	{0x00b2, 0x00b3}, {0x00b9, 0x00b9}, {0x1369, 0x1371}, {0x19da, 0x19da}, {0x2070, 0x2070}, {0x2074, 0x2079}, {0x2080, 0x2089},
	{0x2460, 0x2468}, {0x2474, 0x247c}, {0x2488, 0x2490}, {0x24ea, 0x24ea}, {0x24f5, 0x24fd}, {0x24ff, 0x24ff}, {0x2776, 0x277e},
	{0x2780, 0x2788}, {0x278a, 0x2792}, {0x10a40, 0x10a43}, {0x10e60, 0x10e68}, {0x11052, 0x1105a}, {0x1f100, 0x1f10a},
}

// numerals are the characters with a numeric value that are letters: str.isnumeric() takes them.
var numerals = [][2]rune{
	{0x3405, 0x3405}, {0x3483, 0x3483}, {0x382a, 0x382a}, {0x3b4d, 0x3b4d}, {0x4e00, 0x4e00}, {0x4e03, 0x4e03}, {0x4e07, 0x4e07},
	{0x4e09, 0x4e09}, {0x4e5d, 0x4e5d}, {0x4e8c, 0x4e8c}, {0x4e94, 0x4e94}, {0x4e96, 0x4e96}, {0x4ebf, 0x4ec0}, {0x4edf, 0x4edf},
	{0x4ee8, 0x4ee8}, {0x4f0d, 0x4f0d}, {0x4f70, 0x4f70}, {0x5104, 0x5104}, {0x5146, 0x5146}, {0x5169, 0x5169}, {0x516b, 0x516b},
	{0x516d, 0x516d}, {0x5341, 0x5341}, {0x5343, 0x5345}, {0x534c, 0x534c}, {0x53c1, 0x53c4}, {0x56db, 0x56db}, {0x58f1, 0x58f1},
	{0x58f9, 0x58f9}, {0x5e7a, 0x5e7a}, {0x5efe, 0x5eff}, {0x5f0c, 0x5f0e}, {0x5f10, 0x5f10}, {0x62fe, 0x62fe}, {0x634c, 0x634c},
	{0x67d2, 0x67d2}, {0x6f06, 0x6f06}, {0x7396, 0x7396}, {0x767e, 0x767e}, {0x8086, 0x8086}, {0x842c, 0x842c}, {0x8cae, 0x8cae},
	{0x8cb3, 0x8cb3}, {0x8d30, 0x8d30}, {0x9621, 0x9621}, {0x9646, 0x9646}, {0x964c, 0x964c}, {0x9678, 0x9678}, {0x96f6, 0x96f6},
	{0xf96b, 0xf96b}, {0xf973, 0xf973}, {0xf978, 0xf978}, {0xf9b2, 0xf9b2}, {0xf9d1, 0xf9d1}, {0xf9d3, 0xf9d3}, {0xf9fd, 0xf9fd},
	{0x20001, 0x20001}, {0x20064, 0x20064}, {0x200e2, 0x200e2}, {0x20121, 0x20121}, {0x2092a, 0x2092a}, {0x20983, 0x20983}, {0x2098c, 0x2098c},
	{0x2099c, 0x2099c}, {0x20aea, 0x20aea}, {0x20afd, 0x20afd}, {0x20b19, 0x20b19}, {0x22390, 0x22390}, {0x22998, 0x22998}, {0x23b1b, 0x23b1b},
	{0x2626d, 0x2626d}, {0x2f890, 0x2f890},
}

func within(r rune, ranges [][2]rune) bool {
	for _, x := range ranges {
		if r >= x[0] && r <= x[1] {
			return true
		}
	}
	return false
}

func isDigit(r rune) bool { return unicode.Is(unicode.Nd, r) || within(r, digits) }

func isAlnum(r rune) bool { return unicode.IsLetter(r) || unicode.IsNumber(r) }

// Is is one of Python's tests of a whole string, by the method's name: isalnum, isalpha, isascii, isdecimal, isdigit, isidentifier, islower,
// isnumeric, isprintable, isspace, istitle, isupper. False for any other name.
func Is(name, s string) bool {
	switch name {
	case "isascii":
		return isASCII(s)
	case "islower", "isupper", "istitle":
		return isCase(name, s)
	}
	of := func(rune) bool { return false }
	switch name {
	case "isalnum":
		of = isAlnum
	case "isalpha":
		of = unicode.IsLetter
	case "isdecimal":
		of = func(r rune) bool { return unicode.Is(unicode.Nd, r) }
	case "isdigit":
		of = isDigit
	case "isnumeric":
		of = func(r rune) bool { return unicode.IsNumber(r) || within(r, numerals) }
	case "isspace":
		of = IsSpace
	case "isprintable":
		of = unicode.IsPrint
	case "isidentifier":
		first := true
		of = func(r rune) bool {
			ok := r == '_' || unicode.In(r, unicode.L, unicode.Nl, unicode.Other_ID_Start) ||
				!first && unicode.In(r, unicode.Mn, unicode.Mc, unicode.Nd, unicode.Pc, unicode.Other_ID_Continue)
			first = false
			return ok
		}
	}
	for _, r := range s {
		if !of(r) {
			return false
		}
	}
	return s != "" || name == "isprintable"
}

// isCase is islower, isupper and istitle.
func isCase(name, s string) bool {
	found, before := false, false
	for _, r := range s {
		up := isUpper(r) || unicode.Is(unicode.Lt, r)
		low := isLower(r)
		switch name {
		case "islower":
			if up {
				return false
			}
		case "isupper":
			if low || unicode.Is(unicode.Lt, r) {
				return false
			}
		default:
			if up && before || low && !before {
				return false
			}
			before = up || low
		}
		found = found || up || low
	}
	return found
}

// space are the characters that str.strip() removes.
const space = " \t\n\v\f\r\x1c\x1d\x1e\x1f\u0085\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"

// IsSpace is str.isspace() of one character.
func IsSpace(r rune) bool { return strings.ContainsRune(space, r) }
