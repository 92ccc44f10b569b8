package pyjson

import (
	"math"
	"testing"
)

// TestDumpsAsPython compares with outputs of Python 3.11's json.dumps(json.loads(x), ensure_ascii=False).
func TestDumpsAsPython(t *testing.T) {
	for in, want := range map[string]string{
		`{"b":1,"a":[1.0,2e3,-0.0,1e16,1e-5,123456789012345678901234567890],"b":2}`: `{"b": 2, "a": [1.0, 2000.0, -0.0, 1e+16, 1e-05, 123456789012345678901234567890]}`,
		`"\u4e2d\ud83d\ude00\u007f\u0001\/\b"`:                                      "\"中😀\u007f\\u0001/\\b\"",
		` [ ] `:                                                                     `[]`, `{}`: `{}`, `[NaN,-Infinity,1.5]`: `[NaN, -Infinity, 1.5]`, `0.1`: `0.1`, `1e22`: `1e+22`, `123456789.125`: `123456789.125`,
	} {
		v, err := Parse(in)
		if err != nil {
			t.Fatalf("%s: %v", in, err)
		}
		if got := Dumps(v); got != want {
			t.Errorf("%s: got %s, want %s", in, got, want)
		}
	}
	o := NewObject("a", []any{int64(1), NewObject()}, "b", []any{})
	if got, want := Dump(o, Style{Indent: 4}), "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": []\n}"; got != want {
		t.Errorf("indented: got %s", got)
	}
	if got, want := Dump("é😀<", Style{ASCII: true, HTML: true}), `"\u00e9\ud83d\ude00\u003c"`; got != want {
		t.Errorf("ascii: got %s", got)
	}
}

func TestParseRefuses(t *testing.T) {
	for _, in := range []string{"", "{", "[1,]", `{"a" 1}`, "01", "1.", "tru", `"a`, "\"\n\"", `"\x"`, `"\u12g4"`, "[1] 2", "-", "{'a':1}"} {
		if v, err := Parse(in); err == nil {
			t.Errorf("%q: parsed as %v", in, v)
		}
	}
}

func TestEqual(t *testing.T) {
	a, _ := Parse(`{"x":[1,{"y":null}],"z":2.0}`)
	b, _ := Parse(`{"z":2,"x":[1,{"y":null}]}`)
	c, _ := Parse(`{"z":2,"x":[1,{"y":false}]}`)
	if !Equal(a, b) || Equal(a, c) || Equal(true, int64(1)) || Equal([]any{}, nil) {
		t.Error("equality is wrong")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e3,"\u00e9"],"b":null}`, `[[[[]]]]`, `-0`, `"\ud800"`, `1e999`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := Parse(s)
		if err != nil {
			return
		}
		again, err := Parse(Dumps(v))
		if err != nil {
			t.Fatalf("%q was written as %q, which cannot be read: %v", s, Dumps(v), err)
		}
		if x, ok := v.(float64); ok && math.IsNaN(x) {
			return
		}
		if Dumps(again) != Dumps(v) {
			t.Fatalf("%q changes when read again: %q", Dumps(v), Dumps(again))
		}
	})
}

// TestHalvesOfSurrogatePairs: they are kept, told and written as Python does; halves that belong together are one character.
func TestHalvesOfSurrogatePairs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		json, ascii, repr string
		half              bool
	}{
		{`"a\ud800b"`, `"a\ud800b"`, `'a\ud800b'`, true}, {`"\udc00\ud800"`, `"\udc00\ud800"`, `'\udc00\ud800'`, true}, {`"\ud83d\ude00"`, `"\ud83d\ude00"`, "'😀'", false},
		{`"\ud83d\ud83d\ude00"`, `"\ud83d\ud83d\ude00"`, `'\ud83d😀'`, true}, {`"í\ud7ff"`, `"\u00ed\ud7ff"`, `'í\ud7ff'`, false},
	} {
		v, err := Parse(c.json)
		if err != nil {
			t.Fatal(err)
		}
		s, _ := v.(string)
		if got := Dump(v, Style{ASCII: true}); got != c.ascii || Repr(v) != c.repr || HasSurrogate(s) != c.half {
			t.Errorf("%s: %s %s %t", c.json, got, Repr(v), HasSurrogate(s))
		}
	}
}
