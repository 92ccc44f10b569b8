package data

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestSplitterIsSplit: rows sorted on disk are assigned as rows in memory are, whatever groups, labels and shares there are.
func TestSplitterIsSplit(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(rt *rapid.T) {
		labels, groups := rapid.IntRange(1, 5).Draw(rt, "labels"), rapid.IntRange(1, 40).Draw(rt, "groups")
		var rows []Row
		for i := range rapid.IntRange(0, 120).Draw(rt, "rows") {
			r := Row{Text: fmt.Sprint("text ", i/2), Label: fmt.Sprint(rapid.IntRange(1, labels).Draw(rt, "label"))}
			if g := rapid.IntRange(0, groups).Draw(rt, "group"); g > 0 {
				r.Group = fmt.Sprint(g)
			}
			rows = append(rows, r)
		}
		spec := schemas.SplitSpec{Eval: rapid.Float64Range(0, 0.4).Draw(rt, "eval"), Test: rapid.Float64Range(0, 0.4).Draw(rt, "test")}
		if rapid.Bool().Draw(rt, "folds") {
			spec.Folds = rapid.IntRange(2, 5).Draw(rt, "of")
			spec.Fold = rapid.IntRange(0, spec.Folds-1).Draw(rt, "fold")
		}
		seed := rapid.Uint64().Draw(rt, "seed")
		s := NewSplitter(dir, spec, seed)
		for i := range rows {
			if err := s.Add(&rows[i]); err != nil {
				rt.Fatal(err)
			}
		}
		got, err := s.Splits()
		if err != nil {
			rt.Fatal(err)
		}
		if err := s.Close(); err != nil {
			rt.Fatal(err)
		}
		Split(rows, spec, seed)
		for i := range rows {
			if SplitName(got[i]) != rows[i].Split {
				rt.Fatalf("row %d is in %s, Split puts it in %s", i, SplitName(got[i]), rows[i].Split)
			}
		}
	})
}

// TestRowFilesKeepRows: what is read is what was written, text that is not UTF-8 included; a file that ends early is an error.
func TestRowFilesKeepRows(t *testing.T) {
	rows := []Row{{}, {Index: 7, Text: "a\xffb", System: "s", Prompt: "\x00", Response: "ü\n", Label: "l", Explanation: "e", Group: "g", Split: "test",
		Origin: &Origin{Row: 3, Method: "typo", Changes: []string{"a", "b"}}}, {Index: 1 << 33, Text: string(bytes.Repeat([]byte("long"), 100_000))}}
	w, err := NewRowFile(t.TempDir(), 16)
	if err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		if err := w.Add(&rows[i]); err != nil {
			t.Fatal(err)
		}
	}
	size, _, err := w.Finish()
	if err != nil {
		t.Fatal(err)
	}
	var got []Row
	if err := EachStoredRow(w.Reader(), "x", func(r *Row) error { got = append(got, *r); return nil }); err != nil {
		t.Fatal(err)
	}
	if fmt.Sprintf("%+v", got[0]) != fmt.Sprintf("%+v", rows[0]) || got[1].Text != rows[1].Text || fmt.Sprint(*got[1].Origin) != fmt.Sprint(*rows[1].Origin) || got[2] != rows[2] || len(got) != 3 {
		t.Errorf("rows came back as %.200v", got)
	}
	all := make([]byte, size)
	if _, err := w.Reader().ReadAt(all, 0); err != nil {
		t.Fatal(err)
	}
	for cut := range 60 {
		n := 0
		err := EachStoredRow(bytes.NewReader(all[:cut]), "x", func(*Row) error { n++; return nil })
		if whole := slices.Contains([]int{0, 10}, cut); (err == nil) != whole || err != nil && !schemas.IsCode(err, schemas.CodeData) {
			t.Errorf("%d bytes: %d rows, %v", cut, n, err)
		}
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}

// FuzzStoredRows: no file of rows makes the reader panic.
func FuzzStoredRows(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{2, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 2, '{', '}'})
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := EachStoredRow(bytes.NewReader(b), "x", func(*Row) error { return nil }); err != nil && !schemas.IsCode(err, schemas.CodeData) {
			t.Fatalf("error without a code: %v", err)
		}
	})
}
