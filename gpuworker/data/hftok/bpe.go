package hftok

import (
	"fmt"
	"hash/maphash"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// bpe is the model: byte-pair merges. Its cache is safe for concurrent use.
type bpe struct {
	vocab  map[string]int32 // as tokenizer.json writes tokens
	tokens []string         // by id; "" for holes
	// pieces is the vocabulary that pieces of text are made of: raw bytes for byte-level models, else vocab itself.
	pieces       map[string]int32
	merges       map[uint64]merge
	byteLevel    bool
	byteIDs      [256]int32 // byte-level: id of each byte; else of "<0x..>" with byte fallback; -1 for none
	unk          int32      // -1 for none
	fuseUnk      bool
	fallback     bool
	ignoreMerges bool
	// cutSpaces says that no token has a "▁" behind another character, so that text may be cut before each run of "▁".
	cutSpaces bool
	seed      maphash.Seed
	cache     []atomic.Pointer[cached]
}

type merge struct{ rank, id int32 }

// cached are the ids of a piece of text.
type cached struct {
	text string
	ids  []int32
}

const (
	cacheSlots = 1 << 17
	// maxCached bounds the bytes of a cached piece.
	maxCached  = 64
	metaspace  = "▁"
	maxTokens  = 1 << 22
	smallMerge = 24
)

func newBPE(m *modelJSON, byteLevel bool) (*bpe, error) {
	b := &bpe{vocab: m.Vocab, byteLevel: byteLevel, fuseUnk: m.FuseUnk, fallback: m.ByteFallback, ignoreMerges: m.IgnoreMerges, unk: -1,
		seed: maphash.MakeSeed(), cache: make([]atomic.Pointer[cached], cacheSlots)}
	most := int32(-1)
	for t, id := range m.Vocab {
		if id < 0 || id >= maxTokens {
			return nil, fmt.Errorf("cannot read the vocabulary: token %q has the id %d", t, id)
		}
		most = max(most, id)
	}
	b.tokens = make([]string, most+1)
	for t, id := range m.Vocab {
		b.tokens[id] = t
	}
	if m.UnkToken != nil {
		if id, ok := m.Vocab[*m.UnkToken]; ok {
			b.unk = id
		}
	}
	b.pieces = m.Vocab
	for i := range b.byteIDs {
		b.byteIDs[i] = -1
		name := fmt.Sprintf("<0x%02X>", i)
		if byteLevel {
			name = string(byteChar[i])
		}
		if id, ok := m.Vocab[name]; ok {
			b.byteIDs[i] = id
		}
	}
	if byteLevel {
		b.pieces = make(map[string]int32, len(m.Vocab))
		for t, id := range m.Vocab {
			if raw, ok := fromByteChars(t); ok {
				b.pieces[raw] = id
			}
		}
	}
	return b, b.addMerges(m.Merges)
}

func (b *bpe) addMerges(pairs [][2]string) error {
	b.merges = make(map[uint64]merge, len(pairs))
	b.cutSpaces = !b.byteLevel
	for rank, p := range pairs {
		x, okx := b.vocab[p[0]]
		y, oky := b.vocab[p[1]]
		z, okz := b.vocab[p[0]+p[1]]
		if !okx || !oky || !okz {
			return fmt.Errorf("cannot read merge %d: %q and %q, or what they make, are not in the vocabulary", rank, p[0], p[1])
		}
		b.merges[pairKey(x, y)] = merge{int32(rank), z}
		if strings.Contains(strings.TrimLeft(p[0]+p[1], metaspace), metaspace) {
			b.cutSpaces = false
		}
	}
	return nil
}

func pairKey(a, b int32) uint64 { return uint64(uint32(a))<<32 | uint64(uint32(b)) }

// append adds the ids of a pre-token. For byte-level models it is raw text.
func (b *bpe) append(dst []int32, s string) []int32 {
	if b.cutSpaces {
		for i := len(metaspace); i < len(s); i++ {
			// A cut lies before a "▁" that follows another character.
			if s[i] == metaspace[0] && strings.HasPrefix(s[i:], metaspace) && s[i-len(metaspace):i] != metaspace {
				return b.append(b.appendCached(dst, s[:i]), s[i:])
			}
		}
	}
	return b.appendCached(dst, s)
}

func (b *bpe) appendCached(dst []int32, s string) []int32 {
	if len(s) > maxCached {
		return b.appendMerged(dst, s)
	}
	slot := &b.cache[maphash.String(b.seed, s)%cacheSlots]
	if c := slot.Load(); c != nil && c.text == s {
		return append(dst, c.ids...)
	}
	n := len(dst)
	dst = b.appendMerged(dst, s)
	// The entry owns its text: a part of it would keep the whole row alive.
	slot.Store(&cached{text: strings.Clone(s), ids: append([]int32(nil), dst[n:]...)})
	return dst
}

// appendMerged computes the ids of a pre-token.
func (b *bpe) appendMerged(dst []int32, s string) []int32 {
	if b.ignoreMerges {
		if id, ok := b.pieces[s]; ok {
			return append(dst, id)
		}
	}
	n := len(dst)
	dst = b.symbols(dst, s)
	if len(dst)-n <= smallMerge {
		return dst[:n+b.mergeSmall(dst[n:])]
	}
	return dst[:n+b.mergeLarge(dst[n:])]
}

// symbols adds what the merges begin with: the ids of bytes or characters.
func (b *bpe) symbols(dst []int32, s string) []int32 {
	if b.byteLevel {
		for i := range len(s) {
			if id := b.byteIDs[s[i]]; id >= 0 {
				dst = append(dst, id)
			} else if b.unk >= 0 {
				dst = append(dst, b.unk)
			}
		}
		return dst
	}
	unknown := false
	for i, r := range s {
		c := s[i : i+utf8.RuneLen(r)]
		if id, ok := b.vocab[c]; ok {
			dst, unknown = append(dst, id), false
			continue
		}
		if b.fallback {
			n := len(dst)
			for k := range len(c) {
				if id := b.byteIDs[c[k]]; id >= 0 {
					dst = append(dst, id)
				}
			}
			if len(dst)-n == len(c) {
				unknown = false
				continue
			}
			dst = dst[:n]
		}
		if b.unk >= 0 && (!b.fuseUnk || !unknown) {
			dst = append(dst, b.unk)
		}
		unknown = true
	}
	return dst
}

// mergeSmall merges in place, always the pair of the lowest rank, the leftmost of equal ones, and returns how many ids are left.
func (b *bpe) mergeSmall(ids []int32) int {
	n := len(ids)
	for n > 1 {
		best, at := merge{rank: -1}, -1
		for i := 0; i+1 < n; i++ {
			if m, ok := b.merges[pairKey(ids[i], ids[i+1])]; ok && (at < 0 || m.rank < best.rank) {
				best, at = m, i
			}
		}
		if at < 0 {
			break
		}
		ids[at] = best.id
		copy(ids[at+1:n-1], ids[at+2:n])
		n--
	}
	return n
}

// mergeLarge is mergeSmall with a queue, for long pre-tokens.
func (b *bpe) mergeLarge(ids []int32) int {
	n := len(ids)
	next, prev := make([]int32, n), make([]int32, n)
	var q queue
	push := func(i int32) {
		j := next[i]
		if j < 0 {
			return
		}
		if m, ok := b.merges[pairKey(ids[i], ids[j])]; ok {
			q.push(candidate{m.rank, i, m.id, ids[i], ids[j]})
		}
	}
	for i := range n {
		next[i], prev[i] = int32(i+1), int32(i-1)
	}
	next[n-1] = -1
	for i := range n {
		push(int32(i))
	}
	const gone = -2
	for len(q) > 0 {
		c := q.pop()
		j := next[c.at]
		if j < 0 || prev[c.at] == gone || ids[c.at] != c.left || ids[j] != c.right {
			continue
		}
		ids[c.at] = c.id
		next[c.at] = next[j]
		prev[j] = gone
		next[j] = -1
		if k := next[c.at]; k >= 0 {
			prev[k] = c.at
		}
		if p := prev[c.at]; p >= 0 {
			push(p)
		}
		push(c.at)
	}
	out := 0
	for i := int32(0); i >= 0; i = next[i] {
		ids[out] = ids[i]
		out++
	}
	return out
}

type candidate struct{ rank, at, id, left, right int32 }

func (c candidate) before(o candidate) bool {
	return c.rank < o.rank || c.rank == o.rank && c.at < o.at
}

// queue is a binary heap of candidates, the lowest rank and then the leftmost first.
type queue []candidate

func (q *queue) push(c candidate) {
	h := append(*q, c)
	for i := len(h) - 1; i > 0; {
		p := (i - 1) / 2
		if !h[i].before(h[p]) {
			break
		}
		h[i], h[p] = h[p], h[i]
		i = p
	}
	*q = h
}

func (q *queue) pop() candidate {
	h := *q
	top := h[0]
	h[0] = h[len(h)-1]
	h = h[:len(h)-1]
	for i := 0; ; {
		k := 2*i + 1
		if k >= len(h) {
			break
		}
		if k+1 < len(h) && h[k+1].before(h[k]) {
			k++
		}
		if !h[k].before(h[i]) {
			break
		}
		h[i], h[k] = h[k], h[i]
		i = k
	}
	*q = h
	return top
}
