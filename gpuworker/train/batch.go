package train

import (
	"fmt"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// makeBatch joins sequences to one leaf. Sequences of one length without documents become rows; others are laid end to end in one row as
// documents, so that no padding is computed. The shape depends on the sequences only. Documents that see each other (Open) count as one, with
// positions of their own.
func makeBatch(seqs []Sequence) (*nn.Batch, error) {
	total, even, open := 0, true, false
	for i, s := range seqs {
		if len(s.IDs) == 0 || len(s.Labels) != len(s.IDs) {
			return nil, fmt.Errorf("sequence %d of the leaf has %d ids and %d labels", i, len(s.IDs), len(s.Labels))
		}
		if n := len(s.Docs); n > 0 && (n < 2 || s.Docs[0] != 0 || int(s.Docs[n-1]) != len(s.IDs)) {
			return nil, fmt.Errorf("sequence %d of the leaf has documents from %d to %d, but %d ids", i, s.Docs[0], s.Docs[n-1], len(s.IDs))
		}
		total += len(s.IDs)
		even = even && len(s.IDs) == len(seqs[0].IDs) && (len(s.Docs) <= 2 || s.Open)
		open = open || s.Open && len(s.Docs) > 2
	}
	b := &nn.Batch{Rows: 1, Seq: total, IDs: make([]int32, 0, total), Labels: make([]int32, 0, total)}
	if even {
		b.Rows, b.Seq = len(seqs), total/len(seqs)
	} else {
		b.Docs = append(b.Docs, 0)
	}
	for _, s := range seqs {
		at := int32(len(b.IDs))
		b.IDs = append(b.IDs, s.IDs...)
		b.Labels = append(b.Labels, s.Labels...)
		if open {
			b.Positions = appendPositions(b.Positions, s)
		}
		switch {
		case even:
		case len(s.Docs) > 0 && !s.Open:
			for _, d := range s.Docs[1:] {
				b.Docs = append(b.Docs, at+d)
			}
		default:
			b.Docs = append(b.Docs, at+int32(len(s.IDs)))
		}
	}
	return b, nil
}

// appendPositions counts from 0 in each document.
func appendPositions(out []int32, s Sequence) []int32 {
	docs := s.Docs
	if len(docs) == 0 {
		docs = []int32{0, int32(len(s.IDs))}
	}
	for d := 1; d < len(docs); d++ {
		for i := docs[d-1]; i < docs[d]; i++ {
			out = append(out, i-docs[d-1])
		}
	}
	return out
}

// ghost is what a rank without a leaf computes, to take part in the gathers.
func ghost() *nn.Batch {
	return &nn.Batch{Rows: 1, Seq: 2, IDs: []int32{0, 0}, Labels: []int32{nn.IgnoreLabel, 0}}
}

// tokenIDs names the tokens of a leaf for random numbers: sample i's token j, wherever makeBatch put it. Padding has the ids of positions
// that its sample does not have.
func tokenIDs(b *nn.Batch, seqs []Sequence, samples []int32) []int64 {
	ids := make([]int64, 0, len(b.IDs))
	for i, s := range seqs {
		n := len(s.IDs)
		if b.Rows == len(seqs) {
			n = b.Seq
		}
		for j := range n {
			ids = append(ids, autograd.TokenID(int64(samples[i]), j))
		}
	}
	return ids
}
