package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math"

	"github.com/tunefleet/tunefleet/schemas"
)

// The token shard format, version 1. All numbers are little-endian.
//
//	bytes 0..7    magic "TFTOKEN1"
//	bytes 8..11   uint32 length of the header
//	header        JSON (shardHeader), padded with spaces to a multiple of 8 bytes counted from the start of the file
//	columns       one after the other, without gaps, in this order:
//	  offsets     int64[sequences+1]  where each sequence starts in ids and labels
//	  docOffsets  int64[sequences+1]  where each sequence's boundaries start in docs
//	  counts      int32[sequences]    labels of each sequence that are not IgnoreLabel
//	  tags        int32[sequences]    only when the header says so: a mark of each sequence (kto: 1 desirable, 0 not)
//	  docs        int32[docs]         boundaries of packed documents within a sequence: 0, ..., length; none for a sequence of one document
//	  ids         int32[tokens]
//	  labels      int32[tokens]       not shifted; IgnoreLabel is not trained on
//
// The header's SHA-256 covers all columns. Its "group" is the number of consecutive sequences that belong together, 1 when absent:
// pairwise data has groups of 2 (chosen, then rejected), kto data too (the row, then the same prompt with another row's response, from
// which the divergence is estimated; the row's tag counts).
const shardMagic = "TFTOKEN1"

// IgnoreLabel marks tokens that are not trained on, as in transformers.
const IgnoreLabel = -100

const (
	maxShardHeader    = 1 << 16
	maxShardSequences = 1 << 28
	maxShardTokens    = 1 << 33
	maxShardGroup     = 1 << 10
)

// Sequence is one row of token data. Docs, when not nil, are the boundaries of packed documents: 0, ..., len(IDs).
type Sequence struct {
	IDs, Labels, Docs []int32
	// Tag is a mark of the sequence (kto: 1 desirable, 0 not).
	Tag int32
	// Open says that documents begin at position 0 each but see those before them, as LLaMA-Factory's plain packing has it.
	Open bool
}

// Trained counts the labels that are not IgnoreLabel, position 0 included, as transformers counts them.
func (s Sequence) Trained() int {
	n := 0
	for _, l := range s.Labels {
		if l != IgnoreLabel {
			n++
		}
	}
	return n
}

type shardHeader struct {
	Version   int    `json:"version"`
	Sequences int64  `json:"sequences"`
	Tokens    int64  `json:"tokens"`
	Docs      int64  `json:"docs"`
	Group     int    `json:"group,omitempty"`
	Tags      bool   `json:"tags,omitempty"`
	Open      bool   `json:"open,omitempty"`
	SHA256    string `json:"sha256"`
}

// ShardWriter collects sequences and writes them as one shard.
type ShardWriter struct {
	offsets, docOffsets       []int64
	counts, docs, ids, labels []int32
	group                     int
	tags                      []int32
	open                      bool
}

// NewShardWriter makes an empty writer.
func NewShardWriter() *ShardWriter {
	return &ShardWriter{offsets: []int64{0}, docOffsets: []int64{0}}
}

// NewGroupWriter makes a writer of sequences of which group consecutive ones belong together; tagged stores their tags.
func NewGroupWriter(group int, tagged bool) *ShardWriter {
	w := NewShardWriter()
	if group > 1 {
		w.group = group
	}
	if tagged {
		w.tags = []int32{}
	}
	return w
}

// Add appends a sequence, which it copies.
func (w *ShardWriter) Add(s Sequence) error {
	if len(s.IDs) == 0 || len(s.IDs) != len(s.Labels) {
		return fmt.Errorf("cannot add a sequence of %d ids and %d labels", len(s.IDs), len(s.Labels))
	}
	if err := checkDocs(s.Docs, len(s.IDs)); err != nil {
		return fmt.Errorf("cannot add a sequence: %w", err)
	}
	if len(w.counts) > 0 && w.open != s.Open {
		return fmt.Errorf("cannot add a sequence: documents see each other in all sequences of a shard or in none")
	}
	w.open = s.Open
	w.ids = append(w.ids, s.IDs...)
	w.labels = append(w.labels, s.Labels...)
	w.docs = append(w.docs, s.Docs...)
	w.counts = append(w.counts, int32(s.Trained()))
	if w.tags != nil {
		w.tags = append(w.tags, s.Tag)
	}
	w.offsets = append(w.offsets, int64(len(w.ids)))
	w.docOffsets = append(w.docOffsets, int64(len(w.docs)))
	return nil
}

// checkDocs checks that boundaries grow from 0 to n.
func checkDocs(docs []int32, n int) error {
	if len(docs) == 0 {
		return nil
	}
	if len(docs) < 2 || docs[0] != 0 || int(docs[len(docs)-1]) != n {
		return fmt.Errorf("document boundaries must go from 0 to %d", n)
	}
	for i := 1; i < len(docs); i++ {
		if docs[i] <= docs[i-1] {
			return fmt.Errorf("document boundaries must grow: %d after %d", docs[i], docs[i-1])
		}
	}
	return nil
}

// Bytes is the shard in its stored form: the same sequences give the same bytes.
func (w *ShardWriter) Bytes() ([]byte, error) {
	var body bytes.Buffer
	if w.group > 1 && len(w.counts)%w.group != 0 {
		return nil, fmt.Errorf("cannot write a shard: %d sequences are not groups of %d", len(w.counts), w.group)
	}
	for _, c := range []any{w.offsets, w.docOffsets, w.counts, w.tags, w.docs, w.ids, w.labels} {
		if err := binary.Write(&body, binary.LittleEndian, c); err != nil {
			return nil, fmt.Errorf("cannot write a shard: %w", err)
		}
	}
	sum := sha256.Sum256(body.Bytes())
	head, err := json.Marshal(shardHeader{Version: 1, Sequences: int64(len(w.counts)), Tokens: int64(len(w.ids)), Docs: int64(len(w.docs)),
		Group: w.group, Tags: w.tags != nil, Open: w.open, SHA256: hex.EncodeToString(sum[:])})
	if err != nil {
		return nil, fmt.Errorf("cannot write a shard: %w", err)
	}
	for (len(shardMagic)+4+len(head))%8 != 0 {
		head = append(head, ' ')
	}
	out := make([]byte, 0, len(shardMagic)+4+len(head)+body.Len())
	out = append(out, shardMagic...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(head)))
	out = append(out, head...)
	return append(out, body.Bytes()...), nil
}

// Shard reads a stored shard: its index is in memory, its tokens stay in the file.
type Shard struct {
	r                   io.ReaderAt
	offsets, docOffsets []int64
	counts, tags        []int32
	group               int
	open                bool
	docsAt              int64
	idsAt, labelsAt     int64
	sum                 string
}

// OpenShard reads the header and the index of a shard of size bytes and checks them; name is for messages. The columns' checksum is
// checked by Verify. Errors have CodeData.
func OpenShard(r io.ReaderAt, size int64, name string) (*Shard, error) {
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeData, name, "is no token shard: %s", fmt.Sprintf(format, args...))
	}
	var start [len(shardMagic) + 4]byte
	if _, err := r.ReadAt(start[:], 0); err != nil {
		return nil, bad("it has only %d bytes: %v", size, err)
	}
	if string(start[:len(shardMagic)]) != shardMagic {
		return nil, bad("it does not begin with %s", shardMagic)
	}
	n := int64(binary.LittleEndian.Uint32(start[len(shardMagic):]))
	at := int64(len(start)) + n
	if n > maxShardHeader || at > size {
		return nil, bad("its header would have %d bytes", n)
	}
	raw := make([]byte, n)
	if _, err := r.ReadAt(raw, int64(len(start))); err != nil {
		return nil, bad("cannot read the header: %v", err)
	}
	var h shardHeader
	if err := json.Unmarshal(raw, &h); err != nil {
		return nil, bad("cannot read the header: %v", err)
	}
	if h.Version != 1 {
		return nil, bad("its version is %d", h.Version)
	}
	if h.Sequences < 0 || h.Sequences > maxShardSequences || h.Tokens < 0 || h.Tokens > maxShardTokens || h.Docs < 0 || h.Docs > maxShardTokens {
		return nil, bad("it claims %d sequences, %d tokens and %d boundaries", h.Sequences, h.Tokens, h.Docs)
	}
	perSequence := int64(4)
	if h.Tags {
		perSequence = 8
	}
	if want := at + 16*(h.Sequences+1) + perSequence*h.Sequences + 4*h.Docs + 8*h.Tokens; want != size {
		return nil, bad("it has %d bytes, its header says %d", size, want)
	}
	group := max(1, h.Group)
	if h.Group < 0 || h.Group > maxShardGroup || h.Sequences%int64(group) != 0 {
		return nil, bad("%d sequences are not groups of %d", h.Sequences, h.Group)
	}
	s := &Shard{r: r, offsets: make([]int64, h.Sequences+1), docOffsets: make([]int64, h.Sequences+1), counts: make([]int32, h.Sequences), group: group, open: h.Open, sum: h.SHA256}
	if h.Tags {
		s.tags = make([]int32, h.Sequences)
	}
	body := io.NewSectionReader(r, at, size-at)
	for _, c := range []any{s.offsets, s.docOffsets, s.counts, s.tags} {
		if err := binary.Read(body, binary.LittleEndian, c); err != nil {
			return nil, bad("cannot read the index: %v", err)
		}
	}
	s.docsAt = at + 16*(h.Sequences+1) + perSequence*h.Sequences
	s.idsAt = s.docsAt + 4*h.Docs
	s.labelsAt = s.idsAt + 4*h.Tokens
	if s.offsets[0] != 0 || s.offsets[h.Sequences] != h.Tokens || s.docOffsets[0] != 0 || s.docOffsets[h.Sequences] != h.Docs {
		return nil, bad("its offsets do not cover its columns")
	}
	for i := range s.counts {
		length, docs := s.offsets[i+1]-s.offsets[i], s.docOffsets[i+1]-s.docOffsets[i]
		if length < 1 || length > math.MaxInt32 || docs < 0 || docs > length+1 || int64(s.counts[i]) > length || s.counts[i] < 0 {
			return nil, bad("sequence %d has %d tokens, %d boundaries and %d labels", i, length, docs, s.counts[i])
		}
	}
	return s, nil
}

// Verify reads all columns and compares their checksum.
func (s *Shard) Verify() error {
	n := int64(len(s.counts))
	from := s.docsAt - 16*(n+1) - 4*n - 4*int64(len(s.tags))
	to := s.labelsAt + 4*s.offsets[n]
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(s.r, from, to-from)); err != nil {
		return fmt.Errorf("cannot read the shard: %w", err)
	}
	if got := hex.EncodeToString(sum.Sum(nil)); got != s.sum {
		return schemas.Errorf(schemas.CodeVerify, "", "the shard's columns have the SHA-256 %s, its header says %s", got, s.sum)
	}
	return nil
}

// Len is the number of sequences.
func (s *Shard) Len() int { return len(s.counts) }

// Group is the number of consecutive sequences that belong together, at least 1.
func (s *Shard) Group() int { return s.group }

// Tokens is the number of tokens of all sequences.
func (s *Shard) Tokens() int64 { return s.offsets[len(s.counts)] }

// Length is the number of tokens of a sequence.
func (s *Shard) Length(i int) int { return int(s.offsets[i+1] - s.offsets[i]) }

// LabelTokens counts the labels of a sequence that are not ignored.
func (s *Shard) LabelTokens(i int) int64 { return int64(s.counts[i]) }

// Sequence reads one sequence.
func (s *Shard) Sequence(i int) (Sequence, error) {
	if i < 0 || i >= len(s.counts) {
		return Sequence{}, fmt.Errorf("cannot read sequence %d of %d", i, len(s.counts))
	}
	var out Sequence
	var err error
	read := func(at, from, to int64) []int32 {
		if err != nil || from == to {
			return nil
		}
		raw := make([]byte, 4*(to-from))
		if _, err = s.r.ReadAt(raw, at+4*from); err != nil {
			return nil
		}
		v := make([]int32, to-from)
		for j := range v {
			v[j] = int32(binary.LittleEndian.Uint32(raw[4*j:]))
		}
		return v
	}
	out.IDs = read(s.idsAt, s.offsets[i], s.offsets[i+1])
	out.Labels = read(s.labelsAt, s.offsets[i], s.offsets[i+1])
	out.Open = s.open
	out.Docs = read(s.docsAt, s.docOffsets[i], s.docOffsets[i+1])
	if s.tags != nil {
		out.Tag = s.tags[i]
	}
	if err != nil {
		return Sequence{}, fmt.Errorf("cannot read sequence %d: %w", i, err)
	}
	if err := checkDocs(out.Docs, len(out.IDs)); err != nil {
		return Sequence{}, schemas.Errorf(schemas.CodeData, "", "sequence %d: %v", i, err)
	}
	return out, nil
}
