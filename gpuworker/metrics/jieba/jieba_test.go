package jieba_test

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tunefleet/tunefleet/gpuworker/metrics/jieba"
)

func segmenter(t testing.TB) *jieba.Segmenter {
	t.Helper()
	s, err := jieba.Default()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestModes has the examples of jieba's own README.
func TestModes(t *testing.T) {
	t.Parallel()
	s := segmenter(t)
	for _, c := range []struct {
		name string
		cut  func(string) []string
		text string
		want string
	}{
		{"full", s.CutAll, "我来到北京清华大学", "我/来到/北京/清华/清华大学/华大/大学"},
		{"accurate", s.Cut, "我来到北京清华大学", "我/来到/北京/清华大学"},
		{"new words", s.Cut, "他来到了网易杭研大厦", "他/来到/了/网易/杭研/大厦"},
		{"no HMM", s.CutNoHMM, "他来到了网易杭研大厦", "他/来到/了/网易/杭/研/大厦"},
		{"search", s.CutForSearch, "小明硕士毕业于中国科学院计算所", "小明/硕士/毕业/于/中国/科学/学院/科学院/中国科学院/计算/计算所"},
		{"latin", s.Cut, "a b\r\nv2.0 50%", "a/ /b/\r\n/v2.0/ /50%"},
		{"nothing", s.Cut, "", ""},
	} {
		if got := strings.Join(c.cut(c.text), "/"); got != c.want {
			t.Errorf("%s: %q, jieba gives %q", c.name, got, c.want)
		}
	}
}

func TestTablesAreChecked(t *testing.T) {
	t.Parallel()
	good := `{"start":{"B":-1,"E":-3,"M":-3,"S":-1},"trans":{},"emit":{}}`
	for name, f := range map[string][2]string{"no frequency": {"词\n", good}, "negative": {"词 -1 n\n", good}, "no state": {"词 1 n\n", `{"start":{"B":0}}`}, "no JSON": {"词 1\n", "x"}} {
		if _, err := jieba.Open(fstest.MapFS{"dict.txt": {Data: []byte(f[0])}, "hmm.json": {Data: []byte(f[1])}}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := jieba.Open(fstest.MapFS{}); err == nil {
		t.Error("an empty folder was accepted")
	}
}

// FuzzCut holds to what every mode must keep: accurate modes give the text back when joined.
func FuzzCut(f *testing.F) {
	for _, s := range []string{"他来到了网易杭研大厦", "AT&T 3.14% c++ \x00\r\n龘", "\xff\xfe", "ａ１。…"} {
		f.Add(s)
	}
	s := segmenter(f)
	f.Fuzz(func(t *testing.T, text string) {
		whole := string([]rune(text))
		for _, cut := range []func(string) []string{s.Cut, s.CutNoHMM} {
			if got := strings.Join(cut(text), ""); got != whole {
				t.Errorf("%q cut and joined is %q", text, got)
			}
		}
		if slices.Contains(s.Cut(text), "") {
			t.Errorf("%q: an empty word", text)
		}
		s.CutAll(text)
		s.CutForSearch(text)
	})
}
