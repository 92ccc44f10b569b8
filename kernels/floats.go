package kernels

import "math"

// floatsStep is the number of elements that are converted on the host at a time.
const floatsStep = 1 << 20

// UploadFloats copies src into dst, which is contiguous, of type f32 or bf16, and has as many elements: bf16 rounded to nearest, ties to
// even, as tf_copy does.
func UploadFloats(q *Queue, dst Tensor, src []float32) error {
	if dst.DType != BF16 || dst.Numel() != int64(len(src)) {
		return Upload(q, dst, src)
	}
	if q.err != nil || q.d.counting {
		return q.err
	}
	flat := dst.Reshape(dst.Numel())
	buf := make([]uint16, min(len(src), floatsStep))
	for at := 0; at < len(src); at += floatsStep {
		part := src[at:min(len(src), at+floatsStep)]
		for i, x := range part {
			buf[i] = toBF16(x)
		}
		if err := Upload(q, flat.Slice(0, int64(at), int64(at+len(part))), buf[:len(part)]); err != nil {
			return err
		}
	}
	return q.err
}

// DownloadFloats waits for the queue and copies src, which is contiguous and of type f32 or bf16, into dst of as many elements.
func DownloadFloats(q *Queue, dst []float32, src Tensor) error {
	if src.DType != BF16 || src.Numel() != int64(len(dst)) {
		return Download(q, dst, src)
	}
	flat := src.Reshape(src.Numel())
	buf := make([]uint16, min(len(dst), floatsStep))
	for at := 0; at < len(dst); at += floatsStep {
		part := dst[at:min(len(dst), at+floatsStep)]
		if err := Download(q, buf[:len(part)], flat.Slice(0, int64(at), int64(at+len(part)))); err != nil {
			return err
		}
		for i := range part {
			part[i] = math.Float32frombits(uint32(buf[i]) << 16)
		}
	}
	return q.err
}

// toBF16 rounds to nearest, ties to even; a NaN stays one.
func toBF16(x float32) uint16 {
	u := math.Float32bits(x)
	if x != x {
		return uint16(u>>16) | 64
	}
	return uint16((u + u>>16&1 + 0x7fff) >> 16)
}
