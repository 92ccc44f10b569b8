package pii_test

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
)

// The generator makes rows of Chinese and English text with personal data at known places, and rows with what only looks like it. It shares
// no code, list or pattern with the detectors: it builds values from their definitions.

type sample struct {
	text  string
	spans []pii.Span
}

type maker struct{ *rand.Rand }

func (g maker) of(s ...string) string { return s[g.IntN(len(s))] }

func (g maker) digits(n int) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte('0' + g.IntN(10))
	}
	return string(b)
}

func (g maker) between(a, b int) int { return a + g.IntN(b-a+1) }

// withLuhn appends the digit that makes the sum of digits, every second from the right doubled, a multiple of ten.
func withLuhn(s string) string {
	for d := 0; d < 10; d++ {
		t, sum := s+strconv.Itoa(d), 0
		for i, c := range t {
			v := int(c - '0')
			if (len(t)-i)%2 == 0 {
				v *= 2
			}
			sum += v/10 + v%10
		}
		if sum%10 == 0 {
			return t
		}
	}
	return s
}

func (g maker) card() string {
	s := withLuhn(g.of("4"+g.digits(14), "51"+g.digits(13), "54"+g.digits(13), "62"+g.digits(14), "6222"+g.digits(14), "6217"+g.digits(14), "37"+g.digits(12), "3530"+g.digits(11),
		"6011"+g.digits(11), "2221"+g.digits(11)))
	if len(s) == 16 && g.IntN(2) == 0 {
		sep := g.of(" ", "-")
		return strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:]}, sep)
	}
	if len(s) == 19 && g.IntN(3) == 0 {
		return strings.Join([]string{s[:4], s[4:8], s[8:12], s[12:16], s[16:]}, " ")
	}
	if len(s) == 15 && g.IntN(2) == 0 {
		return s[:4] + " " + s[4:10] + " " + s[10:]
	}
	return s
}

func (g maker) date() string {
	return fmt.Sprintf("%04d%02d%02d", g.between(1940, 2012), g.between(1, 12), g.between(1, 28))
}

func (g maker) residentID() string {
	area := g.of("110105", "310115", "440305", "330106", "510107", "420111", "320583", "610113", "370202", "350203", "120101", "500112")
	if g.IntN(6) == 0 {
		return area + g.date()[2:] + g.digits(3)
	}
	s := area + g.date() + g.digits(3)
	factor, sum := 1, 0 // 2^(17-i) mod 11 from the right
	for i := 16; i >= 0; i-- {
		factor = factor * 2 % 11
		sum += int(s[i]-'0') * factor
	}
	check := (12 - sum%11) % 11
	if check == 10 {
		return s + g.of("X", "X", "x")
	}
	return s + strconv.Itoa(check)
}

func (g maker) iban() string {
	country, bban := "DE", g.digits(18)
	switch g.IntN(5) {
	case 0:
		country, bban = "GB", g.of("NWBK", "BARC", "WEST")+g.digits(14)
	case 1:
		country, bban = "FR", g.digits(23)
	case 2:
		country, bban = "NL", g.of("ABNA", "INGB")+g.digits(10)
	case 3:
		country, bban = "ES", g.digits(20)
	}
	var n strings.Builder
	for _, c := range bban + country + "00" {
		if c >= 'A' {
			n.WriteString(strconv.Itoa(int(c-'A') + 10))
		} else {
			n.WriteRune(c)
		}
	}
	rem := 0
	for _, c := range n.String() {
		rem = (rem*10 + int(c-'0')) % 97
	}
	s := fmt.Sprintf("%s%02d%s", country, 98-rem, bban)
	if g.IntN(2) == 0 {
		return s
	}
	var parts []string
	for len(s) > 4 {
		parts, s = append(parts, s[:4]), s[4:]
	}
	return strings.Join(append(parts, s), " ")
}

func (g maker) phone() string {
	m := "1" + g.of("3", "5", "7", "8", "9") + g.digits(9)
	area, exchange, line := strconv.Itoa(g.between(201, 989)), strconv.Itoa(g.between(200, 999)), g.digits(4)
	return g.of(m, m, m[:3]+"-"+m[3:7]+"-"+m[7:], m[:3]+" "+m[3:7]+" "+m[7:], "+86 "+m, "+86"+m, "+86-"+m, "+86 "+m[:3]+" "+m[3:7]+" "+m[7:],
		"010-"+g.of("6", "8", "5")+g.digits(7), "021-"+g.of("6", "5")+g.digits(7), "0755-"+g.of("2", "8")+g.digits(7), "0571-"+g.of("8", "2")+g.digits(7),
		"(010) 6"+g.digits(7), "("+area+") "+exchange+"-"+line, area+"-"+exchange+"-"+line, area+"."+exchange+"."+line, "+1 "+area+"-"+exchange+"-"+line,
		"+1 ("+area+") "+exchange+"-"+line, "+1"+area+exchange+line, "1-"+area+"-"+exchange+"-"+line, "+44 20 7"+g.digits(3)+" "+g.digits(4), "020 7"+g.digits(3)+" "+g.digits(4),
		"+44 7"+g.digits(3)+" "+g.digits(6), "07"+g.digits(3)+" "+g.digits(6), "+49 30 "+g.digits(8), "+852 9"+g.digits(3)+" "+g.digits(4), "+81 3-"+g.digits(4)+"-"+g.digits(4))
}

func (g maker) email() string {
	local := g.of("zhang.wei", "li_na", "j.smith", "anna-maria", "wangfang"+g.digits(3), g.digits(8), "sales+news", "k8s.admin", "o'neil", "x")
	return local + "@" + g.of("example.com", "qq.com", "163.com", "mail.pku.edu.cn", "acme-corp.co.uk", "uni-koeln.de", "sub.domain.example.org", "foxmail.com")
}

func (g maker) ip() string {
	b := func(lo int) string { return strconv.Itoa(g.between(lo, 254)) }
	h := func() string { return fmt.Sprintf("%x", g.between(16, 65535)) }
	return g.of("10."+b(0)+"."+b(0)+"."+b(1), "192.168."+b(0)+"."+b(1), b(11)+"."+b(0)+"."+b(0)+"."+b(1), b(101)+"."+b(0)+"."+b(0)+"."+b(1),
		"2001:db8:"+h()+":"+h()+":"+h()+":"+h()+":"+h()+":"+h(), "fe80::"+h()+":"+h(), "2001:db8::"+h(), "::1")
}

func (g maker) passport() string {
	c := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "CFGHJKLMNPRTVWXYZ0123456789"[g.IntN(27)]
		}
		return string(b)
	}
	return g.of("E"+g.digits(8), "G"+g.digits(8), "E"+g.of("A", "B", "J", "K")+g.digits(7), "C0"+g.digits(1)+c(5)+g.digits(1), g.digits(9), g.of("A", "Y")+g.digits(8))
}

func (g maker) addressZH() string {
	n := func(a, b int) string { return strconv.Itoa(g.between(a, b)) }
	area := g.of("北京市朝阳区", "北京市海淀区", "上海市浦东新区", "广东省深圳市南山区", "浙江省杭州市西湖区", "四川省成都市武侯区", "江苏省苏州市工业园区", "湖北省武汉市洪山区",
		"陕西省西安市雁塔区", "山东省青岛市市南区", "福建省厦门市思明区", "天津市和平区", "重庆市渝中区", "广西壮族自治区南宁市青秀区", "河南省郑州市金水区")
	road := g.of("建国路", "中关村大街", "世纪大道", "科苑南路", "文三西路", "天府大道", "人民北路", "解放东路", "长安街", "学院路", "滨江道", "虹桥路")
	return area + road + n(1, 999) + "号" + g.of("", "", n(1, 9)+"号楼", n(1, 20)+"栋"+n(1, 4)+"单元"+n(101, 2504)+"室", "院"+n(1, 30)+"号楼"+n(1, 6)+"单元"+n(101, 1804)+"室",
		n(2, 40)+"层", "东方大厦"+n(2, 30)+"楼", "阳光花园"+n(1, 20)+"栋"+n(101, 2504)+"室", g.of("A", "B")+"座"+n(101, 3204)+"室")
}

func (g maker) addressEN() string {
	n := strconv.Itoa(g.between(1, 9999))
	street := g.of("Main", "Oak", "Maple", "Martin Luther King", "Washington", "Elm Hill", "North Lake", "Second", "5th", "Sunset") + " " +
		g.of("Street", "St", "Avenue", "Ave", "Road", "Rd", "Boulevard", "Blvd", "Lane", "Drive")
	unit := g.of("", "", ", Apt "+g.digits(2), ", Suite "+g.digits(3), " #"+g.digits(2))
	switch g.IntN(3) {
	case 0:
		return n + " " + street + unit
	case 1:
		return n + " " + street + unit + ", " + g.of("Springfield, IL 62704", "Austin, TX 78701", "San Francisco, CA 94105", "New York, NY 10001-2345", "Salt Lake City, UT 84101")
	}
	return strconv.Itoa(g.between(1, 300)) + g.of("", "", "B") + " " + g.of("Baker Street", "Abbey Road", "King's Road", "Victoria Road", "Church Lane") + ", " +
		g.of("London NW1 6XE", "London SW1A 2AA", "Manchester M1 1AE", "Oxford OX1 2JD")
}

// fill puts values of types into a template: "{email}" and so on.
func (g maker) fill(template string) sample {
	var s sample
	var b strings.Builder
	for rest := template; ; {
		before, after, ok := strings.Cut(rest, "{")
		b.WriteString(before)
		if !ok {
			s.text = b.String()
			return s
		}
		name, tail, _ := strings.Cut(after, "}")
		rest = tail
		value, kind := "", name
		switch name {
		case "email":
			value = g.email()
		case "phone":
			value = g.phone()
		case "id":
			value, kind = g.residentID(), pii.ResidentID
		case "card":
			value, kind = g.card(), pii.BankCard
		case "iban":
			value = g.iban()
		case "ip":
			value = g.ip()
		case "passport":
			value = g.passport()
		case "zh":
			value, kind = g.addressZH(), pii.Address
		case "en":
			value, kind = g.addressEN(), pii.Address
		case "no":
			b.WriteString(g.lookalike())
			continue
		}
		at := utf8.RuneCountInString(b.String())
		s.spans = append(s.spans, pii.Span{Start: at, End: at + utf8.RuneCountInString(value), Type: kind})
		b.WriteString(value)
	}
}

// lookalike is something with digits or dots that is nobody's data.
func (g maker) lookalike() string {
	n := func(a, b int) string { return strconv.Itoa(g.between(a, b)) }
	hex := func(k int) string {
		var b strings.Builder
		for range k {
			b.WriteByte("0123456789abcdef"[g.IntN(16)])
		}
		return b.String()
	}
	wrongID := "11010519" + g.digits(9) + "?"
	return g.of("订单号 "+g.digits(16), "订单编号：2024"+g.digits(14), "order #"+g.digits(12), "order no. 1"+g.digits(10), "运单号SF"+g.digits(13), "版本 "+n(1, 9)+"."+n(0, 20)+"."+n(0, 9)+"."+n(0, 99),
		"version "+n(1, 9)+"."+n(0, 20)+"."+n(0, 9)+"."+n(0, 99), "v"+n(1, 9)+"."+n(0, 20)+"."+n(0, 9)+"."+n(0, 99), "2024-"+n(10, 12)+"-"+n(10, 28), "2023年"+n(1, 12)+"月"+n(1, 28)+"日", n(1, 12)+"/"+n(1, 28)+"/2022",
		"12:30:45", "¥"+n(1, 99)+","+n(100, 999)+".00", "$"+n(1, 9)+","+n(100, 999)+","+n(100, 999)+".50", n(10, 99)+"万元", "md5 "+hex(32), "sha256:"+hex(64), "commit "+hex(40),
		hex(8)+"-"+hex(4)+"-"+hex(4)+"-"+hex(4)+"-"+hex(12), "ISBN 978-7-302-"+g.digits(5)+"-"+g.digits(1), "地铁"+n(1, 18)+"号线", "第"+n(1, 99)+"号选手", n(1, 20)+"号楼", "Chapter "+n(1, 20), "3.14159265358979",
		"1,234,567 users", "00:1A:2B:3C:4D:5E", "std::vector<int>", "@zhangsan", "npm i left-pad@1.3."+n(0, 9), "Chrome/120.0."+n(1000, 9999)+"."+n(10, 200), "RFC "+n(1000, 9999), "iPhone 15", wrongID,
		"批次 20240115"+g.digits(6), "timestamp 17"+g.digits(11), "SKU-"+g.digits(4)+"-"+g.digits(6), "logo@2x.png", "the 5 best roads", "流水号"+g.digits(20), "0.0"+g.digits(8))
}

func generate(seed uint64, count int) []sample {
	g := maker{rand.New(rand.NewPCG(seed, 42))}
	templates := []string{
		"请把合同发到{email}，谢谢。", "我的邮箱是{email}，电话{phone}", "Contact me at {email} or {phone}.", "Email: {email}; Tel: {phone}", "联系人：王芳，手机：{phone}，地址：{zh}",
		"我住在{zh}，有空来玩", "快递请寄到{zh}。", "公司地址为{zh}，邮编100000", "身份证号码：{id}", "本人身份证{id}，护照号{passport}", "My passport number is {passport}.", "护照号码：{passport}",
		"Passport No. {passport}, issued in 2019", "请转账到银行卡{card}", "卡号 {card}，户名李雷", "My card number is {card}, exp 12/27", "IBAN: {iban}", "Please pay to {iban} by Friday.", "服务器IP是{ip}，请检查",
		"Request from {ip} was denied", "She lives at {en}.", "Ship it to {en}\nThanks", "Our office: {en}. Call {phone}", "call me on {phone} after {no}", "{no}，联系电话{phone}", "{no} and {no}", "{no}，{no}。", "{no}",
		"问题与{no}有关，不涉及{no}。", "We upgraded to {no} on {no}.", "用户{email}在{no}登录，来源{ip}", "The invoice {no} was paid with {card}", "{zh}", "{en}", "{phone}", "{email}", "{ip}",
		"没有任何个人信息的一句话，只是谈谈今天的天气。", "Nothing personal here, only a sentence about the weather in London and Paris.",
	}
	out := make([]sample, count)
	for i := range out {
		out[i] = g.fill(templates[g.IntN(len(templates))])
	}
	return out
}
