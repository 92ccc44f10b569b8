package pytext

import "testing"

// TestAsPython compares with what CPython 3.11 gives.
func TestAsPython(t *testing.T) {
	for _, c := range []struct {
		name string
		f    func(string) string
		in   string
		want string
	}{
		{"lower", Lower, "İΣΑΣ ΣΑ.Σ A", "i̇σας σα.ς a"}, {"upper", Upper, "ßﬁŉ aé", "SSFIʼN AÉ"}, {"title", Title, "they're 中a bill's ǆx ﬁ", "They'Re 中A Bill'S ǅx Fi"},
		{"capitalize", Capitalize, "ßÉΣ", "Sséς"}, {"swapcase", SwapCase, "aBß中", "AbSS中"}, {"casefold", Fold, "ßΣς", "ssσσ"},
	} {
		if got := c.f(c.in); got != c.want {
			t.Errorf("%q.%s() = %q, Python %q", c.in, c.name, got, c.want)
		}
	}
	for name, want := range map[string]string{"isdigit": "²1①", "isnumeric": "一½Ⅷ1²", "isalpha": "aé中", "isalnum": "a1½", "isdecimal": "1٣", "isidentifier": "_a1", "islower": "aª1",
		"isupper": "A1", "istitle": "Ab Cd", "isspace": " \u2028\x1c", "isprintable": "a b", "isascii": ""} {
		if !Is(name, want) {
			t.Errorf("%q.%s() is false", want, name)
		}
	}
	for name, not := range map[string]string{"isdigit": "½", "isnumeric": "a", "isalpha": "", "isalnum": "a_", "isdecimal": "²", "isidentifier": "1a", "islower": "1", "isupper": "AaA",
		"istitle": "AB", "isspace": "\u200b", "isprintable": "\u00a0", "isascii": "é", "isother": "a"} {
		if Is(name, not) {
			t.Errorf("%q.%s() is true", not, name)
		}
	}
}
