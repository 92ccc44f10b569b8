package data

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestMaskPII(t *testing.T) {
	for _, c := range []struct {
		in, want string
		n        int
	}{
		{"mail anna.keller+x@mail.example.co.uk now", "mail [EMAIL] now", 1},
		{"card 4000001234567890.", "card 4000001234567890.", 0},
		{"card 4111 1111 1111 1111.", "card [CARD].", 1},
		{"card 4111-1111-1111-1111", "card [CARD]", 1},
		{"IBAN DE89 3704 0044 0532 0130 00 here", "IBAN [IBAN] here", 1},
		{"IBAN DE89370400440532013000", "IBAN [IBAN]", 1},
		{"IBAN DE88370400440532013000 here", "IBAN DE88370400440532013000 here", 0},
		{"host 192.168.1.254 and 999.1.1.1", "host [IP] and 999.1.1.1", 1},
		{"call +1 202 555 0142 or (030) 1234-5678", "call [PHONE] or [PHONE]", 2},
		{"ask Ms. Anna Keller or Dr Boris Novak.", "ask [NAME] or [NAME].", 2},
		{"section 12 of 2024, 30 days", "section 12 of 2024, 30 days", 0},
		{"", "", 0},
	} {
		if got, n := MaskPII(c.in); got != c.want || n != c.n {
			t.Errorf("%q became %q with %d masks, want %q with %d", c.in, got, n, c.want, c.n)
		}
	}
}

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{" a \t b ": "a b", "e\u0301": "é", "a \n  b": "a\nb", "x\u200by\x07": "xy", "\u00a0": "", "a\r\nb": "a\nb"} {
		if got := Normalize(in); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := Normalize(rapid.String().Draw(rt, "s"))
		if again := Normalize(s); again != s {
			rt.Fatalf("%q became %q", s, again)
		}
	})
}

func TestCleanCountsWhatItDrops(t *testing.T) {
	var rows []Row
	for i := range 10 {
		rows = append(rows, Row{Text: fmt.Sprintf("clause %d of the family", i), Label: "audit", Group: "g"})
	}
	rows = append(rows, Row{Text: "CLAUSE  3 of the family ", Label: "audit", Group: "g"}, // duplicate but for case and white space
		Row{Text: "clause 11 of the family", Label: "payment", Group: "g"}, // outvoted
		Row{Text: "clause 12", Label: "other", Group: "h"},                 // not listed
		Row{Text: "x", Label: "audit", Group: "i"},                         // too short
		Row{Text: "write to a@example.com please", Label: "audit", Group: "g"})
	kept, c := Clean(rows, schemas.CleanSpec{Normalize: true, Dedup: true, PII: "mask", Mislabelled: "drop", Labels: []string{"audit", "payment"}, MinChars: 3})
	want := Cleaned{Read: 15, Duplicates: 1, Mislabelled: 1, UnknownLabel: 1, Length: 1, PIIMasked: 1, Kept: 11}
	if c != want || len(kept) != 11 || kept[10].Text != "write to [EMAIL] please" || kept[10].Index != 10 {
		t.Fatalf("counted %+v, want %+v; kept %+v", c, want, kept)
	}
	kept, c = Clean(rows, schemas.CleanSpec{PII: "drop"})
	if c.PIIDropped != 1 || len(kept) != 14 {
		t.Fatalf("counted %+v", c)
	}
	if kept, c = Clean(rows, schemas.CleanSpec{}); len(kept) != len(rows) || c.Kept != len(rows) {
		t.Fatalf("counted %+v", c)
	}
}

func TestSplitKeepsGroupsAndShares(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var rows []Row
		labels := rapid.IntRange(1, 4).Draw(rt, "labels")
		groups := rapid.IntRange(10, 30).Draw(rt, "groups")
		for l := range labels {
			for g := range groups {
				for i := range rapid.IntRange(1, 6).Draw(rt, "rows") {
					rows = append(rows, Row{Text: fmt.Sprint(l, g, i), Label: fmt.Sprint(l), Group: fmt.Sprint(l, "-", g)})
				}
			}
		}
		spec := schemas.SplitSpec{Eval: 0.1, Test: 0.2}
		seed := rapid.Uint64().Draw(rt, "seed")
		Split(rows, spec, seed)
		where := map[string]string{}
		count := map[string]map[string]int{}
		for _, r := range rows {
			if s, ok := where[r.Group]; ok && s != r.Split {
				rt.Fatalf("group %s is in %s and %s", r.Group, s, r.Split)
			}
			where[r.Group] = r.Split
			if count[r.Label] == nil {
				count[r.Label] = map[string]int{}
			}
			count[r.Label][r.Split]++
		}
		for l, c := range count {
			n := float64(c["train"] + c["eval"] + c["test"])
			for split, share := range map[string]float64{"eval": 0.1, "test": 0.2} {
				if d := float64(c[split]) - share*n; d > 4 || d < -6 {
					rt.Fatalf("label %s has %d of %.0f rows in %s", l, c[split], n, split)
				}
			}
		}
		again := slices.Clone(rows)
		Split(again, spec, seed)
		if !slices.Equal(rows, again) {
			rt.Fatal("the same seed split otherwise")
		}
	})
}

func TestPermuteLabelsTouchesTrainingOnly(t *testing.T) {
	var rows []Row
	for i := range 600 {
		rows = append(rows, Row{Text: fmt.Sprint("row ", i), Label: fmt.Sprint(i % 6), Explanation: fmt.Sprint("because ", i%6), Group: fmt.Sprint(i % 60)})
	}
	plain := slices.Clone(rows)
	Split(plain, schemas.SplitSpec{Test: 0.2}, 3)
	Split(rows, schemas.SplitSpec{Test: 0.2, PermuteLabels: true}, 3)
	same, n := 0, 0
	old, now := map[string]int{}, map[string]int{}
	for i, r := range rows {
		if r.Split != plain[i].Split || r.Text != plain[i].Text {
			t.Fatalf("row %d is %+v, was %+v", i, r, plain[i])
		}
		if r.Split != "train" {
			if r != plain[i] {
				t.Fatalf("row %d of %s changed", i, r.Split)
			}
			continue
		}
		if !strings.HasSuffix(r.Explanation, r.Label) {
			t.Fatalf("label %s came without its explanation %q", r.Label, r.Explanation)
		}
		old[plain[i].Label]++
		now[r.Label]++
		n++
		if r.Label == plain[i].Label {
			same++
		}
	}
	if !maps.Equal(old, now) || same > n/3 {
		t.Fatalf("%d of %d labels stayed; counts %v and %v", same, n, old, now)
	}
}
