package align

import (
	"os"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
)

// attrFrom reads a data set's attributes as testdata/rows.json has them.
func attrFrom(o *pyjson.Object) *Attr {
	a := &Attr{Columns: map[string]string{}, Tags: map[string]string{}, Strict: true}
	a.Formatting, _ = o.Value("formatting").(string)
	a.Ranking, _ = o.Value("ranking").(bool)
	for _, k := range o.Keys() {
		s, _ := o.Value(k).(string)
		if strings.HasSuffix(k, "_tag") && k != "kto_tag" {
			a.Tags[k] = s
		} else {
			a.Columns[k] = s
		}
	}
	return a
}

func turnValues(turns []Turn) []any {
	out := []any{}
	for _, t := range turns {
		out = append(out, pyjson.NewObject("role", t.Role, "content", t.Content))
	}
	return out
}

// TestOddRows compares with testdata/rows.json, which rows.py makes with the reference.
func TestOddRows(t *testing.T) {
	b, err := os.ReadFile("testdata/rows.json")
	if err != nil {
		t.Fatal(err)
	}
	v, err := pyjson.Parse(string(b))
	if err != nil {
		t.Fatal(err)
	}
	rows, _ := v.([]any)
	if len(rows) < 20 {
		t.Fatalf("%d cases", len(rows))
	}
	for i, x := range rows {
		row := x.(*pyjson.Object)                   //nolint:forcetypeassert // the file is ours
		attr := row.Value("attr").(*pyjson.Object)  //nolint:forcetypeassert // the file is ours
		raw, _ := row.Value("raw").(*pyjson.Object) // never nil
		r, err := Convert(raw, attrFrom(attr))
		want := row.Value("aligned")
		if want == nil || err != nil {
			if want != nil || err == nil {
				t.Errorf("case %d: error %v, the reference makes %s", i, err, pyjson.Dumps(want))
			}
			continue
		}
		got := pyjson.NewObject("_prompt", turnValues(r.Prompt), "_response", turnValues(r.Response), "_system", r.System, "_tools", r.Tools,
			"_images", r.Images, "_videos", r.Videos, "_audios", r.Audios)
		if pyjson.Dumps(got) != pyjson.Dumps(want) {
			t.Errorf("case %d:\n got %s\nwant %s", i, pyjson.Dumps(got), pyjson.Dumps(want))
		}
	}
}

// TestExampleOfBadContents: what cannot be encoded is an error, which comes with the shape that says whether the row is used at all.
func TestExampleOfBadContents(t *testing.T) {
	r := &Row{Prompt: []Turn{{"user", "q"}}, Response: []Turn{{"assistant", nil}}, System: nil, Tools: ""}
	if e, err := r.Example(); err == nil || e == nil || !e.Supervised() {
		t.Errorf("an answer that is null: %v, %v", e, err)
	}
	r.Response, r.judged = []Turn{{"assistant", nil}, {"assistant", ""}}, true
	if e, err := r.Example(); err != nil || e.Response[0].Content != "" {
		t.Errorf("a null answer that was judged good, which the reference takes for an empty one: %v, %v", e, err)
	}
	r = &Row{Response: []Turn{{"assistant", "a"}, {"assistant", ""}}, Tools: []any{1}}
	if e, err := r.Example(); err == nil || e == nil || e.Pairs() {
		t.Errorf("a dropped row with bad tools: %v, %v", e, err)
	}
	r = &Row{Prompt: []Turn{{"user", "q"}}, Response: []Turn{{"assistant", "a"}}, Videos: []any{"v"}}
	e, err := r.Example()
	if err != nil || e.Media != "videos" {
		t.Fatalf("a row with a video: %+v, %v", e, err)
	}
	if _, err := new(process.Processor).Supervised(e); err == nil || !strings.Contains(err.Error(), "videos") {
		t.Errorf("a row with a video was encoded: %v", err)
	}
}
