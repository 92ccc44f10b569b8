// Package safetensors reads and writes the safetensors format (https://github.com/huggingface/safetensors): an 8-byte little-endian
// header length, a JSON header, and contiguous tensor bytes.
//
// The reader is strict: headers are at most 16 MiB, names are unique, dtypes known, shape products checked for overflow, and the
// tensors must cover the data without overlap, hole or trailing bytes. Files are opened below an os.Root, so that names in an index
// cannot leave the model's folder. Pickle files are refused by extension and by magic number. The writer's bytes depend on its input only.
package safetensors

import (
	"errors"
	"path"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// MaxHeader is the largest accepted JSON header in bytes.
const MaxHeader = 16 << 20

// maxTensors bounds the number of tensors of one file or index.
const maxTensors = 1 << 20

// ErrPickle marks a file that is, or may be, a Python pickle. Loading one can run arbitrary code; it is never read.
var ErrPickle = errors.New("pickle weights are refused")

// DType is the element type in the format's own spelling.
type DType string

// Element types of the format.
const (
	F64  DType = "F64"
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	I64  DType = "I64"
	I32  DType = "I32"
	I16  DType = "I16"
	I8   DType = "I8"
	U64  DType = "U64"
	U32  DType = "U32"
	U16  DType = "U16"
	U8   DType = "U8"
	Bool DType = "BOOL"
)

// Size is the number of bytes of one element, 0 for an unknown type.
func (d DType) Size() int64 {
	switch d {
	case F64, I64, U64:
		return 8
	case F32, I32, U32:
		return 4
	case F16, BF16, I16, U16:
		return 2
	case I8, U8, Bool:
		return 1
	}
	return 0
}

// Info describes one tensor of a file.
type Info struct {
	Name  string
	DType DType
	Shape []int64
	// Begin and End are byte offsets into the data section.
	Begin, End int64
}

// Len is the number of elements.
func (i Info) Len() int64 { return (i.End - i.Begin) / max(1, i.DType.Size()) }

// CheckPickle returns an error wrapping ErrPickle when the file name or the first bytes of the file are those of a pickle or of a
// PyTorch zip archive.
func CheckPickle(name string, head []byte) error {
	switch strings.ToLower(path.Ext(name)) {
	case ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt":
		return pickleError(name)
	}
	if len(head) >= 4 && string(head[:4]) == "PK\x03\x04" {
		return pickleError(name)
	}
	if len(head) >= 2 && head[0] == 0x80 && head[1] >= 1 && head[1] <= 5 && !plausibleHeader(head) {
		return pickleError(name)
	}
	return nil
}

// plausibleHeader reports whether bytes that begin like a pickle are a header length followed by "{".
func plausibleHeader(head []byte) bool { return len(head) >= 9 && head[8] == '{' }

func pickleError(name string) error {
	return &wrapped{info: schemas.Errorf(schemas.CodeModel, name, "%s: a pickle can run code when loaded", ErrPickle).
		WithHint("convert the weights to safetensors"), err: ErrPickle}
}

// wrapped joins an ErrorInfo with a sentinel so that errors.As and errors.Is both find what they look for.
type wrapped struct {
	info *schemas.ErrorInfo
	err  error
}

func (w *wrapped) Error() string   { return w.info.Error() }
func (w *wrapped) Unwrap() []error { return []error{w.info, w.err} }
