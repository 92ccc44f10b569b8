package source

import (
	"fmt"
	"testing"
)

func TestSpool(t *testing.T) {
	s, err := NewSpool(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 1000 {
		if err := s.Append(Row{Place: fmt.Sprintf("f%d.jsonl:%d", i/400, i+1), Raw: []byte(fmt.Sprintf(`{"n":%d}`, i))}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(); err != nil {
		t.Fatal(err)
	}
	for _, i := range []int{0, 1, 399, 400, 999} {
		r, err := s.Row(i)
		if err != nil || string(r.Raw) != fmt.Sprintf(`{"n":%d}`, i) || r.Place != fmt.Sprintf("f%d.jsonl:%d", i/400, i+1) {
			t.Fatalf("row %d is %s at %s, %v", i, r.Raw, r.Place, err)
		}
	}
	if _, err := s.Row(1000); err == nil || s.Len() != 1000 {
		t.Fatalf("%d rows, %v", s.Len(), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}
