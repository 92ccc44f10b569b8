package adapter

import (
	"encoding/binary"
	"math"
	"sort"
)

// Blocks of elements that share a scale, and of scales that share one.
const (
	nf4Block   = 64
	scaleBlock = 256
)

// nf4Table are the 16 values of NF4: quantiles of the normal distribution (https://arxiv.org/abs/2305.14314, appendix E; bitsandbytes'
// table).
var nf4Table = [16]float32{-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
	-0.09105003625154495, 0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224, 0.44070982933044434,
	0.5626170039176941, 0.7229568362236023, 1}

// bits are the parts of a packed matrix.
type bits struct {
	codes, scaleCodes []byte
	scales            []float32
}

// nearest is the index of the value of a sorted table that is nearest to x, of equally near ones the first.
func nearest(table []float32, x float32) byte {
	hi := sort.Search(len(table), func(i int) bool { return table[i] >= x })
	switch {
	case hi == 0:
		return 0
	case hi == len(table):
		return byte(hi - 1)
	}
	if abs32(x-table[hi-1]) <= abs32(x-table[hi]) {
		return byte(hi - 1)
	}
	return byte(hi)
}

func abs32(x float32) float32 { return math.Float32frombits(math.Float32bits(x) &^ (1 << 31)) }

func absMax(v []float32) float32 {
	var m float32
	for _, x := range v {
		m = max(m, abs32(x))
	}
	return m
}

// quantizeNF4 packs values as bitsandbytes' quantize_4bit does: a block of 64 is scaled by its largest magnitude, each value becomes the
// nearest of the table.
func quantizeNF4(v []float32) bits {
	b := bits{codes: make([]byte, (len(v)+1)/2), scales: make([]float32, (len(v)+nf4Block-1)/nf4Block)}
	for k := range b.scales {
		block := v[k*nf4Block : min(len(v), (k+1)*nf4Block)]
		b.scales[k] = absMax(block)
		inv := 1 / b.scales[k]
		for i, x := range block {
			c := byte(0) // of a block of zeros: whatever is multiplied by 0
			if b.scales[k] > 0 {
				c = nearest(nf4Table[:], min(1, max(-1, x*inv)))
			}
			at := k*nf4Block + i
			if at%2 == 0 {
				c <<= 4
			}
			b.codes[at/2] |= c
		}
	}
	return b
}

// double quantizes the scales too, as quantize_4bit does with compress_statistics: less their mean, blocks of 256 become the nearest
// values of the dynamic map.
func (b bits) double() bits {
	var sum float64
	for _, s := range b.scales {
		sum += float64(s)
	}
	offset := float32(sum / float64(len(b.scales)))
	table := dynamicMap()
	table[0] = -1 // as bitsandbytes has it on the CPU, so that the smallest scale of a block is met
	out := bits{codes: b.codes, scaleCodes: make([]byte, len(b.scales)), scales: table[:]}
	for at := 0; at < len(b.scales); at += scaleBlock {
		block := append([]float32(nil), b.scales[at:min(len(b.scales), at+scaleBlock)]...)
		for i := range block {
			block[i] -= offset
		}
		m := absMax(block)
		for i, x := range block {
			if m > 0 {
				x /= m
			}
			out.scaleCodes[at+i] = nearest(table[:], x)
		}
		out.scales = append(out.scales, m)
	}
	out.scales = append(out.scales, offset)
	return out
}

// dynamicMap is bitsandbytes' create_dynamic_map: a sign, a unary exponent of base 10 and a linear fraction, in 8 bits.
func dynamicMap() [256]float32 {
	var v []float32
	for i := range 7 {
		n := 1 << i
		power := float32(math.Pow(10, float64(i-6)))
		// torch.linspace(0.1, 1, n+1) in float32: products are fused, the second half is counted from the end.
		step := (float32(1) - float32(0.1)) / float32(n)
		at := func(k int) float32 {
			if k < (n+1)/2 {
				return float32(float64(float32(0.1)) + float64(step)*float64(k))
			}
			return float32(1 - float64(step)*float64(n-k))
		}
		for k := range n {
			x := float32(float32(at(k)+at(k+1))/2) * power
			v = append(v, x, -x)
		}
	}
	v = append(v, 0, 1)
	sort.Slice(v, func(i, j int) bool { return v[i] < v[j] })
	return [256]float32(v)
}

// quantizeInt8 packs rows as bitsandbytes' int8_vectorwise_quant does: each row is scaled by its largest magnitude to 127.
func quantizeInt8(v []float32, cols int) bits {
	b := bits{codes: make([]byte, len(v)), scales: make([]float32, len(v)/cols)}
	for r := range b.scales {
		row := v[r*cols : (r+1)*cols]
		b.scales[r] = absMax(row)
		if b.scales[r] == 0 {
			continue
		}
		f := 127 / b.scales[r]
		for i, x := range row {
			b.codes[r*cols+i] = byte(int8(math.RoundToEven(float64(x * f))))
		}
	}
	return b
}

// expandNF4 and expandInt8 give elements [start, start+len(dst)) as the kernels do.
func (b bits) expandNF4(start int64, dst []float32) {
	for i := range dst {
		at := start + int64(i)
		c := b.codes[at/2]
		if at%2 == 0 {
			c >>= 4
		}
		k := int(at / nf4Block)
		s := float32(0)
		if b.scaleCodes != nil {
			blocks := len(b.scaleCodes)
			s = float32(b.scales[b.scaleCodes[k]]*b.scales[256+k/scaleBlock]) + b.scales[256+(blocks+scaleBlock-1)/scaleBlock]
		} else {
			s = b.scales[k]
		}
		dst[i] = nf4Table[c&15] * s
	}
}

func (b bits) expandInt8(cols, start int64, dst []float32) {
	for i := range dst {
		at := start + int64(i)
		dst[i] = float32(float32(int8(b.codes[at]))*b.scales[at/cols]) * 0.007874015718698502
	}
}

// words packs bytes into 32-bit words, little-endian, that are carried as float32 values.
func words(b []byte, start int64, dst []float32) {
	for i := range dst {
		var w [4]byte
		at := (start + int64(i)) * 4
		copy(w[:], b[min(at, int64(len(b))):])
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(w[:]))
	}
}
