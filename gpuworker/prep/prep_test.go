package prep_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

// tinyTokenizer is a whole-word tokenizer.json, small enough to read.
const tinyTokenizer = `{"version":"1.0","truncation":null,"padding":null,"normalizer":null,"post_processor":null,"decoder":null,
"added_tokens":[{"id":0,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true},
{"id":1,"content":"</s>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],
"pre_tokenizer":{"type":"Whitespace"},
"model":{"type":"WordLevel","unk_token":"<unk>","vocab":{"<unk>":0,"</s>":1,"pay":2,"rent":3,"keep":4,"secret":5,"money":6,"trust":7,"Human":8,":":9,"Assistant":10}}}`

func put(t *testing.T, o store.Objects, path, content string) schemas.File {
	t.Helper()
	sum := sha256.Sum256([]byte(content))
	f := schemas.File{Path: path, SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(content))}
	if _, err := o.Put(t.Context(), schemas.InputKey("acme", f.SHA256), []byte(content), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	return f
}

func rows(n int) string {
	var b strings.Builder
	for i := range n {
		label, text := "money", "pay rent"
		if i%2 == 1 {
			label, text = "trust", "keep secret"
		}
		fmt.Fprintf(&b, `{"text":"%s %s","label":"%s","group":"g%d"}`+"\n", text, strings.Repeat(" rent", i%7), label, i)
	}
	return b.String()
}

func spec(dataFile, tokenizer schemas.File, parts int) *schemas.RunSpec {
	return (&schemas.RunSpec{ID: "r1", Tenant: "acme", Seed: 7, Stages: []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{
		Data: schemas.Ref{Files: []schemas.File{dataFile}}, Tokenizer: schemas.Ref{Files: []schemas.File{tokenizer}}, Parts: parts,
		Clean: schemas.CleanSpec{Normalize: true}, Split: schemas.SplitSpec{Test: 0.25},
		Outputs: []schemas.PrepOutput{
			{Name: "text", Form: "pt", Split: "train", CutoffLen: 16, Packing: true},
			{Name: "chat", Form: "sft", Split: "train", CutoffLen: 32, Template: "default"},
			{Name: "held", Form: "sft", Split: "test", CutoffLen: 32, Template: "default", Rows: true},
		}}}}}).WithDefaults()
}

// run handles one part and returns its error.
func run(t *testing.T, o store.Objects, s *schemas.RunSpec, part int) error {
	t.Helper()
	stage := &s.Stages[0]
	return prep.Handle(t.Context(), &consume.Task{
		Message: schemas.Message{Kind: schemas.KindPrep, Tenant: s.Tenant, Run: s.ID, Stage: stage.Name, Part: part, Parts: stage.Prep.Parts},
		Spec:    s, Stage: stage, Objects: o, Logger: slog.New(slog.DiscardHandler), Worker: "w", Dir: t.TempDir(), Threads: 1,
		Report: func(schemas.Event) {}, Phase: func(string, int64, int64) {},
	})
}

func open(t *testing.T, o store.Objects, s *schemas.RunSpec, ref string) *data.Dataset {
	t.Helper()
	d, err := data.OpenDataset(t.Context(), o, s, ref, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestPartsTogetherHoldEveryRow(t *testing.T) {
	t.Parallel()
	o := memstore.New()
	s := spec(put(t, o, "clauses.jsonl", rows(40)), put(t, o, "tokenizer.json", tinyTokenizer), 3)
	for part := range 3 {
		if err := run(t, o, s, part); err != nil {
			t.Fatal(err)
		}
	}
	held, chat := open(t, o, s, "prep/held"), open(t, o, s, "prep/chat")
	got, err := held.Rows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 10 || held.Len() != 10 || chat.Len() != 30 {
		t.Fatalf("%d rows and %d sequences held out, %d to train; want 10, 10, 30", len(got), held.Len(), chat.Len())
	}
	for _, r := range got {
		if r.Split != "test" || r.Group == "" {
			t.Errorf("held-out row %+v", r)
		}
	}
	for i := range chat.Len() {
		q, err := chat.Sequence(t.Context(), i)
		if err != nil {
			t.Fatal(err)
		}
		if q.Labels[0] != data.IgnoreLabel || q.Labels[len(q.Labels)-1] != 1 || chat.LabelTokens(i) != 2 {
			t.Errorf("sequence %d: ids %v, labels %v, %d trained; want the label word and </s> trained", i, q.IDs, q.Labels, chat.LabelTokens(i))
		}
	}
	text := open(t, o, s, "prep/text")
	for i := range text.Len() {
		if text.Length(i) != 16 {
			t.Errorf("packed sequence %d has %d tokens, want 16", i, text.Length(i))
		}
	}
}

func TestSecondRunIsACacheHitWithTheSameBytes(t *testing.T) {
	t.Parallel()
	o := storetest.NewFaulty(memstore.New())
	s := spec(put(t, o, "clauses.jsonl", rows(20)), put(t, o, "tokenizer.json", tinyTokenizer), 1)
	if err := run(t, o, s, 0); err != nil {
		t.Fatal(err)
	}
	first, uploads := open(t, o, s, "prep/chat").Fingerprint(), o.Calls("upload")
	other := *s
	other.ID = "r2"
	if err := run(t, o, &other, 0); err != nil {
		t.Fatal(err)
	}
	if o.Calls("upload") != uploads {
		t.Errorf("the second run uploaded %d shards again", o.Calls("upload")-uploads)
	}
	if got := open(t, o, &other, "prep/chat").Fingerprint(); got != first {
		t.Errorf("fingerprints differ: %s, %s", first, got)
	}
	// A shard that is gone is made again.
	third := *s
	third.ID = "r3"
	for i := range o.List(t.Context(), "cache/acme/") {
		if strings.HasSuffix(i.Key, "chat.tokens") {
			if err := o.Delete(context.WithoutCancel(t.Context()), i.Key); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := run(t, o, &third, 0); err != nil {
		t.Fatal(err)
	}
	if got := open(t, o, &third, "prep/chat").Fingerprint(); got != first {
		t.Errorf("the shard made again differs: %s, %s", first, got)
	}
}

func TestAmbiguousResultWriteIsOneResult(t *testing.T) {
	t.Parallel()
	o := storetest.NewFaulty(memstore.New())
	s := spec(put(t, o, "clauses.jsonl", rows(20)), put(t, o, "tokenizer.json", tinyTokenizer), 1)
	o.Inject(storetest.Rule{Op: "put", Key: "part-00000", Fault: storetest.FailAfter, Err: store.ErrAmbiguous})
	if err := run(t, o, s, 0); err != nil {
		t.Fatal(err)
	}
	b, _, err := o.Get(t.Context(), schemas.ResultKey("acme", "r1", "prep", 0), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	var r schemas.StageResult
	if err := json.Unmarshal(b, &r); err != nil || r.Counters["rows_read"] != 20 || len(r.Objects) != 4 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		data, file, tokenizer string
		mutate                func(*schemas.RunSpec)
		code                  schemas.Code
		want                  string
	}{
		"broken JSON":      {data: rows(3) + `{"text": "x"` + "\n" + rows(1), code: schemas.CodeData, want: "clauses.jsonl:4"},
		"empty data set":   {data: "\n\n", code: schemas.CodeData, want: "empty"},
		"not an object":    {data: "[1]\n", code: schemas.CodeData, want: "clauses.jsonl:1"},
		"wrong tokenizer":  {tokenizer: `{"model":{}}`, code: schemas.CodeModel, want: "tokenizer.json"},
		"broken tokenizer": {tokenizer: `{"model":{"vocab":{"a":0},"type":"Nonsense"}}`, code: schemas.CodeModel, want: "cannot load"},
		"unknown column": {mutate: func(s *schemas.RunSpec) { s.Stages[0].Prep.Columns = map[string]string{"text": "txet"} }, code: schemas.CodeData,
			want: `did you mean "text"?`},
		"missing file": {mutate: func(s *schemas.RunSpec) { s.Stages[0].Prep.Data.Files[0].SHA256 = strings.Repeat("0", 64) }, code: schemas.CodeNotFound,
			want: "clauses.jsonl"},
		"unknown template": {mutate: func(s *schemas.RunSpec) { s.Stages[0].Prep.Outputs[1].Template = "lama3" }, code: schemas.CodeInvalid, want: "llama3"},
		"unknown format":   {file: "clauses.docx", code: schemas.CodeData, want: "clauses.docx"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.data == "" {
				c.data = rows(20)
			}
			if c.file == "" {
				c.file = "clauses.jsonl"
			}
			if c.tokenizer == "" {
				c.tokenizer = tinyTokenizer
			}
			o := memstore.New()
			s := spec(put(t, o, c.file, c.data), put(t, o, "tokenizer.json", c.tokenizer), 1)
			if c.mutate != nil {
				c.mutate(s)
			}
			err := run(t, o, s, 0)
			if !schemas.IsCode(err, c.code) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %s with %q", err, c.code, c.want)
			}
			if _, err := o.Stat(t.Context(), schemas.ResultKey("acme", "r1", "prep", 0)); err == nil {
				t.Error("a result was written")
			}
		})
	}
}

func TestFullStore(t *testing.T) {
	t.Parallel()
	o := storetest.NewFaulty(memstore.New())
	s := spec(put(t, o, "clauses.jsonl", rows(20)), put(t, o, "tokenizer.json", tinyTokenizer), 1)
	o.Inject(storetest.Rule{Op: "upload", Count: 9, Err: store.ErrFull})
	if err := run(t, o, s, 0); !schemas.IsCode(err, schemas.CodeDiskFull) {
		t.Errorf("got %v, want CodeDiskFull", err)
	}
}
