package source

import (
	"encoding/binary"
	"fmt"
	"io"
)

// maxMetadata bounds the metadata of one Arrow message, maxFields the fields of a schema.
const (
	maxMetadata = 64 << 20
	maxFields   = 1 << 16
)

// checkArrow walks the messages of an Arrow stream and the schema's fields before the library reads them: the library takes the lengths of
// vectors and bodies from the file as they are. Positions of FlatBuffers are checked against the message that they lie in.
func checkArrow(r io.ReaderAt, size int64) error {
	var at int64
	for at < size {
		var head [8]byte
		n, err := r.ReadAt(head[:], at)
		if n < 4 {
			return fmt.Errorf("message at byte %d: %w", at, err)
		}
		length := int64(int32(binary.LittleEndian.Uint32(head[:])))
		at += 4
		if length == -1 { // the marker of newer versions
			if n < 8 {
				return io.ErrUnexpectedEOF
			}
			length = int64(int32(binary.LittleEndian.Uint32(head[4:])))
			at += 4
		}
		if length == 0 {
			return nil // the end of the stream
		}
		if length < 0 || length > maxMetadata || at+length > size {
			return fmt.Errorf("message at byte %d claims %d bytes of metadata", at, length)
		}
		meta := make([]byte, length)
		if _, err := r.ReadAt(meta, at); err != nil {
			return err
		}
		at += length
		body, err := checkMessage(meta)
		if err != nil {
			return fmt.Errorf("message at byte %d: %w", at-length, err)
		}
		if body < 0 || at+body > size {
			return fmt.Errorf("message at byte %d claims a body of %d bytes", at-length, body)
		}
		at += body
	}
	return nil
}

// flat reads a FlatBuffer; the first position out of range is kept in bad.
type flat struct {
	b   []byte
	bad bool
}

func (f *flat) u32(at int) int {
	if at < 0 || at+4 > len(f.b) {
		f.bad = true
		return 0
	}
	return int(binary.LittleEndian.Uint32(f.b[at:]))
}

func (f *flat) u16(at int) int {
	if at < 0 || at+2 > len(f.b) {
		f.bad = true
		return 0
	}
	return int(binary.LittleEndian.Uint16(f.b[at:]))
}

// field is the position of a table's field by its slot, 0 when it has none.
func (f *flat) field(table, slot int) int {
	vtable := table - int(int32(uint32(f.u32(table))))
	size := f.u16(vtable)
	if f.bad || vtable < 0 || size < 4 || vtable+size > len(f.b) {
		f.bad = true
		return 0
	}
	if f.u16(vtable+2) < 4 || table+f.u16(vtable+2) > len(f.b) {
		f.bad = true
		return 0
	}
	if 4+2*slot >= size { // as the library has it, for a table of odd size, too
		return 0
	}
	off := f.u16(vtable + 4 + 2*slot)
	if off == 0 {
		return 0
	}
	return table + off
}

// follow is the position that an offset points at.
func (f *flat) follow(at int) int { return at + f.u32(at) }

// vector is the first position and the length of a vector whose elements have size bytes.
func (f *flat) vector(at, size int) (first, n int) {
	v := f.follow(at)
	n = f.u32(v)
	if f.bad || n < 0 || v+4+n*size > len(f.b) || v+4+n*size < v {
		f.bad = true
		return 0, 0
	}
	return v + 4, n
}

// checkMessage checks a message's tables and returns the length of its body.
func checkMessage(meta []byte) (body int64, err error) {
	f := &flat{b: meta}
	root := f.follow(0)
	kind, header, bodyAt := 0, f.field(root, 2), f.field(root, 3)
	if k := f.field(root, 1); k > 0 && k < len(meta) {
		kind = int(meta[k])
	}
	if bodyAt > 0 {
		if bodyAt+8 > len(meta) {
			return 0, fmt.Errorf("its metadata are broken")
		}
		body = int64(binary.LittleEndian.Uint64(meta[bodyAt:]))
	}
	f.pairs(f.field(root, 4))
	if header > 0 && !f.bad {
		table := f.follow(header)
		switch kind {
		case 1: // schema
			left := maxFields
			f.fields(f.field(table, 1), &left, 0)
			f.pairs(f.field(table, 2))
		case 2: // dictionary batch: its record batch is one level down
			if at := f.field(table, 1); at > 0 && !f.bad {
				f.batch(f.follow(at))
			}
		case 3: // record batch
			f.batch(table)
		}
	}
	if f.bad {
		return 0, fmt.Errorf("its metadata are broken")
	}
	return body, nil
}

// fields checks a vector of fields and what lies below them.
func (f *flat) fields(at int, left *int, depth int) {
	if at == 0 || f.bad {
		return
	}
	first, n := f.vector(at, 4)
	for i := range n {
		if *left--; *left < 0 || depth > 64 || f.bad {
			f.bad = true
			return
		}
		table := f.follow(first + 4*i)
		if name := f.field(table, 0); name > 0 {
			f.vector(name, 1)
		}
		f.fields(f.field(table, 5), left, depth+1)
		f.pairs(f.field(table, 6))
	}
}

// pairs checks a vector of keys and values.
func (f *flat) pairs(at int) {
	if at == 0 || f.bad {
		return
	}
	first, n := f.vector(at, 4)
	for i := range n {
		table := f.follow(first + 4*i)
		for slot := range 2 {
			if s := f.field(table, slot); s > 0 {
				f.vector(s, 1)
			}
		}
		if f.bad {
			return
		}
	}
}

// batch checks the vectors of nodes and buffers: both have elements of 16 bytes.
func (f *flat) batch(table int) {
	for _, slot := range []int{1, 2} {
		if at := f.field(table, slot); at > 0 && !f.bad {
			f.vector(at, 16)
		}
	}
}
