package process

// Batch is what a collator makes of samples: rows of one length.
type Batch struct{ IDs, Attention, Labels [][]int32 }

// roundUp rounds n up to a multiple of m; m = 0 leaves it.
func roundUp(n, m int) int {
	if m <= 0 {
		return n
	}
	return (n + m - 1) / m * m
}

func padded(row []int32, n int, with int32, left bool) []int32 {
	out := make([]int32, 0, n)
	if !left {
		out = append(out, row...)
	}
	for range n - len(row) {
		out = append(out, with)
	}
	if left {
		out = append(out, row...)
	}
	return out
}

// Collate pads rows to the longest one, rounded up to a multiple (0: not): ids with pad, attention with 0 and labels with Ignore.
func Collate(ids, attention, labels [][]int32, pad int32, multiple int, left bool) Batch {
	longest := func(rows [][]int32) int {
		n := 0
		for _, r := range rows {
			n = max(n, len(r))
		}
		return roundUp(n, multiple)
	}
	var b Batch
	n, m := longest(ids), longest(labels)
	for i := range ids {
		b.IDs = append(b.IDs, padded(ids[i], n, pad, left))
		b.Attention = append(b.Attention, padded(attention[i], n, 0, left))
		b.Labels = append(b.Labels, padded(labels[i], m, Ignore, left))
	}
	return b
}

// Ones is the attention of a sample: 1 for each token.
func Ones(n int) []int32 {
	out := make([]int32, n)
	for i := range out {
		out[i] = 1
	}
	return out
}

// CollateSamples is Collate for samples that attend to all their tokens.
func CollateSamples(samples []Sample, pad int32, multiple int, left bool) Batch {
	var ids, attention, labels [][]int32
	for _, s := range samples {
		ids, attention, labels = append(ids, s.IDs), append(attention, Ones(len(s.IDs))), append(labels, s.Labels)
	}
	return Collate(ids, attention, labels, pad, multiple, left)
}

// MayAttend is the 4-D mask of packed rows for one row: MayAttend(a)[q][k] says whether position q may attend to position k: both have the same
// non-zero mark in a, and k is not after q.
func MayAttend(attention []int32) [][]bool {
	out := make([][]bool, len(attention))
	for q := range out {
		out[q] = make([]bool, len(attention))
		for k := range q + 1 {
			out[q][k] = attention[k] != 0 && attention[q] == attention[k]
		}
	}
	return out
}
