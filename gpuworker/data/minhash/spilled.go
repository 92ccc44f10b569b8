package minhash

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
)

// Spilled finds what Duplicates and Overlaps find, in bounded memory: sets and the keys of their bands lie in scratch files. Keys are sorted,
// and only rows that share one with another row are compared, by blocks (see comparing): memory holds one block, whatever the number of rows. Add all rows,
// then call Each once; Close removes the scratch files. It is not safe for concurrent use.
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
	// held and links are heldWords and blockLinks, less in tests.
	held, links int
	// blocks is how many blocks were compared.
	blocks int
}

const (
	// spilledKeys is how many keys are sorted in memory at a time: 16 MiB.
	spilledKeys = 1 << 20
	// batchBytes bounds the texts that are signed together.
	batchBytes = 16 << 20
	// heldWords is how many words of kept rows stay in memory, which is faster: 32 MiB.
	heldWords = 8 << 20
	// blockRows and blockLinks bound a block: its rows, of 56 bytes, and the keys that they share, of 8 bytes and what a map takes for each.
	blockRows  = 1 << 18
	blockLinks = 1 << 22
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
		keys: extsort.New(dir, keyRecord, spilledKeys), held: heldWords, links: blockLinks}, nil
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
	if err := s.share(shared); err != nil {
		return err
	}
	c := newComparing(s, skip, f)
	defer func() { err = errors.Join(err, c.close()) }()
	for more := true; more; s.blocks++ {
		if more, err = c.pass(shared); err != nil {
			return err
		}
	}
	return nil
}

// share numbers the keys that several rows have, and sorts row and number into shared.
func (s *Spilled) share(shared *extsort.Sorter) error {
	var last, out [keyRecord]byte
	n, buckets := 0, 0 // rows with the last key
	add := func(r []byte) error {
		copy(out[:8], r[8:])
		binary.BigEndian.PutUint64(out[8:], uint64(buckets-1))
		return shared.Add(out[:])
	}
	err := s.keys.Each(func(r []byte) error {
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
	return errors.Join(err, s.keys.Close()) // what was sorted is not needed any more
}
