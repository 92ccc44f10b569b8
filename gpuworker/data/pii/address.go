package pii

import (
	"regexp"
	"slices"
	"strings"
)

// places are the provinces and their like, with and without what they are called, and the larger cities: where an address may begin
// without a mark before it.
var places = strings.Fields(`北京市 北京 上海市 上海 天津市 天津 重庆市 重庆 河北省 河北 山西省 山西 辽宁省 辽宁 吉林省 吉林市 吉林 黑龙江省 黑龙江 江苏省 江苏 浙江省 浙江
安徽省 安徽 福建省 福建 江西省 江西 山东省 山东 河南省 河南 湖北省 湖北 湖南省 湖南 广东省 广东 海南省 海南 四川省 四川 贵州省 贵州 云南省 云南 陕西省 陕西 甘肃省 甘肃
青海省 青海 台湾省 台湾 内蒙古自治区 内蒙古 广西壮族自治区 广西 西藏自治区 西藏 宁夏回族自治区 宁夏 新疆维吾尔自治区 新疆 香港特别行政区 香港 澳门特别行政区 澳门
石家庄 唐山 秦皇岛 邯郸 邢台 保定 张家口 承德 沧州 廊坊 衡水 太原 大同 阳泉 长治 晋城 朔州 晋中 运城 忻州 临汾 吕梁 呼和浩特 包头 乌海 赤峰 通辽 鄂尔多斯 呼伦贝尔
沈阳 大连 鞍山 抚顺 本溪 丹东 锦州 营口 阜新 辽阳 盘锦 铁岭 葫芦岛 长春 四平 辽源 通化 白山 松原 白城 哈尔滨 齐齐哈尔 鸡西 鹤岗 双鸭山 大庆 伊春 佳木斯 七台河 牡丹江
黑河 绥化 南京 无锡 徐州 常州 苏州 南通 连云港 淮安 盐城 扬州 镇江 泰州 宿迁 杭州 宁波 温州 嘉兴 湖州 绍兴 金华 衢州 舟山 台州 丽水 合肥 芜湖 蚌埠 淮南 马鞍山 淮北 铜陵
安庆 黄山市 滁州 阜阳 宿州 六安 亳州 池州 宣城 福州 厦门 莆田 三明 泉州 漳州 南平 龙岩 宁德 南昌 景德镇 萍乡 九江 新余 鹰潭 赣州 吉安 宜春 抚州 上饶 济南 青岛 淄博 枣庄
东营 烟台 潍坊 济宁 泰安 威海 日照 临沂 德州 聊城 滨州 菏泽 郑州 开封 洛阳 平顶山 安阳 鹤壁 新乡 焦作 濮阳 许昌 漯河 三门峡 南阳 商丘 信阳 周口 驻马店 武汉 黄石 十堰 宜昌
襄阳 鄂州 荆门 孝感 荆州 黄冈 咸宁 随州 恩施 长沙 株洲 湘潭 衡阳 邵阳 岳阳 常德 张家界 益阳 郴州 永州 怀化 娄底 湘西 广州 韶关 深圳 珠海 汕头 佛山 江门 湛江 茂名 肇庆
惠州 梅州 汕尾 河源 阳江 清远 东莞 中山市 潮州 揭阳 云浮 南宁 柳州 桂林 梧州 北海 防城港 钦州 贵港 玉林 百色 贺州 河池 来宾 崇左 海口 三亚 成都 自贡 攀枝花 泸州 德阳 绵阳
广元 遂宁 内江 乐山 南充 眉山 宜宾 广安 达州 雅安 巴中 资阳 贵阳 六盘水 遵义 安顺 毕节 铜仁 昆明 曲靖 玉溪 保山 昭通 丽江 普洱 临沧 大理 红河 拉萨 日喀则 昌都 林芝 西安
铜川 宝鸡 咸阳 渭南 延安 汉中 榆林 安康 商洛 兰州 嘉峪关 金昌 白银市 天水 武威 张掖 平凉 酒泉 庆阳 定西 陇南 西宁 海东 银川 石嘴山 吴忠 固原 中卫 乌鲁木齐 克拉玛依 吐鲁番
哈密 喀什 和田 伊犁 台北 高雄 新北 台中 台南 桃园 昆山 义乌 江阴 张家港 常熟 太仓 慈溪 余姚 晋江 石狮`)

// stops are what cannot stand within an address: the last of them ends what is before it.
var stops = regexp.MustCompile(`位于|坐落于|坐落在|居于|住于|落于|设于|建于|开在|地址|住址|现住|家住|住所|所在地|送至|寄至|发至|运至|派至|搬至|送往|寄往|发往|运往|前往|导航|快递|收货|收件|家庭|通讯|联系|邮寄|户籍|籍贯|办公室|总部|门店|请|` +
	`在|到|去|是|的|了|我|你|他|她|您|住|寄|送|搬|址为|址:|给|把|距|沿着|沿|将|被|让|跟|就|有人`)

const num = `(?:[甲乙丙]?[0-9]+(?:-[0-9]+)*|[一二三四五六七八九十百零〇]{1,5})`

// streetRE is the heart of a Chinese address: a named street, lane, estate or village with a number.
var streetRE = regexp.MustCompile(`(?:大道|大街|马路|公路|胡同|路|街|巷|弄|里|道|村|社区|小区|新村|花园|公寓|大厦|广场|苑|园|庄|屯|城|府|段|线)(?:[东南西北中]段|[一二三四五六七八九十]段|[东南西北]侧)? ?` + num +
	` ?(?:号楼|号院|号|號|弄|栋|幢|座|组|单元)|(?:路|街|大道|大街) ?[A-Za-z]座`)

// tailRE are the parts that follow: house, stairs, floor, flat, or a named building.
var tailRE = regexp.MustCompile(`^ ?(?:` +
	`[、]?(?:院内|院|内|校区|附` + num + `号|旁边|对面)` +
	`|(?:地下|负)?(?:[A-Za-z]|[A-Za-z]?[0-9]+[A-Za-z]?(?:-[0-9A-Za-z]+)*|[一二三四五六七八九十百零〇]{1,4}|[东南西北前后]) ?(?:号楼|号院|号|栋|幢|座|单元|楼层|层|楼|室|房间|房|户|门|区|期|组|铺|档|塔|梯|弄)` +
	`|(?:[0-9]{1,2}-)*[A-Za-z]?[0-9]{3,4}` +
	`|[\p{Han}A-Za-z0-9·]{1,12}?(?:大厦|中心|广场|小区|花园|公寓|大楼|科技园|产业园|工业园|软件园|创业园|园区|家园|花苑|苑|城|国际|商厦|写字楼|大院|校区|大学|学院|医院|府|湾|庭|居|阁|轩|宅|楼)` +
	`)`)

// postcodeRE is a Chinese postcode behind an address.
var postcodeRE = regexp.MustCompile(`^,? \d{6}`)

// chineseAddresses looks for streets with numbers and reads to both sides as far as it is an address.
func (d *doc) chineseAddresses() []Span {
	if !slices.ContainsFunc(d.r, isHan) {
		return nil
	}
	var out []Span
	for from := 0; ; {
		m := streetRE.FindStringIndex(d.s[from:])
		if m == nil {
			return out
		}
		at, end := from+m[0], from+m[1]
		from = end
		start, ok := d.addressStart(at, end)
		if !ok {
			continue
		}
		end = d.addressEnd(end)
		if z := postcodeRE.FindString(d.s[end:min(len(d.s), end+8)]); z != "" && !isDigit(d.char(d.pos(end+len(z)))) {
			end += len(z)
		}
		// 3号线 and 5号球员 are no houses.
		if s := d.s[end:]; strings.HasPrefix(s, "线") || strings.HasPrefix(s, "球") || strings.HasPrefix(s, "选手") || strings.HasPrefix(s, "公交") ||
			strings.HasPrefix(s, "机") || strings.HasPrefix(s, "桌") {
			continue
		}
		out = append(out, Span{d.pos(start), d.pos(end), Address})
		from = max(from, end)
	}
}

// addressStart reads to the left of the street's kind (a byte offset): to the earliest place name in reach, else to the last stop or mark.
func (d *doc) addressStart(at, end int) (int, bool) {
	runStart := at
	r := []rune(d.s[:at])
	for n := 0; n < 40 && len(r) > 0; n++ {
		c := r[len(r)-1]
		inside := isHan(c) || isAlnum(c) || c == '·' || c == ' ' && len(r) > 1 && isHan(r[len(r)-2])
		if !inside {
			break
		}
		runStart -= len(string(c))
		r = r[:len(r)-1]
	}
	run := d.s[runStart:at]
	for _, m := range stops.FindAllStringIndex(run, -1) {
		if !stopWithin(run, m) {
			runStart += m[1]
			return d.addressStartIn(runStart, at, end)
		}
	}
	return d.addressStartIn(runStart, at, end)
}

// stopWithin is false for the last real stop of a run: the rest behind it holds no other.
func stopWithin(run string, m []int) bool {
	return stops.MatchString(run[m[1]:])
}

func (d *doc) addressStartIn(from, at, end int) (int, bool) {
	run := d.s[from:at]
	// What is Latin or a number before the first Han letter is no part of it.
	run = strings.TrimLeftFunc(run, func(c rune) bool { return !isHan(c) })
	from = at - len(run)
	first := -1
	for _, p := range places {
		if k := strings.Index(run, p); k >= 0 && (first < 0 || k < first) {
			first = k
		}
	}
	if first >= 0 {
		return from + first, true
	}
	n := len([]rune(run))
	switch {
	case n == 0:
		return 0, false
	case n > 12 && !strings.ContainsAny(run, "省市区县镇乡村"):
		return 0, false
	case !strings.ContainsAny(run, "省市区县镇乡旗州") && n > 6:
		// A street by itself: its name has few characters.
		r := []rune(run)
		return at - len(string(r[len(r)-3:])), true
	}
	// Without a place before it a bare block ("花园3栋") is too little.
	kind := d.s[at:end]
	if !strings.HasSuffix(kind, "号") && !strings.HasSuffix(kind, "號") && !strings.ContainsAny(run, "省市区县镇乡路街") && n < 2 {
		return 0, false
	}
	return from, true
}

// addressEnd takes in what follows the number.
func (d *doc) addressEnd(end int) int {
	for range 8 {
		m := tailRE.FindString(d.s[end:min(len(d.s), end+120)])
		if m == "" || stops.MatchString(m) {
			return end
		}
		// A bare number must end there.
		next := []rune(d.s[end+len(m) : min(len(d.s), end+len(m)+8)])
		if isDigit(rune(m[len(m)-1])) && len(next) > 0 && (isAlnum(next[0]) || strings.ContainsRune("元人年月日块米个", next[0])) {
			return end
		}
		end += len(m)
	}
	return end
}

const (
	streetKind = `(?:Street|St\.?|Avenue|Ave\.?|Road|Rd\.?|Boulevard|Blvd\.?|Lane|Ln\.?|Drive|Dr\.?|Court|Ct\.?|Terrace|Parkway|Pkwy\.?|Highway|Hwy\.?|Crescent|Gardens|Mews|Place|Pl\.?|Square|Sq\.?|Way|Circle|Cir\.?|Close|Row|Trail|Trl\.?|Walk|Grove|Hill|Broadway|Plaza|Alley|Loop)`
	streetName = `(?:[A-Z][A-Za-z'’.-]*|\d{1,3}(?:st|nd|rd|th)|of|the|de|la|del)`
	unitPart   = `(?:,? (?:Apt\.?|Apartment|Unit|Suite|Ste\.?|Floor|Fl\.?|Flat|Room|Rm\.?|Building|Bldg\.?|PH|Lot)(?: #?|#)(?:[A-Za-z]?-?\d[0-9A-Za-z-]{0,5}|[A-Z]\b)|,? #\d{1,5}[A-Z]?|,? \d{1,3}(?:st|nd|rd|th) Floor)`
	ukPostcode = `[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}`
	usStates   = `(?:A[LKZR]|C[AOT]|D[CE]|FL|GA|HI|I[DLNA]|K[SY]|LA|M[EDAINSOT]|N[EVHJMYCD]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[TAI]|W[AVIY]|A[SAEP]|FM|GU|M[HP]|P[RW])`
	stateNames = `(?:Alabama|Alaska|Arizona|Arkansas|California|Colorado|Connecticut|Delaware|Florida|Georgia|Hawaii|Idaho|Illinois|Indiana|Iowa|Kansas|Kentucky|Louisiana|Maine|Maryland|Massachusetts|Michigan|Minnesota|Mississippi|Missouri|Montana|Nebraska|Nevada|New Hampshire|New Jersey|New Mexico|New York|North Carolina|North Dakota|Ohio|Oklahoma|Oregon|Pennsylvania|Rhode Island|South Carolina|South Dakota|Tennessee|Texas|Utah|Vermont|Virginia|Washington|West Virginia|Wisconsin|Wyoming)`
)

// uspsKinds are the rarer street kinds of the US Postal Service (Publication 28, appendix C1).
const uspsKinds = `(?:Branch|Bridge|Brooks?|Burgs?|Bypass|Camp|Canyon|Cape|Causeway|Centers?|Circles|Cliffs?|Club|Common|Corners?|Course|Courts|Coves?|Creek|Crest|` +
	`Crossing|Crossroad|Curve|Dale|Dam|Divide|Drives|Estates?|Expressway|Extensions?|Falls?|Ferry|Fields?|Flats?|Fords?|Forest|Forges?|Forks?|Fort|Freeway|Garden|` +
	`Gateway|Glens?|Greens?|Groves|Harbors?|Haven|Heights|Hills|Hollow|Inlet|Islands?|Isle|Junctions?|Keys?|Knolls?|Lakes?|Land|Landing|Lights?|Loaf|Locks?|Lodge|Mall|` +
	`Manors?|Meadows?|Mills?|Mission|Motorway|Mount|Mountains?|Neck|Orchard|Oval|Overpass|Parks?|Parkways|Pass|Passage|Path|Pike|Pines?|Plains?|Points?|Ports?|Prairie|` +
	`Radial|Ramp|Ranch|Rapids?|Rest|Ridges?|River|Roads|Route|Rue|Run|Shoals?|Shores?|Skyway|Springs?|Spurs?|Squares|Station|Stravenue|Stream|Streets|Summit|` +
	`Throughway|Trace|Track|Trafficway|Tunnel|Turnpike|Underpass|Unions?|Valleys?|Via|Viaduct|Views?|Villages?|Ville|Vista|Walks|Wall|Ways|Wells?)`

var (
	uspsRE     = regexp.MustCompile(`^` + uspsKinds + `$`)
	militaryRE = regexp.MustCompile(`\b(?:(?:PSC|Unit|CMR) \d{1,5},? Box \d{1,5}|USNS [A-Z][a-z]+|USS [A-Z][a-z]+|USCGC [A-Z][a-z]+|USNV [A-Z][a-z]+)[,\n ]{1,2}(?:APO|FPO|DPO) A[AEP] \d{5}`)
	englishRE  = regexp.MustCompile(`(?:(?:Flat|Apartment|Apt\.?|Unit|Suite|Room) [A-Za-z0-9-]{1,5},? )?\d{1,5}[A-Za-z]?(?:[-/]\d{1,4})? (?:[NSEW]\.? |North |South |East |West |Upper |Lower )?` +
		streetName + `(?: ` + streetName + `){0,4}(?: (?:NW|NE|SW|SE|N|S|E|W|North|South|East|West)\b)?`)
	kindRE   = regexp.MustCompile(`^` + streetKind + `$`)
	flatRE   = regexp.MustCompile(`\b(?:Flat|Studio|Apartment|Unit|Suite|Room) \d{1,4}[A-Za-z]?,? [A-Z][A-Za-z'’]+(?: [A-Z][A-Za-z'’]+){0,3}`)
	poBoxRE  = regexp.MustCompile(`\b(?:P\.? ?O\.?|Post Office) Box \d{1,6}`)
	unitRE   = regexp.MustCompile(`^` + unitPart)
	regionRE = regexp.MustCompile(`^(?:,? |,?\n)(?:(` + usStates + `)|` + stateNames + `)(?:,? \d{5}(?:-\d{4})?)?\b`)
	zipRE    = regexp.MustCompile(`^(?:,? |,?\n)(?:\d{5}(?:-\d{4})?|` + ukPostcode + `)\b`)
	cityRE   = regexp.MustCompile(`^(?:,? |,?\n)(?:St\. |Saint |New |Los |San |Santa |Fort |Port |El |Las |Salt |North |South |East |West )?[A-Z][a-zA-Z'’-]+(?: (?:City|Springs|Beach|Park|Falls|Hills|Heights|Lake|Rapids|Grove|Valley|Town|Island|on Sea|upon Tyne|Kong|Barbara|Antonio|Francisco|Diego|Jose|Angeles|Vegas|Orleans|York|Lauderdale|Worth|Paso|Rock))?`)
	// longCityRE are up to three capitalized words: a city only where a state or a code follows.
	longCityRE = regexp.MustCompile(`^(?:,? |,?\n)[A-Z][a-zA-Z'’-]+(?: [A-Z][a-zA-Z'’-]+){1,2}`)
	landRE     = regexp.MustCompile(`^,? (?:USA|U\.S\.A\.|US\b|United States|UK\b|U\.K\.|United Kingdom|England|Scotland|Wales|Ireland|Canada|Australia)`)
	germanRE   = regexp.MustCompile(`\p{Lu}\p{L}+(?:straße|strasse|str\.|weg|platz|allee|gasse) \d{1,3}[a-z]?\b(?:, \d{5} \p{Lu}\p{L}+(?: (?:am|an der) \p{Lu}\p{L}+)?)?`)
)

// shortKinds are written with a full stop.
var shortKinds = []string{"St", "Ave", "Rd", "Blvd", "Ln", "Dr", "Ct", "Pl", "Sq", "Pkwy", "Hwy", "Cir", "Trl"}

// endsSentence reports whether what follows a full stop begins a new sentence.
func endsSentence(rest string) bool {
	if rest == "" || rest[0] == '\n' {
		return true
	}
	if !strings.HasPrefix(rest, " ") || len(rest) < 2 || rest[1] < 'A' || rest[1] > 'Z' {
		return false
	}
	_, sure := restOfAddress(rest, 0)
	return !sure
}

// ambiguous kinds are words of their own ("2 Way", "3 Place", "5 Hill"): they need more to be a street.
var ambiguous = []string{"Way", "Place", "Court", "Square", "Circle", "Close", "Row", "Trail", "Walk", "Grove", "Hill", "Gardens", "Plaza", "Loop", "Broadway",
	"Drive", "Highway", "Alley", "Terrace", "Pl", "St", "Dr"}

// noCity are words that begin the next sentence or clause rather than a city.
var noCity = []string{"Please", "The", "And", "But", "I", "We", "He", "She", "They", "My", "Our", "Call", "Phone", "Email", "Tel", "Contact", "It", "Or", "For", "If",
	"Thanks", "Thank", "Attn", "Not", "This", "That", "Then", "On", "At", "In", "To", "Mobile", "Card", "Passport", "Monday", "Tuesday", "Wednesday", "Thursday",
	"Friday", "Saturday", "Sunday", "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"}

func (d *doc) englishAddresses() []Span {
	var out []Span
	s := d.s
	for from := 0; maybeStreet(s); {
		m := englishRE.FindStringIndex(s[from:])
		if m == nil {
			break
		}
		start, end := from+m[0], from+m[1]
		from = start + 1
		if k := d.pos(start); isAlnum(d.char(k-1)) || k > 1 && strings.ContainsRune(".,-/:$#£€", d.char(k-1)) && d.char(k-1) != 0 && d.char(k-1) != ':' {
			continue
		}
		end, ok := streetEnd(s, start, end)
		if !ok {
			continue
		}
		end, _ = restOfAddress(s, end)
		out = append(out, Span{d.pos(start), d.pos(end), Address})
		from = end
	}
	for _, m := range found(poBoxRE, s, "Box ") {
		end, _ := restOfAddress(s, m[1])
		out = append(out, Span{d.pos(m[0]), d.pos(end), Address})
	}
	for _, m := range found(flatRE, s, "Flat ", "Studio ", "Apartment ", "Unit ", "Suite ", "Room ") {
		words := strings.Fields(s[m[0]:m[1]])
		if last := words[len(words)-1]; !kindRE.MatchString(last) && !uspsRE.MatchString(last) {
			continue
		}
		if end, sure := restOfAddress(s, m[1]); sure {
			out = append(out, Span{d.pos(m[0]), d.pos(end), Address})
		}
	}
	for _, m := range found(militaryRE, s, "PO A") {
		out = append(out, Span{d.pos(m[0]), d.pos(m[1]), Address})
	}
	for _, m := range found(germanRE, s, "straße ", "strasse ", "str. ", "weg ", "platz ", "allee ", "gasse ") {
		out = append(out, Span{d.pos(m[0]), d.pos(m[1]), Address})
	}
	return out
}

// found are the matches of an expression that holds one of some words: a text without them is not searched, which is ten times as fast.
func found(re *regexp.Regexp, s string, words ...string) [][]int {
	for _, w := range words {
		if strings.Contains(s, w) {
			return re.FindAllStringIndex(s, -1)
		}
	}
	return nil
}

// maybeStreet reports whether englishRE can match at all: a number, perhaps with a letter, a blank, and what a street's name begins with.
func maybeStreet(s string) bool {
	for i := 1; i+1 < len(s); i++ {
		if s[i] != ' ' || !isDigit(rune(s[i-1])) && (i < 2 || !isLetter(rune(s[i-1])) || !isDigit(rune(s[i-2]))) {
			continue
		}
		rest := s[i+1:]
		if rest[0] >= 'A' && rest[0] <= 'Z' || isDigit(rune(rest[0])) {
			return true
		}
		for _, w := range []string{"of", "the", "de", "la", "del"} {
			if strings.HasPrefix(rest, w) {
				return true
			}
		}
	}
	return false
}

// streetEnd cuts a candidate at its street kind, and tells whether there is one with a name before it.
func streetEnd(s string, start, end int) (int, bool) {
	words := strings.Split(s[start:end], " ")
	at := start
	last, kind, named := -1, "", 0
	for i, w := range words {
		wordEnd := at + len(w)
		bare := strings.TrimSuffix(w, ".")
		usps := uspsRE.MatchString(bare) && last < 0
		if (kindRE.MatchString(bare) || usps) && (named > 0 || bare == "Broadway") && i > 0 {
			last, kind = at+len(bare), bare
			if bare != w {
				// A short form's full stop belongs to it unless it ends the sentence.
				if slices.Contains(shortKinds, bare) && !endsSentence(s[wordEnd:]) {
					last = wordEnd
				}
				break
			}
		} else if last >= 0 && slices.Contains([]string{"NW", "NE", "SW", "SE", "N", "S", "E", "W", "North", "South", "East", "West"}, w) {
			last = wordEnd
		} else if last >= 0 {
			break
		}
		if i > 0 && w != "" && (w[0] >= 'A' && w[0] <= 'Z' || isDigit(rune(w[0]))) {
			named++
		}
		at = wordEnd + 1
	}
	if last < 0 {
		return 0, false
	}
	rare := uspsRE.MatchString(kind)
	if !slices.Contains(ambiguous, kind) && !rare {
		return last, true
	}
	// Something that only addresses have must follow, or a house number of more than one digit stand before.
	_, sure := restOfAddress(s, last)
	number := strings.TrimFunc(words[0], isLetter)
	if year := len(number) == 4 && (number[:2] == "19" || number[:2] == "20"); rare && (len(number) < 3 || year) {
		number = ""
	}
	if rare && named > 2 { // "250 Adventure Pack Fall"
		number = ""
	}
	return last, len(number) >= 2 || sure || !rare && strings.HasPrefix(s[last:], ",")
}

// restOfAddress takes in unit, city, state, code and country behind a street; sure tells that there was what only addresses have.
func restOfAddress(s string, end int) (stop int, sure bool) {
	unit := false
	for range 2 {
		n := len(unitRE.FindString(s[end:]))
		unit = unit || n > 0
		end += n
	}
	region := end + len(regionOrZip(s[end:]))
	city := cityRE.FindString(s[end:])
	comma := strings.HasPrefix(city, ",")
	name, _, _ := strings.Cut(strings.TrimLeft(city, ", \n"), " ")
	rest := s[end+len(city):]
	for _, c := range []string{city, longCityRE.FindString(s[end:])} {
		if n := len(regionOrZip(s[end+len(c):])); c != "" && n > 0 && !slices.Contains(noCity, name) {
			return land(s, max(region, end+len(c)+n)), true
		}
	}
	if region > end {
		return land(s, region), true
	}
	if city == "" || slices.Contains(noCity, name) {
		return end, unit
	}
	if !comma {
		return end, unit
	}
	if m := landRE.FindString(rest); m != "" {
		return end + len(city) + len(m), true
	}
	if rest == "" || strings.ContainsAny(rest[:1], ".,;!?\n)") || !isASCIIByte(rest[0]) || strings.HasPrefix(rest, " and ") || strings.HasPrefix(rest, " or ") {
		return end + len(city), unit
	}
	return end, unit
}

func isASCIIByte(b byte) bool { return b < 0x80 }

// regionOrZip is a state with or without code, or a code alone.
func regionOrZip(s string) string {
	region := regionRE.FindString(s)
	if region == "" {
		return zipRE.FindString(s)
	}
	return region + zipRE.FindString(s[len(region):])
}

func land(s string, end int) int { return end + len(landRE.FindString(s[end:])) }
