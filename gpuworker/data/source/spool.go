package source

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// Spool keeps rows in a file of a scratch folder, so that memory holds two numbers a row, however many there are. Append first, then read;
// reading is safe for concurrent use.
type Spool struct {
	f     *os.File
	w     *bufio.Writer
	ends  []int64
	files []string
	file  []uint16
	rows  []int64 // the number in the row's place
	at    int64
}

// maxSpoolFiles bounds the different file names that places have.
const maxSpoolFiles = 1 << 16

// NewSpool makes an empty spool in dir ("": the system's temporary folder).
func NewSpool(dir string) (*Spool, error) {
	f, err := os.CreateTemp(dir, "rows-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	return &Spool{f: f, w: bufio.NewWriterSize(f, 1<<20)}, nil
}

// Append adds a row.
func (s *Spool) Append(r Row) error {
	name, number := r.Place, int64(0)
	if i := strings.LastIndexByte(r.Place, ':'); i >= 0 {
		if n, err := strconv.ParseInt(r.Place[i+1:], 10, 64); err == nil && n > 0 {
			name, number = r.Place[:i], n
		}
	}
	if len(s.files) == 0 || s.files[len(s.files)-1] != name {
		if len(s.files) == maxSpoolFiles {
			return fmt.Errorf("cannot keep rows of more than %d files", maxSpoolFiles)
		}
		s.files = append(s.files, name)
	}
	if _, err := s.w.Write(r.Raw); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	s.at += int64(len(r.Raw))
	s.ends, s.file, s.rows = append(s.ends, s.at), append(s.file, uint16(len(s.files)-1)), append(s.rows, number)
	return nil
}

// Flush makes everything that was appended readable.
func (s *Spool) Flush() error {
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return nil
}

// Len is the number of rows.
func (s *Spool) Len() int { return len(s.ends) }

// Place is where row i stood.
func (s *Spool) Place(i int) string {
	if s.rows[i] == 0 {
		return s.files[s.file[i]]
	}
	return placeOf(s.files[s.file[i]], s.rows[i])
}

// Row reads row i.
func (s *Spool) Row(i int) (Row, error) {
	if i < 0 || i >= len(s.ends) {
		return Row{}, fmt.Errorf("cannot read row %d of %d", i, len(s.ends))
	}
	from := int64(0)
	if i > 0 {
		from = s.ends[i-1]
	}
	raw := make(json.RawMessage, s.ends[i]-from)
	if _, err := s.f.ReadAt(raw, from); err != nil {
		return Row{}, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return Row{Place: s.Place(i), Raw: raw}, nil
}

// Close removes the file.
func (s *Spool) Close() error { return errors.Join(s.f.Close(), os.Remove(s.f.Name())) }
