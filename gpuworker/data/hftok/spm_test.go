package hftok

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"testing"
)

// TestSentencePiece compares with transformers' conversion of the same file (testdata/spm.py).
func TestSentencePiece(t *testing.T) {
	model, err := os.ReadFile("testdata/spm.model")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile("testdata/spm.json")
	if err != nil {
		t.Fatal(err)
	}
	var sets []struct {
		Config json.RawMessage
		Size   int
		Merges int
		Last   [2]string `json:"last_merge"`
		Rows   []struct {
			Text, Decode string
			IDs, Special []int32
		}
	}
	if err := json.Unmarshal(raw, &sets); err != nil {
		t.Fatal(err)
	}
	m, err := parseSentencePiece(model)
	if err != nil {
		t.Fatal(err)
	}
	merges := m.merges()
	if len(sets) != 2 {
		t.Fatalf("%d sets", len(sets))
	}
	for _, s := range sets {
		if len(merges) != s.Merges || merges[len(merges)-1] != s.Last {
			t.Errorf("%d merges, the last %v; want %d, %v", len(merges), merges[len(merges)-1], s.Merges, s.Last)
		}
		tok, err := New("spm", Files{SentencePiece: model, Config: s.Config})
		if err != nil {
			t.Fatal(err)
		}
		if tok.Len() != s.Size {
			t.Errorf("%s: %d tokens, want %d", s.Config, tok.Len(), s.Size)
		}
		for _, r := range s.Rows {
			if got := tok.Encode(r.Text); !slices.Equal(got, r.IDs) && len(got)+len(r.IDs) > 0 {
				t.Errorf("%s: %q: ids %v, want %v", s.Config, r.Text, got, r.IDs)
			}
			got := tok.EncodeSpecial(r.Text)
			if !slices.Equal(got, r.Special) {
				t.Errorf("%s: %q: ids with special tokens %v, want %v", s.Config, r.Text, got, r.Special)
			}
			if d := tok.Decode(got, false); d != r.Decode {
				t.Errorf("%s: decoded %q, want %q", s.Config, d, r.Decode)
			}
		}
	}
}

func FuzzSentencePiece(f *testing.F) {
	b, err := os.ReadFile("testdata/spm.model")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[:2000])
	f.Add([]byte{0x0a, 0x04, 0x0a, 0x02, 'a', 'b'})
	f.Add([]byte{0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f})
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseSentencePiece(b)
		if err != nil {
			return
		}
		if len(m.pieces) == 0 || len(m.pieces) > len(b) {
			t.Fatalf("%d pieces of %d bytes", len(m.pieces), len(b))
		}
		if _, err := New("x", Files{SentencePiece: b}); err != nil && errors.Is(err, errProto) {
			t.Fatalf("parsed once, but not again: %v", err)
		}
	})
}
