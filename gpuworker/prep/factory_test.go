package prep_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// alpaca makes rows of LLaMA-Factory's commonest form.
func alpaca(n int) []byte {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `{"instruction":"question %d","input":"","output":"answer %d"}`+"\n", i, i)
	}
	return []byte(b.String())
}

// factory is a preparation of data sets given by their bytes.
func factory(t *testing.T, spec schemas.FactorySpec, out []schemas.PrepOutput, sets ...[]byte) *fixture {
	t.Helper()
	f := newFixture(t, "unused.jsonl", []byte("{}"), schemas.PrepStage{Outputs: out, Factory: &spec})
	for i, b := range sets {
		spec.Train = append(spec.Train, schemas.DataSet{Name: fmt.Sprint("set", i), Data: f.upload(fmt.Sprintf("set%d.jsonl", i), b), Formatting: "alpaca",
			Columns: map[string]string{"prompt": "instruction", "query": "input", "response": "output"}})
	}
	f.spec.Stages[0].Prep.Factory = spec.WithDefaults()
	return f
}

func sft(name, split string) schemas.PrepOutput {
	return schemas.PrepOutput{Name: name, Form: "sft", Split: split, Template: "contract-review", CutoffLen: 64}
}

func texts(t *testing.T, f *fixture, output string) []string {
	t.Helper()
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
		out = append(out, fmt.Sprint(s.IDs, s.Labels, s.Docs, s.Open))
	}
	return out
}

// TestPartsMakeTheSameDataAsOne: however many parts there are, sequences and their order are the same, packed ones too.
func TestPartsMakeTheSameDataAsOne(t *testing.T) {
	packed := sft("packed", "train")
	packed.Packing, packed.CutoffLen = true, 40
	outs := []schemas.PrepOutput{sft("train", "train"), sft("eval", "eval"), packed}
	want := map[string][]string{}
	for _, parts := range []int{1, 3, 8} {
		f := factory(t, schemas.FactorySpec{Stage: "sft", ValSize: 0.2, BatchSize: 7, Workers: 2, Mix: "interleave_over", Probs: []float64{0.3, 0.7}}, outs, alpaca(40), alpaca(25))
		f.spec.Stages[0].Prep.Parts = parts
		for p := range parts {
			if err := f.handle(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		for _, o := range outs {
			got := texts(t, f, o.Name)
			if parts == 1 {
				want[o.Name] = got
				continue
			}
			if strings.Join(got, "\n") != strings.Join(want[o.Name], "\n") {
				t.Errorf("%d parts: %s has %d sequences, not the %d of one part", parts, o.Name, len(got), len(want[o.Name]))
			}
		}
	}
	if len(want["train"]) < 40 || len(want["eval"]) < 10 || len(want["packed"]) >= len(want["train"]) {
		t.Fatalf("%d trained, %d held out, %d packed", len(want["train"]), len(want["eval"]), len(want["packed"]))
	}
}

// TestTheOrderOfRows: the first rows of each set, sets one after the other, held out by numpy's permutation.
func TestTheOrderOfRows(t *testing.T) {
	f := factory(t, schemas.FactorySpec{Stage: "sft", MaxSamples: 5, ValSize: 0.15}, []schemas.PrepOutput{sft("train", "train"), sft("eval", "eval")}, alpaca(9), alpaca(20))
	f.spec.Seed = 42
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	plain := factory(t, schemas.FactorySpec{Stage: "sft", MaxSamples: 5}, []schemas.PrepOutput{sft("train", "train")}, alpaca(9), alpaca(20))
	if err := plain.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	rows, train, eval := texts(t, plain, "train"), texts(t, f, "train"), texts(t, f, "eval")
	if len(rows) != 10 || rows[0] != rows[5] {
		t.Fatalf("%d rows", len(rows))
	}
	// default_rng(42).permutation(10) is 5 6 0 7 3 2 4 9 1 8.
	order := []int{5, 6, 0, 7, 3, 2, 4, 9, 1, 8}
	for i, k := range order {
		got := append(append([]string{}, eval...), train...)[i]
		if got != rows[k] {
			t.Fatalf("row %d is not row %d", i, k)
		}
	}
}

// TestBadRows: a bad row ends the preparation, is left out, or is kept aside with its reason.
func TestBadRows(t *testing.T) {
	bad := append(append(alpaca(5), []byte("{\"instruction\":\"x\"\n{\"instruction\":\"twice\",\"instruction\":\"twice\",\"output\":\"x\"}\n")...), alpaca(5)...)
	f := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{sft("train", "train")}, bad)
	if err := f.handle(t.Context(), 0); !schemas.IsCode(err, schemas.CodeData) || !strings.Contains(err.Error(), "set0.jsonl:6") {
		t.Fatalf("fail: %v", err)
	}
	for _, policy := range []string{"skip", "quarantine"} {
		f := factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: policy}, []schemas.PrepOutput{sft("train", "train")}, bad)
		if err := f.handle(t.Context(), 0); err != nil {
			t.Fatalf("%s: %v", policy, err)
		}
		r := f.result(0)
		if r.Counters["bad_rows"] != 2 || r.Counters["train.sequences"] != 10 {
			t.Fatalf("%s: %v", policy, r.Counters)
		}
		kept := ""
		for _, o := range r.Objects {
			if o.Name == "train/quarantine" {
				raw, _, err := f.objects.Get(t.Context(), o.Key, 1<<20)
				if err != nil {
					t.Fatal(err)
				}
				kept = string(raw)
			}
		}
		if policy == "skip" && kept != "" || policy == "quarantine" && (strings.Count(kept, "\n") != 2 || !strings.Contains(kept, "the key instruction appears twice") || !strings.Contains(kept, "set0.jsonl:6")) {
			t.Fatalf("%s: kept aside %q", policy, kept)
		}
	}
}

// TestRowsThatCannotBeUsed: odd roles and empty answers are dropped and counted as upstream drops them; a wrong column is named at once.
func TestRowsThatCannotBeUsed(t *testing.T) {
	rows := []string{
		`{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"hello"}]}`,
		`{"conversations":[{"from":"gpt","value":"hi"},{"from":"human","value":"hello"}]}`,
		`{"conversations":[{"from":"human","value":"hi"}]}`,
		`{"conversations":[{"from":"wizard","value":"hi"},{"from":"gpt","value":"hello"}]}`,
	}
	set := func(column string) *fixture {
		f := factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: "skip"}, []schemas.PrepOutput{sft("train", "train")})
		f.spec.Stages[0].Prep.Factory.Train = []schemas.DataSet{{Name: "talks", Formatting: "sharegpt", Data: f.upload("talks.json", []byte("["+strings.Join(rows, ",")+"]")),
			Columns: map[string]string{"messages": column}, Tags: map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}}}
		return f
	}
	f := set("conversations")
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if c := f.result(0).Counters; c["train.sequences"] != 1 || c["train.dropped_rows"] != 3 {
		t.Fatalf("%v", c)
	}
	err := set("conversation").handle(t.Context(), 0)
	if !schemas.IsCode(err, schemas.CodeData) || !strings.Contains(err.Error(), `has no column "conversation"`) || !strings.Contains(err.Error(), `did you mean "conversations"`) {
		t.Fatalf("%v", err)
	}
}

// TestFactoryIsCached: the same preparation is made once; another setting makes another.
func TestFactoryIsCached(t *testing.T) {
	f := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{sft("train", "train")}, alpaca(12))
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	first := f.result(0)
	f.spec.ID = "r2"
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	f.spec.ID, f.spec.Stages[0].Prep.Factory.MaxSamples = "r3", 3
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	third := f.result(0)
	a, err := json.Marshal(first.Objects)
	if err != nil {
		t.Fatal(err)
	}
	f.spec.ID = "r2"
	if b, err := json.Marshal(f.result(0).Objects); err != nil || string(a) != string(b) {
		t.Errorf("%s and %s, %v", a, b, err)
	}
	if third.Objects[0].Key == first.Objects[0].Key {
		t.Error("another number of rows has the same key")
	}
}

// TestTheDayIsThatOfSubmission: a prompt that tells the date tells the spec's, so that a part that is repeated another day has the same bytes
// and is found in the cache; where no date is told, another day changes nothing.
func TestTheDayIsThatOfSubmission(t *testing.T) {
	row := `{"conversations":[{"from":"human","value":"hi"},{"from":"gpt","value":"hello"}],"tools":"[{\"name\":\"f\",\"description\":\"d\",\"parameters\":{\"type\":\"object\",\"properties\":{}}}]"}`
	for format, want := range map[string]bool{"llama3": true, "default": false} {
		var objects []string
		for _, day := range []string{"2025-01-02", "2025-01-02", "2025-03-04"} {
			out := sft("train", "train")
			out.CutoffLen = 2048
			f := factory(t, schemas.FactorySpec{Stage: "sft", ToolFormat: format, Date: day}, []schemas.PrepOutput{out})
			f.spec.Stages[0].Prep.Factory.Train = []schemas.DataSet{{Name: "talks", Formatting: "sharegpt", Data: f.upload("talks.jsonl", []byte(row)),
				Columns: map[string]string{"messages": "conversations", "tools": "tools"}, Tags: map[string]string{"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "gpt"}}}
			if err := f.handle(t.Context(), 0); err != nil {
				t.Fatal(err)
			}
			objects = append(objects, f.result(0).Objects[0].Key+" "+f.result(0).Objects[0].SHA256)
		}
		if objects[0] != objects[1] || (objects[1] != objects[2]) != want {
			t.Errorf("%s: %q", format, objects)
		}
	}
	spec := schemas.RunSpec{Stages: []schemas.Stage{{Prep: &schemas.PrepStage{Factory: &schemas.FactorySpec{}}}, {Prep: &schemas.PrepStage{Factory: &schemas.FactorySpec{Date: "2024-05-06"}}}, {Prep: &schemas.PrepStage{}}}}
	spec.FreezeDate(time.Date(2025, 1, 2, 23, 0, 0, 0, time.UTC))
	if a, b := spec.Stages[0].Prep.Factory.Date, spec.Stages[1].Prep.Factory.Date; a != "2025-01-02" || b != "2024-05-06" {
		t.Errorf("frozen %q and %q", a, b)
	}
}

// TestStreaming: rows come in the order of the shuffle buffer, the first of them are held out.
func TestStreaming(t *testing.T) {
	outs := []schemas.PrepOutput{sft("train", "train"), sft("eval", "eval")}
	plain := factory(t, schemas.FactorySpec{Stage: "sft"}, outs[:1], alpaca(20), alpaca(15))
	f := factory(t, schemas.FactorySpec{Stage: "sft", Buffer: 4, ValSize: 6}, outs, alpaca(20), alpaca(15))
	f.spec.Stages[0].Prep.Parts = 2
	for _, x := range []*fixture{plain, f} {
		for part := range x.spec.Stages[0].Prep.Parts {
			if err := x.handle(t.Context(), part); err != nil {
				t.Fatal(err)
			}
		}
	}
	rows := texts(t, plain, "train")
	order, err := source.Stream([]source.Streamed{{Rows: 20}, {Rows: 15}}, 4, "concat", nil, f.spec.Seed)
	if err != nil {
		t.Fatal(err)
	}
	got := append(texts(t, f, "eval"), texts(t, f, "train")...)
	if len(got) != 35 || len(texts(t, f, "eval")) != 6 {
		t.Fatalf("%d rows, %d of them held out", len(got), len(texts(t, f, "eval")))
	}
	for i := range got {
		if p := order.At(i); got[i] != rows[int(p.Set)*20+int(p.Row)] {
			t.Fatalf("row %d is not row %v", i, p)
		}
	}
}

// TestPassesOfAStream: a stream that training goes through more than once is prepared as often, each time in an order of its own.
func TestPassesOfAStream(t *testing.T) {
	outs := []schemas.PrepOutput{sft("train", "train")}
	plain := factory(t, schemas.FactorySpec{Stage: "sft"}, outs, alpaca(20))
	// 16 rows a pass are 8 micro-batches: 2 steps and 2 left over; 5 steps need 3 passes.
	f := factory(t, schemas.FactorySpec{Stage: "sft", Buffer: 4, ValSize: 4, Use: &schemas.StreamUse{Steps: 5, Leaves: 3, Micro: 2}}, outs, alpaca(20))
	for _, x := range []*fixture{plain, f} {
		if err := x.handle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	rows, got := texts(t, plain, "train"), texts(t, f, "train")
	if len(got) != 48 {
		t.Fatalf("%d rows", len(got))
	}
	for pass := range 3 {
		order, err := source.Stream([]source.Streamed{{Rows: 20}}, 4, "concat", nil, source.PassSeed(f.spec.Seed, pass))
		if err != nil {
			t.Fatal(err)
		}
		for i := range 16 {
			if p := order.At(4 + i); got[16*pass+i] != rows[p.Row] {
				t.Fatalf("pass %d: row %d is not row %v", pass, i, p)
			}
		}
		if n := f.result(0).Counters["train."+data.PassCounter(pass)]; n != 16 {
			t.Errorf("pass %d counts %d samples", pass, n)
		}
	}
}

// TestShardsOfAStream: the files of a sharded set come in a drawn order, another one in each pass, also one that has no row that can be used;
// and no more of a stream is prepared than training takes.
func TestShardsOfAStream(t *testing.T) {
	outs := []schemas.PrepOutput{sft("train", "train")}
	files := [][]byte{alpaca(7), alpaca(5), []byte("[]\n"), alpaca(9), alpaca(6)}
	shards := []int{7, 5, 0, 9, 6}
	set := func(f *fixture, sharded bool) *fixture {
		d := &f.spec.Stages[0].Prep.Factory.Train[0]
		d.Sharded, d.Data.Files = sharded, nil
		for i, b := range files {
			b = []byte(strings.ReplaceAll(string(b), "question", fmt.Sprint("file ", i)))
			d.Data.Files = append(d.Data.Files, f.upload(fmt.Sprintf("part-%d.jsonl", i), b).Files...)
		}
		return f
	}
	plain := set(factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: "skip"}, outs, alpaca(1)), false)
	f := set(factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: "skip", Buffer: 4, BatchSize: 2, Use: &schemas.StreamUse{Steps: 8, Leaves: 2, Micro: 2}}, outs, alpaca(1)), true)
	for _, x := range []*fixture{plain, f} {
		if err := x.handle(t.Context(), 0); err != nil {
			t.Fatal(err)
		}
	}
	rows, got := texts(t, plain, "train"), texts(t, f, "train")
	if len(rows) != 27 || len(got) < 32 || len(got) > 27+20 {
		t.Fatalf("%d rows, %d of the stream", len(rows), len(got))
	}
	orders := map[string]bool{}
	for pass := range 2 {
		order, err := source.Stream([]source.Streamed{{Rows: 27, Shards: shards}}, 4, "concat", nil, source.PassSeed(f.spec.Seed, pass))
		if err != nil {
			t.Fatal(err)
		}
		orders[fmt.Sprint(source.Picks(order, 0, 8))] = true
		for i := 27 * pass; i < min(len(got), 27*(pass+1)); i++ {
			if p := order.At(i - 27*pass); got[i] != rows[p.Row] {
				t.Fatalf("pass %d: row %d is not row %v", pass, i, p)
			}
		}
	}
	if len(orders) != 2 {
		t.Error("both passes have one order")
	}
}

// TestPartsKnowTheShapesOfAllRows: nested tools have the keys of all rows of their set, though a part reads only its own, and split and
// max_samples leave rows out.
func TestPartsKnowTheShapesOfAllRows(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		key := "a"
		if i == 39 {
			key = "last"
		}
		fmt.Fprintf(&b, `{"messages":[{"role":"user","content":"q%d"},{"role":"assistant","content":"a"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"properties":{"%s":{"type":"string"}}}}}]}`+"\n", i, key)
	}
	out := sft("train", "train")
	out.CutoffLen, out.Template = 4096, "qwen"
	var want []string
	for _, parts := range []int{1, 3} {
		f := factory(t, schemas.FactorySpec{Stage: "sft", BatchSize: 5, MaxSamples: 20}, []schemas.PrepOutput{out})
		f.spec.Stages[0].Prep.Parts = parts
		f.spec.Stages[0].Prep.Factory.Train = []schemas.DataSet{{Name: "talks", Formatting: "openai", Split: "train[2:]", Data: f.upload("talks.jsonl", []byte(b.String())), Columns: map[string]string{"messages": "messages", "tools": "tools"},
			Tags: map[string]string{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function", "system_tag": "system"}}}
		for p := range parts {
			if err := f.handle(t.Context(), p); err != nil {
				t.Fatal(err)
			}
		}
		got := texts(t, f, "train")
		if parts == 1 {
			want = got
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") || len(got) != 20 {
			t.Errorf("%d parts: %d sequences, not the %d of one part", parts, len(got), len(want))
		}
	}
	plain := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{out})
	set := schemas.DataSet{Name: "talks", Formatting: "openai", Data: plain.upload("talks.jsonl", []byte(strings.Join(strings.SplitAfter(b.String(), "\n")[2:22], ""))), Columns: map[string]string{"messages": "messages", "tools": "tools"},
		Tags: map[string]string{"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant", "observation_tag": "tool", "function_tag": "function", "system_tag": "system"}}
	plain.spec.Stages[0].Prep.Factory.Train = []schemas.DataSet{set}
	if err := plain.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if got := texts(t, plain, "train"); len(got) != 20 || got[0] == want[0] {
		t.Errorf("%d sequences; the key of the last row changes nothing", len(got))
	}
}
