package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"
)

// floatsStep is the number of elements that are converted on the host at a time.
const floatsStep = 1 << 20

// UploadFloats copies src into dst, which is contiguous, of type f32, bf16 or f16, and has as many elements: rounded to nearest, ties to
// even, as tf_copy does.
func UploadFloats(q *Queue, dst Tensor, src []float32) error {
	round := toBF16
	switch dst.DType {
	case F16:
		round = toF16
	case BF16:
	default:
		return Upload(q, dst, src)
	}
	if dst.Numel() != int64(len(src)) {
		return Upload(q, dst, src) // says what is wrong
	}
	if q.err != nil || q.d.counting {
		return q.err
	}
	flat := dst.Reshape(dst.Numel())
	buf := make([]uint16, min(len(src), floatsStep))
	for at := 0; at < len(src); at += floatsStep {
		part := src[at:min(len(src), at+floatsStep)]
		for i, x := range part {
			buf[i] = round(x)
		}
		if err := Upload(q, flat.Slice(0, int64(at), int64(at+len(part))), buf[:len(part)]); err != nil {
			return err
		}
	}
	return q.err
}

// DownloadFloats waits for the queue and copies src, which is contiguous and of type f32, bf16 or f16, into dst of as many elements.
func DownloadFloats(q *Queue, dst []float32, src Tensor) error {
	widen := fromBF16
	switch src.DType {
	case F16:
		widen = fromF16
	case BF16:
	default:
		return Download(q, dst, src)
	}
	if src.Numel() != int64(len(dst)) {
		return Download(q, dst, src) // says what is wrong
	}
	flat := src.Reshape(src.Numel())
	buf := make([]uint16, min(len(dst), floatsStep))
	for at := 0; at < len(dst); at += floatsStep {
		part := dst[at:min(len(dst), at+floatsStep)]
		if err := Download(q, buf[:len(part)], flat.Slice(0, int64(at), int64(at+len(part)))); err != nil {
			return err
		}
		for i := range part {
			part[i] = widen(buf[i])
		}
	}
	return q.err
}

// Widen decodes raw, elements of type f32, bf16 or f16 as they lie on a device, into as many dst.
func Widen(dst []float32, raw []byte, dt DType) error {
	n := int64(len(dst))
	if dt != F32 && dt != BF16 && dt != F16 || int64(len(raw)) != n*dt.Size() {
		return &Error{Op: "widen", Status: StatusInvalid, Why: fmt.Sprintf("%d bytes of %v into %d elements", len(raw), dt, n)}
	}
	if n == 0 {
		return nil
	}
	if dt == F32 {
		copy(unsafe.Slice((*byte)(unsafe.Pointer(&dst[0])), 4*n), raw)
		return nil
	}
	widen := fromBF16
	if dt == F16 {
		widen = fromF16
	}
	for i := range dst {
		dst[i] = widen(binary.NativeEndian.Uint16(raw[2*i:]))
	}
	return nil
}

// toBF16 rounds to nearest, ties to even; a NaN stays one.
func toBF16(x float32) uint16 {
	u := math.Float32bits(x)
	if x != x {
		return uint16(u>>16) | 64
	}
	return uint16((u + u>>16&1 + 0x7fff) >> 16)
}

func fromBF16(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }

// toF16 is IEEE 754 binary16 as tf_to_f16 makes it.
func toF16(x float32) uint16 {
	u := math.Float32bits(x)
	sign := uint16(u >> 16 & 0x8000)
	u &= 1<<31 - 1
	switch {
	case x != x:
		return sign | 0x7e00 | uint16(u>>13&0x1ff)
	case u >= 0x477ff000: // too large, even rounded
		return sign | 0x7c00
	case u < 0x38800000: // subnormal: units of 2^-24
		return sign | uint16(math.Float32bits(math.Float32frombits(u)+0.5)-0x3f000000)
	}
	return sign | uint16((u+0xc8000fff+u>>13&1)>>13)
}

func fromF16(h uint16) float32 {
	sign, e, m := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&1023)
	switch {
	case e == 31 && m != 0:
		return math.Float32frombits(sign | 0x7fc00000 | m<<13)
	case e == 31:
		return math.Float32frombits(sign | 0x7f800000)
	case e == 0:
		return math.Float32frombits(sign | math.Float32bits(float32(m)*0x1p-24))
	}
	return math.Float32frombits(sign | (e+112)<<23 | m<<13)
}
