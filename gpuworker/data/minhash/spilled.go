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

// Spilled finds what Duplicates and Overlaps find, in bounded memory: sets and the keys of their bands lie in scratch files. Keys are sorted,
// and only rows that share one with another row are compared, so that memory holds 56 bytes for each of those that is kept, and 12 for every
// key that it shares. Add all rows, then call Each once; Close removes the scratch files. It is not safe for concurrent use.
type Spilled struct {
	dir       string
	threshold float64
	alike     int
	h         *Hasher

	texts []string
	bytes int
	keys  *extsort.Sorter
	file  *os.File
	w     *bufio.Writer
	// rows are those that were added; where two groups are compared (apart), the first of them are others.
	rows, others int
	apart        bool
	// held is heldWords, less in tests.
	held int
}

const (
	// spilledKeys is how many keys are sorted in memory at a time: 16 MiB.
	spilledKeys = 1 << 20
	// batchBytes bounds the texts that are signed together.
	batchBytes = 16 << 20
	// heldWords is how many words of kept rows stay in memory, which is faster: 32 MiB.
	heldWords = 8 << 20
	// keyRecord is a key and a row, or a row and a bucket: big-endian, so that bytes sort as numbers do.
	keyRecord = 16
)

// NewSpilled makes a finder for texts of at least a Jaccard similarity; scratch files are made in dir ("": the system's temporary folder).
func NewSpilled(dir string, threshold float64, shingle int, seed uint64) (*Spilled, error) {
	f, err := os.CreateTemp(dir, "word-sets-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	return &Spilled{dir: dir, threshold: threshold, alike: leastAlike(threshold), h: NewHasher(shingle, seed), file: f, w: bufio.NewWriterSize(f, 256<<10),
		keys: extsort.New(dir, keyRecord, spilledKeys), held: heldWords}, nil
}

// Close removes the scratch files.
func (s *Spilled) Close() error {
	return errors.Join(s.keys.Close(), s.file.Close(), os.Remove(s.file.Name()))
}

// Add appends a row.
func (s *Spilled) Add(text string) error {
	s.texts, s.bytes = append(s.texts, text), s.bytes+len(text)
	if len(s.texts) < batch && s.bytes < batchBytes {
		return nil
	}
	return s.sign()
}

// Others ends the rows that later ones are compared with, as those of an evaluation set: later ones are not compared among themselves, and
// their numbers begin at 0.
func (s *Spilled) Others() error {
	err := s.sign()
	s.others, s.apart = s.rows, true
	return err
}

// sign writes the sets and keys of the rows that are in memory.
func (s *Spilled) sign() error {
	sets, sigs := s.h.SignAll(s.texts)
	clear(s.texts)
	s.texts, s.bytes = s.texts[:0], 0
	var record [keyRecord]byte
	var words []byte
	for i, set := range sets {
		if s.rows == math.MaxInt32 {
			return fmt.Errorf("cannot compare more than %d rows", math.MaxInt32)
		}
		binary.BigEndian.PutUint64(record[8:], uint64(s.rows))
		s.rows++
		words = binary.LittleEndian.AppendUint32(words[:0], uint32(len(set)))
		for _, v := range sketchOf(sigs[i]) {
			words = binary.LittleEndian.AppendUint64(words, v)
		}
		for _, e := range set {
			words = binary.LittleEndian.AppendUint32(words, e)
		}
		_, _ = s.w.Write(words) // a bufio.Writer keeps its first error, which Flush returns
		if len(set) == 0 {
			continue // similar to nothing
		}
		for _, k := range keys(sigs[i]) {
			binary.BigEndian.PutUint64(record[:], k)
			if err := s.keys.Add(record[:]); err != nil {
				return err
			}
		}
	}
	return nil
}

// Each gives the matches to f in the order of rows. Rows that skip (nil: none) names are left out of everything. Without Others a row that is
// similar to an earlier one that is kept is a match, and not kept itself.
func (s *Spilled) Each(skip func(row int) bool, f func(Match) error) (err error) {
	if err := s.sign(); err != nil {
		return err
	}
	if err := s.w.Flush(); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	shared := extsort.New(s.dir, keyRecord, spilledKeys)
	defer func() { err = errors.Join(err, shared.Close()) }()
	buckets, err := s.share(shared)
	if err != nil {
		return err
	}
	c := &comparing{s: s, skip: skip, take: f, r: bufio.NewReaderSize(io.NewSectionReader(s.file, 0, math.MaxInt64), 256<<10), head: make([]int32, buckets)}
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
		return err
	}
	return c.row(row)
}

// share numbers the keys that several rows have, and sorts row and number into shared.
func (s *Spilled) share(shared *extsort.Sorter) (buckets int, err error) {
	var last, out [keyRecord]byte
	n := 0 // rows with the last key
	add := func(r []byte) error {
		copy(out[:8], r[8:])
		binary.BigEndian.PutUint64(out[8:], uint64(buckets-1))
		return shared.Add(out[:])
	}
	err = s.keys.Each(func(r []byte) error {
		if n == 0 || [8]byte(r[:8]) != [8]byte(last[:8]) {
			n = 1
			copy(last[:], r)
			return nil
		}
		if n++; n == 2 {
			if buckets++; buckets > math.MaxInt32 {
				return fmt.Errorf("cannot compare rows that share more than %d keys", math.MaxInt32)
			}
			if err := add(last[:]); err != nil {
				return err
			}
		}
		return add(r)
	})
	return buckets, errors.Join(err, s.keys.Close()) // what was sorted is not needed any more
}

// comparing compares the rows that share keys, in their order.
type comparing struct {
	s    *Spilled
	skip func(row int) bool
	take func(Match) error
	// r reads sets in the order of rows; next is the row that it comes to, at the byte at.
	r    *bufio.Reader
	next int
	at   int64
	// shared are the numbers of the keys of the row.
	shared []int32
	// head and chain list the kept rows of every key, by their places in kept; 0 in head and in chain is none, others are one more.
	head  []int32
	chain []link
	kept  []keptSet
	query int32
	set   Set
	own   look // of set
	other Set
	buf   []byte
	// held are the words of the first rows that are kept.
	held Set
}

type link struct{ kept, next int32 }

// keptSet is where the set of a kept row is: in the file, or, when at is negative, at ^at in memory.
type keptSet struct {
	look
	at  int64
	row int32
}

// row compares a row, and keeps it when it is to be compared with.
func (c *comparing) row(row int) error {
	if row < 0 || c.skip != nil && c.skip(row) {
		return nil
	}
	at, err := c.read(row)
	if err != nil {
		return err
	}
	of := row < c.s.others
	if !of {
		best, similarity, err := c.find()
		if err != nil {
			return err
		}
		if best >= 0 {
			return c.take(Match{Row: row - c.s.others, Of: int(c.kept[best].row), Similarity: similarity})
		}
	}
	if of || !c.s.apart {
		if len(c.held)+len(c.set) <= c.s.held {
			at = ^int64(len(c.held))
			c.held = append(c.held, c.set...)
		}
		c.kept = append(c.kept, keptSet{at: at, row: int32(row), look: c.own})
		for _, k := range c.shared {
			c.chain = append(c.chain, link{int32(len(c.kept) - 1), c.head[k]})
			c.head[k] = int32(len(c.chain))
		}
	}
	return nil
}

// find is Index.Find over the rows that were kept.
func (c *comparing) find() (best int, similarity float64, err error) {
	c.query++
	best = -1
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
				return -1, 0, err
			}
			if j := Jaccard(c.set, other); j >= c.s.threshold && (j > similarity || j == similarity && i < best) {
				best, similarity = i, j
			}
		}
	}
	return best, similarity, nil
}

// read reads the set of a row that is behind those read before, and says where it is.
func (c *comparing) read(row int) (at int64, err error) {
	var head [4 + len(c.own.sketch)*8]byte
	for {
		if _, err := io.ReadFull(c.r, head[:]); err != nil {
			return 0, fmt.Errorf("cannot read a scratch file: %w", err)
		}
		n := int(binary.LittleEndian.Uint32(head[:]))
		at = c.at + int64(len(head))
		c.at = at + 4*int64(n)
		if c.next++; c.next <= row { // an earlier one
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
