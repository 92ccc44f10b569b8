package clean_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/schemas"
)

// BenchmarkStream cleans rows of about 150 words by every filter that looks at one row.
func BenchmarkStream(b *testing.B) {
	r := rand.New(rand.NewPCG(1, 1))
	words := strings.Fields("the of and to a in is it you that he was for on are with as his they be at one have this from or had by hot but some what there we can out other were all your when up use word how said an each she Paris Berlin 2019 12 3.5 (see) \"quoted\" naïve — it's")
	text := func(n int) string {
		var s strings.Builder
		for i := range n {
			s.WriteString(words[r.IntN(len(words))])
			s.WriteByte(" \n"[min(1, i%15/14)])
		}
		return s.String()
	}
	rows := make([]data.Row, 500)
	for i := range rows {
		rows[i] = data.Row{Prompt: text(20), Response: text(130)}
	}
	for name, spec := range map[string]schemas.CleanSpec{
		"normalize": {Normalize: true}, "boilerplate": {Boilerplate: true}, "broken": {Broken: true}, "languages": {Languages: []string{"en", "es"}}, "pii": {PII: "mask"},
		"blocklist": {Blocklist: []string{"casino", "赌博"}}, "length": {MinChars: 2, MaxChars: 100_000}, "key": {Dedup: true},
		"all": {Normalize: true, Boilerplate: true, Broken: true, Languages: []string{"en", "es"}, PII: "mask", Blocklist: []string{"casino", "赌博"}, MinChars: 2, Dedup: true},
	} {
		b.Run(name, func(b *testing.B) {
			s, err := clean.NewStream(spec, 1, clean.NewReport())
			if err != nil {
				b.Fatal(err)
			}
			n := 0
			for b.Loop() {
				row := rows[n%len(rows)]
				n++
				if s.Row(&row) && s.Dedup() {
					clean.Key(&row)
				}
			}
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "rows/s")
		})
	}
}
