package prep_test

import (
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestMedicalData prepares real data whole: a CSV file in GB18030 of questions to doctors, cleaned, held out, packed.
func TestMedicalData(t *testing.T) {
	b, err := os.ReadFile(fixturetest.Data(t, "medical", "internal_medicine_sample.csv"))
	if err != nil {
		t.Fatal(err)
	}
	packed, eval := long("packed", "train"), long("eval", "eval")
	packed.Packing, packed.Neat, packed.CutoffLen, eval.CutoffLen = true, true, 1024, 2048
	f := factory(t, schemas.FactorySpec{Stage: "sft", ValSize: 0.1}, []schemas.PrepOutput{packed, eval}, []byte("{}"))
	p := f.spec.Stages[0].Prep
	p.Factory.Train[0].Data = f.upload("internal_medicine_sample.csv", b)
	p.Factory.Train[0].Columns = map[string]string{"prompt": "title", "query": "ask", "response": "answer"}
	p.Clean = schemas.CleanSpec{Normalize: true, PII: "mask", Dedup: true, Contamination: 1}
	p.Parts = 2
	for i := range 2 {
		if err := f.handle(t.Context(), i); err != nil {
			t.Fatal(err)
		}
	}
	c := f.result(0).Counters
	if c["rows_read"] != 7644 || c["dropped_duplicates"] == 0 || c["dropped_rows"] > 50 {
		t.Errorf("%v", c)
	}
	held, train := said(t, f, "eval"), said(t, f, "packed")
	text := strings.Join(train, "") + strings.Join(held, "")
	if n := int64(len(held)); n < 600 || n > 765 || strings.Count(text, "高血压患者能吃党参吗") != 1 || strings.Contains(text, "\uFFFD\uFFFD\uFFFD\uFFFD") {
		t.Errorf("%d rows held out, %d packed", n, len(train))
	}
}
