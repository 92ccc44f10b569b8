package prep_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/metrics"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

const example = "../../producer/examples/contract-review/"

// fixture is a run with a prep stage over an in-memory store.
type fixture struct {
	t       *testing.T
	objects store.Objects
	spec    *schemas.RunSpec
	mu      sync.Mutex
	events  []schemas.Event
}

func newFixture(t *testing.T, name string, body []byte, stage schemas.PrepStage) *fixture {
	t.Helper()
	f := &fixture{t: t, objects: memstore.New()}
	tok, err := os.ReadFile(example + "tokenizer/tokenizer.json")
	if err != nil {
		t.Fatal(err)
	}
	if len(stage.Data.Files) == 0 {
		stage.Data = f.upload(name, body)
	}
	if len(stage.Tokenizer.Files) == 0 {
		stage.Tokenizer = f.upload("tokenizer.json", tok)
	}
	if stage.Parts == 0 {
		stage.Parts = 1
	}
	f.spec = &schemas.RunSpec{Version: 1, ID: "r1", Tenant: "acme", Seed: 7, Stages: []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep, Prep: &stage}}}
	return f
}

func (f *fixture) upload(name string, body []byte) schemas.Ref {
	f.t.Helper()
	sum := sha256.Sum256(body)
	sha := hex.EncodeToString(sum[:])
	if _, err := f.objects.Put(f.t.Context(), schemas.InputKey("acme", sha), body, store.Condition{}); err != nil {
		f.t.Fatal(err)
	}
	return schemas.Ref{Files: []schemas.File{{Path: name, SHA256: sha, Bytes: int64(len(body))}}}
}

// damage flips a bit in the middle of the cached object whose key ends in suffix, and returns its key.
func (f *fixture) damage(suffix string) string {
	f.t.Helper()
	var key string
	for i, err := range f.objects.List(f.t.Context(), "cache/acme/") {
		if err != nil {
			f.t.Fatal(err)
		}
		if strings.HasSuffix(i.Key, suffix) {
			key = i.Key
		}
	}
	b, _, err := f.objects.Get(f.t.Context(), key, 1<<30)
	if err != nil {
		f.t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := f.objects.Upload(f.t.Context(), key, bytes.NewReader(b), int64(len(b))); err != nil {
		f.t.Fatal(err)
	}
	return key
}

func (f *fixture) handle(ctx context.Context, part int) error {
	return prep.Handle(ctx, &consume.Task{Spec: f.spec, Stage: &f.spec.Stages[0], Objects: f.objects, Logger: slog.New(slog.DiscardHandler), Worker: "w",
		Message: schemas.Message{Kind: schemas.KindPrep, Tenant: "acme", Run: f.spec.ID, Stage: "prep", Part: part, Parts: f.spec.Stages[0].Prep.Parts},
		Dir:     f.t.TempDir(), Phase: func(string, int64, int64) {}, Report: func(e schemas.Event) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.events = append(f.events, e)
		}})
}

func (f *fixture) result(part int) schemas.StageResult {
	f.t.Helper()
	raw, _, err := f.objects.Get(f.t.Context(), schemas.ResultKey("acme", f.spec.ID, "prep", part), 1<<20)
	if err != nil {
		f.t.Fatal(err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(raw, &r); err != nil {
		f.t.Fatal(err)
	}
	return r
}

// clauses makes rows of two labels in groups of ten.
func clauses(n int) []byte {
	var b strings.Builder
	for i := range n {
		label := []string{"payment", "audit"}[i%2]
		fmt.Fprintf(&b, `{"text":"the %d. clause on section %d shall hold","label":%q,"explanation":"because of %d","group":"g%d-%d"}`+"\n", i, i*7, label, i, i%2, i/20)
	}
	return []byte(b.String())
}

func outputs() []schemas.PrepOutput {
	return []schemas.PrepOutput{
		{Name: "text", Form: "pt", Split: "train", CutoffLen: 64, Packing: true},
		{Name: "chat", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 128},
		{Name: "held", Form: "sft", Split: "test", Template: "contract-review", CutoffLen: 128, Rows: true},
	}
}

func TestPartsTogetherAreTheDataSet(t *testing.T) {
	const n = 400
	f := newFixture(t, "c.jsonl", clauses(n), schemas.PrepStage{Split: schemas.SplitSpec{Test: 0.2}, Outputs: outputs(), Parts: 3})
	for part := range 3 {
		if err := f.handle(t.Context(), part); err != nil {
			t.Fatal(err)
		}
	}
	ctx := t.Context()
	open := func(name string) *data.Dataset {
		d, err := data.OpenDataset(ctx, f.objects, f.spec, "prep/"+name, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = d.Close() })
		return d
	}
	chat, held, text := open("chat"), open("held"), open("text")
	if chat.Len()+held.Len() != n || held.Len() != n/5 {
		t.Fatalf("chat has %d sequences and held %d, want %d and %d", chat.Len(), held.Len(), n-n/5, n/5)
	}
	var rows []data.Row
	err := data.EachRow(ctx, f.objects, f.spec, "prep/held", func(_ int, r *data.Row) error { rows = append(rows, *r); return nil })
	if err != nil || len(rows) != held.Len() {
		t.Fatalf("%d rows, %v", len(rows), err)
	}
	tok, err := prep.OpenTokenizer(ctx, f.objects, "acme", f.spec.Stages[0].Prep.Tokenizer)
	if err != nil {
		t.Fatal(err)
	}
	defer tok.Close()
	seen := map[string]bool{}
	for i := range chat.Len() {
		s, err := chat.Sequence(ctx, i)
		if err != nil {
			t.Fatal(err)
		}
		if int64(s.Trained()) != chat.LabelTokens(i) || chat.LabelTokens(i) == 0 || chat.LabelTokens(i) >= int64(len(s.IDs)) {
			t.Fatalf("sequence %d trains %d of %d tokens, the index says %d", i, s.Trained(), len(s.IDs), chat.LabelTokens(i))
		}
		text := tok.Decode(s.IDs)
		if seen[text] {
			t.Fatalf("sequence %d was there before: %s", i, text)
		}
		seen[text] = true
		if i == 0 && (!strings.Contains(text, "shall hold") || !strings.HasSuffix(text, s2(tok, s))) {
			t.Fatalf("sequence is %q, its labels %q", text, s2(tok, s))
		}
	}
	for _, r := range rows {
		if seen[r.Text] || r.Split != "test" {
			t.Fatalf("row %+v is not only in the test split", r)
		}
	}
	for i := range text.Len() {
		if text.Length(i) != 64 || text.LabelTokens(i) != 64 {
			t.Fatalf("block %d has %d tokens and %d labels", i, text.Length(i), text.LabelTokens(i))
		}
	}
	if got := f.result(0).Counters["rows_read"] + f.result(1).Counters["rows_read"]; got != n {
		t.Fatalf("rows_read adds up to %d", got)
	}
	last := f.events[len(f.events)-1]
	if last.Values["rows"] != last.Values["total"] || last.Type != schemas.EventProgress {
		t.Fatalf("the last event is %+v", last)
	}
}

// s2 is the text of what a sequence trains.
func s2(tok data.Tokenizer, s data.Sequence) string {
	var ids []int32
	for _, l := range s.Labels {
		if l != data.IgnoreLabel {
			ids = append(ids, l)
		}
	}
	return tok.Decode(ids)
}

func TestTheSameWorkIsFoundInTheCache(t *testing.T) {
	f := newFixture(t, "c.jsonl", clauses(60), schemas.PrepStage{Outputs: outputs()[:2]})
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	first := f.result(0)
	f.events = nil
	f.spec.ID = "r2"
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	second := f.result(0)
	if fmt.Sprint(first.Objects) != fmt.Sprint(second.Objects) || fmt.Sprint(first.Counters) != fmt.Sprint(second.Counters) {
		t.Fatalf("the second run has %v %v, the first %v %v", second.Objects, second.Counters, first.Objects, first.Counters)
	}
	if len(f.events) != 0 {
		t.Fatalf("rows were encoded again: %+v", f.events)
	}
	f.spec.ID, f.spec.Seed = "r3", 8
	f.spec.Stages[0].Prep.Outputs[1].CutoffLen--
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if third := f.result(0); third.Objects[1].Key == first.Objects[1].Key {
		t.Fatal("other settings have the same key")
	}
}

func TestBadInputIsNamedAndNothingIsStored(t *testing.T) {
	good := clauses(20)
	broken := append(append([]byte{}, good...), []byte("{\"text\": \"x\n")...)
	for _, c := range []struct {
		name, file string
		body       []byte
		change     func(*fixture)
		code       schemas.Code
		want       string
	}{
		{"broken JSON", "c.jsonl", broken, nil, schemas.CodeData, "c.jsonl:21"},
		{"empty file", "c.jsonl", nil, nil, schemas.CodeData, "empty"},
		{"only blanks", "c.jsonl", []byte(" \n\n"), nil, schemas.CodeData, "c.jsonl: the data set is empty"},
		{"all dropped", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Clean.Labels = []string{"nosuch"} }, schemas.CodeData, "dropped all 20 rows"},
		{"empty split", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Outputs[1].Split = "eval" }, schemas.CodeData, "prep/chat"},
		{"missing column", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Columns = map[string]string{"text": "txt"} }, schemas.CodeData, "did you mean \"text\""},
		{"missing file", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Data.Files[0].SHA256 = strings.Repeat("0", 64) }, schemas.CodeNotFound, "c.jsonl"},
		{"no tokenizer", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Tokenizer = f.upload("tokenizer.json", []byte("{}")) }, schemas.CodeModel, "tokenizer.json"},
		{"tokenizer of another kind", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Tokenizer = f.upload("vocab.txt", []byte("a")) }, schemas.CodeModel, "no tokenizer.json"},
		{"tokenizer of another model", "c.jsonl", good, func(f *fixture) {
			f.spec.Stages = append(f.spec.Stages, schemas.Stage{Name: "base", Kind: schemas.KindTrain, Train: &schemas.TrainStage{Data: "prep/text",
				Model: schemas.ModelSpec{Config: json.RawMessage(`{"vocab_size":1000}`)}}})
		}, schemas.CodeModel, "vocabulary of 1000"},
		{"unknown template", "c.jsonl", good, func(f *fixture) { f.spec.Stages[0].Prep.Outputs[1].Template = "chatmll" }, schemas.CodeInvalid, "chatml"},
		{"wrong format", "c.csv", []byte("a,b\n1\n"), nil, schemas.CodeData, "c.csv"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, c.file, c.body, schemas.PrepStage{Outputs: outputs()[:2]})
			if c.change != nil {
				c.change(f)
			}
			err := f.handle(t.Context(), 0)
			info := schemas.AsErrorInfo(err)
			if err == nil || info.Code != c.code || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("error is %v (%+v), want %s and %q", err, info, c.code, c.want)
			}
			if c.code != schemas.CodeNotFound && !info.Permanent {
				t.Fatal("the error is not permanent")
			}
			if _, err := f.objects.Stat(t.Context(), schemas.ResultKey("acme", "r1", "prep", 0)); err == nil {
				t.Fatal("there is a result")
			}
		})
	}
}

func TestAStoppedPartEndsWithTheContextsError(t *testing.T) {
	f := newFixture(t, "c.jsonl", clauses(200), schemas.PrepStage{Outputs: outputs()[:1]})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.handle(ctx, 0); err == nil || ctx.Err() == nil {
		t.Fatalf("error is %v", err)
	}
}

// TestTheExampleIsHonest checks what the example promises: planted faults are found, wordings of the test split never occur in training,
// and words alone tell the types apart neither badly nor perfectly.
func TestTheExampleIsHonest(t *testing.T) {
	body, err := os.ReadFile(filepath.Join(example, "clauses.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	records, err := data.ReadRecords(t.Context(), "clauses.jsonl", "", body, nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := data.Rows(records, nil)
	if err != nil {
		t.Fatal(err)
	}
	// A family's name is its type and a number, so rows with another label are those planted wrong.
	texts := map[string]bool{}
	wrong, personal := 0, 0
	for _, r := range raw {
		k := strings.ToLower(strings.Join(strings.Fields(r.Text), " "))
		if texts[k] {
			continue
		}
		texts[k] = true
		if !strings.HasPrefix(r.Group, strings.ReplaceAll(r.Label, " ", "-")+"-") {
			wrong++
		}
		if strings.Contains(r.Text, "@") || strings.Contains(r.Text, "+1 202") || strings.Contains(r.Text, "The account is") || strings.Contains(r.Text, "The card on") {
			personal++
		}
	}
	stage := schemas.PrepStage{Clean: schemas.CleanSpec{Normalize: true, Dedup: true, PII: "mask", Mislabelled: "drop"}, Split: schemas.SplitSpec{Eval: 0.05, Test: 0.15}}
	for _, split := range []string{"train", "eval", "test"} {
		stage.Outputs = append(stage.Outputs, schemas.PrepOutput{Name: split, Form: "pt", Split: split, CutoffLen: 64, Rows: true})
	}
	f := newFixture(t, "clauses.jsonl", body, stage)
	f.spec.Seed = 42
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	var kept []data.Row
	for _, o := range stage.Outputs {
		err := data.EachRow(t.Context(), f.objects, f.spec, "prep/"+o.Name, func(_ int, r *data.Row) error {
			kept = append(kept, *r)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	c := f.result(0).Counters
	if c["rows_read"] != 5000 || c["dropped_duplicates"] != 200 || c["dropped_mislabelled"] != int64(wrong) || wrong < 100 || personal < 200 || c["masked_pii"] < int64(personal) {
		t.Fatalf("cleaning counted %+v; %d labels are wrong, %d rows hold personal data", c, wrong, personal)
	}
	for _, r := range kept {
		if strings.ContainsAny(r.Text, "@+") {
			t.Fatalf("personal data is left: %s", r.Text)
		}
	}
	where := map[string]string{}
	var train, labels, test, truth []string
	share := map[string]int{}
	for _, r := range kept {
		if s, ok := where[r.Group]; ok && s != r.Split {
			t.Fatalf("family %s is in %s and in %s", r.Group, s, r.Split)
		}
		where[r.Group] = r.Split
		switch r.Split {
		case "train":
			train, labels = append(train, r.Text), append(labels, r.Label)
		case "test":
			test, truth = append(test, r.Text), append(truth, r.Label)
			share[r.Label]++
		}
	}
	if len(test) < 500 || len(share) < 12 {
		t.Fatalf("the test split has %d rows of %d types", len(test), len(share))
	}
	guesses, err := metrics.BagOfWords(train, labels, test)
	if err != nil {
		t.Fatal(err)
	}
	right, most := 0, 0
	for i := range guesses {
		if guesses[i] == truth[i] {
			right++
		}
		most = max(most, share[truth[i]])
	}
	accuracy := float64(right) / float64(len(test))
	t.Logf("bag of words %.3f, commonest type %.3f, %d test rows", accuracy, float64(most)/float64(len(test)), len(test))
	if accuracy < 0.60 || accuracy > 0.95 {
		t.Fatalf("bag of words reaches %.3f", accuracy)
	}
}
