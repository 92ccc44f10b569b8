// Package extsort sorts records of one size by their bytes in bounded memory: full buffers are sorted and written to a scratch file, and read
// back merged.
package extsort

import (
	"bufio"
	"bytes"
	"cmp"
	"container/heap"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"sync"
)

// Sorter collects records. Add all, then read them with Each, as often as wanted; Close removes the scratch file.
type Sorter struct {
	dir        string
	size, most int
	buf        []byte
	// file has the sorted runs, one behind the other; they end at the bytes ends. nil as long as there is none.
	file *os.File
	ends []int64
}

// Buffers that runs are read through: all together have mergeBytes, each at least leastBuffer.
const (
	mergeBytes  = 8 << 20
	mostBuffer  = 256 << 10
	leastBuffer = 8 << 10
)

// New makes a sorter of records of size bytes that holds at most so many records in memory; its scratch file is made in dir ("": the
// system's temporary folder).
func New(dir string, size, most int) *Sorter {
	return &Sorter{dir: dir, size: size, most: max(1, most)}
}

// Add appends a record, which is copied. It must have the sorter's size.
func (s *Sorter) Add(record []byte) error {
	if len(record) != s.size {
		return fmt.Errorf("cannot sort a record of %d bytes among records of %d", len(record), s.size)
	}
	s.buf = append(s.buf, record...)
	if len(s.buf) < s.most*s.size {
		return nil
	}
	return s.spill()
}

// spill writes what is in memory as a sorted run.
func (s *Sorter) spill() error {
	if len(s.buf) == 0 {
		return nil
	}
	sortRecords(s.buf, s.size)
	if s.file == nil {
		f, err := os.CreateTemp(s.dir, "sorted-*")
		if err != nil {
			return fmt.Errorf("cannot create a scratch file: %w", err)
		}
		s.file = f
	}
	if _, err := s.file.Write(s.buf); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	s.ends = append(s.ends, s.begin(len(s.ends))+int64(len(s.buf)))
	s.buf = s.buf[:0]
	return nil
}

// begin is where a run begins.
func (s *Sorter) begin(run int) int64 {
	if run == 0 {
		return 0
	}
	return s.ends[run-1]
}

// Each gives every record in ascending order of its bytes to f; equal ones follow each other. The record is valid until f returns. An error of
// f ends it.
func (s *Sorter) Each(f func(record []byte) error) error {
	if s.file != nil {
		if err := s.spill(); err != nil {
			return err
		}
		s.buf = nil
	} else {
		sortRecords(s.buf, s.size)
	}
	var m merge
	add := func(r io.Reader) error {
		run := &run{r: r, record: make([]byte, s.size)}
		ok, err := run.next()
		if ok {
			m = append(m, run)
		}
		return err
	}
	if s.file == nil {
		if err := add(bytes.NewReader(s.buf)); err != nil {
			return err
		}
	}
	buffer := min(mostBuffer, max(leastBuffer, mergeBytes/max(1, len(s.ends))))
	for i, end := range s.ends {
		if err := add(bufio.NewReaderSize(io.NewSectionReader(s.file, s.begin(i), end-s.begin(i)), buffer)); err != nil {
			return err
		}
	}
	heap.Init(&m)
	for len(m) > 0 {
		if err := f(m[0].record); err != nil {
			return err
		}
		ok, err := m[0].next()
		switch {
		case err != nil:
			return err
		case ok:
			heap.Fix(&m, 0)
		default:
			heap.Pop(&m)
		}
	}
	return nil
}

// Close removes the scratch file.
func (s *Sorter) Close() error {
	f := s.file
	s.file, s.ends, s.buf = nil, nil, nil
	if f == nil {
		return nil
	}
	return errors.Join(f.Close(), os.Remove(f.Name()))
}

// sortRecords sorts records that lie back to back. Those of 16 bytes, of which there are most, are sorted as numbers, halves of many at a time,
// which is faster.
func sortRecords(b []byte, size int) {
	if size != 16 {
		sort.Sort(&records{b: b, size: size, tmp: make([]byte, size)})
		return
	}
	pairs := make([][2]uint64, len(b)/size)
	for i := range pairs {
		pairs[i] = [2]uint64{binary.BigEndian.Uint64(b[i*size:]), binary.BigEndian.Uint64(b[i*size+8:])}
	}
	var lower, upper [][2]uint64
	if len(pairs) < bothHalves {
		slices.SortFunc(pairs, comparePairs)
		upper = pairs
	} else {
		lower, upper = pairs[:len(pairs)/2], pairs[len(pairs)/2:]
		var wg sync.WaitGroup
		wg.Go(func() { slices.SortFunc(lower, comparePairs) })
		slices.SortFunc(upper, comparePairs)
		wg.Wait()
	}
	for i := 0; len(lower)+len(upper) > 0; i++ {
		from := &upper
		if len(upper) == 0 || len(lower) > 0 && comparePairs(lower[0], upper[0]) <= 0 {
			from = &lower
		}
		binary.BigEndian.PutUint64(b[i*size:], (*from)[0][0])
		binary.BigEndian.PutUint64(b[i*size+8:], (*from)[0][1])
		*from = (*from)[1:]
	}
}

// bothHalves is from how many records on two halves are sorted at a time.
const bothHalves = 1 << 14

func comparePairs(x, y [2]uint64) int {
	switch {
	case x[0] < y[0]:
		return -1
	case x[0] > y[0]:
		return 1
	}
	return cmp.Compare(x[1], y[1])
}

// records sorts records that lie back to back.
type records struct {
	b, tmp []byte
	size   int
}

func (r *records) at(i int) []byte { return r.b[i*r.size : (i+1)*r.size] }

// Len implements sort.Interface.
func (r *records) Len() int { return len(r.b) / r.size }

// Less implements sort.Interface.
func (r *records) Less(i, j int) bool { return bytes.Compare(r.at(i), r.at(j)) < 0 }

// Swap implements sort.Interface.
func (r *records) Swap(i, j int) {
	copy(r.tmp, r.at(i))
	copy(r.at(i), r.at(j))
	copy(r.at(j), r.tmp)
}

// run is a sorted file that is being merged.
type run struct {
	r      io.Reader
	record []byte
}

// next reads the next record; false at the end.
func (r *run) next() (bool, error) {
	_, err := io.ReadFull(r.r, r.record)
	if errors.Is(err, io.EOF) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return true, nil
}

// merge is a heap of runs by their current record.
type merge []*run

// Len implements heap.Interface.
func (m merge) Len() int { return len(m) }

// Less implements heap.Interface.
func (m merge) Less(i, j int) bool { return bytes.Compare(m[i].record, m[j].record) < 0 }

// Swap implements heap.Interface.
func (m merge) Swap(i, j int) { m[i], m[j] = m[j], m[i] }

// Push implements heap.Interface.
func (m *merge) Push(x any) { *m = append(*m, x.(*run)) } //nolint:forcetypeassert // heap pushes what merge holds

// Pop implements heap.Interface.
func (m *merge) Pop() any {
	old := *m
	x := old[len(old)-1]
	*m = old[:len(old)-1]
	return x
}
