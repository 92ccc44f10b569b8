package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math/rand/v2"
	"os"
	"strings"
)

// alpacaRow is a row of the demo set.
type alpacaRow struct {
	Instruction string `json:"instruction"`
	Input       string `json:"input"`
	Output      string `json:"output"`
}

const (
	// newLetter is how often a word gets another letter: a word that the corpus does not have, so that a cache of words cannot answer for all.
	newLetter = 0.02
	seed      = 20261125
)

// generate writes n rows as JSON lines: the rows of base over and over, each made unique by seeded changes of words, of which a share becomes other ones of
// the corpus.
func generate(base, path string, n int, changed float64) (err error) {
	raw, err := os.ReadFile(base)
	if err != nil {
		return fmt.Errorf("cannot read the rows to start from: %w", err)
	}
	var rows []alpacaRow
	if err := json.Unmarshal(raw, &rows); err != nil {
		return fmt.Errorf("cannot read %s: %w", base, err)
	}
	var words []string
	for _, r := range rows {
		words = append(words, strings.Fields(r.Instruction+" "+r.Input+" "+r.Output)...)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("cannot write rows: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	seen := make(map[uint64]struct{}, min(n, 1<<21))
	key := maphash.MakeSeed()
	rng := rand.New(rand.NewPCG(seed, 1))
	for i := range n {
		r := rows[i%len(rows)]
		for {
			x := alpacaRow{change(rng, r.Instruction, words, changed), change(rng, r.Input, words, changed), change(rng, r.Output, words, changed)}
			h := maphash.String(key, x.Instruction+"\x00"+x.Input+"\x00"+x.Output)
			if _, twice := seen[h]; twice && n <= 1<<21 {
				continue
			}
			if n <= 1<<21 {
				seen[h] = struct{}{}
			}
			if err := e.Encode(x); err != nil {
				return fmt.Errorf("cannot write rows: %w", err)
			}
			break
		}
	}
	return w.Flush()
}

// change changes some words of a text; what separates them stays.
func change(rng *rand.Rand, text string, words []string, changed float64) string {
	var b strings.Builder
	for len(text) > 0 {
		i := strings.IndexAny(text, " \n\t")
		if i < 0 {
			i = len(text)
		}
		w := text[:i]
		switch u := rng.Float64(); {
		case w == "":
		case u < changed:
			w = words[rng.IntN(len(words))]
		case u < changed+newLetter:
			at := rng.IntN(len(w))
			if w[at] < 0x80 {
				w = w[:at] + string(rune('a'+rng.IntN(26))) + w[at+1:]
			}
		}
		b.WriteString(w)
		if i == len(text) {
			break
		}
		b.WriteByte(text[i])
		text = text[i+1:]
	}
	return b.String()
}
