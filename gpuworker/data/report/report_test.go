package report_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/report"
	"github.com/tunefleet/tunefleet/schemas"
)

const tokenizer = "../../../producer/examples/contract-review/tokenizer"

func write(t *testing.T, name, body string) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

func load(t *testing.T, c report.Config) *report.Set {
	t.Helper()
	s, err := report.Each(context.Background(), c, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func preview(c report.Config, e report.Encoding, rows int) ([]report.Shown, error) {
	_, shown, err := report.Preview(context.Background(), c, e, rows)
	return shown, err
}

func TestProblemsNameFileRowAndKey(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, body string
		config     report.Config
		want       []string
	}{
		{"a.jsonl", `{"instruction":"q","input":"","output":"a"}` + "\n" + `{"instruction":"","output":"a"}` + "\n" + `{"instruction":"q","outputs":"a"}` + "\n" + `{"instruction":7,"output":"a"}` + "\n{broken\n",
			report.Config{}, []string{"a.jsonl:2: instruction: is empty", `a.jsonl:3: output: is missing (did you mean "outputs"?)`, "a.jsonl:4: instruction: must be text, is 7", "a.jsonl:5: "}},
		{"s.json", `[{"conversations":[{"from":"human","value":"q"},{"from":"gpt","value":"a"}]},{"conversations":[{"from":"humen","value":"q"},{"from":"gpt"}]},{"conversations":[]},
			{"conversations":[{"from":"gpt","value":"a"},{"from":"human","value":"q"}]}]`, report.Config{},
			[]string{`s.json:2: conversations[0].from: role "humen" is unknown (did you mean "human"?)`, "s.json:2: conversations[1].value: is missing", "s.json:3: conversations: is empty", "s.json:4: conversations: "}},
		{"o.jsonl", `{"messages":[{"role":"user","content":"q"},{"role":"assistant","content":" "}]}`, report.Config{}, []string{"o.jsonl:1: messages[1].content: the answer is empty"}},
		{"c.csv", "text,kind\nhello,x\nworld,\n", report.Config{Label: "kind"}, []string{"c.csv:3: kind: is empty"}},
		{"m.json", `[{"messages":[{"role":"user","content":"<image>q"},{"role":"assistant","content":"a"}],"images":["a.jpg"]}]`, report.Config{},
			[]string{"m.json:1: images: the row has images, models here take text only"}},
		{"w.jsonl", `{"a":1,"b":2,"c":3,"d":4,"e":5,"f":6,"g":7,"h":8,"i":9,"j":10,"k":11,"l":12,"m":13}`, report.Config{},
			[]string{"w.jsonl:1: no column is known for prompt; the row has a, b, c, d, e, f, g, h, i, j, k, l and 1 more"}},
	} {
		c.config.Path = write(t, c.name, c.body)
		s := load(t, c.config)
		if len(s.Problems) != len(c.want) {
			t.Errorf("%s: %v", c.name, s.Problems)
			continue
		}
		for i, w := range c.want {
			if got := s.Problems[i].String(); !strings.HasPrefix(got, w) {
				t.Errorf("%s: problem %d is %q, want %q", c.name, i, got, w)
			}
		}
	}
	table := write(t, "k.csv", "text,kind\nhello,x\n")
	for _, c := range []report.Config{{Label: "kin"}, {Annotators: []string{"kin"}}, {Columns: map[string]string{"prompt": "kin"}}, {Columns: map[string]string{"prmpt": "text"}}, {Formatting: "chat"}} {
		c.Path = table
		if _, err := report.Each(context.Background(), c, nil); err == nil {
			t.Errorf("%+v was accepted", c)
		}
	}
	for _, path := range []string{write(t, "e.jsonl", ""), filepath.Join(t.TempDir(), "none.jsonl")} {
		if _, err := report.Each(context.Background(), report.Config{Path: path}, nil); err == nil {
			t.Errorf("%s was accepted", path)
		}
	}
}

func TestPreviewMasksPrompts(t *testing.T) {
	t.Parallel()
	s := (report.Config{Path: write(t, "a.jsonl", `{"instruction":"question","input":"","output":"answer","history":[["first","reply"]]}`)})
	for _, e := range []report.Encoding{{}, {Tokenizer: tokenizer, Template: "vicuna", Cutoff: 512}} {
		shown, err := preview(s, e, 5)
		if err != nil || len(shown) != 1 {
			t.Fatalf("%v, %v", shown, err)
		}
		trained, rest := "", ""
		for _, p := range shown[0].Pieces {
			if p.Trained {
				trained += p.Text + "|"
			} else {
				rest += p.Text
			}
		}
		if !strings.Contains(trained, "reply") || !strings.Contains(trained, "answer") || strings.Contains(trained, "question") || !strings.Contains(rest, "question") || shown[0].Truncated {
			t.Errorf("trained %q, not %q", trained, rest)
		}
	}
	shown, err := preview(s, report.Encoding{Tokenizer: tokenizer, Template: "vicuna", Cutoff: 8}, 1)
	if err != nil || !shown[0].Truncated || shown[0].Tokens > 8 {
		t.Errorf("%+v, %v", shown, err)
	}
	if _, err := preview(s, report.Encoding{Tokenizer: tokenizer, Template: "vicunya"}, 1); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("an unknown template: %v", err)
	}
}

// TestPreviewShowsEveryAnswer: both of a pair, and what was thought of a judged one.
func TestPreviewShowsEveryAnswer(t *testing.T) {
	t.Parallel()
	pairs := (report.Config{Path: write(t, "p.jsonl", `{"instruction":"q","chosen":"this one","rejected":"not that"}`)})
	judged := (report.Config{Path: write(t, "j.jsonl", `{"instruction":"q","output":"yes","label":true}`+"\n"+`{"instruction":"q","output":"no","label":false}`)})
	for _, c := range []struct {
		set  report.Config
		want string
	}{{pairs, "chosen this one, rejected not that"}, {judged, "good yes, bad no"}} {
		for _, e := range []report.Encoding{{}, {Tokenizer: tokenizer, Template: "vicuna", Cutoff: 512}} {
			shown, err := preview(c.set, e, 2)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range shown {
				for _, p := range shown[i].Pieces {
					if p.Trained {
						text, _, _ := strings.Cut(strings.TrimPrefix(p.Text, "assistant: "), "<")
						got = append(got, shown[i].Answer+" "+strings.TrimSpace(text))
					}
				}
			}
			if s := strings.Join(got, ", "); s != c.want {
				t.Errorf("%q, want %q", s, c.want)
			}
		}
		_, st, _, err := report.Compute(context.Background(), c.set, report.Encoding{Tokenizer: tokenizer, Template: "vicuna", Cutoff: 60}, report.Request{Dir: t.TempDir()})
		if err != nil || st.Tokens.Histogram[0].Count == 0 || st.Tokens.PackedSequences == 0 {
			t.Errorf("%+v, %v", st, err)
		}
	}
}

func TestStats(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("text,kind,ann,bob\n")
	for i := range 40 {
		kind := []string{"common", "common", "common", "rare"}[i%4]
		fmt.Fprintf(&b, "row number %d speaks of matter %d and of nothing else at all,%s,%s,%s\n", i, i*i+1000, kind, kind, kind)
	}
	b.WriteString("row number 3 speaks of matter 1009 and of nothing else at all,common,common,rare\n") // the same as row 3, other label
	b.WriteString("write to a@b.com or call 13800138000,rare,rare,rare\n")
	c := report.Config{Path: write(t, "c.csv", b.String()), Label: "kind", Annotators: []string{"ann", "bob"}}
	held := report.Config{Path: write(t, "e.txt", "row number 7 speaks of matter 1049 and of nothing else at all\n")}
	var review []clean.ReviewEntry
	dir := t.TempDir()
	s, st, shown, err := report.Compute(context.Background(), c, report.Encoding{Tokenizer: tokenizer, Template: "vicuna", Cutoff: 60}, report.Request{Eval: &held, Shown: 1, Dir: dir,
		Review: func(e []clean.ReviewEntry) error {
			review = append(review, e...)
			return nil
		}})
	if err != nil {
		t.Fatal(err)
	}
	if st.Rows != 42 || st.Usable != 42 || st.Problems != 0 || st.PIIRows != 1 || st.PII["email"] != 1 || st.PII["phone"] != 1 || st.Languages["en"] != 42 || st.Contaminated == 0 {
		t.Errorf("%+v", st)
	}
	if len(st.Classes) != 2 || st.Classes[0] != (report.Class{Label: "common", Rows: 31, Share: 31.0 / 42}) || len(st.Conflicts) != 1 || st.ConflictGroups != 1 || st.CohenKappa == nil || *st.CohenKappa >= 1 || *st.CohenKappa < 0.9 {
		t.Errorf("%+v", st)
	}
	n := 0
	for _, h := range st.Tokens.Histogram {
		n += h.Count
	}
	if n != 42 || st.Tokens.Trained >= st.Tokens.Total || st.Tokens.Trained == 0 || st.Tokens.P50 > st.Tokens.P90 || st.Tokens.Max < st.Tokens.P99 || st.Tokens.PackedFill > 1 {
		t.Errorf("%+v", st.Tokens)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 || len(review) != 1 || review[0].Label != "rare" {
		t.Errorf("scratch files %v, %v; review %+v", left, err, review)
	}
	var page bytes.Buffer
	s.Problems = []report.Problem{{File: "<script>", Row: 1, Key: "k", What: "x"}}
	if err := report.WriteHTML(&page, &report.Page{Title: "T & T", Stats: st, Shown: shown, Problems: s.Problems}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"T &amp; T", "&lt;script&gt;:1", "Cohen&#39;s kappa", "common"} {
		if !strings.Contains(page.String(), want) && !strings.Contains(page.String(), strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page.String(), "<script>") {
		t.Error("data came into the page as markup")
	}
}
