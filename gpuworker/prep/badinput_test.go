package prep_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/ipc"
	"github.com/apache/arrow-go/v18/arrow/memory"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"

	"github.com/tunefleet/tunefleet/schemas"
)

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// fillers makes good rows; two columns, so that every format has them.
func fillers(n, from int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"instruction\":\"what is %d times %d\",\"output\":\"it is %d\"}\n", i+from, i, (i+from)*i)
	}
	return b.String()
}

func csvRows(n int) string {
	var b strings.Builder
	b.WriteString("instruction,output\n")
	for i := range n {
		fmt.Fprintf(&b, "what is %d times %d,it is %d\n", i+1, i, (i+1)*i)
	}
	return b.String()
}

// TestBadInputThroughPrep: everything that a data file can have wrong is an error that names the file and, where it is one, the row; under
// skip it is counted, under quarantine kept with its reason, when it is one row's fault; what is wrong with the file stays an error.
func TestBadInputThroughPrep(t *testing.T) {
	good := fillers(5, 1)
	row := func(s string) []byte { return []byte(good + s + "\n" + fillers(5, 10)) }
	for _, c := range []struct {
		what, name string
		body       []byte
		// place and reason are in the error; bad is how many rows are left out under skip, -1 when the file cannot be read.
		place, reason string
		bad           int64
	}{
		{"truncated gzip", "a.jsonl.gz", gzipped(t, []byte(fillers(3000, 1)))[:4000], "a.jsonl.gz", "cut off", -1},
		{"named gzip", "a.jsonl.gz", []byte(good), "a.jsonl.gz", "is none", -1},
		{"zip", "a.jsonl", []byte("PK\x03\x04" + good), "a.jsonl", "zip archives", -1},
		{"archive that grows", "a.jsonl.gz", gzipped(t, append([]byte(good), make([]byte, 80<<20)...)), "a.jsonl.gz", "exhaust memory", -1},
		{"mixed encodings", "a.jsonl", row("{\"instruction\":\"caf\xe9\",\"output\":\"x\"}"), "a.jsonl", "", -1},
		{"NUL", "a.jsonl", row("{\"instruction\":\"a\x00b\",\"output\":\"x\"}"), "a.jsonl:6", "NUL", 1},
		{"long line", "a.jsonl", row("{\"instruction\":\"" + strings.Repeat("x", 17<<20) + "\",\"output\":\"x\"}"), "a.jsonl:6", "longer than", 1},
		{"deep", "a.jsonl", row("{\"instruction\":" + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + "}"), "a.jsonl:6", "deep", 1},
		{"twice", "a.jsonl", row("{\"instruction\":\"x\",\"instruction\":\"y\",\"output\":\"x\"}"), "a.jsonl:6", "appears twice", 1},
		{"no object", "a.jsonl", row("[1,2]"), "a.jsonl:6", "no JSON object", 1},
		{"broken", "a.jsonl", row("{\"instruction\":"), "a.jsonl:6", "broken JSON", 1},
		{"lone surrogate", "a.jsonl", row("{\"instruction\":\"\\ud800\",\"output\":\"x\"}"), "a.jsonl:6", "surrogate", 1},
		{"array that ends", "a.json", []byte("[{\"instruction\":\"x\",\"output\":\"y\"},"), "a.json:2", "ends too early", -1},
		{"empty", "a.jsonl", []byte("\n \n"), "a.jsonl", "empty", -1},
		{"ragged", "a.csv", []byte(csvRows(5) + "one,two,three\nx,y\n"), "a.csv:7", "3 values", 1},
		{"open quote", "a.csv", []byte(csvRows(5) + "one,\"two\nx,y\n"), "a.csv:7", "never closed", -1},
		{"column twice", "a.csv", []byte("instruction,instruction\nx,y\n"), "a.csv:1", "appears twice", -1},
		{"no Parquet", "a.parquet", []byte("PAR1 is what it says PAR1"), "a.parquet", "", -1},
		{"no Arrow", "a.arrow", []byte("ARROW1\x00\x00 is what it says, but it is none"), "a.arrow", "", -1},
		{"truncated Parquet", "a.parquet", columnFile(t, "parquet")[:700], "a.parquet", "", -1},
		{"Parquet with an absurd footer", "a.parquet", absurdFooter(columnFile(t, "parquet")), "a.parquet", "", -1},
		{"truncated Arrow", "a.arrow", columnFile(t, "arrow")[:900], "a.arrow", "", -1},
		{"Arrow with an absurd size", "a.arrow", absurdMessage(columnFile(t, "arrow")), "a.arrow", "", -1},
		{"wrong column", "a.jsonl", []byte(strings.ReplaceAll(good, "instruction", "question")), "a.jsonl", "instruction", -1},
		{"unknown ending", "a.docx", []byte(good), "a.docx", "does not say its format", -1},
	} {
		for _, form := range []string{"plain", "factory"} {
			for _, policy := range []string{"", "skip", "quarantine"} {
				f := badInput(t, form, policy, c.name, c.body)
				err := f.handle(t.Context(), 0)
				at := fmt.Sprintf("%s, %s, %q", c.what, form, policy)
				if policy == "" || c.bad < 0 {
					info := schemas.AsErrorInfo(err)
					if err == nil || !strings.Contains(err.Error(), c.place) && (c.what != "empty" || form != "factory") || !strings.Contains(err.Error(), c.reason) {
						t.Errorf("%s: %v, expected %s: ...%s...", at, err, c.place, c.reason)
					} else if info.Code != schemas.CodeData && info.Code != schemas.CodeUnsupported {
						t.Errorf("%s: code %s (%v)", at, info.Code, err)
					}
					continue
				}
				if err != nil {
					t.Errorf("%s: %v", at, err)
					continue
				}
				r := f.result(0)
				if r.Counters["bad_rows"] != c.bad || r.Counters["train.sequences"] < 5 {
					t.Errorf("%s: %v, expected %d bad rows", at, r.Counters, c.bad)
				}
				if kept := f.quarantined(r); policy == "skip" && len(kept) != 0 || policy == "quarantine" && (int64(len(kept)) != c.bad || kept[0].Place != c.place || !strings.Contains(kept[0].Reason, c.reason)) {
					t.Errorf("%s: kept aside %+v", at, kept)
				}
			}
		}
	}
}

// TestRowWithoutAColumn: a row that lacks a column of the configuration is a bad row like others, told with its place and under the policy.
func TestRowWithoutAColumn(t *testing.T) {
	body := []byte(fillers(5, 1) + "{\"output\":\"x\"}\n")
	for _, policy := range []string{"", "skip", "quarantine"} {
		f := badInput(t, "plain", policy, "a.jsonl", body)
		err := f.handle(t.Context(), 0)
		if policy == "" {
			if !schemas.IsCode(err, schemas.CodeData) || !strings.Contains(err.Error(), `a.jsonl:6: has no column "instruction"`) {
				t.Errorf("%v, expected the place and the column", err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", policy, err)
			continue
		}
		r := f.result(0)
		if r.Counters["bad_rows"] != 1 || r.Counters["train.sequences"] != 5 {
			t.Errorf("%s: %v, expected one bad row", policy, r.Counters)
		}
		kept := f.quarantined(r)
		if want := []keptRow{{"a.jsonl:6", `has no column "instruction"`, `{"output":"x"}`}}; policy == "quarantine" && !slices.Equal(kept, want) || policy == "skip" && len(kept) != 0 {
			t.Errorf("%s: kept aside %+v", policy, kept)
		}
	}
}

// columnFile is a good file of rows in a format of columns.
func columnFile(t *testing.T, format string) []byte {
	t.Helper()
	schema := arrow.NewSchema([]arrow.Field{{Name: "instruction", Type: arrow.BinaryTypes.String}, {Name: "output", Type: arrow.BinaryTypes.String}}, nil)
	b := array.NewRecordBuilder(memory.DefaultAllocator, schema)
	defer b.Release()
	for i := range 40 {
		for k, text := range []string{"question", "answer"} {
			x, _ := b.Field(k).(*array.StringBuilder)
			x.Append(fmt.Sprintf("%s %d", text, i))
		}
	}
	rec := b.NewRecordBatch()
	defer rec.Release()
	var out bytes.Buffer
	var w interface {
		Write(rec arrow.RecordBatch) error
		Close() error
	}
	var err error
	if format == "parquet" {
		w, err = pqarrow.NewFileWriter(schema, &out, nil, pqarrow.DefaultWriterProps())
	} else {
		w = ipc.NewWriter(&out, ipc.WithSchema(schema))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.Write(rec), w.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// absurdFooter says that a Parquet file's footer has two gigabytes, absurdMessage that the first message of an Arrow stream has.
func absurdFooter(b []byte) []byte {
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint32(b[len(b)-8:], math.MaxInt32)
	return b
}

func absurdMessage(b []byte) []byte {
	b = bytes.Clone(b)
	binary.LittleEndian.PutUint32(b[4:], math.MaxInt32)
	return b
}

type keptRow struct{ Place, Reason, Text string }

// quarantined reads the rows that were kept aside.
func (f *fixture) quarantined(r schemas.StageResult) []keptRow {
	f.t.Helper()
	var out []keptRow
	for _, o := range r.Objects {
		if o.Name != "train/quarantine" {
			continue
		}
		raw, _, err := f.objects.Get(f.t.Context(), o.Key, 64<<20)
		if err != nil {
			f.t.Fatal(err)
		}
		for _, l := range strings.Split(strings.TrimSpace(string(raw)), "\n") {
			var k keptRow
			if err := json.Unmarshal([]byte(l), &k); err != nil {
				f.t.Fatal(err)
			}
			out = append(out, k)
		}
	}
	return out
}

func badInput(t *testing.T, form, policy, name string, body []byte) *fixture {
	t.Helper()
	if form == "plain" {
		return newFixture(t, name, body, schemas.PrepStage{OnBadRow: policy, Columns: map[string]string{"prompt": "instruction", "response": "output"}, Parts: 1,
			Outputs: []schemas.PrepOutput{{Name: "train", Form: "sft", Split: "train", Template: "contract-review", CutoffLen: 64}}})
	}
	f := factory(t, schemas.FactorySpec{Stage: "sft", OnBadRow: policy}, []schemas.PrepOutput{sft("train", "train")})
	f.spec.Stages[0].Prep.Factory.Train = []schemas.DataSet{{Name: "set", Formatting: "alpaca", Data: f.upload(name, body), Columns: map[string]string{"prompt": "instruction", "query": "input", "response": "output"}}}
	return f
}
