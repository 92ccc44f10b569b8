package kernels

// PackedKind says how a packed matrix holds its elements.
type PackedKind int32

// PackedNF4 has 4 bits an element and a scale for each 64 (https://arxiv.org/abs/2305.14314), PackedInt8 8 bits and a scale for each row.
const (
	PackedNF4  PackedKind = 1
	PackedInt8 PackedKind = 2
)

// Packed is a frozen matrix [Rows, Cols] in few bits. NF4: Codes u8 [ceil(Rows*Cols/2)], Scales f32 [blocks]; with double quantization
// ScaleCodes u8 [blocks] and Scales f32 [256 + ceil(blocks/256) + 1]: the code table, the scales of scales, their offset. Int8: Codes u8
// [Rows*Cols], Scales f32 [Rows].
type Packed struct {
	Codes, Scales, ScaleCodes Tensor
	Rows, Cols                int64
	Kind                      PackedKind
	_                         int32
}

// Unpack computes Y [n, Cols] = rows Row0 to Row0+n of W as f32.
type Unpack struct {
	W    Packed
	Y    Tensor
	Row0 int64
}

// PackedGemm computes C = (Accumulate ? C : 0) + Bias + Alpha * A W^T with A [m, Cols], C [m, Rows]; with Transposed Alpha * A W with A
// [m, Rows], C [m, Cols] and no bias. The bits are those of Gemm on the matrix that Unpack gives.
type PackedGemm struct {
	W                      Packed
	A, C, Bias             Tensor
	Alpha                  float32
	Accumulate, Transposed Bool
	_                      int32
}
