package safetensors

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
)

// Entry is one tensor to write. Exactly one of Float32, Int64 and Stream supplies the elements.
type Entry struct {
	Name  string
	Shape []int64
	// DType defaults to F32 with Float32 and I64 with Int64; it must be set with Stream.
	DType   DType
	Float32 []float32
	Int64   []int64
	// Stream writes exactly the tensor's bytes in little-endian order.
	Stream func(w io.Writer) error
}

func (e *Entry) dtype() DType {
	switch {
	case e.DType != "":
		return e.DType
	case e.Int64 != nil:
		return I64
	}
	return F32
}

// Write writes a file. Tensors are ordered as the reference library does (larger element types first, then by name), so equal input
// gives equal bytes whatever the order of entries.
func Write(w io.Writer, entries []Entry, metadata map[string]string) error {
	es := make([]Entry, len(entries))
	copy(es, entries)
	sort.SliceStable(es, func(a, b int) bool {
		if x, y := es[a].dtype().Size(), es[b].dtype().Size(); x != y {
			return x > y
		}
		return es[a].Name < es[b].Name
	})
	header, sizes, err := buildHeader(es, metadata)
	if err != nil {
		return err
	}
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(header)))
	if _, err := w.Write(n[:]); err != nil {
		return err
	}
	if _, err := w.Write(header); err != nil {
		return err
	}
	for i := range es {
		if err := writeData(w, &es[i], sizes[i]); err != nil {
			return fmt.Errorf("cannot write tensor %q: %w", es[i].Name, err)
		}
	}
	return nil
}

func buildHeader(es []Entry, metadata map[string]string) ([]byte, []int64, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	if len(metadata) > 0 {
		m, err := json.Marshal(metadata)
		if err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(&b, `"__metadata__":%s`, m)
	}
	sizes := make([]int64, len(es))
	seen := map[string]bool{"__metadata__": true}
	at := int64(0)
	for i := range es {
		e := &es[i]
		if seen[e.Name] {
			return nil, nil, fmt.Errorf("duplicate or reserved tensor name %q", e.Name)
		}
		seen[e.Name] = true
		if e.dtype().Size() == 0 {
			return nil, nil, fmt.Errorf("tensor %q: unknown dtype %q", e.Name, e.DType)
		}
		size, err := byteSize(e.dtype(), e.Shape)
		if err != nil {
			return nil, nil, fmt.Errorf("tensor %q: %w", e.Name, err)
		}
		if e.Stream == nil && int64(len(e.Float32)*4+len(e.Int64)*8) != size {
			return nil, nil, fmt.Errorf("tensor %q: %d values do not fit %s %v", e.Name, len(e.Float32)+len(e.Int64), e.dtype(), e.Shape)
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(e.Name)
		if err != nil {
			return nil, nil, err
		}
		shape := e.Shape
		if shape == nil {
			shape = []int64{}
		}
		dims, err := json.Marshal(shape)
		if err != nil {
			return nil, nil, err
		}
		fmt.Fprintf(&b, `%s:{"dtype":"%s","shape":%s,"data_offsets":[%d,%d]}`, name, e.dtype(), dims, at, at+size)
		sizes[i] = size
		at += size
	}
	b.WriteByte('}')
	for b.Len()%8 != 0 {
		b.WriteByte(' ')
	}
	if b.Len() > MaxHeader {
		return nil, nil, fmt.Errorf("header of %d bytes exceeds the limit of %d", b.Len(), MaxHeader)
	}
	return b.Bytes(), sizes, nil
}

func writeData(w io.Writer, e *Entry, size int64) error {
	switch {
	case e.Stream != nil:
		c := &countWriter{w: w}
		if err := e.Stream(c); err != nil {
			return err
		}
		if c.n != size {
			return fmt.Errorf("stream wrote %d bytes, expected %d", c.n, size)
		}
		return nil
	case e.Int64 != nil:
		_, err := w.Write(i64bytes(e.Int64))
		return err
	}
	_, err := w.Write(f32bytes(e.Float32))
	return err
}

type countWriter struct {
	w io.Writer
	n int64
}

func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// WriteFile writes name below root by way of a temporary file that is synced and renamed, so that a reader never sees half a file.
func WriteFile(root *os.Root, name string, entries []Entry, metadata map[string]string) (err error) {
	tmp := name + ".part"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", name, err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("cannot write %s: %w", name, errors.Join(err, root.Remove(tmp)))
		}
	}()
	bw := bufio.NewWriterSize(f, 1<<16)
	err = Write(bw, entries, metadata)
	if err == nil {
		err = bw.Flush()
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return root.Rename(tmp, name)
}
