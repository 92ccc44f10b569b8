package check

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// TestStreams: what a reader saw of a whole run, and each with one thing wrong.
func TestStreams(t *testing.T) {
	all := func(g uint64, from, to int64) (out []string) {
		for n := from; n <= to; n++ {
			out = append(out, fmt.Sprintf("%d:%d", g, n))
		}
		return out
	}
	for name, c := range map[string]struct {
		seen []string
		want string
	}{
		"everything":                    {all(1, 1, steps), ""},
		"a step again by a later gang":  {slices.Concat(all(1, 1, 3), all(2, 3, steps)), ""},
		"a gap":                         {slices.Concat(all(1, 1, 2), all(1, 4, steps)), "1 are missing"},
		"a gap between two generations": {slices.Concat(all(1, 1, 2), all(2, 4, steps)), "1 are missing"},
		"the first steps are missing":   {all(1, 3, steps), "2 are missing"},
		"twice":                         {slices.Concat(all(1, 1, 3), all(1, 3, steps)), "twice"},
		"an older generation":           {slices.Concat(all(2, 1, 3), all(1, 4, steps)), "came after generation 2"},
		"the end is missing":            {all(1, 1, steps-1), "the last step seen is 5 of 6"},
		"nothing":                       {nil, "the last step seen is 0 of 6"},
		"no steps":                      {[]string{"x"}, "no step"},
	} {
		s := whole(t)
		s.add(Event{Kind: KindStream, Proc: "reader-1", Stage: "tune", Names: c.seen})
		s.add(Event{Kind: KindMemory, Proc: "api-1", Count: 9000, Bytes: 1 << 20, Bound: 1 << 20})
		judge(t, name, s, c.want, 2)
	}
	for name, c := range map[string]struct {
		bytes int64
		want  string
	}{"over the bound": {1<<20 + 1, "are resident with 9000 streams"}, "gone": {0, "was gone"}} {
		s := whole(t)
		s.add(Event{Kind: KindMemory, Proc: "api-1", Count: 9000, Bytes: c.bytes, Bound: 1 << 20})
		judge(t, name, s, c.want, 1)
	}
}

// judge checks a story that R10 has so many things to say of.
func judge(t *testing.T, name string, s *story, want string, judged int) {
	t.Helper()
	rep := Check(s.events, s.objects, Limits{})
	var texts []string
	for _, v := range rep.Violations {
		texts = append(texts, v.Invariant+": "+v.Text)
	}
	all := strings.Join(texts, "\n")
	if rep.Checked["R10"] != judged || want == "" && all != "" || want != "" && (!strings.Contains(all, want) || !strings.HasPrefix(all, "R10: ")) {
		t.Errorf("%s: judged %d times; %q is wanted: %s", name, rep.Checked["R10"], want, all)
	}
}
