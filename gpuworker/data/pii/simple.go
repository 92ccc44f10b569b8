package pii

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

var (
	emailRE = regexp.MustCompile(`[A-Za-z0-9](?:[A-Za-z0-9._%+'-]{0,62}[A-Za-z0-9_%+-])?@(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,6}[A-Za-z]{2,24}`)
	// spelledRE is an address written to fool harvesters.
	spelledRE = regexp.MustCompile(`(?i)[a-z0-9][a-z0-9._+-]{0,62} ?[\[({<] ?at ?[\])}>] ?(?:[a-z0-9-]{1,63} ?(?:[\[({<] ?dot ?[\])}>]|\.) ?){1,4}[a-z]{2,10}\b`)
	// fileEndings are what looks like a top-level domain in icon@2x.png.
	fileEndings = []string{"png", "jpg", "jpeg", "gif", "svg", "webp", "ico", "css", "js", "ts", "json", "html", "pdf", "txt", "zip", "py", "go", "mp4"}
)

func (d *doc) emails() []Span {
	var out []Span
	if strings.Contains(d.s, "@") {
		for _, m := range emailRE.FindAllStringIndex(d.s, -1) {
			start, end := d.pos(m[0]), d.pos(m[1])
			before, after := d.char(start-1), d.char(end)
			host := d.s[m[0]:m[1]]
			ending := strings.ToLower(host[strings.LastIndexByte(host, '.')+1:])
			switch {
			case isAlnum(before) || before == '@' || before == '_' || before == '/':
			case isAlnum(after) || after == '_' || after == '@' || after == '-' && isAlnum(d.char(end+1)):
			case after == ':' && d.char(end+1) != ' ' && (isLetter(d.char(end+1)) || d.char(end+1) == '/' || d.char(end+1) == '~'): // git@host:path
			case slices.Contains(fileEndings, ending):
			default:
				out = append(out, Span{start, end, Email})
			}
		}
	}
	if maybeSpelled(d.s) {
		for _, m := range spelledRE.FindAllStringIndex(d.s, -1) {
			out = append(out, Span{d.pos(m[0]), d.pos(m[1]), Email})
		}
	}
	return out
}

// maybeSpelled reports whether spelledRE can match at all: "at" in brackets.
func maybeSpelled(s string) bool {
	for {
		i := strings.IndexAny(s, "[({<")
		if i < 0 {
			return false
		}
		s = s[i+1:]
		in := strings.TrimPrefix(s, " ")
		if len(in) < 3 || !strings.EqualFold(in[:2], "at") {
			continue
		}
		if end := strings.TrimPrefix(in[2:], " "); end != "" && strings.IndexByte("])}>", end[0]) >= 0 {
			return true
		}
	}
}

// ibanLengths are the lengths by country (the SWIFT registry).
var ibanLengths = map[string]int{"AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21,
	"CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23,
	"GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
	"LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24,
	"PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25, "SV": 28, "TL": 23,
	"TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20}

// ibans reads from every country code and two digits as many characters as the country's accounts have, blanks and dashes between allowed.
func (d *doc) ibans() []Span {
	var out []Span
	for i := 0; i+15 <= len(d.r); i++ {
		if !isLetter(d.r[i]) || !isLetter(d.r[i+1]) || !isDigit(d.r[i+2]) || !isDigit(d.r[i+3]) || isAlnum(d.char(i-1)) {
			continue
		}
		n := ibanLengths[strings.ToUpper(string(d.r[i:i+2]))]
		if n == 0 {
			continue
		}
		var text []byte
		j := i
		for ; j < len(d.r) && len(text) < n; j++ {
			c := d.r[j]
			if isAlnum(c) {
				text = append(text, byte(c))
			} else if c != ' ' && c != '-' || j == i || !isAlnum(d.r[j-1]) {
				break
			}
		}
		if len(text) == n && !isAlnum(d.char(j)) && mod97(strings.ToUpper(string(text))) {
			out = append(out, Span{i, j, IBAN})
			i = j
		}
	}
	return out
}

// mod97 is ISO 13616's check: the account before the country, letters as 10 to 35, leaves 1.
func mod97(s string) bool {
	rem := 0
	for _, c := range s[4:] + s[:4] {
		if c >= 'A' {
			rem = (rem*100 + int(c-'A') + 10) % 97
		} else {
			rem = (rem*10 + int(c-'0')) % 97
		}
	}
	return rem == 1
}

// versionWords stand before numbers with dots that are no addresses.
var versionWords = regexp.MustCompile(`(?i)(?:\bv|\bver|\bversions?|\brelease|\bbuild|\bfirmware|\bsdk|\brev|\brevision|\bsection|\bsec|\bchapter|\bclause|\bfigure|\boid|\bcuda|\bpython|\bjava|\bnode(?:\.js)?|\bandroid|\bios|\bwindows|\bchrome|\bfirefox|\bnginx|\bmysql|\bredis|\blinux|\bkernel|\bdriver|\bapp|\bupgrade[ds]? (?:from|to)|\bupdate[ds]? (?:from|to)|` +
	`版本|版本号|版|软件|客户端|固件|内核|章节|章|节|条款|条|第|升级到|升级至|更新到|更新至|回退到)[ .:：=为是到至#]{0,3}$`)

// addressWords tell that four single digits are an address.
var addressWords = regexp.MustCompile(`(?i)(?:\bip|地址|\bdns\b|\bhost|\bserver|\bping|\bfrom\b|服务器|网关|主机|来自|来源|访问|登录|\baddress|@|//)`)

// versionSuffix stands behind them.
var versionSuffix = regexp.MustCompile(`^[ ]?(?:版|版本|版的|节|章|小节|条|release\b|build\b|version\b|-(?:rc|beta|alpha|snapshot|release|dev)\b)`)

var ipv4RE = regexp.MustCompile(`\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}`)

func (d *doc) ips() []Span {
	var out []Span
	if strings.Count(d.s, ":") >= 2 {
		out = append(out, d.ipv6()...)
	}
	if strings.Count(d.s, ".") >= 3 {
		for _, m := range ipv4RE.FindAllStringIndex(d.s, -1) {
			start, end := d.pos(m[0]), d.pos(m[1])
			before, after := d.char(start-1), d.char(end)
			if _, err := netip.ParseAddr(d.s[m[0]:m[1]]); err != nil {
				continue
			}
			if isAlnum(before) || before == '.' || before == '_' || before == '-' && !isDigit(d.char(start-2)) || isAlnum(after) || after == '_' || after == '.' && isAlnum(d.char(end+1)) ||
				after == '-' && isAlnum(d.char(end+1)) && !ipv4RE.MatchString(string(d.r[end+1:min(len(d.r), end+16)])) {
				continue
			}
			if versionWords.MatchString(window(d.s[:m[0]], 40)) || versionSuffix.MatchString(d.s[m[1]:min(len(d.s), m[1]+16)]) {
				continue
			}
			if m[1]-m[0] == 7 && !addressWords.MatchString(window(d.s[:m[0]], 40)) { // 2.3.4.5 is a list as often as an address
				continue
			}
			if before == '/' && isAlnum(d.char(start-2)) && !strings.Contains(window(d.s[:m[0]], 8), "//") { // Chrome/12.0.0.1
				continue
			}
			out = append(out, Span{start, end, IP})
		}
	}
	return out
}

// ipv6 tries every run of hexadecimal digits, colons and dots.
func (d *doc) ipv6() []Span {
	var out []Span
	in := func(c rune) bool {
		return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' || c == ':' || c == '.'
	}
	for i := 0; i < len(d.r); {
		if !in(d.r[i]) {
			i++
			continue
		}
		j := i
		for j < len(d.r) && in(d.r[j]) {
			j++
		}
		from, to := i, j
		i = j
		for to > from && (d.r[to-1] == '.' || d.r[to-1] == ':' && (to-from < 2 || d.r[to-2] != ':')) {
			to--
		}
		if from < to && d.r[from] == ':' && d.char(from+1) != ':' { // "IP:2001:db8::1"
			from++
		}
		text := string(d.r[from:to])
		if strings.Count(text, ":") < 2 || len(text) > 45 || isAlnum(d.char(from-1)) || d.char(from-1) == '_' || isAlnum(d.char(to)) || d.char(to) == '_' {
			continue
		}
		// Without a digit or three groups it is more likely a name with a scope in a program.
		if !strings.ContainsAny(text, "0123456789") && strings.Count(text, ":") < 4 {
			continue
		}
		if a, err := netip.ParseAddr(text); err != nil || !a.Is6() || text == "::" {
			continue
		}
		out = append(out, Span{from, to, IP})
	}
	return out
}

// window is the last n bytes of a string, cut at a character.
func window(s string, n int) string {
	if len(s) <= n {
		return s
	}
	s = s[len(s)-n:]
	for s != "" && s[0]&0xc0 == 0x80 {
		s = s[1:]
	}
	return s
}

var (
	// passportWords announce a number; the words between them and it hold no other number.
	passportWords = regexp.MustCompile(`(?i)(?:passports?|pass(?:port)?[ -]?(?:no|nr|number|nummer)|reisepass(?:nummer)?|travel document|护照)[^0-9\n。；;!?！？]{0,32}$`)
	passportAfter = regexp.MustCompile(`(?i)^[ ,，（(]{0,3}(?:是|为|is|was|\()?[^0-9A-Z\n。；;.]{0,14}(?:passport|护照)`)
	// passportRE: China (E or G and 8 digits, E, a letter and 7, D/S/P for officials, H or M of Hong Kong and Macao), the United States (9
	// digits, or a letter and 8), the United Kingdom (9 digits), Germany (9 of digits and consonants), and most others' letters and digits.
	passportRE    = regexp.MustCompile(`^(?:[A-Z]{1,2} ?\d{6,8}|\d{9}|[CFGHJKLMNPRTVWXYZ][0-9CFGHJKLMNPRTVWXYZ]{8}\d?|\d{2}[A-Z]{2}\d{5})$`)
	passportToken = regexp.MustCompile(`(?:[A-Z]{1,2} )?[A-Z0-9]{7,10}`)
	notPassport   = regexp.MustCompile(`(?i)(?:visa|签证|phone|tel|电话|手机|order|订单|application|申请|受理|appointment|预约|receipt|tracking|date|日期|issued|expires?|birth)[^0-9\n]{0,16}$`)
)

func (d *doc) passports() []Span {
	lower := strings.ToLower(d.s)
	if !strings.Contains(lower, "pass") && !strings.Contains(lower, "travel doc") && !strings.Contains(d.s, "护照") {
		return nil
	}
	var out []Span
	for _, m := range passportToken.FindAllStringIndex(d.s, -1) {
		start, end := d.pos(m[0]), d.pos(m[1])
		text := d.s[m[0]:m[1]]
		if space := strings.IndexByte(text, ' '); space >= 0 && (space > 2 || !passportRE.MatchString(text)) { // "NR C01X00T47"
			start, text = start+space+1, text[space+1:]
			m[0] += space + 1
		}
		if !passportRE.MatchString(text) || isAlnum(d.char(start-1)) || isAlnum(d.char(end)) || d.char(start-1) == '-' || d.char(end) == '-' && isAlnum(d.char(end+1)) ||
			!strings.ContainsAny(text, "0123456789") {
			continue
		}
		before := window(d.s[:m[0]], 64)
		announced := passportWords.MatchString(before) && !notPassport.MatchString(before)
		if !announced && isLetter(rune(text[0])) {
			announced = passportAfter.MatchString(d.s[m[1]:min(len(d.s), m[1]+64)])
		}
		if announced {
			out = append(out, Span{start, end, Passport})
		}
	}
	return out
}
