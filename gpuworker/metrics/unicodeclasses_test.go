package metrics

import "testing"

// TestIntlOfNewCharacters: what sacrebleu 2.6.0 with regex 2026.11.19 makes of characters that are newer than Go's Unicode.
func TestIntlOfNewCharacters(t *testing.T) {
	for _, c := range [][2]string{
		{"a\U00010d6eb", "a \U00010d6e b"},
		{"1\U00010d6e2 \U00010d6e", "1\U00010d6e2 \U00010d6e"},
		{"x\U0001ccf1.\U0001e5f13,4", "x\U0001ccf1.\U0001e5f13,4"},
		{"a\U0001fae9b\U000020c1c", "a \U0001fae9 b \U000020c1 c"},
		{"\U00016d70.5", "\U00016d70.5"},
		{"z\U00001b4e\U000116d0\U00002e60", "z \U00001b4e \U000116d0\U00002e60"},
		{"\U0001cd00\U0001f8c1 \U00002ffc", "\U0001cd00 \U0001f8c1 \U00002ffc"},
	} {
		if got := tokenizeIntl(c[0]); got != c[1] {
			t.Errorf("%+q is %+q, not %+q", c[0], got, c[1])
		}
	}
}
