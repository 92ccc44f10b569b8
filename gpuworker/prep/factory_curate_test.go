package prep_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// said are the sequences of an output as text, all parts.
func said(t *testing.T, f *fixture, output string) []string {
	t.Helper()
	tok, err := prep.OpenTokenizer(t.Context(), f.objects, "acme", f.spec.Stages[0].Prep.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	d, err := data.OpenDataset(t.Context(), f.objects, f.spec, "prep/"+output, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	var out []string
	for i := range d.Len() {
		s, err := d.Sequence(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tok.Decode(s.IDs))
	}
	return out
}

// tickets are rows of two kinds, 3 of 4 of them "audit".
func tickets(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"instruction":"the %d. clause on section %d shall hold","input":"","output":%q}`+"\n", i, i*7, []string{"audit", "audit", "audit", "payment"}[i%4])
	}
	return []byte(b.String())
}

func long(name, split string) schemas.PrepOutput {
	o := sft(name, split)
	o.CutoffLen = 256
	return o
}

// TestConversationsAreCleaned: texts are repaired and masked in every form of conversation, and rows that repeat another set's are gone.
func TestConversationsAreCleaned(t *testing.T) {
	chats := []byte(`{"conversations":[{"from":"human","value":"section   one  by ann@example.org"},{"from":"gpt","value":"shall hold"},{"from":"human","value":"and two"},{"from":"gpt","value":"see bob@example.org"}],"system":"the rules"}
{"conversations":[{"from":"gpt","value":"out of turn"}],"system":""}
{"conversations":[{"from":"human","value":"the 3. CLAUSE on section 21 shall hold"},{"from":"gpt","value":"payment"}],"system":""}
`)
	f := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{long("train", "train")}, tickets(8), chats)
	p := f.spec.Stages[0].Prep
	p.Clean = schemas.CleanSpec{Normalize: true, PII: "mask", NearDup: 1}
	p.Factory.Train[1].Formatting, p.Factory.Train[1].Columns = "sharegpt", map[string]string{"messages": "conversations", "system": "system"}
	p.Factory.Train[1].Tags = map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	all := said(t, f, "train")
	text := strings.Join(all, "\n")
	if len(all) != 9 || strings.Contains(text, "@") || strings.Count(text, "[EMAIL]") != 2 || !strings.Contains(text, "section one by [EMAIL]") || strings.Contains(text, "3. CLAUSE") {
		t.Fatalf("%d rows:\n%s", len(all), text)
	}
	c := f.result(0).Counters
	if c["masked_pii"] != 2 || c["dropped_near_duplicates"] != 1 || c["rows_read"] != 11 || c["dropped_rows"] != 1 || c["normalized_rows"] != 1 {
		t.Errorf("%v", c)
	}
}

// TestConversationsAreSampledAndAugmented: kinds are balanced, copies have another question and the same answer, and held-out rows have none;
// all parts agree, and what a copy was made of is written down.
func TestConversationsAreSampledAndAugmented(t *testing.T) {
	var want []string
	for _, parts := range []int{1, 3} {
		f := factory(t, schemas.FactorySpec{Stage: "sft", ValSize: 0.25, BatchSize: 7}, []schemas.PrepOutput{long("train", "train"), long("eval", "eval")}, tickets(80))
		p := f.spec.Stages[0].Prep
		synonyms := f.upload("synonyms.txt", []byte("clause, article\n"))
		p.Parts, p.Sample = parts, &schemas.SampleSpec{Balance: "undersample"}
		p.Augment = &schemas.AugmentSpec{Methods: []string{"synonym_replacement"}, SynonymDict: &synonyms, Copies: 1, Rate: 0.1}
		for i := range parts {
			if err := f.handle(t.Context(), i); err != nil {
				t.Fatal(err)
			}
		}
		train, eval := said(t, f, "train"), said(t, f, "eval")
		if parts == 1 {
			want = train
		} else if !slices.Equal(train, want) {
			t.Fatal("three parts make other data than one")
		}
		kinds := map[string]int{}
		for _, s := range train {
			for _, w := range []string{"audit", "payment", "article on", "clause on"} {
				if strings.Contains(s, w) {
					kinds[w]++
				}
			}
		}
		if kinds["audit"] != kinds["payment"] || kinds["article on"] != kinds["clause on"] || kinds["article on"]*2 != len(train) || len(eval) != 20 || strings.Contains(strings.Join(eval, ""), "article") {
			t.Fatalf("%v of %d, %d held out", kinds, len(train), len(eval))
		}
		c := f.result(0).Counters
		if c["augmented_rows"] != int64(len(train)/2) || c["sampled_rows"] >= 0 {
			t.Errorf("%v", c)
		}
		i := slices.IndexFunc(f.result(0).Objects, func(o schemas.Object) bool { return o.Name == "train/augmented" })
		if i < 0 {
			t.Fatal("nothing says what copies were made of")
		}
		raw, _, err := f.objects.Get(t.Context(), f.result(0).Objects[i].Key, 1<<20)
		if err != nil {
			t.Fatal(err)
		}
		var note struct {
			Of, Method, Text string
			Changes          []string
		}
		if err := json.Unmarshal(bytes.SplitN(raw, []byte("\n"), 2)[0], &note); err != nil || !strings.HasPrefix(note.Of, "set0.jsonl:") || note.Method != "synonym_replacement" || len(note.Changes) != 1 || !strings.Contains(note.Text, "article") {
			t.Errorf("%+v, %v", note, err)
		}
	}
}

// TestNothingHeldOutIsTrainedOn: training rows that repeat a held-out row are dropped.
func TestNothingHeldOutIsTrainedOn(t *testing.T) {
	f := factory(t, schemas.FactorySpec{Stage: "sft", ValSize: 0.5}, []schemas.PrepOutput{long("train", "train"), long("eval", "eval")}, tickets(20), tickets(20))
	f.spec.Stages[0].Prep.Clean = schemas.CleanSpec{Contamination: 1}
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	eval := said(t, f, "eval")
	train := said(t, f, "train")
	for _, s := range train {
		if slices.Contains(eval, s) {
			t.Fatalf("%q is held out, too", s)
		}
	}
	if n := f.result(0).Counters["dropped_contaminated"]; n == 0 || int(n) != 20-len(train) {
		t.Errorf("%d dropped, %d left", n, len(train))
	}
}

// TestReviewOfConversations: decisions on rows as they stand in the file are applied, though the rows are masked: the arbiter's beats the
// reviewer's, a pending row stays.
func TestReviewOfConversations(t *testing.T) {
	set := []byte(`{"instruction":"section one, mail ann@example.org","input":"","output":"audit"}
{"instruction":"section two","input":"","output":"audit"}
{"instruction":"section three","input":"","output":"audit"}
{"instruction":"section four","input":"","output":"audit"}
`)
	id := func(text string) string { return clean.RowID(&data.Row{Prompt: text}) }
	ann := func(label string) clean.Decision { return clean.Decision{By: "ann", Level: "reviewer", Label: label} }
	var review bytes.Buffer
	err := clean.WriteReview(&review, []clean.ReviewEntry{
		{ID: id("section one, mail ann@example.org"), Label: "audit", Decisions: []clean.Decision{ann("payment")}},
		{ID: id("section two"), Label: "audit", Decisions: []clean.Decision{{By: "bob", Level: "arbiter", Drop: true}, ann("payment")}},
		{ID: id("section three"), Label: "audit"},
	})
	if err != nil {
		t.Fatal(err)
	}
	for pending, rows := range map[string]int{"": 3, "drop": 2} {
		f := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{long("train", "train")}, set)
		ref := f.upload("review.jsonl", review.Bytes())
		f.spec.Stages[0].Prep.Clean = schemas.CleanSpec{PII: "mask", Review: &ref, ReviewPending: pending}
		if err := f.handle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		all := said(t, f, "train")
		text := strings.Join(all, "\n")
		if len(all) != rows || strings.Contains(text, "two") || strings.Count(text, "payment") != 1 || !strings.Contains(all[0], "[EMAIL]") || !strings.Contains(all[0], "payment") {
			t.Errorf("pending %q: %d rows\n%s", pending, len(all), text)
		}
		if c := f.result(0).Counters; c["relabelled"] != 1 {
			t.Errorf("%v", c)
		}
	}
}

var _ store.Objects = (*meter)(nil)

// TestRowsCleanedAloneAreThoseCleanedTogether: rows that are judged one by one, duplicates found by sorting, give the shards and counters that
// they give with all of them in memory, which a review that names none of them asks for.
func TestRowsCleanedAloneAreThoseCleanedTogether(t *testing.T) {
	t.Run("exact", func(t *testing.T) { aloneAndTogether(t, 0, 300) })
	t.Run("near", func(t *testing.T) { aloneAndTogether(t, 0.7, 10) })
}

func aloneAndTogether(t *testing.T, near float64, fewest int) {
	t.Helper()
	var odd strings.Builder
	for i := range 60 {
		fmt.Fprintf(&odd, `{"instruction":%q,"input":"","output":"audit"}`+"\n", []string{"the 3. CLAUSE on  section 21 shall hold", "x", "an own text of row " + fmt.Sprint(i%40), "see ann@example.org or bob"}[i%4])
		if i%9 == 0 {
			odd.WriteString(`{"instruction":7,"input":"","output":[]}` + "\n")
		}
	}
	made := func(review bool) (*fixture, []string) {
		f := factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: "skip"}, []schemas.PrepOutput{long("train", "train")}, tickets(300), []byte(odd.String()))
		p := f.spec.Stages[0].Prep
		p.Clean = schemas.CleanSpec{Normalize: true, PII: "drop", Dedup: true, NearDup: near, MinChars: 3, Blocklist: []string{"clause on section 14"}, Labels: []string{"audit", "payment"}}
		if review {
			ref := f.upload("review.jsonl", []byte(`{"id":"0123456789abcdef","text":"none","label":"audit","decisions":[]}`+"\n"))
			p.Clean.Review = &ref
		}
		if err := f.handle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
		return f, texts(t, f, "train")
	}
	f, alone := made(false)
	g, together := made(true)
	if len(alone) < fewest || !slices.Equal(alone, together) {
		t.Errorf("%d sequences alone, %d together", len(alone), len(together))
	}
	a, b := f.result(0).Counters, g.result(0).Counters
	for _, name := range []string{"rows_read", "dropped_rows", "dropped_duplicates", "dropped_length", "dropped_pii", "dropped_blocked", "normalized_rows", "dropped_near_duplicates", "rows_kept"} {
		if a[name] != b[name] || a[name] == 0 && (near > 0 || name != "dropped_near_duplicates") {
			t.Errorf("%s: %d alone, %d together", name, a[name], b[name])
		}
	}
}
