package main

import (
	"fmt"
	"strings"
	"unicode"
)

// Clause is a row of clauses.jsonl.
type Clause struct {
	Text        string `json:"text"`
	Label       string `json:"label"`
	Explanation string `json:"explanation"`
	// Group is the phrase family.
	Group string `json:"group"`
}

// Truth says what was planted in the row of the same number. Only tests read it.
type Truth struct {
	Label     string `json:"label"`
	Duplicate bool   `json:"duplicate,omitempty"`
	PII       bool   `json:"pii,omitempty"`
	Wrong     bool   `json:"wrong,omitempty"`
}

// Config says how much of what is made.
type Config struct {
	Seed uint64
	// Rows is the number of rows, planted ones included.
	Rows int
	// Families is the number of phrase families of each class.
	Families int
	// Cues is the number of phrases of each kind that a class has.
	Cues int
	// Duplicates, PII and Wrong are shares in 1/1000.
	Duplicates, PII, Wrong int
	// Vocab is the size of the tokenizer's vocabulary.
	Vocab int
}

// DefaultConfig makes the committed example.
func DefaultConfig() Config {
	return Config{Seed: 20261123, Rows: 5000, Families: 20, Cues: 5, Duplicates: 40, PII: 60, Wrong: 30, Vocab: 2048}
}

// Set is the generated data.
type Set struct {
	Clauses  []Clause
	Truth    []Truth
	Families int
}

// family is one way of wording a class: its frames, its parties and the cues it uses.
type family struct {
	class  int
	name   string
	party  [2]string
	opener string
	plan   []part
	things []string
	acts   []string
	// even marks families whose side sentences are all about one other matter.
	even bool
}

// part is one sentence of a family: its frame, and what fills it.
type part struct {
	frame string
	// side marks a sentence about another class's matter.
	side bool
}

// Generate makes the data.
func Generate(c Config) (*Set, error) {
	cs := classes()
	for k := range cs {
		cs[k].things, cs[k].acts = cs[k].things[:c.Cues], cs[k].acts[:c.Cues]
	}
	var fams []family
	seen := map[string]bool{}
	for k := range cs {
		for i := range c.Families {
			s := newSource(c.Seed, uint64(k)<<32|uint64(i)+1)
			var f family
			for {
				f = newFamily(s, k, i, cs[k])
				key := fmt.Sprint(k, f.plan)
				if !seen[key] {
					seen[key] = true
					break
				}
			}
			fams = append(fams, f)
		}
	}
	total := 0
	for _, x := range cs {
		total += x.weight
	}
	set := &Set{Families: len(fams)}
	s := newSource(c.Seed, 1<<63)
	duplicates := c.Rows * c.Duplicates / 1000
	texts := map[string]bool{}
	for set.count() < c.Rows-duplicates {
		w, k := s.intn(total), 0
		for w >= cs[k].weight {
			w -= cs[k].weight
			k++
		}
		f := fams[k*c.Families+s.intn(c.Families)]
		text, explanation, pii := f.clause(s, cs, s.chance(c.PII))
		if texts[strings.ToLower(text)] {
			continue
		}
		texts[strings.ToLower(text)] = true
		if err := checkWords(text, cs[k]); err != nil {
			return nil, err
		}
		row := Clause{Text: text, Label: cs[k].label, Explanation: explanation, Group: f.name}
		truth := Truth{Label: row.Label, PII: pii}
		if s.chance(c.Wrong) {
			row.Label = cs[(k+1+s.intn(len(cs)-1))%len(cs)].label
			truth.Wrong = true
		}
		set.Clauses, set.Truth = append(set.Clauses, row), append(set.Truth, truth)
	}
	for range duplicates {
		i := s.intn(len(set.Clauses))
		row, truth := set.Clauses[i], set.Truth[i]
		truth.Duplicate = true
		if s.chance(500) { // the same words in other white space and case
			row.Text = strings.ReplaceAll(strings.ToUpper(row.Text[:1])+row.Text[1:], ". ", ".  ") + " "
		}
		at := i + 1 + s.intn(len(set.Clauses)-i)
		set.Clauses = append(set.Clauses[:at], append([]Clause{row}, set.Clauses[at:]...)...)
		set.Truth = append(set.Truth[:at], append([]Truth{truth}, set.Truth[at:]...)...)
	}
	return set, nil
}

func (s *Set) count() int { return len(s.Clauses) }

// newFamily draws the wording of a family: two sentences on its matter and one or two that only touch others, in an
// order of its own.
func newFamily(s *source, k, i int, c class) family {
	f := family{class: k, name: fmt.Sprintf("%s-%02d", strings.ReplaceAll(c.label, " ", "-"), i), party: pick(s, partyPairs()), opener: pick(s, openers())}
	main := append(sample(s, actFrames(), 1+s.intn(2)), sample(s, thingFrames(), 1)...)
	for _, x := range main[:2] {
		f.plan = append(f.plan, part{frame: x})
	}
	switch {
	case s.chance(200): // as much about another matter as about its own: words alone cannot tell
		for _, x := range sample(s, sideFrames(), 2) {
			f.plan = append(f.plan, part{frame: x, side: true})
		}
		f.even = true
	case s.chance(850):
		f.plan = append(f.plan, part{frame: pick(s, namedFrames()), side: true})
	default:
		f.plan = append(f.plan, part{frame: pick(s, sideFrames()), side: true})
	}
	if !f.even && s.chance(200) {
		f.plan = append(f.plan, part{frame: pick(s, namedFrames()), side: true})
	}
	shuffle(s, f.plan)
	f.things, f.acts = sample(s, c.things, 4), sample(s, c.acts, 4)
	return f
}

// clause writes one row of the family.
func (f *family) clause(s *source, cs []class, pii bool) (text, explanation string, hasPII bool) {
	things, acts := sample(s, f.things, 2), sample(s, f.acts, 2)
	var out []string
	cue := ""
	other := cs[(f.class+1+s.intn(len(cs)-1))%len(cs)]
	for i, p := range f.plan {
		thing, act, label := "", "", ""
		if p.side {
			if !f.even {
				other = cs[(f.class+1+s.intn(len(cs)-1))%len(cs)]
			}
			thing, act, label = pick(s, other.things), pick(s, other.acts), other.label
		} else {
			switch {
			case strings.Contains(p.frame, "{act}"):
				act, acts = acts[0], acts[1:]
			case strings.Contains(p.frame, "{thing}"):
				thing, things = things[0], things[1:]
			}
			if cue == "" {
				cue = act + thing
			}
		}
		frame := p.frame
		if i == 0 {
			frame = f.opener + frame
		}
		x := strings.NewReplacer("{act}", act, "{thing}", thing, "{label}", label, "{a}", f.party[0], "{b}", f.party[1], "{n}", fmt.Sprint(5*(1+s.intn(18))),
			"{s}", fmt.Sprint(1+s.intn(30))).Replace(frame)
		out = append(out, strings.ToUpper(x[:1])+x[1:]+".")
	}
	if pii {
		out = append(out, contact(s))
	}
	return strings.Join(out, " "), fmt.Sprintf("It is about %s, because of this: %s.", cs[f.class].gloss, cue), pii
}

// contact is a sentence with personal data, all of it made up: reserved domains and numbers.
func contact(s *source) string {
	first, last := pick(s, []string{"Anna", "Boris", "Clara", "David", "Elena", "Felix", "Greta", "Hugo"}), pick(s, []string{"Keller", "Novak", "Moreau", "Rossi", "Jensen", "Silva"})
	mail := strings.ToLower(first+"."+last) + "@" + pick(s, []string{"example.com", "example.org", "mail.example.net"})
	phone := fmt.Sprintf("+1 202 555 %04d", 100+s.intn(100))
	switch s.intn(5) {
	case 0:
		return fmt.Sprintf("Contact: Ms. %s %s, %s.", first, last, mail)
	case 1:
		return fmt.Sprintf("Contact: Mr. %s %s, %s.", first, last, phone)
	case 2:
		return fmt.Sprintf("Questions go to %s or %s.", mail, phone)
	case 3:
		return fmt.Sprintf("The account is %s.", iban(s))
	}
	return fmt.Sprintf("The card on file is %s.", card(s))
}

// iban is a German account number with valid check digits and a bank code that is not given out.
func iban(s *source) string {
	bban := fmt.Sprintf("00000000%010d", s.intn(1_000_000_000))
	rem := 0
	for _, c := range bban + "131400" {
		rem = (rem*10 + int(c-'0')) % 97
	}
	x := fmt.Sprintf("DE%02d%s", 98-rem, bban)
	return strings.Join([]string{x[:4], x[4:8], x[8:12], x[12:16], x[16:20], x[20:]}, " ")
}

// card is a number in the range of test cards with a valid check digit.
func card(s *source) string {
	x := fmt.Sprintf("400000%09d", s.intn(1_000_000_000))
	sum := 0
	for i := range x {
		d := int(x[len(x)-1-i] - '0')
		if i%2 == 0 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	x += fmt.Sprint((10 - sum%10) % 10)
	return strings.Join([]string{x[:4], x[4:8], x[8:12], x[12:]}, " ")
}

// checkWords fails when a text holds a word of its label or one of its kin.
func checkWords(text string, c class) error {
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) }) {
		for _, stem := range c.stems {
			if strings.HasPrefix(w, stem) {
				return fmt.Errorf("a clause of type %s holds %q: %s", c.label, w, text)
			}
		}
	}
	return nil
}
