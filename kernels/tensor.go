package kernels

import "fmt"

// Addr is an address in device memory; 0 is absent. Go code never dereferences one.
type Addr uint64

// DType is the type of a tensor's elements.
type DType int32

// The element types (TF_F32 ... of tunefleet.h).
const (
	F32  DType = 1
	F64  DType = 2
	BF16 DType = 3
	F16  DType = 4
	I32  DType = 5
	I64  DType = 6
	U8   DType = 7
	I8   DType = 8
)

// Size is the bytes of one element, 0 for an unknown type.
func (d DType) Size() int64 {
	switch d {
	case F64, I64:
		return 8
	case F32, I32:
		return 4
	case BF16, F16:
		return 2
	case U8, I8:
		return 1
	}
	return 0
}

func (d DType) String() string {
	switch d {
	case F32:
		return "f32"
	case F64:
		return "f64"
	case BF16:
		return "bf16"
	case F16:
		return "f16"
	case I32:
		return "i32"
	case I64:
		return "i64"
	case U8:
		return "u8"
	case I8:
		return "i8"
	}
	return fmt.Sprintf("DType(%d)", int32(d))
}

// MaxRank is the most dimensions a Tensor has.
const MaxRank = 5

// Tensor is a strided view of device memory, laid out as tf_tensor. Strides count elements. The zero Tensor is absent (an optional
// operand left out). A view that cannot be made (a dimension out of range, a reshape of what is not contiguous) is an invalid Tensor
// (rank -1): every operation refuses it, so that the error appears on the queue and view code needs no error paths.
type Tensor struct {
	Data   Addr
	DType  DType
	Rank   int32
	Dim    [MaxRank]int64
	Stride [MaxRank]int64
}

var invalid = Tensor{Rank: -1}

// NewTensor is a contiguous tensor at addr.
func NewTensor(addr Addr, dt DType, dims ...int64) Tensor {
	if len(dims) > MaxRank {
		return invalid
	}
	t := Tensor{Data: addr, DType: dt, Rank: int32(len(dims))}
	stride := int64(1)
	for i := len(dims) - 1; i >= 0; i-- {
		if dims[i] < 0 {
			return invalid
		}
		t.Dim[i], t.Stride[i] = dims[i], stride
		stride *= dims[i]
	}
	return t
}

// Present reports whether the tensor is there (possibly invalid): false for the zero Tensor.
func (t Tensor) Present() bool { return t.Data != 0 || t.Rank < 0 }

// Valid reports whether the tensor is a usable view.
func (t Tensor) Valid() bool { return t.Rank >= 0 && t.DType.Size() > 0 }

// Shape is a copy of the dimensions.
func (t Tensor) Shape() []int64 {
	if t.Rank < 0 {
		return nil
	}
	return append([]int64(nil), t.Dim[:t.Rank]...)
}

// Numel is the number of elements.
func (t Tensor) Numel() int64 {
	n := int64(1)
	for i := range max(t.Rank, 0) {
		n *= t.Dim[i]
	}
	return n
}

// Bytes is the size of the elements (not of gaps between them).
func (t Tensor) Bytes() int64 { return t.Numel() * t.DType.Size() }

// Contiguous reports whether the elements lie in row-major order without gaps.
func (t Tensor) Contiguous() bool {
	stride := int64(1)
	for i := t.Rank - 1; i >= 0; i-- {
		if t.Dim[i] != 1 && t.Stride[i] != stride {
			return false
		}
		stride *= t.Dim[i]
	}
	return t.Rank >= 0
}

// Reshape is the same memory with other dimensions. A contiguous tensor takes any; otherwise the last dimensions may be regrouped
// where the memory allows it (split, or joined when adjacent strides fit). One dimension may be -1.
func (t Tensor) Reshape(dims ...int64) Tensor {
	if t.Rank < 0 || len(dims) > MaxRank {
		return invalid
	}
	known, infer := int64(1), -1
	for i, d := range dims {
		switch {
		case d == -1 && infer < 0:
			infer = i
		case d < 0:
			return invalid
		default:
			known *= d
		}
	}
	r := Tensor{Data: t.Data, DType: t.DType, Rank: int32(len(dims))}
	copy(r.Dim[:], dims)
	if infer >= 0 {
		if known == 0 || t.Numel()%known != 0 {
			return invalid
		}
		r.Dim[infer] = t.Numel() / known
	}
	if r.Numel() != t.Numel() {
		return invalid
	}
	if t.Contiguous() {
		return NewTensor(t.Data, t.DType, r.Dim[:r.Rank]...)
	}
	return t.restride(r)
}

// restride finds strides for r's dimensions over t's memory (the algorithm of PyTorch's computeStride): each stretch of evenly spaced
// elements of t, from the last on, must be filled by whole dimensions of r.
func (t Tensor) restride(r Tensor) Tensor {
	j := r.Rank - 1
	base, have, made := t.Stride[t.Rank-1], int64(1), int64(1)
	for i := t.Rank - 1; i >= 0; i-- {
		have *= t.Dim[i]
		if i > 0 && (t.Dim[i-1] == 1 || t.Stride[i-1] == have*base) {
			continue
		}
		for ; j >= 0 && (made < have || r.Dim[j] == 1); j-- {
			r.Stride[j] = made * base
			made *= r.Dim[j]
		}
		if made != have {
			return invalid
		}
		if i > 0 {
			base, have, made = t.Stride[i-1], 1, 1
		}
	}
	if j != -1 {
		return invalid
	}
	return r
}

// Slice keeps [lo, hi) of dimension dim.
func (t Tensor) Slice(dim int, lo, hi int64) Tensor {
	if t.Rank < 0 || dim < 0 || dim >= int(t.Rank) || lo < 0 || hi < lo || hi > t.Dim[dim] {
		return invalid
	}
	t.Data += Addr(lo * t.Stride[dim] * t.DType.Size())
	t.Dim[dim] = hi - lo
	return t
}

// Select is element i of dimension dim, which disappears.
func (t Tensor) Select(dim int, i int64) Tensor {
	s := t.Slice(dim, i, i+1)
	if s.Rank < 0 {
		return invalid
	}
	copy(s.Dim[dim:], s.Dim[dim+1:])
	copy(s.Stride[dim:], s.Stride[dim+1:])
	s.Rank--
	s.Dim[s.Rank], s.Stride[s.Rank] = 0, 0
	return s
}

// Transpose swaps two dimensions.
func (t Tensor) Transpose(a, b int) Tensor {
	if t.Rank < 0 || a < 0 || b < 0 || a >= int(t.Rank) || b >= int(t.Rank) {
		return invalid
	}
	t.Dim[a], t.Dim[b] = t.Dim[b], t.Dim[a]
	t.Stride[a], t.Stride[b] = t.Stride[b], t.Stride[a]
	return t
}

// T is the transposed matrix.
func (t Tensor) T() Tensor {
	if t.Rank != 2 {
		return invalid
	}
	return t.Transpose(0, 1)
}

// Unsqueeze inserts a dimension of 1 before dim.
func (t Tensor) Unsqueeze(dim int) Tensor {
	if t.Rank < 0 || t.Rank >= MaxRank || dim < 0 || dim > int(t.Rank) {
		return invalid
	}
	copy(t.Dim[dim+1:], t.Dim[dim:t.Rank])
	copy(t.Stride[dim+1:], t.Stride[dim:t.Rank])
	t.Dim[dim], t.Stride[dim] = 1, 1
	t.Rank++
	return t
}

func (t Tensor) String() string {
	if t.Rank < 0 {
		return "invalid"
	}
	if !t.Present() {
		return "absent"
	}
	s := fmt.Sprintf("%s%v", t.DType, t.Dim[:t.Rank])
	if !t.Contiguous() {
		s += fmt.Sprintf(" strides %v", t.Stride[:t.Rank])
	}
	return s
}
