package pii

import (
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// group is a run of digits within a cluster; sep is what stands between the group before and it.
type group struct {
	start, end int
	sep        string
}

func (g group) len() int { return g.end - g.start }

// cluster is a chain of digit groups with one or two separators between them.
type cluster struct {
	d      *doc
	groups []group
}

func (c *cluster) digits(i, n int) string {
	var b strings.Builder
	for _, g := range c.groups[i : i+n] {
		b.WriteString(string(c.d.r[g.start:g.end]))
	}
	return b.String()
}

// numbers finds resident ids, cards and phones. What an IP address covers is left alone.
func (d *doc) numbers(ips []Span) []Span {
	var out []Span
	for i := 0; i < len(d.r); {
		if !isDigit(d.r[i]) {
			i++
			continue
		}
		c := d.cluster(i)
		i = c.groups[len(c.groups)-1].end
		for k := 0; k < len(c.groups); {
			s, used := c.number(k)
			if used == 0 || slices.ContainsFunc(ips, func(o Span) bool { return s.Start < o.End && o.Start < s.End }) {
				k++
				continue
			}
			out = append(out, s)
			k += used
		}
	}
	return out
}

// cluster collects the groups from a digit on.
func (d *doc) cluster(i int) *cluster {
	c := &cluster{d: d}
	sep := ""
	for i < len(d.r) && len(c.groups) < 64 {
		j := i
		for j < len(d.r) && isDigit(d.r[j]) {
			j++
		}
		c.groups = append(c.groups, group{i, j, sep})
		k := j
		for k < len(d.r) && k < j+3 && strings.ContainsRune(" -.()/", d.r[k]) {
			k++
		}
		if k == j || k >= len(d.r) || !isDigit(d.r[k]) {
			break
		}
		sep = string(d.r[j:k])
		i = k
	}
	return c
}

// number tries what may begin at group i, the surest first, and returns the find and how many groups it takes.
func (c *cluster) number(i int) (Span, int) {
	for _, try := range []func(int) (Span, int){c.residentID, c.card, c.phone} {
		if s, n := try(i); n > 0 {
			return s, n
		}
	}
	return Span{}, 0
}

// alone reports whether groups i to i+n, at start to end, are a number of their own: nothing glued on that would make them part of a longer
// code.
func (c *cluster) alone(start, end, i, n int) bool {
	return c.freeBefore(start, i) && c.freeAfter(end, i+n)
}

func (c *cluster) freeBefore(start, i int) bool {
	if i > 0 && start == c.groups[i].start && strings.Trim(c.groups[i].sep, " (") != "" {
		return false
	}
	before := c.d.char(start - 1)
	if isAlnum(before) || before != 0 && strings.ContainsRune("_-#$¥￥€£%*/\\&", before) {
		return false
	}
	return before != '.' && before != ',' || !isDigit(c.d.char(start-2))
}

func (c *cluster) freeAfter(end, next int) bool {
	if next < len(c.groups) {
		if sep := c.groups[next].sep; strings.Trim(sep, " ()") != "" && !strings.HasPrefix(sep, " ") && !strings.HasPrefix(sep, "/") {
			return false
		}
	}
	after := c.d.char(end)
	if isAlnum(after) || after == '_' || after == '%' || after == '@' {
		return false
	}
	return after == 0 || !strings.ContainsRune(".,-:", after) || !isAlnum(c.d.char(end+1))
}

// Words before a number that say what it is; the nearest counts.
var (
	phoneWords = regexp.MustCompile(`(?i)(?:\bphones?|\btel|\btelephone|\bmobile|\bcell|\bcall(?:ed|ing)?|\bcontact|\btext|\bsms|\bfax|\bwhatsapp|\bdial|\breach|\bring|\bhotline|电话|手机|联系|致电|拨打|拨|热线|座机|传真|来电|短信|微信同号|打给)`)
	cardWords  = regexp.MustCompile(`(?i)(?:\bcards?|\bvisa|\bmastercard|\bamex|\bamerican express|\bunionpay|\bdiscover|\bjcb|\bcredit|\bdebit|银行卡|卡号|信用卡|储蓄卡|借记卡|银联|账户|账号|尾号)`)
	idWords    = regexp.MustCompile(`(?i)(?:身份证|证件|\bid\b|\bresident|\bidentity|\bid card|户口)`)
	// otherWords must stand right before the number, fillers between.
	otherWords = regexp.MustCompile(`(?i)(?:\borders?|\btracking|\binvoice|\bserial|\bsku|\bref(?:erence)?|\bticket|\bcase|\bparcel|\bshipment|\btransaction|\bbatch|\blot\b|\bmodel|\bpart\b|\bisbn|\bimei|\bupc|\bean\b|\bbarcode|\bcoupon|\bcode|\bhash|\btimestamp|\bpo\b|\brma|\bdoi|\bpmid|\bcustomer (?:id|no)|\bmember(?:ship)? (?:id|no)|\buser ?id|\baccount (?:id|no)|\bproduct|` +
		`订单|单号|运单|快递|物流|流水|编号|序列|发票|工单|交易|合同|条码|条形码|批次|批号|货号|型号|券码|校验|时间戳|学号|工号|会员号|会员卡号|案号|税号|信用代码|编码|版本|票号|房号|产品|商品|兑换码|验证码|哈希|备案|许可证|QQ|主键|日志)` + `(?: ?(?:numbers?|no\b\.?|nr\b\.?|id|#|is|was|code|[:：=]|号码|号|码|编号|为|是|了|\(|（|-|[A-Z]{1,3}))* *$`)
)

// context is what the words before a number say: the kind whose word is nearest, "" when there is none.
func (d *doc) context(start int) string {
	const span = 18
	from := max(0, start-span-6)
	text := string(d.r[from:start])
	if k := strings.LastIndexAny(text, "\n。；;！!？?"); k >= 0 {
		_, size := utf8.DecodeRuneInString(text[k:])
		text = text[k+size:]
	}
	if k := strings.LastIndexAny(text, "0123456789@"); k >= 0 { // what stands before another value belongs to that one
		text = text[k+1:]
	}
	best, kind := -1, ""
	for _, w := range []struct {
		kind string
		re   *regexp.Regexp
	}{{"other", otherWords}, {"phone", phoneWords}, {"card", cardWords}, {"id", idWords}} {
		for _, m := range w.re.FindAllStringIndex(text, -1) {
			if m[1] > best {
				best, kind = m[1], w.kind
			}
		}
	}
	return kind
}

// provinces are the first two digits of resident ids (GB/T 2260).
var provinces = []string{"11", "12", "13", "14", "15", "21", "22", "23", "31", "32", "33", "34", "35", "36", "37", "41", "42", "43", "44", "45", "46",
	"50", "51", "52", "53", "54", "61", "62", "63", "64", "65", "71", "81", "82", "83", "91"}

// residentID finds the ids of 18 (with check character) and 15 digits, whole or as 6-8-4.
func (c *cluster) residentID(i int) (Span, int) {
	for _, n := range []int{1, 2, 3} {
		if i+n > len(c.groups) {
			break
		}
		digits := c.digits(i, n)
		start, end := c.groups[i].start, c.groups[i+n-1].end
		if n > 1 && (c.groups[i].len() != 6 || n == 3 && c.groups[i+1].len() != 8) {
			continue
		}
		if len(digits) == 17 && (c.d.char(end) == 'X' || c.d.char(end) == 'x') {
			digits += "X"
			end++
		}
		switch {
		case len(digits) == 18 && validID18(digits) && c.alone(start, end, i, n):
			return Span{start, end, ResidentID}, n
		case len(digits) == 15 && n == 1 && validID15(digits) && c.alone(start, end, i, n):
			if k := c.d.context(start); k == "other" || k == "card" && luhn(digits) || k == "phone" {
				continue
			}
			return Span{start, end, ResidentID}, n
		}
	}
	return Span{}, 0
}

func validDate(s string) bool {
	t, err := time.Parse("20060102", s)
	return err == nil && t.Year() >= 1890 && t.Year() <= 2100
}

// validID18 checks province, date and the check character of GB 11643-1999 (ISO 7064 MOD 11-2).
func validID18(s string) bool {
	if !slices.Contains(provinces, s[:2]) || !validDate(s[6:14]) {
		return false
	}
	sum, weight := 0, []int{7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2}
	for k, w := range weight {
		sum += w * int(s[k]-'0')
	}
	return s[17] == "10X98765432"[sum%11]
}

func validID15(s string) bool { return slices.Contains(provinces, s[:2]) && validDate("19"+s[6:12]) }

// luhn checks the check digit of ISO/IEC 7812.
func luhn(s string) bool {
	sum := 0
	for i := range len(s) {
		x := int(s[len(s)-1-i] - '0')
		if i%2 == 1 {
			if x *= 2; x > 9 {
				x -= 9
			}
		}
		sum += x
	}
	return sum%10 == 0
}

// issued reports whether an issuer gives out cards with such a beginning and length.
func issued(s string) bool {
	n := len(s)
	switch two := s[:2]; {
	case s[0] == '4':
		return n == 16 || n == 19
	case two == "34" || two == "37":
		return n == 15
	case two >= "51" && two <= "55", s[:4] >= "2221" && s[:4] <= "2720":
		return n == 16
	case two == "36" || two == "38" || two == "30":
		return n == 14 || n == 16
	case two == "35":
		return n == 16
	case two == "62" || two == "60" || two == "64" || two == "65" || two == "68" || two == "69" || two == "81":
		return n >= 16 && n <= 19
	case two == "50" || two >= "56" && two <= "59" || two == "63" || two == "67":
		return n >= 16 && n <= 19
	case s[:4] == "9558" || s[:4] == "9555" || s[:4] == "9559":
		return n >= 16 && n <= 19
	}
	return false
}

// card finds numbers of 14 to 19 digits, whole or in groups of four (4-6-5 and 4-6-4 as Amex and Diners print them).
func (c *cluster) card(i int) (Span, int) {
	for n := min(6, len(c.groups)-i); n >= 1; n-- {
		digits := c.digits(i, n)
		if len(digits) < 12 || len(digits) > 19 || !luhn(digits) || strings.Count(digits, "0") == len(digits) {
			continue
		}
		if n > 1 && !c.cardGroups(i, n) {
			continue
		}
		start, end := c.groups[i].start, c.groups[i+n-1].end
		if !c.alone(start, end, i, n) {
			continue
		}
		switch k := c.d.context(start); {
		case k == "other", n == 1 && k == "phone", !issued(digits) && k != "card":
			continue
		}
		return Span{start, end, BankCard}, n
	}
	return Span{}, 0
}

func (c *cluster) cardGroups(i, n int) bool {
	var lens []int
	for k, g := range c.groups[i : i+n] {
		if k > 0 && (g.sep != c.groups[i+1].sep || g.sep != " " && g.sep != "-") {
			return false
		}
		lens = append(lens, g.len())
	}
	if slices.Equal(lens, []int{4, 6, 5}) || slices.Equal(lens, []int{4, 6, 4}) || slices.Equal(lens, []int{6, 13}) || slices.Equal(lens, []int{8, 8}) {
		return true
	}
	for k, l := range lens {
		if l != 4 && (k != n-1 || l > 4) {
			return false
		}
	}
	return true
}
