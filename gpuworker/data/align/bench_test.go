package align_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data/align"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/hftok"
	"github.com/tunefleet/tunefleet/gpuworker/data/process"
	"github.com/tunefleet/tunefleet/gpuworker/data/pyjson"
	"github.com/tunefleet/tunefleet/gpuworker/fixturetest"
)

// uniqueRows makes n rows of the alpaca demo, each unique by seeded changes of words.
func uniqueRows(b *testing.B, n int) []string {
	b.Helper()
	raw, err := os.ReadFile(fixturetest.Data(b, "llamafactory", "alpaca_en_demo.json"))
	if err != nil {
		b.Skip("no demo data: set TUNEFLEET_DATA")
	}
	var rows []map[string]string
	if err := json.Unmarshal(raw, &rows); err != nil {
		b.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	out := make([]string, n)
	for i := range out {
		row := rows[i%len(rows)]
		change := func(s string) string {
			words := strings.Split(s, " ")
			for range 1 + len(words)/10 {
				k := r.IntN(len(words))
				words[k] += fmt.Sprint(r.IntN(1000000))
			}
			return strings.Join(words, " ")
		}
		line, err := json.Marshal(map[string]string{"instruction": change(row["instruction"]), "input": row["input"], "output": change(row["output"])})
		if err != nil {
			b.Fatal(err)
		}
		out[i] = string(line)
	}
	return out
}

// BenchmarkSupervised measures rows a second from JSON to packed samples on two threads: parsing, conversion, template, labels, packing by
// batches of 1000. TUNEFLEET_BENCH_ROWS, when set, is a file to write the rows to, for measuring other programs on the same.
func BenchmarkSupervised(b *testing.B) {
	tok, err := hftok.Load(fixturetest.Dir(b, "data", "tokenizers", "qwen3"))
	if err != nil {
		b.Skip("no tokenizer: set TUNEFLEET_FIXTURES")
	}
	rows := uniqueRows(b, 20000)
	if p := os.Getenv("TUNEFLEET_BENCH_ROWS"); p != "" {
		if err := os.WriteFile(p, []byte(strings.Join(rows, "\n")), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	t, err := chat.ByName("qwen")
	if err != nil {
		b.Fatal(err)
	}
	enc, err := chat.NewEncoder(t, tok)
	if err != nil {
		b.Fatal(err)
	}
	proc, err := process.New(enc, process.Settings{Cutoff: 2047})
	if err != nil {
		b.Fatal(err)
	}
	attr := &align.Attr{Formatting: "alpaca", Columns: map[string]string{"prompt": "instruction", "query": "input", "response": "output"}}
	const batch, threads = 1000, 2
	for b.Loop() {
		var wg sync.WaitGroup
		packed := make([]int, threads)
		for k := range threads {
			wg.Go(func() {
				for from := k * batch; from < len(rows); from += threads * batch {
					var samples []process.Sample
					for _, line := range rows[from:min(from+batch, len(rows))] {
						o, err := pyjson.ParseObject(line)
						if err != nil {
							b.Error(err)
							return
						}
						r, err := align.Convert(o, attr)
						if err != nil {
							b.Error(err)
							return
						}
						x, err := r.Example()
						if err != nil {
							b.Error(err)
							return
						}
						s, err := proc.Supervised(x)
						if err != nil {
							b.Error(err)
							return
						}
						samples = append(samples, s)
					}
					packed[k] += len(process.Pack(samples, 2047, true, enc.PadID()))
				}
			})
		}
		wg.Wait()
		if packed[0]+packed[1] < 100 {
			b.Fatalf("only %d packed sequences", packed[0]+packed[1])
		}
	}
	b.ReportMetric(float64(b.N)*float64(len(rows))/b.Elapsed().Seconds(), "rows/s")
}
