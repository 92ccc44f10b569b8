package zoo

import (
	"math"

	"github.com/tunefleet/tunefleet/gpuworker/autograd"
	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// alibi is what attention adds to the scores of a key instead of rotations (https://arxiv.org/abs/2108.12409): a head's slope times the key's
// position. Of the softmax only differences of it matter, but not of its rounding: values are those that transformers computes in fp32.
// (A few slopes of 32 and of 128 heads are the correctly rounded powers where torch's on the CPU are one unit in the last place beside them.)
type alibi struct {
	slopes []float32
	// value is the bias of a key by its head's slope and its position.
	value func(slope, position float32) float32
	// fromEnd counts positions back from the last key, padding or not, as modeling_mpt.py does. Otherwise they are as build_alibi_tensor of
	// modeling_bloom.py has them: of tokens that are not padding, wherever it stands; padding has 0.
	fromEnd bool
}

// product is the bias of BLOOM and MPT.
func product(slope, position float32) float32 { return slope * position }

// upload puts the bias of a batch on the device, f32 [rows, heads, keys].
func (a *alibi) upload(t *autograd.Tape, b *nn.Batch, cache *Cache) autograd.Tensor {
	bias, rows := a.bias(b, cache)
	x := t.Floats(bias, int64(rows), int64(len(a.slopes)), int64(len(bias)/rows/len(a.slopes)))
	if rows < b.Rows {
		x.Dim[0], x.Stride[0] = int64(b.Rows), 0
	}
	return x
}

// bias is that of a batch, [rows, heads, keys] flat, the keys in the cache, if there is one, before the batch's. Where all rows are alike there
// is one.
func (a *alibi) bias(b *nn.Batch, cache *Cache) (bias []float32, rows int) {
	keys, rows := b.Seq, 1
	if cache != nil {
		keys += cache.filled()
	}
	if a.fromEnd && cache != nil && cache.Starts != nil {
		rows = b.Rows
	}
	if !a.fromEnd && (b.Mask != nil || cache != nil && cache.KVFirst != nil) {
		rows = b.Rows
	}
	bias = make([]float32, 0, rows*len(a.slopes)*keys)
	for row := range rows {
		pos := a.positions(b, cache, row, keys)
		for _, s := range a.slopes {
			for _, p := range pos {
				bias = append(bias, a.value(s, float32(p)))
			}
		}
	}
	return bias, rows
}

// positions are those of a row's keys; each packed document has its own.
func (a *alibi) positions(b *nn.Batch, cache *Cache, row, keys int) []int32 {
	pos := make([]int32, keys)
	docs := b.Docs
	if docs == nil {
		docs = []int32{0, int32(keys)}
	}
	hidden := func(key int) bool {
		if cache != nil {
			return cache.KVFirst != nil && key < int(cache.KVFirst[row])
		}
		return b.Mask != nil && b.Mask[row*b.Seq+key] == 0
	}
	for d := 1; d < len(docs); d++ {
		n := int32(0)
		for key := docs[d-1]; key < docs[d]; key++ {
			switch {
			case a.fromEnd:
				end := docs[d]
				if cache != nil && cache.Starts != nil {
					end = int32(cache.Starts[row] + 1)
				}
				pos[key] = key - end + 1
			case !hidden(int(key)):
				pos[key] = n
				n++
			}
		}
	}
	return pos
}

// alibiSlopes are the slopes of https://arxiv.org/abs/2108.12409 as BLOOM orders them: powers for the greatest power of two of heads,
// then every other power of twice as many.
func alibiSlopes(heads int) []float32 {
	n := 1
	for 2*n <= heads {
		n *= 2
	}
	base := func(n int) float64 { return float64(float32(math.Exp2(-math.Exp2(-(math.Log2(float64(n)) - 3))))) }
	out := make([]float32, 0, heads)
	for i := range n {
		out = append(out, float32(math.Pow(base(n), float64(i+1))))
	}
	for i := 0; len(out) < heads; i++ {
		out = append(out, float32(math.Pow(base(2*n), float64(2*i+1))))
	}
	return out
}

// mptSlopes are MPT's: powers for the least power of two not below heads, every other one first.
func mptSlopes(heads int) []float32 {
	n := 1
	for n < heads {
		n *= 2
	}
	const most = 8
	slope := func(i int) float32 { return 1 / float32(math.Exp2(float64(i+1)*most/float64(n))) }
	out := make([]float32, 0, heads)
	if n == heads {
		for i := range n {
			out = append(out, slope(i))
		}
		return out
	}
	for i := 1; i < n && len(out) < heads; i += 2 {
		out = append(out, slope(i))
	}
	for i := 0; len(out) < heads; i += 2 {
		out = append(out, slope(i))
	}
	return out
}

// roundBF16 rounds to the nearest bfloat16, ties to even.
func roundBF16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}
