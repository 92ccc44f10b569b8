package pii_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tunefleet/tunefleet/gpuworker/data/pii"
)

func finder(t testing.TB, c pii.Config) *pii.Finder {
	t.Helper()
	f, err := pii.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestGeneratedRows holds exact spans (place and type) to the precision and recall that the project promises, over several seeds.
func TestGeneratedRows(t *testing.T) {
	t.Parallel()
	f := finder(t, pii.Config{})
	hit, found, real := map[string]int{}, map[string]int{}, map[string]int{}
	total := [3]int{}
	for seed := range uint64(5) {
		for _, s := range generate(seed, 1500) {
			got := f.Find(s.text)
			for _, x := range s.spans {
				real[x.Type]++
				total[2]++
				if slices.Contains(got, x) {
					hit[x.Type]++
					total[0]++
				} else if os.Getenv("PII_SHOW") != "" {
					t.Logf("missed %v in %q: %v", x, s.text, got)
				}
			}
			for _, x := range got {
				found[x.Type]++
				total[1]++
				if !slices.Contains(s.spans, x) && os.Getenv("PII_SHOW") != "" {
					t.Logf("false %v in %q", x, s.text)
				}
			}
		}
	}
	for _, k := range pii.Types() {
		p, r := float64(hit[k])/float64(max(1, found[k])), float64(hit[k])/float64(max(1, real[k]))
		t.Logf("%-12s %5d real, precision %.4f, recall %.4f", k, real[k], p, r)
		if p < 0.95 || r < 0.9 || real[k] < 100 {
			t.Errorf("%s: %d real, precision %.4f, recall %.4f", k, real[k], p, r)
		}
	}
	p, r := float64(total[0])/float64(total[1]), float64(total[0])/float64(total[2])
	t.Logf("all: precision %.4f, recall %.4f", p, r)
	if p < 0.98 || r < 0.95 {
		t.Errorf("precision %.4f (>= 0.98), recall %.4f (>= 0.95)", p, r)
	}
}

func TestFinds(t *testing.T) {
	t.Parallel()
	f := finder(t, pii.Config{})
	for _, c := range []struct{ text, want string }{
		{"（010）6255-1234", "phone 0-14"}, // full-width parentheses
		{"手机１３８００１３８０００。", "phone 2-13"},
		{"tel (415) 555-2671 ext. 12!", "phone 4-26"},
		{"+86-10-62551234转801", "phone 0-19"},
		{"13800138000@139.com", "email 0-19"},
		{"订单13800138000", ""},
		{"IP 2001:db8::1, fe80::1%eth0", "ip 3-14; ip 16-23"},
		{"版本1.2.3.4 与 1.2.3.4", ""},
		{"版本1.2.3.4 与 10.2.3.4", "ip 12-20"},
		{"DNS 8.8.8.8", "ip 4-11"},
		{"Spring 2018 and 250 Adventure Pack Fall", ""},
		{"deploy@10.0.0.5:22", "ip 7-15"},
		{"GB82 WEST 1234 5698 7654 32 is mine", "iban 0-27"},
		{"GB83 WEST 1234 5698 7654 32 is wrong", ""},
		{"4111 1111 1111 1111", "bank_card 0-19"},
		{"4111 1111 1111 1112", ""},
		{"11010519491231002X", "resident_id 0-18"},
		{"110105194912310021", ""},
		{"护照E12345678", "passport 2-11"},
		{"零件E12345678", ""},
		{"我从上海搬到北京市朝阳区建国路88号3号楼1502室了", "address 6-26"},
		{"住朝阳区建国路甲3号", "address 1-10"},
		{"地铁2号线在人民路站", ""},
		{"I live at 221B Baker Street, London NW1 6XE.", "address 10-43"},
		{"john [at] example [dot] com", "email 0-27"},
		{"git@github.com:a/b.git and a@b.io", "email 27-33"},
		{"", ""},
	} {
		var got []string
		for _, s := range f.Find(c.text) {
			got = append(got, fmt.Sprintf("%s %d-%d", s.Type, s.Start, s.End))
		}
		if strings.Join(got, "; ") != c.want {
			t.Errorf("%q: %v, want %s", c.text, got, c.want)
		}
	}
}

func TestReplacements(t *testing.T) {
	t.Parallel()
	f := finder(t, pii.Config{Types: []string{pii.Email, pii.Phone}, Patterns: map[string]string{"staff": `工号\d{4}`}})
	text := "张三（工号1234）：a@b.com，13800138000，10.0.0.1"
	if got, n := f.Replace(text, pii.Mask); got != "张三（[STAFF]）：[EMAIL]，[PHONE]，10.0.0.1" || n != 3 {
		t.Errorf("masked %d: %s", n, got)
	}
	p := pii.Pseudonyms([]byte("k1"))
	if a, b := p(pii.Phone, "138-0013-8000"), p(pii.Phone, "13800138000"); a != b || !strings.HasPrefix(a, "[PHONE_") {
		t.Errorf("one number has two names: %s, %s", a, b)
	}
	if p(pii.Email, "a@b.com") == p(pii.Email, "c@b.com") || p(pii.Email, "a@b.com") == pii.Pseudonyms([]byte("k2"))(pii.Email, "a@b.com") {
		t.Error("pseudonyms must differ by value and key")
	}
	if again, n := f.Replace("[EMAIL_3f9a2c41] [PHONE]", pii.Mask); n != 0 {
		t.Errorf("what was replaced was found again: %s", again)
	}
	for _, c := range []pii.Config{{Types: []string{"name"}}, {Patterns: map[string]string{"x": "("}}, {Patterns: map[string]string{"x": "a*"}}} {
		if _, err := pii.New(c); err == nil {
			t.Errorf("%v was accepted", c)
		}
	}
}

func FuzzFind(f *testing.F) {
	g := maker{rand.New(rand.NewPCG(1, 1))}
	for range 20 {
		f.Add(g.lookalike() + g.phone() + g.addressZH() + " " + g.addressEN())
	}
	f.Add("\xff(+(+1(((2 :::::: @@ 路1号路1号")
	find := finder(f, pii.Config{})
	f.Fuzz(func(t *testing.T, text string) {
		last := 0
		for _, s := range find.Find(text) {
			if s.Start < last || s.End <= s.Start || s.End > utf8.RuneCountInString(text) {
				t.Fatalf("%q: %v", text, s)
			}
			last = s.End
		}
	})
}

func BenchmarkFind(b *testing.B) {
	find := finder(b, pii.Config{})
	rows := generate(1, 500)
	n := 0
	for _, r := range rows {
		n += len(r.text)
	}
	b.SetBytes(int64(n))
	for b.Loop() {
		for _, r := range rows {
			find.Find(r.text)
		}
	}
}
