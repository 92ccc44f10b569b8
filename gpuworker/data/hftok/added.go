package hftok

import (
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// AddedToken is a token that is found in the text before the model sees it.
type AddedToken struct {
	Content string `json:"content"`
	// SingleWord finds it only where no word character touches it.
	SingleWord bool `json:"single_word"`
	// LStrip and RStrip make it swallow the white space to its left and right.
	LStrip bool `json:"lstrip"`
	RStrip bool `json:"rstrip"`
	// Normalized finds it in the normalized text instead of the raw one.
	Normalized bool `json:"normalized"`
	// Special tokens are left out by Decode when asked to.
	Special bool `json:"special"`
}

// addedVocabulary follows the library's: the first version of a special token says where it is looked for, the last one how it strips.
type addedVocabulary struct {
	special, plain []AddedToken
	isSpecial      map[string]bool
	ids            map[string]int32
	byID           map[int32]AddedToken
	raw, normal    *trie
}

func newAddedVocabulary() *addedVocabulary {
	return &addedVocabulary{isSpecial: map[string]bool{}, ids: map[string]int32{}, byID: map[int32]AddedToken{}}
}

func (v *addedVocabulary) clone() *addedVocabulary {
	return &addedVocabulary{special: slices.Clone(v.special), plain: slices.Clone(v.plain), isSpecial: maps.Clone(v.isSpecial), ids: maps.Clone(v.ids),
		byID: maps.Clone(v.byID), raw: v.raw, normal: v.normal}
}

// add adds tokens; modelID finds ids of the model, whose vocabulary has size tokens. It returns how many were not there before.
func (v *addedVocabulary) add(tokens []AddedToken, modelID func(string) (int32, bool), size int32, norm normalizer) int {
	for _, t := range tokens {
		if t.Special && t.Content != "" && !v.isSpecial[t.Content] {
			v.special = append(v.special, t)
			v.isSpecial[t.Content] = true
		}
	}
	next := size
	for id := range v.byID {
		next = max(next, id+1)
	}
	existing := map[AddedToken]bool{}
	for _, t := range v.byID {
		existing[t] = true
	}
	count := 0
	for _, t := range tokens {
		if t.Content == "" || existing[t] {
			continue
		}
		id, ok := v.ids[t.Content]
		if !ok {
			id, ok = modelID(t.Content)
		}
		if !ok {
			id = next
			next++
			count++
		}
		v.ids[t.Content], v.byID[id] = id, t
		if !v.isSpecial[t.Content] {
			v.plain = append(v.plain, t)
		}
		existing[t] = true
	}
	v.raw, v.normal = &trie{}, &trie{}
	for _, t := range slices.Concat(v.special, v.plain) {
		if !t.Normalized {
			v.raw.add(t.Content, v.ids[t.Content])
			continue
		}
		content := t.Content
		if norm != nil {
			content = norm(content)
		}
		v.normal.add(content, v.ids[t.Content])
	}
	return count
}

// span is a part of a text: an added token, or text between (id -1).
type span struct {
	from, to int
	id       int32
}

// appendSpans cuts a text at the tokens of a trie.
func (v *addedVocabulary) appendSpans(out []span, s string, t *trie) []span {
	start := 0
	for i := 0; i < len(s); {
		n, id := t.longest(s, i)
		if n == 0 {
			if i++; t.one {
				// Most vocabularies begin all their tokens with the same character.
				k := strings.IndexByte(s[i:], t.start)
				if k < 0 {
					break
				}
				i += k
			}
			continue
		}
		from, to := i, i+n
		i = to
		tok := v.byID[id]
		if tok.SingleWord && (from > 0 && wordBefore(s[:from]) || to < len(s) && wordAfter(s[to:])) {
			continue
		}
		if tok.LStrip {
			from = max(len(strings.TrimRightFunc(s[:from], unicode.IsSpace)), start)
		}
		if tok.RStrip {
			to = len(s) - len(strings.TrimLeftFunc(s[to:], unicode.IsSpace))
		}
		if start < from {
			out = append(out, span{start, from, -1})
		}
		out = append(out, span{from, to, id})
		start = to
		i = max(i, to)
	}
	if start != len(s) {
		out = append(out, span{start, len(s), -1})
	}
	return out
}

func wordBefore(s string) bool { r, _ := utf8.DecodeLastRuneInString(s); return isWord(r) }
func wordAfter(s string) bool  { r, _ := utf8.DecodeRuneInString(s); return isWord(r) }

// isWord is \w of Rust's regex.
func isWord(r rune) bool {
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.Is(unicode.Nd, r) || unicode.Is(unicode.Nl, r) || unicode.Is(unicode.Pc, r) ||
		unicode.Is(unicode.Other_Alphabetic, r) || r == 0x200c || r == 0x200d
}

// trie finds the longest pattern at a place.
type trie struct {
	nodes []trieNode
	start byte
	one   bool // all patterns begin with start
}

type trieNode struct {
	next map[byte]int32
	id   int32 // of the pattern that ends here, -1 for none
}

func (t *trie) add(pattern string, id int32) {
	if pattern == "" {
		return
	}
	if len(t.nodes) == 0 {
		t.nodes = []trieNode{{id: -1}}
		t.start, t.one = pattern[0], true
	}
	t.one = t.one && pattern[0] == t.start
	at := int32(0)
	for i := range len(pattern) {
		n := &t.nodes[at]
		if n.next == nil {
			n.next = map[byte]int32{}
		}
		k, ok := n.next[pattern[i]]
		if !ok {
			k = int32(len(t.nodes))
			n.next[pattern[i]] = k
			t.nodes = append(t.nodes, trieNode{id: -1})
		}
		at = k
	}
	if t.nodes[at].id < 0 { // of equal patterns the first counts
		t.nodes[at].id = id
	}
}

// longest returns the length and the id of the longest pattern at i, 0 for none.
func (t *trie) longest(s string, i int) (int, int32) {
	if len(t.nodes) == 0 || t.one && s[i] != t.start {
		return 0, -1
	}
	n, id := 0, int32(-1)
	for at, k := int32(0), i; k < len(s); {
		next, ok := t.nodes[at].next[s[k]]
		if !ok {
			break
		}
		at = next
		k++
		if t.nodes[at].id >= 0 {
			n, id = k-i, t.nodes[at].id
		}
	}
	return n, id
}

func (t *trie) empty() bool { return t == nil || len(t.nodes) == 0 }
