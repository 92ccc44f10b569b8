package data

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
)

// RowFile is a file of rows, one behind the other, exactly as they are in memory: JSON would change text that is not UTF-8. Each row is
// uvarint Index+1, then the texts, each behind its uvarint length, in the order of rowTexts, and the JSON of Origin, empty where there is none.
type RowFile struct {
	f    *os.File
	w    *bufio.Writer
	sum  hash.Hash
	buf  []byte
	rows int64
	size int64
}

// maxRowText bounds one text of a stored row: a row is at most 16 MiB when it is read, and a column may be used several times.
const maxRowText = 1 << 30

// rowTexts are the texts of a row in the order of the file.
func rowTexts(r *Row) []*string {
	return []*string{&r.Text, &r.System, &r.Prompt, &r.Response, &r.Label, &r.Explanation, &r.Group, &r.Split}
}

// NewRowFile makes an empty file of rows in dir ("": the system's temporary folder) that buffers so many bytes. The caller closes it.
func NewRowFile(dir string, buffer int) (*RowFile, error) {
	f, err := os.CreateTemp(dir, "rows-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	s := sha256.New()
	return &RowFile{f: f, sum: s, w: bufio.NewWriterSize(io.MultiWriter(f, s), buffer)}, nil
}

// Add appends a row.
func (w *RowFile) Add(r *Row) error {
	w.buf = binary.AppendUvarint(w.buf[:0], uint64(r.Index)+1)
	for _, s := range rowTexts(r) {
		w.buf = binary.AppendUvarint(w.buf, uint64(len(*s)))
		w.buf = append(w.buf, *s...)
	}
	var origin []byte
	if r.Origin != nil {
		var err error
		if origin, err = json.Marshal(r.Origin); err != nil {
			return fmt.Errorf("cannot encode a row: %w", err)
		}
	}
	w.buf = binary.AppendUvarint(w.buf, uint64(len(origin)))
	w.buf = append(w.buf, origin...)
	if _, err := w.w.Write(w.buf); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	w.rows++
	w.size += int64(len(w.buf))
	return nil
}

// Offset is where the next row that is added will begin (At).
func (w *RowFile) Offset() int64 { return w.size }

// At reads the row of the finished file that begins at an offset.
func (w *RowFile) At(offset int64) (*Row, error) {
	return (&rowReader{in: bufio.NewReaderSize(io.NewSectionReader(w.f, offset, w.size-offset), 4<<10), name: "scratch file"}).next()
}

// Len is the number of rows added.
func (w *RowFile) Len() int64 { return w.rows }

// Finish makes everything that was added readable and returns the file's size and SHA-256.
func (w *RowFile) Finish() (size int64, sum string, err error) {
	if err := w.w.Flush(); err != nil {
		return 0, "", fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return w.size, hex.EncodeToString(w.sum.Sum(nil)), nil
}

// Reader reads the finished file from its beginning.
func (w *RowFile) Reader() *io.SectionReader { return io.NewSectionReader(w.f, 0, w.size) }

// Close removes the file.
func (w *RowFile) Close() error { return errors.Join(w.f.Close(), os.Remove(w.f.Name())) }

// EachStoredRow gives every row of a file that RowFile wrote to f, in order; name is for messages. Errors are f's, or CodeData.
func EachStoredRow(r io.Reader, name string, f func(*Row) error) error {
	in := &rowReader{in: bufio.NewReaderSize(r, 256<<10), name: name}
	for {
		row, err := in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := f(row); err != nil {
			return err
		}
	}
}

// rowReader reads what RowFile wrote.
type rowReader struct {
	in   *bufio.Reader
	name string
	buf  []byte
}

func (r *rowReader) bad(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return schemas.Errorf(schemas.CodeData, r.name, "is no file of rows: %v", err)
}

// next is the next row; io.EOF behind the last one, else CodeData.
func (r *rowReader) next() (*Row, error) {
	index, err := binary.ReadUvarint(r.in)
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err != nil || index == 0 || index > 1<<40 {
		return nil, r.bad(errors.Join(err, fmt.Errorf("a row has the number %d", index)))
	}
	row := &Row{Index: int(index - 1)}
	for _, s := range rowTexts(row) {
		b, err := r.text()
		if err != nil {
			return nil, r.bad(err)
		}
		*s = string(b)
	}
	b, err := r.text()
	if err != nil {
		return nil, r.bad(err)
	}
	if len(b) > 0 {
		row.Origin = &Origin{}
		if err := json.Unmarshal(b, row.Origin); err != nil {
			return nil, r.bad(err)
		}
	}
	return row, nil
}

// text is the next text; it is valid until the one after.
func (r *rowReader) text() ([]byte, error) {
	n, err := binary.ReadUvarint(r.in)
	if err != nil {
		return nil, err
	}
	if n > maxRowText {
		return nil, fmt.Errorf("a text would have %d bytes", n)
	}
	r.buf = r.buf[:0]
	for n > 0 { // a length that is a lie costs no more than what is there
		k := min(n, 1<<20)
		r.buf = slices.Grow(r.buf, int(k))[:len(r.buf)+int(k)]
		if _, err := io.ReadFull(r.in, r.buf[len(r.buf)-int(k):]); err != nil {
			return nil, err
		}
		n -= k
	}
	return r.buf, nil
}
