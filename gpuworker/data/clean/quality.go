package clean

import (
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data"
)

// boilerplate are lines that pages carry and nobody wrote for the reader of the text.
var boilerplate = regexp.MustCompile(`(?i)^\W*(?:copyright\b.*|©.*|\(c\) ?\d{4}.*|all rights reserved\W*|.*\ball rights reserved\W*|we use cookies\b.*|this (?:web)?site uses cookies\b.*|accept (?:all )?cookies\W*|` +
	`privacy policy\W*|terms (?:of (?:use|service)|and conditions)\W*|click here to .{0,60}|read more\W*|continue reading\W*|skip to (?:main )?content\W*|back to top\W*|share (?:this|on) .{0,40}|` +
	`subscribe to (?:our|the) newsletter.*|sign up for .{0,40}newsletter.*|follow us on .{0,60}|advertisement\W*|sponsored( content)?\W*|powered by \w+\W*|related (?:posts|articles)\W*|leave a (?:comment|reply)\W*|` +
	`版权所有.*|未经(?:许可|授权).{0,30}(?:转载|复制).*|转载请注明.*|点击(?:阅读|查看)(?:原文|更多|全文).*|阅读原文\W*|返回顶部\W*|上一篇.{0,60}|下一篇.{0,60}|扫(?:一扫|码).{0,20}关注.*|关注.{0,20}公众号.*|责任编辑.{0,20}|` +
	`本文来(?:自|源).{0,40}|广告\W*|分享到.{0,30}|免责声明.{0,20}|(?:粤|京|沪|浙|苏|川|鄂|鲁|闽|湘|皖|豫|冀|陕|津|渝)?ICP(?:备|证).*|隐私政策\W*|用户协议\W*|Cookie ?政策\W*)$`)

// dropBoilerplate takes such lines out and counts them; a text that would be empty stays as it is.
func dropBoilerplate(s string) (string, int) {
	if s == "" {
		return s, 0
	}
	lines := strings.Split(s, "\n")
	kept := make([]string, 0, len(lines))
	for _, l := range lines {
		if t := strings.TrimSpace(l); t != "" && len(t) < 300 && boilerplate.MatchString(t) {
			continue
		}
		kept = append(kept, l)
	}
	n := len(lines) - len(kept)
	out := strings.TrimSpace(strings.Join(kept, "\n"))
	if n == 0 || out == "" {
		return s, 0
	}
	return out, n
}

// mojibake is UTF-8 read as Latin-1 or GBK and written again.
var mojibake = regexp.MustCompile(`(?:Ã[\x{80}-\x{bf}©¨¤¶¼]|â€[™œž“”¦]|Â[\x{a0}-\x{bf}]){2}|锟斤拷|烫烫烫|屯屯屯|ï»¿`)

// maybeMojibake reports whether a text holds what every match of mojibake begins with: searching for that is many times as fast.
func maybeMojibake(s string) bool {
	for _, w := range []string{"Ã", "â€", "Â", "锟斤拷", "烫烫烫", "屯屯屯", "ï»¿"} {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

var cutMarkup = regexp.MustCompile(`(?i)^<(?:!doctype|html|head|body|script|div|table)\b`)

// broken says why a row is not worth training on, "" when it is.
func broken(r *data.Row) string {
	user, answer := r.User(), r.Answer()
	if strings.TrimSpace(user) == "" {
		return "empty"
	}
	if r.Prompt != "" && strings.TrimSpace(answer) == "" {
		return "no answer"
	}
	for _, s := range []string{user, answer} {
		if why := damaged(s); why != "" {
			return why
		}
	}
	return ""
}

func damaged(s string) string {
	if s == "" {
		return ""
	}
	total, letters, marks, replaced := 0, 0, 0, 0
	ascii := true
	for _, c := range s {
		total++
		if c < utf8.RuneSelf {
			switch {
			case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
				letters++
			case c != ' ' && (c < '\t' || c > '\r'):
				marks++
			}
			continue
		}
		ascii = false
		switch {
		case c == utf8.RuneError || unicode.Is(unicode.Co, c):
			replaced++
		case unicode.IsLetter(c) || unicode.IsDigit(c):
			letters++
		case !unicode.IsSpace(c):
			marks++
		}
	}
	switch {
	case replaced*50 > total:
		return "wrongly decoded"
	case !ascii && maybeMojibake(s) && mojibake.MatchString(s):
		return "wrongly decoded"
	case total >= 20 && letters*5 < marks:
		return "hardly any letters"
	case strings.HasPrefix(strings.TrimSpace(s), "<") && cutMarkup.MatchString(strings.TrimSpace(s)) && !strings.Contains(s, "</"):
		return "cut markup"
	case repetitive(s):
		return "the same over and over"
	}
	return ""
}

// repetitive reports whether a text of some length consists mostly of one repeated piece: its lines, or runs of its words (Gopher's filter,
// Rae et al. 2021, with thresholds of our own).
func repetitive(s string) bool {
	if lines := strings.FieldsFunc(s, func(c rune) bool { return c == '\n' }); len(lines) >= 8 && share(hashes(lines)) > 0.6 {
		return true
	}
	words := strings.Fields(s)
	if len(words) < 12 { // scripts without blanks: by character
		words = strings.Split(s, "")
		if len(words) < 40 {
			return false
		}
	}
	const n = 4
	grams := hashes(words)
	for i := 0; i+n <= len(words); i++ {
		g := uint64(0)
		for _, w := range grams[i : i+n] {
			g = (g ^ w) * 0x9e3779b97f4a7c15
			g ^= g >> 32
		}
		grams[i] = g
	}
	grams = grams[:max(0, len(words)-n+1)]
	return len(grams) >= 12 && share(grams) > 0.6
}

// hashes tells texts apart by 64 bits (FNV-1a).
func hashes(texts []string) []uint64 {
	out := make([]uint64, len(texts))
	for i, t := range texts {
		h := uint64(0xcbf29ce484222325)
		for k := range len(t) {
			h = (h ^ uint64(t[k])) * 0x100000001b3
		}
		out[i] = h
	}
	return out
}

// share of units that repeat an earlier one.
func share(units []uint64) float64 {
	seen := make(map[uint64]struct{}, len(units))
	for _, u := range units {
		seen[u] = struct{}{}
	}
	return float64(len(units)-len(seen)) / float64(len(units))
}

// stopWords are frequent short words that tell the languages of the Latin script apart.
var stopWords = map[string]string{
	"en": " the of and to in is that for it with as was on are be this by from or have an you not at which your can how what do does please my me write give find make who when where why their them these than has all ",
	"de": " der die das und ist nicht ein eine zu den mit auf für von im dem sich des es auch wie ich sie bei oder aus nach werden wird sind ",
	"fr": " le la les des et est un une pour dans que qui sur pas au avec ce il du en vous nous sont par plus comme cette être ",
	"es": " el la los las de y que es en un una por con para no se del al su como más este está son pero sus ",
	"it": " il la di che è un una per non con del della sono gli le si da nel alla come più anche questo ma dei ",
	"pt": " o a os as de e que é um uma para com não do da em no na por mais como dos ao são você ",
	"nl": " de het een en van is dat op te in niet met voor zijn aan er om ook als bij naar door wordt deze ",
}

// stopLanguages are the languages of each of those words.
var stopLanguages = func() map[string][]string {
	out := map[string][]string{}
	for l, list := range stopWords {
		for _, w := range strings.Fields(list) {
			if !slices.Contains(out[w], l) {
				out[w] = append(out[w], l)
			}
		}
	}
	return out
}()

// DetectLanguage tells the language of a text by its script, and the Latin ones by their most frequent words; "" when it is too short or in none
// of them.
func DetectLanguage(s string) string {
	var letters, han, ja, ko, ru, ar, latin int
	for _, c := range s {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
			letters++
			latin++
			continue
		case !unicode.IsLetter(c):
			continue
		}
		letters++
		switch {
		case unicode.Is(unicode.Han, c):
			han++
		case unicode.In(c, unicode.Hiragana, unicode.Katakana):
			ja++
		case unicode.Is(unicode.Hangul, c):
			ko++
		case unicode.Is(unicode.Cyrillic, c):
			ru++
		case unicode.Is(unicode.Arabic, c):
			ar++
		case unicode.Is(unicode.Latin, c):
			latin++
		}
	}
	if letters < 2 {
		return ""
	}
	switch {
	case ja*10 > letters || ja > 0 && ja*4 > han && han+ja > latin/3:
		return "ja"
	case ko*3 > letters:
		return "ko"
	case ru*2 > letters:
		return "ru"
	case ar*2 > letters:
		return "ar"
	case han*3 > latin: // a word has several letters, a Han character is about half a word
		return "zh"
	case latin*2 > letters:
		return latinLanguage(s)
	}
	return ""
}

func latinLanguage(s string) string {
	best, most, words := "", 0, 0
	hits := map[string]int{}
	for _, w := range strings.FieldsFunc(strings.ToLower(s), func(c rune) bool { return !unicode.IsLetter(c) }) {
		words++
		for _, l := range stopLanguages[w] {
			hits[l]++
		}
	}
	for l, n := range hits {
		if n > most || n == most && (l == "en" || best != "en" && l < best) {
			best, most = l, n
		}
	}
	if words < 3 {
		return ""
	}
	if most == 0 && isPlain(s) {
		return "en" // no accents and no word of another language
	}
	return best
}

func isPlain(s string) bool {
	for _, c := range s {
		if c >= 0x80 && unicode.IsLetter(c) {
			return false
		}
	}
	return true
}
