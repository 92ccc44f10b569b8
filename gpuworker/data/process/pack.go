package process

// Packed is a sequence of several samples, padded to one more than the cutoff.
type Packed struct {
	IDs, Labels []int32
	// Attention is 1 everywhere, padding included; with neat packing the number of the sample from 1 on, and 0 on padding.
	Attention []int32
	// Positions restart with each sample and are 0 on padding.
	Positions []int32
	// Bounds are where samples begin and end: 0, ..., the last one's end, and the end of the padding.
	Bounds []int32
	// Padding is the number of tokens of padding.
	Padding int
}

// Pack packs samples into sequences of cutoff+1 tokens. Samples longer than cutoff are left out.
func Pack(samples []Sample, cutoff int, neat bool, pad int32) []Packed {
	lengths := make([]int, len(samples))
	for i, s := range samples {
		lengths[i] = len(s.IDs)
	}
	sacks := Knapsack(lengths, cutoff)
	out := make([]Packed, len(sacks))
	for k, sack := range sacks {
		n := cutoff + 1
		p := Packed{IDs: make([]int32, 0, n), Labels: make([]int32, 0, n), Attention: make([]int32, 0, n), Positions: make([]int32, 0, n), Bounds: []int32{0}}
		for doc, i := range sack {
			p.IDs, p.Labels = append(p.IDs, samples[i].IDs...), append(p.Labels, samples[i].Labels...)
			mark := int32(1)
			if neat {
				mark = int32(doc + 1)
			}
			for j := range samples[i].IDs {
				p.Attention, p.Positions = append(p.Attention, mark), append(p.Positions, int32(j))
			}
			p.Bounds = append(p.Bounds, int32(len(p.IDs)))
		}
		p.Padding = n - len(p.IDs)
		mark := int32(1)
		if neat {
			mark = 0
		}
		for range p.Padding {
			p.IDs, p.Labels, p.Attention, p.Positions = append(p.IDs, pad), append(p.Labels, Ignore), append(p.Attention, mark), append(p.Positions, 0)
		}
		p.Bounds = append(p.Bounds, int32(len(p.IDs)))
		out[k] = p
	}
	return out
}
