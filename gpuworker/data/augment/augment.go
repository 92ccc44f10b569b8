// Package augment makes changed copies of training rows: synonyms, swapped, deleted and inserted words (Wei and Zou 2019, "EDA"), typing errors
// and homophones, for Chinese and English. Only what the user says is changed; labels, answers, names, numbers and placeholders never are.
// A copy depends on the seed, the row's content and its number only, and says what it was made of.
package augment

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
)

// Cutter cuts a text into words that joined are the text, and knows names; jieba.Segmenter is one.
type Cutter interface {
	Cut(text string) []string
	IsName(word string) bool
}

// Augmenter makes copies. It is immutable and safe for concurrent use.
type Augmenter struct {
	spec     schemas.AugmentSpec
	synonyms Synonyms
	cut      Cutter
	seed     uint64
	protect  map[string]bool
}

// New makes an Augmenter; synonyms may be nil when no method needs them. Errors are CodeInvalid.
func New(spec schemas.AugmentSpec, synonyms Synonyms, cut Cutter, seed uint64) (*Augmenter, error) {
	if spec.Copies == 0 {
		spec.Copies = 1
	}
	if spec.Rate == 0 {
		spec.Rate = 0.1
	}
	a := &Augmenter{spec: spec, synonyms: synonyms, cut: cut, seed: seed, protect: map[string]bool{}}
	for _, m := range spec.Methods {
		if methods[m] == nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, "augment.methods", "%q is unknown (%v)", m, schemas.AugmentMethods())
		}
		if synonyms == nil && (m == "synonym_replacement" || m == "random_insertion") {
			return nil, schemas.Errorf(schemas.CodeInvalid, "augment.synonym_dict", "is needed for %s", m)
		}
	}
	for _, w := range spec.Protect {
		a.protect[strings.ToLower(w)] = true
	}
	return a, nil
}

// methods change words; each returns what it changed, in words, nil when there was nothing to change.
var methods = map[string]func(t *text) []string{
	"synonym_replacement": (*text).synonym, "random_swap": (*text).swap, "random_deletion": (*text).drop, "random_insertion": (*text).insert,
	"typo": (*text).typo, "homophone": (*text).homophone,
}

// LabelWords adds the words of a label to those that are never changed where a text names them.
func (a *Augmenter) LabelWords(words map[string]bool, label string) {
	for _, w := range a.cut.Cut(strings.ToLower(label)) {
		words[w] = true
	}
}

// Copies are the changed copies of a training row, with its Index in their Origin; labels are the words of all labels (LabelWords).
func (a *Augmenter) Copies(r *data.Row, labels map[string]bool) []data.Row {
	var out []data.Row
	for k := range a.spec.Copies {
		if c, ok := a.copy(r, k, labels); ok {
			out = append(out, c)
		}
	}
	return out
}

// copy makes copy k of a row; ok is false when nothing in it can change.
func (a *Augmenter) copy(r *data.Row, k int, labels map[string]bool) (data.Row, bool) {
	method := a.spec.Methods[k%len(a.spec.Methods)]
	from := &r.Text
	if r.Prompt != "" {
		from = &r.Prompt
	}
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, [2]uint64{a.seed, uint64(k)}) // a hash does not fail
	_, _ = h.Write([]byte(method + "\x00" + r.Text + "\x00" + r.Prompt + "\x00" + r.Label))
	sum := h.Sum(nil)
	t := &text{a: a, rng: rand.New(rand.NewPCG(binary.LittleEndian.Uint64(sum), binary.LittleEndian.Uint64(sum[8:])))}
	t.read(*from, labels)
	changes := methods[method](t)
	if len(changes) == 0 {
		return data.Row{}, false
	}
	c := *r
	s := strings.Join(t.words, "")
	if s == *from || strings.TrimSpace(s) == "" {
		return data.Row{}, false
	}
	if r.Prompt != "" {
		c.Prompt = s
	} else {
		c.Text = s
	}
	c.Origin = &data.Origin{Row: r.Index, Method: method, Changes: changes}
	return c, true
}

// text is a text in words while it is changed.
type text struct {
	a     *Augmenter
	rng   *rand.Rand
	words []string
	// free are the places of words that may change.
	free []int
}

// read cuts a text and finds what may change: words of letters that are neither protected, nor labels, nor names, nor within brackets.
func (t *text) read(s string, labels map[string]bool) {
	t.words = t.a.cut.Cut(s)
	depth := 0
	start := true // of a sentence, where a capital says nothing
	for i, w := range t.words {
		switch w {
		case "[", "{", "<", "【":
			depth++
		case "]", "}", ">", "】":
			depth = max(0, depth-1)
		}
		first, _ := utf8.DecodeRuneInString(w)
		isWord := unicode.IsLetter(first)
		lower := strings.ToLower(w)
		// jieba's tags of names are generous; a word that the user lists synonyms of is none.
		name := t.a.cut.IsName(w) && len(t.a.synonyms[lower]) == 0 || !start && unicode.IsUpper(first) && w != "I"
		if isWord && depth == 0 && !name && !labels[lower] && !t.a.protect[lower] && !strings.ContainsFunc(w, unicode.IsDigit) {
			t.free = append(t.free, i)
		}
		if strings.TrimSpace(w) != "" {
			start = strings.ContainsAny(w, ".!?。！？\n:：\"“")
		}
		if strings.Contains(w, "\n") {
			start = true
		}
	}
}

// some picks a share of places, at least one, in ascending order.
func (t *text) some(from []int) []int {
	if len(from) == 0 {
		return nil
	}
	n := max(1, int(t.a.spec.Rate*float64(len(from))+0.5))
	pick := slices.Clone(from)
	t.rng.Shuffle(len(pick), func(i, j int) { pick[i], pick[j] = pick[j], pick[i] })
	pick = pick[:min(n, len(pick))]
	slices.Sort(pick)
	return pick
}

func (t *text) withSynonym() []int {
	var out []int
	for _, i := range t.free {
		if len(t.a.synonyms[strings.ToLower(t.words[i])]) > 0 {
			out = append(out, i)
		}
	}
	return out
}

// another is a synonym of a word in the word's case.
func (t *text) another(word string) string {
	s := t.a.synonyms[strings.ToLower(word)]
	w := s[t.rng.IntN(len(s))]
	first, n := utf8.DecodeRuneInString(word)
	if !unicode.IsUpper(first) {
		return w
	}
	if n < len(word) && strings.ToUpper(word) == word {
		return strings.ToUpper(w)
	}
	f, m := utf8.DecodeRuneInString(w)
	return string(unicode.ToUpper(f)) + w[m:]
}

func (t *text) synonym() (changes []string) {
	for _, i := range t.some(t.withSynonym()) {
		w := t.another(t.words[i])
		changes = append(changes, t.words[i]+" > "+w)
		t.words[i] = w
	}
	return changes
}

func (t *text) insert() (changes []string) {
	for range t.some(t.free) {
		from := t.withSynonym()
		if len(from) == 0 {
			return changes
		}
		w := t.another(t.words[from[t.rng.IntN(len(from))]])
		at := t.free[t.rng.IntN(len(t.free))]
		changes = append(changes, "+ "+w)
		if first, _ := utf8.DecodeRuneInString(t.words[at]); unicode.Is(unicode.Han, first) {
			t.words[at] += w
		} else {
			t.words[at] += " " + w
		}
	}
	return changes
}

func (t *text) swap() (changes []string) {
	if len(t.free) < 2 {
		return nil
	}
	for range t.some(t.free) {
		i, j := t.free[t.rng.IntN(len(t.free))], t.free[t.rng.IntN(len(t.free))]
		if t.words[i] == t.words[j] {
			continue
		}
		t.words[i], t.words[j] = t.words[j], t.words[i]
		changes = append(changes, t.words[j]+" <> "+t.words[i])
	}
	return changes
}

func (t *text) drop() (changes []string) {
	if len(t.free) < 3 {
		return nil
	}
	for _, i := range t.some(t.free) {
		changes = append(changes, "- "+t.words[i])
		t.words[i] = ""
		// Of the blanks on both sides one goes too.
		if i+1 < len(t.words) && strings.HasPrefix(t.words[i+1], " ") && (i == 0 || strings.HasSuffix(t.words[i-1], " ")) {
			t.words[i+1] = t.words[i+1][1:]
		}
	}
	return changes
}

// keyboard has each letter's neighbours.
var keyboard = map[rune]string{'q': "wa", 'w': "qes", 'e': "wrd", 'r': "etf", 't': "ryg", 'y': "tuh", 'u': "yij", 'i': "uok", 'o': "ipl", 'p': "o", 'a': "qsz",
	's': "awdx", 'd': "sefc", 'f': "drgv", 'g': "fthb", 'h': "gyjn", 'j': "hukm", 'k': "jil", 'l': "ko", 'z': "ax", 'x': "zsc", 'c': "xdv", 'v': "cfb", 'b': "vgn",
	'n': "bhm", 'm': "nj"}

// typo makes one typing error a word: a neighbouring key, two letters swapped, one lost or doubled; two Han characters swapped.
func (t *text) typo() (changes []string) {
	var long []int
	for _, i := range t.free {
		if n := utf8.RuneCountInString(t.words[i]); n >= 4 || n >= 2 && t.words[i][0] >= 0xe0 {
			long = append(long, i)
		}
	}
	for _, i := range t.some(long) {
		old := t.words[i]
		r := []rune(old)
		k := 1 + t.rng.IntN(max(1, len(r)-2)) // not the first letter
		if unicode.Is(unicode.Han, r[0]) {
			k = 1 + t.rng.IntN(len(r)-1)
			r[k], r[k-1] = r[k-1], r[k]
		} else {
			switch near := keyboard[unicode.ToLower(r[k])]; {
			case t.rng.IntN(4) == 0 && near != "":
				r[k] = rune(near[t.rng.IntN(len(near))])
			case t.rng.IntN(3) == 0:
				r = slices.Delete(r, k, k+1)
			case t.rng.IntN(2) == 0:
				r = slices.Insert(r, k, r[k])
			default:
				r[k], r[k+1] = r[k+1], r[k]
			}
		}
		if t.words[i] = string(r); t.words[i] != old {
			changes = append(changes, old+" > "+t.words[i])
		}
	}
	return changes
}

// homophones are groups that sound alike: whole words of English, single characters of Chinese.
var homophones = func() map[string][]string {
	out := map[string][]string{}
	for _, group := range strings.Fields(`their/there/they're your/you're its/it's to/too/two then/than here/hear by/buy/bye new/knew no/know right/write see/sea
week/weak wear/where whether/weather which/witch whole/hole would/wood one/won our/hour for/four be/bee sun/son sale/sail mail/male meet/meat peace/piece plain/plane
affect/effect accept/except lose/loose quite/quiet principal/principle brake/break cell/sell cent/sent/scent flour/flower hi/high mane/main road/rode role/roll some/sum
tail/tale threw/through wait/weight waste/waist way/weigh
的/地/得 在/再 做/作 他/她/它 是/事/式 已/以/己 像/象/向 那/哪 到/道 和/合/河 有/友/又 会/汇 带/戴 座/坐 即/既/级 须/需 份/分 长/常/场 定/订 帐/账 反/返 复/覆 决/绝 克/刻 历/厉/立
利/力/例 练/炼 密/秘 明/名 其/期/奇 清/请/情 权/全 人/认 生/声/升 时/实/十 市/室/世 题/提 通/同 位/为/未 下/吓 先/现/线 想/响 心/新/信 行/形/型 要/药 一/医/衣 应/因/英 用/永 由/油 于/与/鱼
原/元/园 员/圆 章/张 真/针 正/证/政 之/只/知 中/终/钟 主/住/注 自/字 最/罪`) {
		words := strings.Split(group, "/")
		for _, w := range words {
			for _, o := range words {
				if o != w {
					out[w] = append(out[w], o)
				}
			}
		}
	}
	return out
}()

func (t *text) homophone() (changes []string) {
	var can []int
	for _, i := range t.free {
		if len(homophones[strings.ToLower(t.words[i])]) > 0 || strings.ContainsFunc(t.words[i], func(c rune) bool { return c >= 0x4e00 && len(homophones[string(c)]) > 0 }) {
			can = append(can, i)
		}
	}
	for _, i := range t.some(can) {
		old := t.words[i]
		if s := homophones[strings.ToLower(old)]; len(s) > 0 && old[0] < 0x80 {
			w := s[t.rng.IntN(len(s))]
			if unicode.IsUpper(rune(old[0])) {
				w = strings.ToUpper(w[:1]) + w[1:]
			}
			t.words[i] = w
		} else {
			r := []rune(old)
			var at []int
			for k, c := range r {
				if len(homophones[string(c)]) > 0 {
					at = append(at, k)
				}
			}
			k := at[t.rng.IntN(len(at))]
			s := homophones[string(r[k])]
			r[k], _ = utf8.DecodeRuneInString(s[t.rng.IntN(len(s))])
			t.words[i] = string(r)
		}
		changes = append(changes, fmt.Sprintf("%s > %s", old, t.words[i]))
	}
	return changes
}
