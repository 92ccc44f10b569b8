package source

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
	"sync/atomic"
)

// Spool keeps rows in two scratch files, the rows back to back and an index of their lengths and places by blocks, so that memory holds a few
// bytes for hundreds of rows. Append first, then Flush, then read; reading is safe for concurrent use. What was written can be stored and be
// opened again elsewhere (OpenSpool).
type Spool struct {
	rows, index io.ReaderAt
	own         [2]*os.File // nil for an opened spool
	w, iw       *bufio.Writer
	files       []string
	blocks      []spoolBlock
	n           int64
	at, indexAt int64
	line        int64
	buf         [2 * binary.MaxVarintLen64]byte
	decoded     [16]atomic.Pointer[spoolIndex]
	open        bool // the last block takes more rows
}

// spoolBlock says where a block of rows begins: all of one file.
type spoolBlock struct {
	First   int64 `json:"first"` // number of its first row
	Row     int64 `json:"row"`   // where its first row is
	Index   int64 `json:"index"` // where its index is
	Line    int64 `json:"line"`  // the number in the place of the row before it
	File    int   `json:"file"`
	Rows    int   `json:"rows"`
	IndexTo int64 `json:"index_to"`
}

// spoolIndex is the index of a block: the end of each row and the number in its place (0: the place has none).
type spoolIndex struct {
	block       int
	ends, lines [blockRows]int64
}

const (
	// blockRows is the most rows of a block.
	blockRows = 256
	// maxSpoolFiles bounds the different file names that places have.
	maxSpoolFiles = 1 << 16
)

// NewSpool makes an empty spool in dir ("": the system's temporary folder).
func NewSpool(dir string) (*Spool, error) {
	s := &Spool{}
	for i, name := range []string{"rows-*", "row-index-*"} {
		f, err := os.CreateTemp(dir, name)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("cannot create a scratch file: %w", err), s.Close())
		}
		s.own[i] = f
	}
	s.rows, s.index = s.own[0], s.own[1]
	s.w, s.iw = bufio.NewWriterSize(s.own[0], 1<<20), bufio.NewWriterSize(s.own[1], 64<<10)
	return s, nil
}

// splitPlace cuts "file:row" at the number; 0 when there is none.
func splitPlace(place string) (name string, number int64) {
	if i := strings.LastIndexByte(place, ':'); i >= 0 {
		if n, err := strconv.ParseInt(place[i+1:], 10, 64); err == nil && n > 0 {
			return place[:i], n
		}
	}
	return place, 0
}

// Append adds a row.
func (s *Spool) Append(r Row) error {
	name, number := splitPlace(r.Place)
	if len(s.files) == 0 || s.files[len(s.files)-1] != name {
		if len(s.files) == maxSpoolFiles {
			return fmt.Errorf("cannot keep rows of more than %d files", maxSpoolFiles)
		}
		s.files = append(s.files, name)
		s.line, s.open = 0, false
	}
	if !s.open || s.blocks[len(s.blocks)-1].Rows == blockRows {
		s.blocks = append(s.blocks, spoolBlock{First: s.n, Row: s.at, Index: s.indexAt, Line: s.line, File: len(s.files) - 1})
		s.open = true
	}
	if _, err := s.w.Write(r.Raw); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	k := binary.PutUvarint(s.buf[:], uint64(len(r.Raw)))
	k += binary.PutVarint(s.buf[k:], number-s.line)
	if _, err := s.iw.Write(s.buf[:k]); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	b := &s.blocks[len(s.blocks)-1]
	s.at, s.indexAt, s.line = s.at+int64(len(r.Raw)), s.indexAt+int64(k), number
	b.Rows++
	b.IndexTo = s.indexAt
	s.n++
	return nil
}

// Flush makes everything that was appended readable.
func (s *Spool) Flush() error {
	if s.w == nil {
		return nil
	}
	if err := errors.Join(s.w.Flush(), s.iw.Flush()); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return nil
}

// Len is the number of rows.
func (s *Spool) Len() int { return int(s.n) }

// RowsOf counts the rows of files by their names, in the order of the names; a file that gave no row has none.
func (s *Spool) RowsOf(names []string) []int {
	rows := map[string]int{}
	for _, b := range s.blocks {
		rows[s.files[b.File]] += b.Rows
	}
	out := make([]int, len(names))
	for i, name := range names {
		out[i] = rows[name]
	}
	return out
}

// Bytes is the size of the rows, IndexBytes that of their index.
func (s *Spool) Bytes() int64 { return s.at }

// IndexBytes is the size of the index.
func (s *Spool) IndexBytes() int64 { return s.indexAt }

// Rows and Index read what OpenSpool needs, after Flush.
func (s *Spool) Rows() io.Reader { return io.NewSectionReader(s.rows, 0, s.at) }

// Index reads the index.
func (s *Spool) Index() io.Reader { return io.NewSectionReader(s.index, 0, s.indexAt) }

// spoolHead is what Head stores.
type spoolHead struct {
	Rows   int64        `json:"rows"`
	Bytes  int64        `json:"bytes"`
	Index  int64        `json:"index"`
	Files  []string     `json:"files"`
	Blocks []spoolBlock `json:"blocks"`
}

// Head describes the spool for OpenSpool: a few bytes for each block of rows.
func (s *Spool) Head() (json.RawMessage, error) {
	b, err := json.Marshal(spoolHead{s.n, s.at, s.indexAt, s.files, s.blocks})
	if err != nil {
		return nil, fmt.Errorf("cannot encode the index of rows: %w", err)
	}
	return b, nil
}

// OpenSpool opens stored rows. Close does not close the readers.
func OpenSpool(head json.RawMessage, rows, index io.ReaderAt) (*Spool, error) {
	var h spoolHead
	if err := json.Unmarshal(head, &h); err != nil {
		return nil, fmt.Errorf("cannot read the index of rows: %w", err)
	}
	n := int64(0)
	for _, b := range h.Blocks {
		if b.First != n || b.Rows < 1 || b.Rows > blockRows || b.File < 0 || b.File >= len(h.Files) || b.Index < 0 || b.IndexTo > h.Index || b.Index > b.IndexTo {
			return nil, fmt.Errorf("cannot read the index of rows: block at row %d is broken", b.First)
		}
		n += int64(b.Rows)
	}
	if n != h.Rows {
		return nil, fmt.Errorf("cannot read the index of rows: %d of %d rows are there", n, h.Rows)
	}
	return &Spool{rows: rows, index: index, files: h.Files, blocks: h.Blocks, n: h.Rows, at: h.Bytes, indexAt: h.Index}, nil
}

// block finds the block of a row, and decodes its index.
func (s *Spool) block(i int64) (*spoolIndex, error) {
	k := sort.Search(len(s.blocks), func(k int) bool { return s.blocks[k].First > i }) - 1
	slot := &s.decoded[k%len(s.decoded)]
	if x := slot.Load(); x != nil && x.block == k {
		return x, nil
	}
	b := s.blocks[k]
	raw := make([]byte, b.IndexTo-b.Index)
	if _, err := s.index.ReadAt(raw, b.Index); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	x := &spoolIndex{block: k}
	at, line := b.Row, b.Line
	for r := range b.Rows {
		size, n := binary.Uvarint(raw)
		if n <= 0 {
			return nil, fmt.Errorf("cannot read the index of rows: it ends early")
		}
		delta, m := binary.Varint(raw[n:])
		if m <= 0 {
			return nil, fmt.Errorf("cannot read the index of rows: it ends early")
		}
		raw = raw[n+m:]
		at, line = at+int64(size), line+delta
		x.ends[r], x.lines[r] = at, line
	}
	slot.Store(x)
	return x, nil
}

// find is the range of a row in the rows' file, and its place.
func (s *Spool) find(i int) (from, to int64, place string, err error) {
	if i < 0 || int64(i) >= s.n {
		return 0, 0, "", fmt.Errorf("cannot read row %d of %d", i, s.n)
	}
	x, err := s.block(int64(i))
	if err != nil {
		return 0, 0, "", err
	}
	b := s.blocks[x.block]
	r := int64(i) - b.First
	from, to, place = b.Row, x.ends[r], s.files[b.File]
	if r > 0 {
		from = x.ends[r-1]
	}
	if x.lines[r] != 0 {
		place = placeOf(place, x.lines[r])
	}
	return from, to, place, nil
}

// Place is where row i stood.
func (s *Spool) Place(i int) string {
	_, _, place, err := s.find(i)
	if err != nil {
		return "row " + strconv.Itoa(i+1)
	}
	return place
}

// Row reads row i.
func (s *Spool) Row(i int) (Row, error) {
	from, to, place, err := s.find(i)
	if err != nil {
		return Row{}, err
	}
	raw := make(json.RawMessage, to-from)
	if _, err := s.rows.ReadAt(raw, from); err != nil && !errors.Is(err, io.EOF) {
		return Row{}, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return Row{Place: place, Raw: raw}, nil
}

// Close removes the scratch files.
func (s *Spool) Close() error {
	var errs []error
	for _, f := range s.own {
		if f != nil {
			errs = append(errs, f.Close(), os.Remove(f.Name()))
		}
	}
	return errors.Join(errs...)
}
