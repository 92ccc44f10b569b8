package clean_test

import (
	"bytes"
	"fmt"
	"maps"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/schemas"
)

// run cleans rows as a preparation does; review may be empty.
func run(t *testing.T, rows []data.Row, spec schemas.CleanSpec, seed uint64, review string) ([]data.Row, *clean.Report) {
	t.Helper()
	fail := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	rep := clean.NewReport()
	stream, err := clean.NewStream(spec, seed, rep)
	fail(err)
	verdicts, err := clean.NewVerdicts(strings.NewReader(review), &spec)
	fail(err)
	votes, err := clean.NewConsensus(t.TempDir(), seed)
	fail(err)
	defer func() { fail(votes.Close()) }()
	seen, gone := map[[32]byte]bool{}, map[int]bool{}
	var left []data.Row
	for _, r := range rows {
		id := clean.RowID(&r)
		if !stream.Row(&r) {
			continue
		}
		drop, label := verdicts.Judge(id, r.Label)
		k := clean.Key(&r)
		switch {
		case stream.Dedup() && seen[k]:
			rep.Drop(clean.Duplicate, 1)
			continue
		case drop:
			rep.Drop(clean.Reviewed, 1)
			continue
		case label != r.Label:
			rep.Relabelled++
		}
		seen[k], r.Label = true, label
		fail(votes.Add(&r))
		left = append(left, r)
	}
	if spec.Mislabelled == "drop" {
		fail(votes.Each(func(i int) bool { return gone[i] }, func(i int) error {
			gone[i] = true
			rep.Drop(clean.Mislabelled, 1)
			return nil
		}))
	}
	var kept []data.Row
	for i, r := range left {
		if !gone[i] {
			kept = append(kept, r)
		}
	}
	if rep.Read != len(rows) || rep.Kept != len(kept) {
		t.Fatalf("the report counts %d of %d rows, there are %d of %d", rep.Kept, rep.Read, len(kept), len(rows))
	}
	return kept, rep
}

func TestNormalize(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{" a \t b ": "a b", "e\u0301": "é", "a \n  b": "a\nb", "x\u200by\x07": "xy", "\u00a0": "", "a\r\nb": "a\nb"} {
		if got := clean.Normalize(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := clean.Normalize(rapid.String().Draw(rt, "s"))
		if again := clean.Normalize(s); again != s {
			rt.Fatalf("%q became %q", s, again)
		}
	})
}

func TestRunCountsWhatItDrops(t *testing.T) {
	t.Parallel()
	var rows []data.Row
	for i := range 10 {
		rows = append(rows, data.Row{Text: fmt.Sprintf("clause %d of the family", i), Label: "audit", Group: "g"})
	}
	rows = append(rows, data.Row{Text: "CLAUSE  3 of the family ", Label: "audit", Group: "g"}, // duplicate but for case and white space
		data.Row{Text: "clause 11 of the family", Label: "payment", Group: "g"}, // outvoted
		data.Row{Text: "clause 12", Label: "other", Group: "h"},                 // not listed
		data.Row{Text: "x", Label: "audit", Group: "i"},                         // too short
		data.Row{Text: "write to a@example.com, Mr. Smith", Label: "audit", Group: "g"})
	kept, rep := run(t, rows, schemas.CleanSpec{Normalize: true, Dedup: true, PII: "mask", Mislabelled: "drop", Labels: []string{"audit", "payment"}, MinChars: 3}, 0, "")
	want := map[string]int{clean.Duplicate: 1, clean.Mislabelled: 1, clean.UnknownLabel: 1, clean.Length: 1}
	if !maps.Equal(rep.Dropped, want) || !maps.Equal(rep.Masked, map[string]int{"email": 1, "name": 1}) || kept[10].Text != "write to [EMAIL], [NAME]" {
		t.Fatalf("%+v; %+v", rep, kept)
	}
	if _, rep = run(t, rows, schemas.CleanSpec{PII: "drop", PIITypes: []string{"email"}}, 0, ""); rep.Dropped[clean.PersonalData] != 1 {
		t.Errorf("%+v", rep)
	}
	if kept, _ = run(t, rows, schemas.CleanSpec{}, 0, ""); len(kept) != len(rows) {
		t.Errorf("no settings dropped rows: %d of %d are left", len(kept), len(rows))
	}
}

func TestFilters(t *testing.T) {
	t.Parallel()
	long := "The quick brown fox jumps over the lazy dog and then it sleeps for the whole day in the sun."
	for _, c := range []struct {
		name   string
		spec   schemas.CleanSpec
		row    data.Row
		reason string
	}{
		{"language kept", schemas.CleanSpec{Languages: []string{"en"}}, data.Row{Text: long}, ""},
		{"language dropped", schemas.CleanSpec{Languages: []string{"zh"}}, data.Row{Text: long}, clean.Language},
		{"German", schemas.CleanSpec{Languages: []string{"en", "zh"}}, data.Row{Text: "Das ist nicht die Sprache, die wir für die Übung brauchen."}, clean.Language},
		{"Chinese with English words", schemas.CleanSpec{Languages: []string{"zh"}}, data.Row{Text: "请用 Python 写一个函数 hello world"}, ""},
		{"too short to tell", schemas.CleanSpec{Languages: []string{"zh"}}, data.Row{Text: "42"}, ""},
		{"blocked word", schemas.CleanSpec{Blocklist: []string{"Casino"}}, data.Row{Text: "the best CASINO here"}, clean.Blocked},
		{"part of a word", schemas.CleanSpec{Blocklist: []string{"ass"}}, data.Row{Text: "a class of assets"}, ""},
		{"Chinese word", schemas.CleanSpec{Blocklist: []string{"赌博"}}, data.Row{Prompt: "网络赌博违法吗", Response: "是"}, clean.Blocked},
		{"mojibake", schemas.CleanSpec{Broken: true}, data.Row{Text: "锟斤拷 and so on"}, clean.Broken},
		{"replacement characters", schemas.CleanSpec{Broken: true}, data.Row{Text: "caf\ufffd au lait"}, clean.Broken},
		{"repetition", schemas.CleanSpec{Broken: true}, data.Row{Text: strings.Repeat("buy it now ", 20)}, clean.Broken},
		{"Chinese repetition", schemas.CleanSpec{Broken: true}, data.Row{Text: strings.Repeat("快来买", 20)}, clean.Broken},
		{"no answer", schemas.CleanSpec{Broken: true}, data.Row{Prompt: "why?"}, clean.Broken},
		{"marks", schemas.CleanSpec{Broken: true}, data.Row{Text: "-=-=-=-=-=-=-=-=-=-=-=-=-=-=-"}, clean.Broken},
		{"sound", schemas.CleanSpec{Broken: true}, data.Row{Prompt: "why?", Response: long}, ""},
		{"too long", schemas.CleanSpec{MaxChars: 10}, data.Row{Text: long}, clean.Length},
	} {
		kept, rep := run(t, []data.Row{c.row}, c.spec, 0, "")
		if (c.reason == "") != (len(kept) == 1) || c.reason != "" && rep.Dropped[c.reason] != 1 {
			t.Errorf("%s: %d kept, %v", c.name, len(kept), rep.Dropped)
		}
	}
}

func TestBoilerplateIsTakenOut(t *testing.T) {
	t.Parallel()
	text := "Copyright © 2020 Example Inc. All rights reserved.\nThe rent is due on the first.\nRead more\n版权所有 翻印必究\n扫码关注我们\nWe keep what readers need."
	kept, rep := run(t, []data.Row{{Text: text}}, schemas.CleanSpec{Boilerplate: true}, 0, "")
	if want := "The rent is due on the first.\nWe keep what readers need."; kept[0].Text != want || rep.Lines != 4 {
		t.Errorf("%d lines: %q", rep.Lines, kept[0].Text)
	}
	if kept, _ = run(t, []data.Row{{Text: "Read more"}}, schemas.CleanSpec{Boilerplate: true}, 0, ""); kept[0].Text != "Read more" {
		t.Errorf("a text of nothing else became %q", kept[0].Text)
	}
}

// TestConsensus: rows vote in the group that they name, or with those that say nearly the same.
func TestConsensus(t *testing.T) {
	t.Parallel()
	rows := []data.Row{{Text: "Pay the rent!", Label: "payment"}, {Text: "pay THE rent", Label: "payment"}, {Text: "pay the rent.", Label: "notice"}, {Text: "something else", Label: "notice"},
		{Text: "open or shut", Label: "a"}, {Text: "Open or shut?", Label: "b"}, {Text: "pay the rent", Label: ""},
		{Text: "one wording", Label: "x", Group: "g"}, {Text: "another wording", Label: "x", Group: "g"}, {Text: "a third", Label: "y", Group: "g"}, {Text: "pay the rent", Label: "y", Group: "h"}}
	kept, rep := run(t, rows, schemas.CleanSpec{Mislabelled: "drop"}, 0, "")
	var left []string
	for _, r := range kept {
		left = append(left, r.Label)
	}
	if got := strings.Join(left, " "); got != "payment payment notice a b  x x y" || rep.Dropped[clean.Mislabelled] != 2 {
		t.Errorf("%q, %v", got, rep.Dropped)
	}
}

func TestPseudonymsAreStable(t *testing.T) {
	t.Parallel()
	rows := []data.Row{{Text: "a@b.com wrote to c@d.com"}, {Text: "a@b.com again"}}
	mask := func(seed uint64) []string {
		kept, _ := run(t, rows, schemas.CleanSpec{PII: "pseudonym"}, seed, "")
		return append(strings.Fields(kept[0].Text), strings.Fields(kept[1].Text)...)
	}
	a, b := mask(1), mask(2)
	if a[0] != a[4] || a[0] == a[3] || !strings.HasPrefix(a[0], "[EMAIL_") || a[0] == b[0] {
		t.Errorf("%v, %v", a, b)
	}
}

func TestReview(t *testing.T) {
	t.Parallel()
	rows := []data.Row{{Text: "A", Label: "x"}, {Text: "B", Label: "x"}, {Text: "C", Label: "x"}, {Text: "D", Label: "x"}, {Text: "E", Label: "x"}}
	id := func(i int) string { return clean.RowID(&rows[i]) }
	var file bytes.Buffer
	if err := clean.WriteReview(&file, []clean.ReviewEntry{
		{ID: id(0), Label: "x", Decisions: []clean.Decision{{By: "ann", Level: "reviewer", Label: "y"}}},
		{ID: id(1), Label: "x", Decisions: []clean.Decision{{By: "arb", Level: "arbiter", Label: "z"}, {By: "bob", Level: "reviewer", Label: "y"}}},
		{ID: id(2), Label: "x", Decisions: []clean.Decision{{By: "ann", Level: "reviewer", Label: "y"}, {By: "arb", Level: "arbiter", Drop: true}}},
		{ID: id(3), Label: "x"},
	}); err != nil {
		t.Fatal(err)
	}
	for pending, want := range map[string]string{"keep": "Ay Bz Dx Ex", "drop": "Ay Bz Ex"} {
		kept, rep := run(t, rows, schemas.CleanSpec{ReviewPending: pending}, 0, file.String())
		var got []string
		for _, r := range kept {
			got = append(got, r.Text+r.Label)
		}
		if strings.Join(got, " ") != want || rep.Relabelled != 2 {
			t.Errorf("pending %s: %v, %+v", pending, got, rep)
		}
	}
	for _, bad := range []string{`{"id":"1","decisions":[]}`, `{"id":"0123456789abcdef","decisions":[{"by":"a","level":"boss","label":"x"}]}`,
		`{"id":"0123456789abcdef","decisions":[{"by":"a","level":"arbiter"}]}`, `{"idd":1}`, `[`} {
		_, err := clean.ReadReview("r.jsonl", strings.NewReader("\n"+bad))
		if !schemas.IsCode(err, schemas.CodeData) || !strings.Contains(schemas.AsErrorInfo(err).Place, "r.jsonl:2") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func TestDetectLanguage(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{"今天天气很好": "zh", "これはペンです": "ja", "나는 학생입니다": "ko", "Это хорошая книга": "ru", "هذا كتاب جيد": "ar",
		"This is a book about the sea": "en", "Das ist ein Buch über das Meer": "de", "C'est un livre sur la mer et les îles": "fr", "Es un libro sobre el mar y las islas": "es",
		"È un libro sul mare e non sulla terra che è bella": "it", "Write quicksort": "", "12345": "", "": ""} {
		if got := clean.DetectLanguage(text); got != want {
			t.Errorf("%q is %q, want %q", text, got, want)
		}
	}
}

func FuzzReview(f *testing.F) {
	f.Add(`{"id":"0123456789abcdef","text":"a","label":"x","decisions":[{"by":"a","level":"arbiter","drop":true}]}`)
	f.Fuzz(func(t *testing.T, s string) {
		entries, err := clean.ReadReview("r", strings.NewReader(s))
		if err != nil {
			return
		}
		for i := range entries {
			if st, d := entries[i].Status(); (st == "pending") != (d == nil) {
				t.Fatalf("%s with decision %v", st, d)
			}
		}
	})
}
