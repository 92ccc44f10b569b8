package nn

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/ops"
)

// IgnoreLabel marks tokens that are not trained on.
const IgnoreLabel = -100

// Batch is the content of one leaf: token ids of shape [Rows, Seq] on the host.
type Batch struct {
	Rows, Seq int
	IDs       []int32
	// Labels (not yet shifted; IgnoreLabel is skipped) may be nil where no loss is computed. The model predicts Labels[s+1] at s.
	Labels []int32
	// Mask, when not nil, is 0 for padding.
	Mask []uint8
	// Docs, when not nil, are the boundaries of documents packed into one row (Rows is 1): 0, ..., Seq. Documents do not see each other
	// and their positions begin at 0.
	Docs []int32
	// Positions, when not nil, are the rotary positions, default 0, 1, ... in each row (with Docs: in each document).
	Positions []int32
	// Balance, when not nil, is where a model with experts puts its routers' load-balancing loss; its Scale says with what weight
	// Backward differentiates it. Models without experts leave it alone.
	Balance *ops.RouterLoss
	// EmbedNoise, when not nil, gives what is added to the embeddings, [tokens, width] flat (NEFTune).
	EmbedNoise func(width int) []float32
	// Temperature, when positive, divides the logits of TokenLogProbs and HiddenLogProbs. Models with a softcap do not take it.
	Temperature float32
	// Extra, when not nil, adds label smoothing and z-loss to the loss that LogProbs differentiates.
	Extra *ops.XentExtra
}

// Validate checks lengths and ranges against a vocabulary.
func (b *Batch) Validate(vocab int) error {
	n := b.Rows * b.Seq
	if b.Rows < 1 || b.Seq < 1 || len(b.IDs) != n {
		return fmt.Errorf("batch of %d rows and %d positions has %d ids", b.Rows, b.Seq, len(b.IDs))
	}
	for _, l := range []struct {
		name string
		len  int
	}{{"labels", len(b.Labels)}, {"mask", len(b.Mask)}, {"positions", len(b.Positions)}} {
		if l.len != 0 && l.len != n {
			return fmt.Errorf("batch has %d ids but %d %s", n, l.len, l.name)
		}
	}
	for i, id := range b.IDs {
		if id < 0 || int(id) >= vocab {
			return fmt.Errorf("id %d at %d is outside the vocabulary of %d", id, i, vocab)
		}
	}
	for i, l := range b.Labels {
		if l != IgnoreLabel && (l < 0 || int(l) >= vocab) {
			return fmt.Errorf("label %d at %d is outside the vocabulary of %d", l, i, vocab)
		}
	}
	for i, p := range b.Positions {
		if p < 0 {
			return fmt.Errorf("position %d at %d is negative", p, i)
		}
	}
	if d := b.Docs; d != nil {
		if b.Rows != 1 || len(d) < 2 || d[0] != 0 || int(d[len(d)-1]) != b.Seq {
			return fmt.Errorf("documents must cover one row from 0 to %d", b.Seq)
		}
		for i := 1; i < len(d); i++ {
			if d[i] < d[i-1] {
				return fmt.Errorf("document boundaries are not ascending at %d", i)
			}
		}
	}
	return nil
}

// LabelTokens counts the labels that are not ignored, position 0 included, as transformers' Trainer does.
func (b *Batch) LabelTokens() int64 {
	var n int64
	for _, l := range b.Labels {
		if l != IgnoreLabel {
			n++
		}
	}
	return n
}

// Targets are the labels shifted by one: entry s is what position s predicts; the last of a row, and of a document, is IgnoreLabel.
func (b *Batch) Targets() []int32 {
	out := make([]int32, len(b.IDs))
	for i := range out {
		out[i] = IgnoreLabel
		if (i+1)%b.Seq != 0 {
			out[i] = b.Labels[i+1]
		}
	}
	if len(b.Docs) > 0 {
		for _, end := range b.Docs[1:] {
			if end > 0 {
				out[end-1] = IgnoreLabel
			}
		}
	}
	return out
}

// PositionIDs are the positions of the tokens [Rows*Seq]; start is the number of positions before the batch (a cache).
func (b *Batch) PositionIDs(start int) []int32 {
	if b.Positions != nil {
		return b.Positions
	}
	pos := make([]int32, b.Rows*b.Seq)
	for i := range pos {
		pos[i] = int32(start + i%b.Seq)
	}
	for d := 1; d < len(b.Docs); d++ {
		for i := b.Docs[d-1]; i < b.Docs[d]; i++ {
			pos[i] = i - b.Docs[d-1]
		}
	}
	return pos
}

// Upload makes the positions of a batch, with a table for each rope; start is the number of positions before it (a cache). Rotary
// frequencies that depend on the length are chosen for the greatest position that occurs, as transformers does.
func (b *Batch) Upload(t *Tape, ropes []Rope, start int) *Positions {
	p := &Positions{Batch: b.Rows, Seq: b.Seq, Start: start}
	if len(ropes) > 0 {
		b.uploadTables(t, p, ropes)
	}
	if b.Docs != nil {
		p.Docs = t.Ints(b.Docs, int64(len(b.Docs)))
	}
	if b.Mask != nil {
		b.uploadMask(t, p)
	}
	return p
}

// UploadStarts is Upload for a batch of one token a row (with Positions) behind caches of different lengths, starts. A row's rotary
// frequencies are those that it would have alone.
func (b *Batch) UploadStarts(t *Tape, ropes []Rope, starts []int) *Positions {
	p := &Positions{Batch: b.Rows, Seq: 1, Start: slices.Max(starts), Starts: starts}
	rows, at := make([]int32, b.Rows), make([]int32, b.Rows)
	for r := range rows {
		rows[r], at[r] = int32(r), int32(starts[r])
	}
	p.QStart = t.Ints(at, int64(b.Rows))
	if len(ropes) > 0 {
		p.Pos = t.Ints(rows, int64(b.Rows), 1)
	}
	for _, r := range ropes {
		table := RopeTable{Dim: r.RotDim(), Interleaved: r.Interleaved}
		if table.Dim == 0 {
			p.Tables = append(p.Tables, RopeTable{})
			continue
		}
		var cos, sin []float32
		for _, pos := range b.Positions {
			c, s := r.Tables(int(pos), int(pos)+1, int(pos)+1)
			cos, sin = append(cos, c...), append(sin, s...)
		}
		half := int64(table.Dim / 2)
		table.Cos, table.Sin = t.Floats(cos, int64(b.Rows), half), t.Floats(sin, int64(b.Rows), half)
		p.Tables = append(p.Tables, table)
	}
	return p
}

func (b *Batch) uploadTables(t *Tape, p *Positions, ropes []Rope) {
	lo, hi := p.Start, p.Start+b.Seq
	if b.Positions != nil || b.Docs != nil {
		pos := b.PositionIDs(p.Start)
		lo, hi = int(slices.Min(pos)), int(slices.Max(pos))+1
		rel := make([]int32, len(pos))
		for i, v := range pos {
			rel[i] = v - int32(lo)
		}
		p.Pos = t.Ints(rel, int64(b.Rows), int64(b.Seq))
	}
	for _, r := range ropes {
		if r.RotDim() == 0 {
			p.Tables = append(p.Tables, RopeTable{})
			continue
		}
		cos, sin := r.Tables(lo, hi, hi)
		half := int64(r.RotDim() / 2)
		p.Tables = append(p.Tables, RopeTable{Dim: r.RotDim(), Interleaved: r.Interleaved,
			Cos: t.Floats(cos, int64(hi-lo), half), Sin: t.Floats(sin, int64(hi-lo), half)})
	}
}

// uploadMask bounds the visible keys where each row's padding is at its ends, and hides single keys otherwise.
func (b *Batch) uploadMask(t *Tape, p *Positions) {
	first, last := make([]int32, b.Rows), make([]int32, b.Rows)
	contiguous, any := true, false
	for r := range b.Rows {
		row := b.Mask[r*b.Seq : (r+1)*b.Seq]
		lo, hi := 0, b.Seq
		for lo < hi && row[lo] == 0 {
			lo++
		}
		for hi > lo && row[hi-1] == 0 {
			hi--
		}
		for _, m := range row[lo:hi] {
			contiguous = contiguous && m != 0
		}
		any = any || lo > 0 || hi < b.Seq
		first[r], last[r] = int32(lo), int32(hi)
	}
	if !contiguous {
		p.KeyMask = t.Bytes(b.Mask, int64(b.Rows), int64(b.Seq))
		return
	}
	if any {
		p.KVFirst, p.KVLast = t.Ints(first, int64(b.Rows)), t.Ints(last, int64(b.Rows))
	}
}
