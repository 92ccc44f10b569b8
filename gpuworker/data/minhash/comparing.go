package minhash

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
)

// comparing compares the rows that share keys, in their order.
//
// The rows that are kept, and that others are compared with, are taken in blocks of bounded size. A pass reads the rows from the first undecided one on and
// fills a block; what comes behind is compared with it too, and its best match, if any, is carried to the next pass in a scratch file. So each row meets
// every earlier one that is kept and shares a key, and the matches are those that one block of all rows would give.
type comparing struct {
	s    *Spilled
	skip func(row int) bool
	take func(Match) error
	// begin and after are where this pass and the one behind it begin.
	begin, after place
	// r reads sets in the order of rows, next is where it is.
	r    *bufio.Reader
	next place
	// full says that the block takes no more rows; waiting that some that belong into one come behind it, of that these are of the first group.
	full, waiting, ofWaits bool
	// shared are the numbers of the keys of the row.
	shared []int32
	// head and chain list the rows of the block for every key, by their places in kept; in both 0 is none, others are one more.
	head  map[int32]int32
	chain []link
	kept  []keptSet
	query int32
	set   Set
	own   look // of set
	other Set
	buf   []byte
	// held are the words of the first rows of the block.
	held Set
	// last are the matches that the pass before carried, now those of this one.
	last, now *carried
}

// place is a row, and the byte where its set begins.
type place struct {
	row int
	at  int64
}

type link struct{ kept, next int32 }

// keptSet is where the set of a kept row is: in the file, or, when at is negative, at ^at in memory.
type keptSet struct {
	look
	at  int64
	row int32
}

// found is the best match of a row so far; of is negative where there is none.
type found struct {
	of         int32
	similarity float64
}

var nothing = found{of: -1}

func newComparing(s *Spilled, skip func(row int) bool, take func(Match) error) *comparing {
	return &comparing{s: s, skip: skip, take: take, head: map[int32]int32{}, r: bufio.NewReaderSize(nil, 256<<10)}
}

// close removes the scratch files.
func (c *comparing) close() error { return errors.Join(c.last.close(), c.now.close()) }

// pass fills a block and decides the rows up to its last one; more says that others are left.
func (c *comparing) pass(shared *extsort.Sorter) (more bool, err error) {
	c.begin = c.after
	c.next = c.begin
	c.r.Reset(io.NewSectionReader(c.s.file, c.begin.at, math.MaxInt64-c.begin.at))
	c.full, c.waiting, c.ofWaits, c.query = false, false, false, 0
	clear(c.head)
	c.chain, c.kept, c.held = c.chain[:0], c.kept[:0], c.held[:0]
	old := c.last
	c.last, c.now = c.now, nil
	if err := old.close(); err != nil {
		return false, err
	}
	if c.last != nil {
		if err := c.last.rewind(); err != nil {
			return false, err
		}
	}
	row := -1
	err = shared.Each(func(r []byte) error {
		if at := int(binary.BigEndian.Uint64(r)); at != row {
			if err := c.row(row); err != nil {
				return err
			}
			row, c.shared = at, c.shared[:0]
		}
		c.shared = append(c.shared, int32(binary.BigEndian.Uint64(r[8:])))
		return nil
	})
	if err != nil {
		return false, err
	}
	err = c.row(row)
	return c.waiting, err
}

// row compares a row, and keeps it when it is to be compared with.
func (c *comparing) row(row int) error {
	if row < c.begin.row || c.skip != nil && c.skip(row) {
		return nil
	}
	of := row < c.s.others
	if of && c.full {
		c.waiting, c.ofWaits = true, true
		return nil
	}
	at, err := c.read(row)
	if err != nil {
		return err
	}
	if !of {
		best, err := c.find(row)
		if err != nil {
			return err
		}
		if c.full && (!c.s.apart || c.ofWaits) {
			c.waiting = true
			return c.carry(row, best)
		}
		if best.of >= 0 {
			return c.take(Match{Row: row - c.s.others, Of: int(best.of), Similarity: best.similarity})
		}
		if c.s.apart {
			return nil
		}
	}
	c.keep(row, at)
	return nil
}

// keep adds the row whose set begins at a byte to the block.
func (c *comparing) keep(row int, at int64) {
	if len(c.held)+len(c.set) <= c.s.held {
		at = ^int64(len(c.held))
		c.held = append(c.held, c.set...)
	}
	c.kept = append(c.kept, keptSet{at: at, row: int32(row), look: c.own})
	for _, k := range c.shared {
		c.chain = append(c.chain, link{int32(len(c.kept) - 1), c.head[k]})
		c.head[k] = int32(len(c.chain))
	}
	if len(c.kept) >= blockRows || len(c.chain) >= c.s.links {
		c.full, c.after = true, c.next
	}
}

// find is Index.Find over the block and those before it.
func (c *comparing) find(row int) (found, error) {
	before, err := c.last.of(row)
	if err != nil {
		return nothing, err
	}
	c.query++
	best, similarity := -1, before.similarity
	for _, k := range c.shared {
		for e := c.head[k]; e > 0; e = c.chain[e-1].next {
			i := int(c.chain[e-1].kept)
			x := &c.kept[i]
			if x.seen == c.query {
				continue
			}
			if x.seen = c.query; !c.own.similar(&x.look, c.s.threshold, c.s.alike) {
				continue
			}
			other, err := c.load(x)
			if err != nil {
				return nothing, err
			}
			if j := Jaccard(c.set, other); j >= c.s.threshold && (j > similarity || j == similarity && i < best) {
				best, similarity = i, j
			}
		}
	}
	if best < 0 {
		return before, nil
	}
	return found{c.kept[best].row, similarity}, nil
}

// carry keeps the best match of a row for the next pass.
func (c *comparing) carry(row int, best found) (err error) {
	if best.of < 0 {
		return nil
	}
	if c.now == nil {
		if c.now, err = newCarried(c.s.dir); err != nil {
			return err
		}
	}
	return c.now.add(row, best)
}

// read reads the set of a row that is behind those read before, and says where its words are.
func (c *comparing) read(row int) (at int64, err error) {
	var head [4 + len(c.own.sketch)*8]byte
	for {
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, fmt.Errorf("cannot read a scratch file: %w", err)
		}
		n := int(binary.LittleEndian.Uint32(head[:]))
		at = c.next.at + int64(len(head))
		c.next.at = at + 4*int64(n)
		if c.next.row++; c.next.row <= row { // an earlier one
			if _, err := c.r.Discard(4 * n); err != nil {
				return 0, fmt.Errorf("cannot read a scratch file: %w", err)
			}
			continue
		}
		c.own = look{n: int32(n)}
		for i := range c.own.sketch {
			c.own.sketch[i] = binary.LittleEndian.Uint64(head[4+8*i:])
		}
		b := c.bytes(n)
		if _, err := io.ReadFull(c.r, b); err != nil {
			return 0, fmt.Errorf("cannot read a scratch file: %w", err)
		}
		c.set = decode(c.set, b)
		return at, nil
	}
}

// load is the set of a kept row; it is valid until the next call.
func (c *comparing) load(x *keptSet) (Set, error) {
	if x.at < 0 {
		return c.held[^x.at:][:x.n], nil
	}
	b := c.bytes(int(x.n))
	if _, err := c.s.file.ReadAt(b, x.at); err != nil {
		return nil, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	c.other = decode(c.other, b)
	return c.other, nil
}

// bytes is space for n words.
func (c *comparing) bytes(n int) []byte {
	if cap(c.buf) < 4*n {
		c.buf = make([]byte, 4*n)
	}
	return c.buf[:4*n]
}

func decode(into Set, b []byte) Set {
	into = into[:0]
	for ; len(b) > 0; b = b[4:] {
		into = append(into, binary.LittleEndian.Uint32(b))
	}
	return into
}

// carried is a scratch file of matches by ascending rows, written once and read once. A nil one is empty.
type carried struct {
	file *os.File
	w    *bufio.Writer
	r    *bufio.Reader
	// row is that of match, the last one that was read; -1: none.
	row   int
	match found
}

// carriedRecord is a row, the row that it is like, and how much.
const carriedRecord = 4 + 4 + 8

func newCarried(dir string) (*carried, error) {
	f, err := os.CreateTemp(dir, "matches-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	return &carried{file: f, w: bufio.NewWriterSize(f, 64<<10), row: -1}, nil
}

func (c *carried) add(row int, m found) error {
	b := binary.BigEndian.AppendUint32(make([]byte, 0, carriedRecord), uint32(row))
	b = binary.BigEndian.AppendUint32(b, uint32(m.of))
	if _, err := c.w.Write(binary.BigEndian.AppendUint64(b, math.Float64bits(m.similarity))); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return nil
}

// rewind ends writing; of reads then.
func (c *carried) rewind() error {
	if err := c.w.Flush(); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	c.r = bufio.NewReaderSize(io.NewSectionReader(c.file, 0, math.MaxInt64), 64<<10)
	return nil
}

// of is the match of a row behind those asked for before.
func (c *carried) of(row int) (found, error) {
	if c == nil {
		return nothing, nil
	}
	for c.row < row {
		var b [carriedRecord]byte
		if _, err := io.ReadFull(c.r, b[:]); errors.Is(err, io.EOF) {
			return nothing, nil
		} else if err != nil {
			return nothing, fmt.Errorf("cannot read a scratch file: %w", err)
		}
		c.row = int(binary.BigEndian.Uint32(b[:]))
		c.match = found{int32(binary.BigEndian.Uint32(b[4:])), math.Float64frombits(binary.BigEndian.Uint64(b[8:]))}
	}
	if c.row > row {
		return nothing, nil
	}
	return c.match, nil
}

func (c *carried) close() error {
	if c == nil {
		return nil
	}
	return errors.Join(c.file.Close(), os.Remove(c.file.Name()))
}
