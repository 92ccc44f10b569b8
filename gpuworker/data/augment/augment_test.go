package augment_test

import (
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/augment"
	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
	"github.com/tunefleet/tunefleet/schemas"
)

const dict = "# comment\nbig, large, huge\nAa01A01= 美丽 漂亮 好看\nAa01A02# 猫 狗\n快乐\t高兴\t愉快\nhouse home\n"

func make1(t *testing.T, spec schemas.AugmentSpec, seed uint64) *augment.Augmenter {
	t.Helper()
	syn, err := augment.ReadSynonyms("s.txt", strings.NewReader(dict))
	if err != nil {
		t.Fatal(err)
	}
	cut, err := jieba.Default()
	if err != nil {
		t.Fatal(err)
	}
	a, err := augment.New(spec, syn, cut, seed)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestReadSynonyms(t *testing.T) {
	t.Parallel()
	syn, err := augment.ReadSynonyms("s.txt", strings.NewReader(dict))
	if err != nil {
		t.Fatal(err)
	}
	for w, want := range map[string][]string{"big": {"large", "huge"}, "漂亮": {"美丽", "好看"}, "高兴": {"快乐", "愉快"}, "home": {"house"}, "猫": nil} {
		if !slices.Equal(syn[w], want) {
			t.Errorf("%s: %v, want %v", w, syn[w], want)
		}
	}
	for _, bad := range []string{"", "\xff\xfe a\n", "one\n"} {
		if _, err := augment.ReadSynonyms("s.txt", strings.NewReader(bad)); !schemas.IsCode(err, schemas.CodeData) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// augmented are the rows with the copies of the training rows behind them, and how many there are.
func augmented(t *testing.T, rows []data.Row, spec schemas.AugmentSpec, seed uint64) ([]data.Row, int) {
	t.Helper()
	a, words := make1(t, spec, seed), map[string]bool{}
	for _, r := range rows {
		a.LabelWords(words, r.Label)
	}
	out := slices.Clone(rows)
	for i := range rows {
		if rows[i].Split == "train" {
			out = append(out, a.Copies(&rows[i], words)...)
		}
	}
	return out, len(out) - len(rows)
}

func TestSynonymsReplaceWholeWordsOnly(t *testing.T) {
	t.Parallel()
	rows := []data.Row{
		{Text: "Big bigger dogs are big.", Label: "animal", Split: "train"},
		{Prompt: "她的花园非常漂亮，我们都快乐", Response: "漂亮", Split: "train"},
		{Text: "a big house", Label: "house", Split: "train"},
		{Text: "big", Label: "a", Split: "eval"},
		{Text: "my big home in [big] Big Town", Label: "x", Split: "train"},
	}
	for i := range rows {
		rows[i].Index = i
	}
	out, n := augmented(t, rows, schemas.AugmentSpec{Methods: []string{"synonym_replacement"}, Rate: 1}, 1)
	if n != 4 || len(out) != len(rows)+4 || !reflect.DeepEqual(out[:len(rows)], rows) {
		t.Fatalf("%d copies: %+v", n, out)
	}
	a, b, c, d := out[5], out[6], out[7], out[8]
	if strings.Contains(a.Text, "Big ") || !strings.Contains(a.Text, " bigger dogs are ") || strings.Contains(a.Text, " big.") || a.Text[0] != 'L' && a.Text[0] != 'H' || a.Label != "animal" || a.Origin.Row != 0 || a.Origin.Method != "synonym_replacement" || len(a.Origin.Changes) != 2 {
		t.Errorf("%+v %+v", a, a.Origin)
	}
	if strings.Contains(b.Prompt, "漂亮") || strings.Contains(b.Prompt, "快乐") || b.Response != "漂亮" {
		t.Errorf("%+v", b)
	}
	if !strings.HasSuffix(c.Text, " house") { // the label stands in the text
		t.Errorf("%+v", c)
	}
	if !strings.HasSuffix(d.Text, "house in [big] Big Town") { // a placeholder and a name stay
		t.Errorf("%+v", d)
	}
}

func TestMethodsChangeAndProtect(t *testing.T) {
	t.Parallel()
	var rows []data.Row
	for i := range 40 {
		rows = append(rows, data.Row{Index: i, Text: strings.Repeat("please send their report through the whole office before 12 ", 1+i%2) + "to Anna at 北京 然后 我们 一起 开会", Label: "request", Split: "train"})
	}
	for _, m := range schemas.AugmentMethods() {
		spec := schemas.AugmentSpec{Methods: []string{m}, Copies: 2, Rate: 0.3, Protect: []string{"report"}}
		if m == "synonym_replacement" || m == "random_insertion" {
			for i := range rows {
				rows[i].Text = strings.Replace(rows[i].Text, "whole office", "big house", 1)
			}
		}
		out, n := augmented(t, rows, spec, 7)
		if n < 60 {
			t.Errorf("%s: %d copies of 80", m, n)
		}
		for _, r := range out[len(rows):] {
			from := rows[r.Origin.Row]
			if r.Text == from.Text || r.Label != from.Label || len(r.Origin.Changes) == 0 {
				t.Fatalf("%s: %q of %q", m, r.Text, from.Text)
			}
			for _, w := range []string{"report", "12", "Anna", "北京"} {
				if strings.Count(r.Text, w) != strings.Count(from.Text, w) {
					t.Fatalf("%s changed %s: %q", m, w, r.Text)
				}
			}
		}
		again, _ := augmented(t, rows, spec, 7)
		other, _ := augmented(t, rows, spec, 8)
		if !reflect.DeepEqual(out, again) || reflect.DeepEqual(out, other) {
			t.Errorf("%s is no function of the seed", m)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	cut, err := jieba.Default()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []string{"magic", "synonym_replacement"} {
		if _, err := augment.New(schemas.AugmentSpec{Methods: []string{m}}, nil, cut, 0); !schemas.IsCode(err, schemas.CodeInvalid) {
			t.Errorf("%s: %v", m, err)
		}
	}
}

func FuzzReadSynonyms(f *testing.F) {
	f.Add(dict)
	f.Fuzz(func(t *testing.T, s string) {
		syn, err := augment.ReadSynonyms("s", strings.NewReader(s))
		if err == nil && len(syn) == 0 {
			t.Fatal("an empty dictionary was accepted")
		}
	})
}
