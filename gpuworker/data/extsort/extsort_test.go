package extsort_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
)

// TestSortedAsInMemory sorts as slices.Sort does, whether records fit in memory, fill it exactly or spill many times, and twice alike.
func TestSortedAsInMemory(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, n := range []int{0, 1, 2, 15, 16, 17, 160, 1000, -17, -1000, -50_000} {
		dir, size, most := t.TempDir(), 3, 16
		if n < 0 { // those that are sorted as numbers
			n, size = -n, 16
		}
		if n > 1000 { // in halves
			most = 30_000
		}
		s := extsort.New(dir, size, most)
		var want [][]byte
		for range n {
			b := []byte{byte(r.IntN(4)), byte(r.IntN(256)), byte(r.IntN(2))}
			for len(b) < size {
				b = append(b, byte(r.IntN(3)*127))
			}
			want = append(want, slices.Clone(b))
			if err := s.Add(b); err != nil {
				t.Fatal(err)
			}
			clear(b) // it was copied
		}
		slices.SortFunc(want, bytes.Compare)
		for range 2 {
			var got [][]byte
			if err := s.Each(func(b []byte) error { got = append(got, slices.Clone(b)); return nil }); err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(got, want, bytes.Equal) {
				t.Fatalf("%d records: %v, want %v", n, got, want)
			}
		}
		stop := errors.New("stop")
		if err := s.Each(func([]byte) error { return stop }); n > 0 && !errors.Is(err, stop) {
			t.Fatalf("an error of the reader becomes %v", err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Fatalf("%d files are left, %v", len(left), err)
		}
	}
	if err := extsort.New("", 3, 1).Add([]byte{1}); err == nil {
		t.Fatal("a record of another size is taken")
	}
}
