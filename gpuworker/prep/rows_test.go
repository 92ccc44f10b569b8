package prep_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestCleaningSamplingAndAugmentationReachTheShards: copies are of training rows only and counted; a review changes labels; a near duplicate
// and a row that repeats a test row are gone; other settings do not meet the cache of these.
func TestCleaningSamplingAndAugmentationReachTheShards(t *testing.T) {
	body := clauses(200)
	extra := `{"text":"the 3. clause on section 21 shall hold!","label":"audit","explanation":"again","group":"other"}` + "\n"
	out := []schemas.PrepOutput{{Name: "train", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 128, Rows: true},
		{Name: "test", Form: "sft", Split: "test", Template: "contract-review", CutoffLen: 128, Rows: true}}
	reviewed := data.Row{Text: "the 0. clause on section 0 shall hold"}
	var review bytes.Buffer
	if err := clean.WriteReview(&review, []clean.ReviewEntry{{ID: clean.RowID(&reviewed), Label: "payment", Decisions: []clean.Decision{{By: "ann", Level: "reviewer", Label: "notice"}}}}); err != nil {
		t.Fatal(err)
	}
	f := newFixture(t, "c.jsonl", append(body, extra...), schemas.PrepStage{Split: schemas.SplitSpec{Test: 0.2}, Outputs: out, Parts: 2,
		Clean: schemas.CleanSpec{NearDup: 1}})
	p := f.spec.Stages[0].Prep
	synonyms := f.upload("synonyms.txt", []byte("clause, article, provision\n"))
	reviewRef := f.upload("review.jsonl", review.Bytes())
	p.Clean.Review = &reviewRef
	p.Augment = &schemas.AugmentSpec{Methods: []string{"synonym_replacement"}, SynonymDict: &synonyms}
	p.Sample = &schemas.SampleSpec{MaxRows: 100}
	if err := f.spec.WithDefaults().Validate(); err != nil {
		t.Fatal(err)
	}
	for part := range 2 {
		if err := f.handle(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	rows := func(name string) []data.Row {
		d, err := data.OpenDataset(t.Context(), f.objects, f.spec, "prep/"+name, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		r := make([]data.Row, d.Len())
		err = data.EachRow(t.Context(), f.objects, f.spec, "prep/"+name, func(place int, row *data.Row) error {
			if place >= len(r) || r[place].Split != "" {
				return fmt.Errorf("row %d of %d", place, len(r))
			}
			r[place] = *row
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	train, test := rows("train"), rows("test")
	copies, notice := 0, 0
	texts := map[int]string{}
	for _, r := range train {
		if r.Origin == nil {
			texts[r.Index] = r.Text
		}
		if r.Label == "notice" {
			notice++
		}
	}
	for _, r := range train {
		if r.Origin != nil {
			copies++
			if strings.Contains(r.Text, "clause") || !strings.Contains(texts[r.Origin.Row], "clause") || r.Origin.Method != "synonym_replacement" {
				t.Fatalf("%+v of %q", r, texts[r.Origin.Row])
			}
		}
	}
	if len(train) != 200 || copies != 100 {
		t.Errorf("%d training rows, %d copies", len(train), copies)
	}
	for _, r := range test {
		if r.Origin != nil {
			t.Fatalf("a held-out row was augmented: %+v", r)
		}
		if r.Label == "notice" {
			notice++
		}
	}
	c := f.result(0).Counters
	if c["dropped_near_duplicates"] != 1 || c["relabelled"] != 1 || c["augmented_rows"] != 100 || c["rows_read"] != 201 {
		t.Errorf("%v; %d rows have the reviewed label", c, notice)
	}
	before := fmt.Sprint(f.result(0).Objects)
	f.spec.ID, p.Augment.Rate = "r2", 0.9
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(f.result(0).Objects) == before {
		t.Error("another rate of augmentation met the old shards")
	}
}
