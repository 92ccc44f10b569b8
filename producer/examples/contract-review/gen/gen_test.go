package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTheCommittedFilesAreWhatTheGeneratorWrites(t *testing.T) {
	dir := t.TempDir()
	if err := run([]string{"-out", dir}, new(bytes.Buffer)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"clauses.jsonl", "tokenizer/tokenizer.json"} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs: run go run ./producer/examples/contract-review/gen", name)
		}
	}
}

func TestClauses(t *testing.T) {
	c := DefaultConfig()
	set, err := Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	if len(set.Clauses) != 5000 || len(set.Truth) != 5000 {
		t.Fatalf("%d clauses and %d truths", len(set.Clauses), len(set.Truth))
	}
	byLabel, families := map[string]int{}, map[string]string{}
	var duplicates, pii, wrong int
	for i, r := range set.Clauses {
		truth := set.Truth[i]
		byLabel[truth.Label]++
		if have, ok := families[r.Group]; ok && have != truth.Label {
			t.Fatalf("family %s is of %s and of %s", r.Group, have, truth.Label)
		}
		families[r.Group] = truth.Label
		if (r.Label != truth.Label) != truth.Wrong {
			t.Fatalf("row %d: label %s, truth %+v", i, r.Label, truth)
		}
		// Independent of the generator's own check: no word of the label in the text.
		for _, w := range strings.FieldsFunc(truth.Label, func(r rune) bool { return r == ' ' || r == '-' }) {
			for _, x := range strings.FieldsFunc(strings.ToLower(r.Text), func(r rune) bool { return r < 'a' || r > 'z' }) {
				if x == w || len(w) > 6 && strings.HasPrefix(x, w[:6]) {
					t.Fatalf("row %d of type %s holds %q: %s", i, truth.Label, x, r.Text)
				}
			}
		}
		if truth.Duplicate {
			duplicates++
		}
		if truth.PII {
			pii++
		}
		if truth.Wrong {
			wrong++
		}
		if r.Text == "" || !strings.Contains(r.Explanation, "because") || strings.Contains(r.Text, "{") {
			t.Fatalf("row %d is %+v", i, r)
		}
	}
	if len(byLabel) < 12 || len(families) != len(byLabel)*c.Families {
		t.Fatalf("%d types, %d families", len(byLabel), len(families))
	}
	if duplicates != 200 || pii < 200 || wrong < 100 {
		t.Fatalf("planted: %d duplicates, %d with personal data, %d wrong labels", duplicates, pii, wrong)
	}
	for l, n := range byLabel {
		if n < 200 || n > 900 {
			t.Errorf("type %s has %d rows", l, n)
		}
	}
}

func TestTheSameSeedGivesTheSameRows(t *testing.T) {
	c := DefaultConfig()
	c.Rows = 300
	a, err := Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	b, err := Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	c.Seed++
	other, err := Generate(c)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := json.Marshal(a)
	y, _ := json.Marshal(b)
	z, _ := json.Marshal(other)
	if !bytes.Equal(x, y) || bytes.Equal(x, z) {
		t.Fatal("rows do not depend on the seed alone")
	}
}

func TestTokenizerHasTheSizeAskedFor(t *testing.T) {
	for _, c := range []struct {
		vocab int
		fails bool
	}{{vocab: 100, fails: true}, {vocab: 265}, {vocab: 300}, {vocab: 600}} {
		b, err := TrainTokenizer([]string{"the cat sat on the mat", "the hat", "naïve cats"}, c.vocab)
		if (err != nil) != c.fails {
			t.Fatalf("vocabulary of %d: %v", c.vocab, err)
		}
		if c.fails {
			continue
		}
		var f struct {
			Model struct {
				Vocab  map[string]int
				Merges []string
			}
		}
		if err := json.Unmarshal(b, &f); err != nil || len(f.Model.Vocab) != c.vocab {
			t.Fatalf("vocabulary of %d has %d, %v", c.vocab, len(f.Model.Vocab), err)
		}
		if c.vocab == 300 && f.Model.Merges[0] != "a t" && f.Model.Merges[0] != "h e" && f.Model.Merges[0] != "t h" {
			t.Fatalf("the first merge is %q", f.Model.Merges[0])
		}
	}
}
