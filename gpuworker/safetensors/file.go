package safetensors

import (
	"fmt"
	"io"
	"math"
	"os"

	"github.com/tunefleet/tunefleet/schemas"
)

// File is one open safetensors file. Tensors are read on demand; methods may be called from several goroutines.
type File struct {
	name  string
	r     io.ReaderAt
	close func() error
	base  int64
	infos []Info
	index map[string]int
	meta  map[string]string
}

// Open opens and checks a file below root.
func Open(root *os.Root, name string) (*File, error) {
	if err := CheckPickle(name, nil); err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	if err != nil {
		code := schemas.CodeModel
		if os.IsNotExist(err) {
			code = schemas.CodeNotFound
		}
		return nil, &wrapped{info: schemas.Errorf(code, name, "cannot open weights: %v", schemas.Reason(err)), err: err}
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("not a regular file")
	}
	if err != nil {
		f.Close()
		return nil, &wrapped{info: schemas.Errorf(schemas.CodeModel, name, "cannot open weights: %v", err), err: err}
	}
	sf, err := NewFile(f, st.Size(), name)
	if err != nil {
		f.Close()
		return nil, err
	}
	sf.close = f.Close
	return sf, nil
}

// OpenPath opens a file by its path in the host's file system.
func OpenPath(dir, name string) (*File, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, &wrapped{info: schemas.Errorf(schemas.CodeNotFound, dir, "cannot open folder: %v", schemas.Reason(err)), err: err}
	}
	defer root.Close()
	return Open(root, name)
}

// NewFile checks the header of size bytes behind r. name is used in errors only. Close does not close r.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	infos, meta, base, err := readHeader(r, name, size)
	if err != nil {
		return nil, &wrapped{info: schemas.Errorf(schemas.CodeModel, name, "cannot read safetensors: %v", err), err: err}
	}
	f := &File{name: name, r: r, base: base, infos: infos, meta: meta, index: make(map[string]int, len(infos))}
	for i, t := range infos {
		f.index[t.Name] = i
	}
	return f, nil
}

// Close releases the file.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	c := f.close
	f.close = nil
	return c()
}

// Infos lists the tensors in the order of their bytes.
func (f *File) Infos() []Info { return f.infos }

// Metadata is the header's __metadata__ (may be nil).
func (f *File) Metadata() map[string]string { return f.meta }

// Info finds a tensor by name.
func (f *File) Info(name string) (Info, bool) {
	i, ok := f.index[name]
	if !ok {
		return Info{}, false
	}
	return f.infos[i], true
}

// ReadFloat32 reads len(dst) elements of a floating-point tensor, beginning at element start, converted to float32.
func (f *File) ReadFloat32(name string, start int64, dst []float32) error {
	info, err := f.span(name, start, len(dst))
	if err != nil {
		return err
	}
	switch info.DType {
	case F32:
		return f.readAt(info, start, f32bytes(dst))
	case F16, BF16, F64:
	default:
		return schemas.Errorf(schemas.CodeModel, f.name, "tensor %q is %s, expected a floating-point type", name, info.DType)
	}
	es := info.DType.Size()
	buf := make([]byte, min(int64(len(dst)), 1<<16)*es)
	for len(dst) > 0 {
		n := min(len(dst), int(int64(len(buf))/es))
		b := buf[:int64(n)*es]
		if err := f.readAt(info, start, b); err != nil {
			return err
		}
		convert(info.DType, b, dst[:n])
		dst, start = dst[n:], start+int64(n)
	}
	return nil
}

// Float32 reads a whole floating-point tensor as float32.
func (f *File) Float32(name string) ([]float32, []int64, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, nil, f.missing(name)
	}
	dst := make([]float32, info.Len())
	return dst, info.Shape, f.ReadFloat32(name, 0, dst)
}

// Int64 reads a whole I64 or I32 tensor.
func (f *File) Int64(name string) ([]int64, []int64, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, nil, f.missing(name)
	}
	if info.DType != I64 && info.DType != I32 {
		return nil, nil, schemas.Errorf(schemas.CodeModel, f.name, "tensor %q is %s, expected I64 or I32", name, info.DType)
	}
	b := make([]byte, info.End-info.Begin)
	if err := f.readAt(info, 0, b); err != nil {
		return nil, nil, err
	}
	out := make([]int64, info.Len())
	for i := range out {
		if info.DType == I64 {
			out[i] = int64(le64(b[i*8:]))
		} else {
			out[i] = int64(int32(le32(b[i*4:])))
		}
	}
	return out, info.Shape, nil
}

// Bytes reads the raw bytes of a tensor.
func (f *File) Bytes(name string) ([]byte, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, f.missing(name)
	}
	b := make([]byte, info.End-info.Begin)
	return b, f.readAt(info, 0, b)
}

func (f *File) missing(name string) error {
	return schemas.Errorf(schemas.CodeModel, f.name, "tensor %q is missing", name)
}

func (f *File) span(name string, start int64, n int) (Info, error) {
	info, ok := f.Info(name)
	if !ok {
		return info, f.missing(name)
	}
	if l := info.Len(); start < 0 || start > l || int64(n) > l-start {
		return info, fmt.Errorf("cannot read %d elements at %d of tensor %q: it has %d", n, start, name, l)
	}
	return info, nil
}

func (f *File) readAt(info Info, start int64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	if _, err := f.r.ReadAt(b, f.base+info.Begin+start*info.DType.Size()); err != nil {
		return &wrapped{info: schemas.Errorf(schemas.CodeModel, f.name, "cannot read tensor %q: %v", info.Name, err), err: err}
	}
	return nil
}

func convert(d DType, b []byte, dst []float32) {
	switch d {
	case BF16:
		for i := range dst {
			dst[i] = math.Float32frombits(uint32(b[2*i])<<16 | uint32(b[2*i+1])<<24)
		}
	case F16:
		for i := range dst {
			dst[i] = halfToFloat(uint16(b[2*i]) | uint16(b[2*i+1])<<8)
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(le64(b[8*i:])))
		}
	}
}

// halfToFloat widens an IEEE 754 binary16 number; exact for every input.
func halfToFloat(h uint16) float32 {
	sign := uint32(h>>15) << 31
	exp := uint32(h>>10) & 31
	frac := uint32(h) & 1023
	switch {
	case exp == 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	case exp != 0:
		return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
	case frac == 0:
		return math.Float32frombits(sign)
	}
	v := float32(frac) / (1 << 24)
	if sign != 0 {
		v = -v
	}
	return v
}

func le32(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
