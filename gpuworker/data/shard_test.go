package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/tunefleet/tunefleet/schemas"
)

func sampleShard(t testing.TB, seqs []Sequence) []byte {
	t.Helper()
	w := NewShardWriter()
	for _, s := range seqs {
		if err := w.Add(s); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Groups and tags come back, and a shard whose sequences do not fill its groups is refused on both sides.
func TestShardKeepsGroupsAndTags(t *testing.T) {
	w := NewGroupWriter(2, true)
	for i := range 4 {
		if err := w.Add(Sequence{IDs: []int32{int32(i), 7}, Labels: []int32{IgnoreLabel, 7}, Tag: int32(i % 3)}); err != nil {
			t.Fatal(err)
		}
	}
	b, err := w.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	s, err := OpenShard(bytes.NewReader(b), int64(len(b)), "s")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(); err != nil || s.Group() != 2 || s.Len() != 4 {
		t.Fatalf("group %d, %d sequences, %v", s.Group(), s.Len(), err)
	}
	for i := range 4 {
		q, err := s.Sequence(i)
		if err != nil || q.Tag != int32(i%3) || q.IDs[0] != int32(i) || q.Labels[1] != 7 {
			t.Errorf("sequence %d came back as %+v, %v", i, q, err)
		}
	}
	if err := w.Add(Sequence{IDs: []int32{1}, Labels: []int32{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Bytes(); err == nil {
		t.Error("five sequences were written as groups of two")
	}
	odd := bytes.Replace(b, []byte(`"group":2`), []byte(`"group":3`), 1)
	if _, err := OpenShard(bytes.NewReader(odd), int64(len(odd)), "s"); !schemas.IsCode(err, schemas.CodeData) {
		t.Errorf("four sequences were read as groups of three: %v", err)
	}
}

func TestShardKeepsSequences(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		var seqs []Sequence
		for range rapid.IntRange(0, 6).Draw(rt, "n") {
			ids := rapid.SliceOfN(rapid.Int32Range(0, 70000), 1, 30).Draw(rt, "ids")
			s := Sequence{IDs: ids, Labels: slices.Clone(ids)}
			for i := range s.Labels {
				if rapid.Bool().Draw(rt, "ignore") {
					s.Labels[i] = IgnoreLabel
				}
			}
			if k := len(ids); k > 1 && rapid.Bool().Draw(rt, "docs") {
				s.Docs = []int32{0, int32(rapid.IntRange(1, k-1).Draw(rt, "cut")), int32(k)}
			}
			seqs = append(seqs, s)
		}
		b := sampleShard(t, seqs)
		if again := sampleShard(t, seqs); !bytes.Equal(b, again) {
			rt.Fatal("the same sequences gave other bytes")
		}
		s, err := OpenShard(bytes.NewReader(b), int64(len(b)), "s")
		if err != nil {
			rt.Fatal(err)
		}
		if err := s.Verify(); err != nil {
			rt.Fatal(err)
		}
		if s.Len() != len(seqs) {
			rt.Fatalf("%d sequences, want %d", s.Len(), len(seqs))
		}
		for i, want := range seqs {
			got, err := s.Sequence(i)
			if err != nil {
				rt.Fatal(err)
			}
			if !slices.Equal(got.IDs, want.IDs) || !slices.Equal(got.Labels, want.Labels) || !slices.Equal(got.Docs, want.Docs) {
				rt.Fatalf("sequence %d is %v, want %v", i, got, want)
			}
			if s.LabelTokens(i) != int64(want.Trained()) || s.Length(i) != len(want.IDs) {
				rt.Fatalf("index of %d says %d labels of %d", i, s.LabelTokens(i), s.Length(i))
			}
		}
	})
}

func TestShardRefusesDamage(t *testing.T) {
	ids := []int32{5, 6, 7, 8}
	b := sampleShard(t, []Sequence{{IDs: ids, Labels: ids}, {IDs: ids[:2], Labels: ids[:2], Docs: []int32{0, 1, 2}}})
	open := func(b []byte) error {
		s, err := OpenShard(bytes.NewReader(b), int64(len(b)), "x.shard")
		if err != nil {
			return err
		}
		return s.Verify()
	}
	if err := open(b); err != nil {
		t.Fatal(err)
	}
	for i := range b {
		c := slices.Clone(b)
		c[i] ^= 0x41
		if err := open(c); err == nil && c[i] != ' ' && b[i] != ' ' {
			t.Errorf("damage of byte %d was not seen", i)
		}
	}
	for _, n := range []int{0, 4, 12, len(b) - 1} {
		if err := open(b[:n]); !schemas.IsCode(err, schemas.CodeData) {
			t.Errorf("cut to %d bytes: %v", n, err)
		}
	}
	w := NewShardWriter()
	for _, s := range []Sequence{{}, {IDs: ids, Labels: ids[:1]}, {IDs: ids, Labels: ids, Docs: []int32{0, 3}}, {IDs: ids, Labels: ids, Docs: []int32{0, 2, 2, 4}}} {
		if err := w.Add(s); err == nil {
			t.Errorf("sequence %v was taken", s)
		}
	}
}

func FuzzOpenShard(f *testing.F) {
	ids := []int32{1, 2, 3}
	good := sampleShard(f, []Sequence{{IDs: ids, Labels: ids}, {IDs: ids, Labels: ids, Docs: []int32{0, 1, 3}}})
	f.Add(good)
	f.Add(good[:20])
	f.Add([]byte(shardMagic + "\x02\x00\x00\x00{}"))
	huge := slices.Clone(good)
	binary.LittleEndian.PutUint32(huge[8:], 1<<31)
	f.Add(huge)
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := OpenShard(bytes.NewReader(b), int64(len(b)), "f")
		if err != nil {
			return
		}
		for i := range s.Len() {
			if q, err := s.Sequence(i); err == nil && len(q.IDs) != s.Length(i) {
				t.Fatalf("sequence %d has %d ids, its index says %d", i, len(q.IDs), s.Length(i))
			}
		}
	})
}

// TestShardFile: the same sequences give the same bytes as in memory.
func TestShardFile(t *testing.T) {
	for _, c := range []struct {
		group  int
		tagged bool
		docs   bool
	}{{1, false, false}, {2, true, false}, {1, false, true}} {
		dir := t.TempDir()
		file, err := NewShardFile(dir, c.group, c.tagged)
		if err != nil {
			t.Fatal(err)
		}
		memory := NewGroupWriter(c.group, c.tagged)
		for i := range 500 {
			s := Sequence{Tag: int32(i % 2)}
			for k := range 1 + i%37 {
				s.IDs, s.Labels = append(s.IDs, int32(i*k)), append(s.Labels, int32(k)-5)
			}
			if n := int32(len(s.IDs)); c.docs && n > 2 {
				s.Docs = []int32{0, 2, n}
			}
			if err := errors.Join(file.Add(s), memory.Add(s)); err != nil {
				t.Fatal(err)
			}
		}
		want, err := memory.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		size, sum, err := file.Finish()
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(file.Reader())
		if err != nil || !bytes.Equal(got, want) || size != int64(len(want)) {
			t.Fatalf("%+v: %d bytes, want %d, %v", c, len(got), len(want), err)
		}
		if s := sha256.Sum256(want); hex.EncodeToString(s[:]) != sum {
			t.Errorf("the SHA-256 is %s", sum)
		}
		part := make([]byte, 100)
		if _, err := file.Reader().ReadAt(part, size/2); err != nil || !bytes.Equal(part, want[size/2:size/2+100]) {
			t.Errorf("a range differs: %v", err)
		}
		if err := file.Close(); err != nil {
			t.Fatal(err)
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Errorf("%d scratch files are left, %v", len(left), err)
		}
	}
}
