// Package minhash finds near-duplicate texts: MinHash signatures of 128 permutations (Broder 1997) over the set of a text's words, candidates
// by locality-sensitive hashing in bands (Indyk and Motwani 1998), each candidate checked by sketches of the two signatures (b-bit MinHash, Li
// and König 2010) and, where they are alike, by the exact Jaccard similarity of the two sets.
package minhash

import (
	"runtime"
	"slices"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Permutations is the length of a signature.
const Permutations = 128

// The bands of the index: 21 of 6 rows each. A pair of Jaccard similarity 0.8 shares a band with a probability of 0.998, one of 0.5 with 0.28.
const (
	bands    = 21
	bandRows = 6
)

// Set is a text as sorted distinct hashes of its words.
type Set []uint32

// Signature holds the least hash under each permutation.
type Signature [Permutations]uint64

// Hasher makes sets and signatures. It is immutable and safe for concurrent use.
type Hasher struct {
	// shingle is the number of words joined to one element.
	shingle int
	a, b    [Permutations]uint64
}

// NewHasher makes a hasher for elements of shingle words each (at least 1). Its permutations x -> a x + b (mod 2^64, a odd) depend on the
// seed.
func NewHasher(shingle int, seed uint64) *Hasher {
	h := &Hasher{shingle: max(1, shingle)}
	s := seed
	for i := range h.a {
		s += 0x9e3779b97f4a7c15
		h.a[i] = mix(s) | 1
		s += 0x9e3779b97f4a7c15
		h.b[i] = mix(s)
	}
	return h
}

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood 2014).
func mix(x uint64) uint64 {
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Set reads a text: words are runs of letters and digits without case; of scripts without blanks (Han, kana) every two neighbouring
// characters are one. What is left is one element per shingle; a text shorter than that is one element.
func (h *Hasher) Set(text string) Set {
	words := make([]uint64, 0, 128)
	var word uint64
	in := false
	var last rune
	for i := 0; i < len(text); {
		c, n := rune(text[i]), 1
		if c >= utf8.RuneSelf {
			c, n = utf8.DecodeRuneInString(text[i:])
		}
		i += n
		if c >= 0x2e80 && wide(c) {
			if in {
				words, in, word = append(words, mix(word)), false, 0
			}
			next := nextRune(text[i:])
			switch {
			case wide(next):
				words = append(words, mix(uint64(c)<<32|uint64(next)))
			case !wide(last):
				words = append(words, mix(uint64(c)))
			}
			last = c
			continue
		}
		last = c
		switch {
		case c >= 'A' && c <= 'Z':
			c += 'a' - 'A'
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case c < utf8.RuneSelf:
			if in {
				words, in, word = append(words, mix(word)), false, 0
			}
			continue
		default:
			if !unicode.IsLetter(c) && !unicode.IsNumber(c) && !unicode.IsMark(c) {
				if in {
					words, in, word = append(words, mix(word)), false, 0
				}
				continue
			}
			c = unicode.ToLower(c)
		}
		in = true
		word = (word ^ uint64(c)) * 0x100000001b3
	}
	if in {
		words = append(words, mix(word))
	}
	return h.shingles(words)
}

func nextRune(s string) rune {
	if s == "" {
		return 0
	}
	c, _ := utf8.DecodeRuneInString(s)
	return c
}

// wide are the scripts that write without blanks.
func wide(c rune) bool {
	return c >= 0x3040 && c <= 0x30ff || c >= 0x3400 && c <= 0x4dbf || c >= 0x4e00 && c <= 0x9fff || c >= 0xf900 && c <= 0xfaff || c >= 0x20000 && c <= 0x3ffff
}

func (h *Hasher) shingles(words []uint64) Set {
	n := max(1, len(words)-h.shingle+1)
	if len(words) == 0 {
		return nil
	}
	out := make(Set, 0, n)
	for i := range n {
		x := uint64(0)
		for _, w := range words[i:min(len(words), i+h.shingle)] {
			x = mix(x ^ w)
		}
		out = append(out, uint32(x>>32))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Sign computes the signature of a set; that of an empty set has all bits set.
func (h *Hasher) Sign(s Set) *Signature {
	var sig Signature
	for i := range sig {
		sig[i] = ^uint64(0)
	}
	for _, e := range s {
		x := mix(uint64(e))
		for i := range sig {
			sig[i] = min(sig[i], h.a[i]*x+h.b[i])
		}
	}
	return &sig
}

// Estimate is the share of equal places of two signatures: the estimate of the Jaccard similarity.
func Estimate(a, b *Signature) float64 {
	n := 0
	for i := range a {
		if a[i] == b[i] {
			n++
		}
	}
	return float64(n) / Permutations
}

// Jaccard is the exact similarity of two sets: the size of what they share over that of both together; 1 for two empty ones.
func Jaccard(a, b Set) float64 {
	i, j, both := 0, 0, 0
	for i < len(a) && j < len(b) {
		switch {
		case a[i] == b[j]:
			both++
			i++
			j++
		case a[i] < b[j]:
			i++
		default:
			j++
		}
	}
	all := len(a) + len(b) - both
	if all == 0 {
		return 1
	}
	return float64(both) / float64(all)
}

// Index holds sets and finds those similar to a new one. Adding is not safe for concurrent use.
type Index struct {
	threshold float64
	alike     int
	sets      []Set
	ids       []int
	tables    [bands]table
	looks     []look
	query     int32
}

// look is what is looked at of every set that shares a band: together, so that most cost one access to memory.
type look struct {
	sketch sketch
	n      int32
	// seen is the number of the query that last looked at the set.
	seen int32
}

// similar reports whether the sets may be of the threshold's similarity.
func (a *look) similar(b *look, threshold float64, alike int) bool {
	return float64(min(a.n, b.n)) >= threshold*float64(max(a.n, b.n)) && a.sketch.alike(&b.sketch) >= alike
}

// NewIndex makes an empty index for pairs of at least a Jaccard similarity in (0, 1].
func NewIndex(threshold float64) *Index {
	return &Index{threshold: threshold, alike: leastAlike(threshold)}
}

// keys are the bands of a signature, each hashed.
func keys(sig *Signature) (out [bands]uint64) {
	for b := range out {
		k := uint64(b)
		for _, v := range sig[b*bandRows : (b+1)*bandRows] {
			k = mix(k ^ v)
		}
		out[b] = k | 1 // 0 marks an empty slot
	}
	return out
}

// Find returns the id and similarity of the most similar set of at least the threshold, the first added of equal ones; ok is false when
// there is none. Empty sets are similar to nothing.
func (x *Index) Find(s Set, sig *Signature) (id int, similarity float64, ok bool) {
	if len(s) == 0 {
		return 0, 0, false
	}
	x.query++
	best := -1
	own := look{sketch: sketchOf(sig), n: int32(len(s))}
	for b, k := range keys(sig) {
		for e := x.tables[b].first(k); e >= 0; e = x.tables[b].next[e] {
			i := x.tables[b].item[e]
			l := &x.looks[i]
			if l.seen == x.query {
				continue
			}
			if l.seen = x.query; !own.similar(l, x.threshold, x.alike) {
				continue
			}
			if j := Jaccard(s, x.sets[i]); j >= x.threshold && (j > similarity || j == similarity && int(i) < best) {
				best, similarity = int(i), j
			}
		}
	}
	if best < 0 {
		return 0, 0, false
	}
	return x.ids[best], similarity, true
}

// Add puts a set in under an id.
func (x *Index) Add(id int, s Set, sig *Signature) {
	i := int32(len(x.sets))
	x.sets, x.ids = append(x.sets, s), append(x.ids, id)
	x.looks = append(x.looks, look{sketch: sketchOf(sig), n: int32(len(s))})
	for b, k := range keys(sig) {
		x.tables[b].add(k, i)
	}
}

// table maps a band's key to the sets that have it: open addressing, entries of one key chained.
type table struct {
	keys []uint64
	head []int32
	used int
	item []int32
	next []int32
}

func (t *table) slot(k uint64) int {
	mask := uint64(len(t.keys) - 1)
	i := (k >> 1) & mask
	for t.keys[i] != 0 && t.keys[i] != k {
		i = (i + 1) & mask
	}
	return int(i)
}

// first is the entry that was added last for a key, -1 for none.
func (t *table) first(k uint64) int32 {
	if len(t.keys) == 0 {
		return -1
	}
	if i := t.slot(k); t.keys[i] == k {
		return t.head[i]
	}
	return -1
}

func (t *table) add(k uint64, item int32) {
	if t.used*2 >= len(t.keys) {
		t.grow()
	}
	i := t.slot(k)
	e := int32(len(t.item))
	t.item = append(t.item, item)
	if t.keys[i] == k {
		t.next = append(t.next, t.head[i])
	} else {
		t.keys[i] = k
		t.next = append(t.next, -1)
		t.used++
	}
	t.head[i] = e
}

func (t *table) grow() {
	old, heads := t.keys, t.head
	n := max(1024, 2*len(old))
	t.keys, t.head = make([]uint64, n), make([]int32, n)
	for i, k := range old {
		if k != 0 {
			j := t.slot(k)
			t.keys[j], t.head[j] = k, heads[i]
		}
	}
}

// SignAll reads and signs texts on all CPUs; results are in their order.
func (h *Hasher) SignAll(texts []string) ([]Set, []*Signature) {
	sets, sigs := make([]Set, len(texts)), make([]*Signature, len(texts))
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(texts); i += workers {
				sets[i] = h.Set(texts[i])
				sigs[i] = h.Sign(sets[i])
			}
		})
	}
	wg.Wait()
	return sets, sigs
}

// batch is how many rows are signed before they are looked up, so that signatures need not all be in memory.
const batch = 8192

// Match is one near-duplicate: row is similar to the kept row Of.
type Match struct {
	Row, Of    int
	Similarity float64
}

// Duplicates finds the rows that are similar to an earlier row that is kept; the first of a group is kept. The result is in the order of
// rows.
func Duplicates(texts []string, threshold float64, shingle int, seed uint64) []Match {
	return match(NewIndex(threshold), NewHasher(shingle, seed), texts, true)
}

// Overlaps finds the rows that are similar to one of others (an evaluation set); Of is the place there.
func Overlaps(texts, others []string, threshold float64, shingle int, seed uint64) []Match {
	h, x := NewHasher(shingle, seed), NewIndex(threshold)
	at := 0
	for part := range slices.Chunk(others, batch) {
		sets, sigs := h.SignAll(part)
		for i := range part {
			x.Add(at+i, sets[i], sigs[i])
		}
		at += len(part)
	}
	return match(x, h, texts, false)
}

// match looks every text up, and adds those without a match when they are to be kept. One batch is signed while the one before is looked
// up.
func match(x *Index, h *Hasher, texts []string, add bool) []Match {
	type signed struct {
		sets []Set
		sigs []*Signature
	}
	ready := make(chan signed, 1)
	go func() {
		defer close(ready)
		for part := range slices.Chunk(texts, batch) {
			sets, sigs := h.SignAll(part)
			ready <- signed{sets, sigs}
		}
	}()
	var out []Match
	at := 0
	for s := range ready {
		for i := range s.sets {
			if of, sim, ok := x.Find(s.sets[i], s.sigs[i]); ok {
				out = append(out, Match{at + i, of, sim})
			} else if add {
				x.Add(at+i, s.sets[i], s.sigs[i])
			}
		}
		at += len(s.sets)
	}
	return out
}
