package source

import (
	"fmt"
	"testing"
)

// TestSlices: rows that datasets 4.0.0 gives for such splits (arrow_reader.ReadInstruction).
func TestSlices(t *testing.T) {
	for _, c := range []struct {
		spec string
		n    int
		want string
	}{
		{"train", 3, "[0 1 2]"}, {"train[:2]", 3, "[0 1]"}, {"train[1:]", 3, "[1 2]"}, {"train[-2:]", 3, "[1 2]"}, {"train[:-2]", 3, "[0]"}, {"train[:9]", 3, "[0 1 2]"},
		{"train[:50%]", 5, "[0 1]"}, {"train[50%:]", 5, "[2 3 4]"}, {"train[:50%]", 7, "[0 1 2 3]"}, {"train[10%:70%]", 10, "[1 2 3 4 5 6]"}, {"train[-20%:]", 10, "[8 9]"},
		{"train[:2]+train[-1:]", 5, "[0 1 4]"}, {"train[:1] + train[:1]", 5, "[0 0]"}, {"train[:1%](pct1_dropremainder)", 250, "[0 1]"}, {"train[0_1:2]", 5, "[1]"},
		{"train[:1%](closest)", 250, "[0 1]"}, {"train[:]", 2, "[0 1]"}, {"train[2:2]", 3, ""}, {"train[2:1]", 3, ""}, {"train[:1%](pct1_dropremainder)", 99, ""},
		{"train[:101%]", 3, ""}, {"train[:1](closest)", 3, ""}, {"train[1]", 3, ""}, {"", 3, ""}, {"train[:1]+", 3, ""}, {"train[:1%](up)", 200, ""}, {"train[9:]", 3, ""}, {"tr-ain", 3, ""},
	} {
		got := ""
		if s, err := ParseSlices(c.spec); err == nil {
			if rows, err := s.Rows(c.n); err == nil {
				got = fmt.Sprint(rows)
			}
		}
		if got != c.want {
			t.Errorf("%q of %d rows: %s, not %s", c.spec, c.n, got, c.want)
		}
	}
}
