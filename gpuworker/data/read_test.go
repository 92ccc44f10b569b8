package data

import (
	"context"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestReadersAgree(t *testing.T) {
	want := []Record{{Fields: map[string]string{"text": "a, \"b\"", "n": "1"}}, {Fields: map[string]string{"text": "ü\nv", "n": "2"}}}
	for name, body := range map[string]string{
		"x.jsonl": "\ufeff{\"text\":\"a, \\\"b\\\"\",\"n\":1}\n\n{\"text\":\"ü\\nv\",\"n\":2,\"z\":null}\n",
		"x.json":  "[{\"text\":\"a, \\\"b\\\"\",\"n\":1},\n{\"text\":\"ü\\nv\",\"n\":2}]",
		"x.csv":   "\ufefftext,n\n\"a, \"\"b\"\"\",1\n\"ü\nv\",2\n",
	} {
		got, err := ReadRecords(context.Background(), name, "", []byte(body), nil)
		if err != nil || len(got) != len(want) {
			t.Fatalf("%s: %v, %v", name, got, err)
		}
		for i := range want {
			for k, v := range want[i].Fields {
				if got[i].Fields[k] != v {
					t.Errorf("%s row %d: %q is %q, want %q", name, i, k, got[i].Fields[k], v)
				}
			}
			if len(got[i].Fields) != 2 {
				t.Errorf("%s row %d has fields %v", name, i, got[i].Fields)
			}
		}
	}
}

func TestBrokenRowsAreNamed(t *testing.T) {
	for _, c := range []struct{ name, body, want string }{
		{"x.jsonl", "{\"a\":\"1\"}\n{\"a\":\n", "x.jsonl:2"},
		{"x.jsonl", "{\"a\":\"1\"}\n\n[1]\n", "x.jsonl:3"},
		{"x.jsonl", "null\n", "x.jsonl:1"},
		{"x.jsonl", "{\"a\":\"\xff\"}\n", "UTF-8"},
		{"x.jsonl", "", "empty"},
		{"x.json", "", "empty"},
		{"x.json", "[]", "empty"},
		{"x.json", "[{\"a\":1},{\"a\":}]", "x.json:2"},
		{"x.json", "[{\"a\":1}", "x.json:2"},
		{"x.csv", "", "empty"},
		{"x.csv", "a,b\n", "empty"},
		{"x.csv", "a,b\n1,2\n1,2,3\n", "x.csv"},
		{"x.csv", "a,b\n1,\"2\n", "x.csv"},
		{"x.bin", "a", "does not say its format"},
		{"x.jsonl", "{\"a\":\"" + strings.Repeat("x", 16<<20) + "\"}\n", "x.jsonl:1"},
	} {
		_, err := ReadRecords(context.Background(), c.name, "", []byte(c.body), nil)
		if !schemas.IsCode(err, schemas.CodeData) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %.30q: %v, want %q", c.name, c.body, err, c.want)
		}
	}
}

func TestColumnsMapRoles(t *testing.T) {
	rec := []Record{{Place: "x:1", Fields: map[string]string{"clause": "c", "instruction": "i", "input": "q", "output": "o", "kind": "k"}}}
	rows, err := Rows(rec, map[string]string{"text": "clause", "prompt": "Say {kind} of {clause}", "label": "kind"})
	if err != nil || rows[0].User() != "Say k of c" || rows[0].Plain() != "c" || rows[0].Answer() != "k" {
		t.Fatalf("%+v, %v", rows, err)
	}
	rows, err = Rows(rec, map[string]string{"prompt": "instruction", "query": "input", "response": "output"})
	if err != nil || rows[0].User() != "i\nq" || rows[0].Answer() != "o" || rows[0].Plain() != "i\nq\no" {
		t.Fatalf("%+v, %v", rows, err)
	}
	for _, columns := range []map[string]string{{"text": "claus"}, {"text": "{claus}"}, {"text": "{clause"}, {}} {
		if _, err := Rows(rec, columns); err == nil || !schemas.AsErrorInfo(err).Permanent {
			t.Errorf("columns %v: %v", columns, err)
		}
	}
}

func FuzzReadRecords(f *testing.F) {
	for _, format := range []string{"jsonl", "json", "csv"} {
		f.Add(format, "{\"a\":\"b\"}\n")
		f.Add(format, "[{\"a\":[1,{\"b\":null}]}]")
		f.Add(format, "a,b\n\"x\"\"y\",2\n")
		f.Add(format, "0\n\"") // a quote that never ends, found by the fuzzer
	}
	f.Fuzz(func(t *testing.T, format, body string) {
		recs, err := ReadRecords(context.Background(), "x", format, []byte(body), nil)
		if err != nil {
			if schemas.AsErrorInfo(err).Code == schemas.CodeInternal {
				t.Fatalf("error without a code: %v", err)
			}
			return
		}
		if len(recs) == 0 {
			t.Fatal("no row and no error")
		}
		for _, r := range recs {
			if r.Place == "" || r.Fields == nil {
				t.Fatalf("record is %+v", r)
			}
		}
	})
}
