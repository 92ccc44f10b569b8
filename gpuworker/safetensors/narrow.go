package safetensors

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Encode writes float32 values as elements of d (F32, BF16 or F16) to dst, which has room for them. Values are rounded to the nearest, ties to
// even, as torch does; what is too large becomes infinite.
func Encode(d DType, src []float32, dst []byte) error {
	switch d {
	case F32:
		copy(dst, f32bytes(src))
	case BF16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], floatToBrain(v))
		}
	case F16:
		for i, v := range src {
			binary.LittleEndian.PutUint16(dst[2*i:], floatToHalf(v))
		}
	default:
		return fmt.Errorf("cannot encode float32 values as %s", d)
	}
	return nil
}

// floatToBrain narrows to bfloat16.
func floatToBrain(v float32) uint16 {
	b := math.Float32bits(v)
	if b&0x7fffffff > 0x7f800000 {
		return uint16(b>>16) | 0x40 // stays no number
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// floatToHalf narrows to IEEE 754 binary16.
func floatToHalf(v float32) uint16 {
	b := math.Float32bits(v)
	sign, a := uint16(b>>16&0x8000), b&0x7fffffff
	switch {
	case a > 0x7f800000:
		return sign | 0x7e00
	case a >= 0x477ff000: // rounds to 65536 or more
		return sign | 0x7c00
	case a >= 0x38800000: // 2^-14, the least normal number
		return sign | uint16((a-0x38000000+0xfff+a>>13&1)>>13)
	}
	// A multiple of 2^-24: the sum with 0.5, whose last digit is 2^-24, rounds to it.
	return sign | uint16(math.Float32bits(math.Float32frombits(a)+0.5)-0x3f000000)
}
