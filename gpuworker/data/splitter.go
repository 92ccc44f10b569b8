package data

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/schemas"
)

// Splits a row can be assigned to, as a Splitter returns them.
const (
	SplitTrain = uint8(iota)
	SplitEval
	SplitTest
)

// SplitName is the name of a split that a Splitter returned.
func SplitName(s uint8) string { return [...]string{"train", "eval", "test"}[s] }

// Splitter assigns every row to train, eval or test: a deterministic function of seed and rows. Rows of one group always stay together, and
// the shares hold within every label as well as whole groups allow (stratified group sampling). Rows without a group are groups of one. With
// folds the groups that the test split leaves are dealt out to the folds, each going to the one with the fewest rows of its label so far, and
// the named fold is the eval split.
//
// Memory holds one byte a row and one entry a label; groups are sorted on disk; of the group in hand it holds the numbers of its rows. Groups are told apart by 128 bits of a hash instead of by name. PermuteLabels is not its work (PermutationKey).
type Splitter struct {
	spec   schemas.SplitSpec
	seed   uint64
	dir    string
	labels map[string]uint32
	totals []int
	// rows sorts (label, hash of the group, row).
	rows *extsort.Sorter
	n    int64
	buf  [splitRecord]byte
}

const (
	splitRecord = 4 + 16 + 8
	// sortedInMemory is how many records a sort holds in memory.
	sortedInMemory = 1 << 17
)

// NewSplitter makes a splitter whose scratch files are in dir. The caller closes it.
func NewSplitter(dir string, spec schemas.SplitSpec, seed uint64) *Splitter {
	return &Splitter{spec: spec, seed: seed, dir: dir, labels: map[string]uint32{}, rows: extsort.New(dir, splitRecord, sortedInMemory)}
}

// trivial reports whether all rows are for training.
func (s *Splitter) trivial() bool { return s.spec.Eval <= 0 && s.spec.Test <= 0 && s.spec.Folds == 0 }

// Add takes the next row.
func (s *Splitter) Add(r *Row) error {
	row := s.n
	s.n++
	if s.trivial() {
		return nil
	}
	label, ok := s.labels[r.Label]
	if !ok {
		label = uint32(len(s.labels))
		s.labels[r.Label] = label
		s.totals = append(s.totals, 0)
	}
	s.totals[label]++
	h := groupHash(s.seed, groupName(r))
	binary.BigEndian.PutUint32(s.buf[:], label)
	copy(s.buf[4:], h[:])
	binary.BigEndian.PutUint64(s.buf[20:], uint64(row))
	return s.rows.Add(s.buf[:])
}

// groupHash is what groups are sorted and told apart by: hash64 first, then 64 more bits.
func groupHash(seed uint64, name string) (out [16]byte) {
	sum := seededSum(seed, name)
	binary.BigEndian.PutUint64(out[:], binary.LittleEndian.Uint64(sum[:]))
	copy(out[8:], sum[8:16])
	return out
}

// seededSum is SHA-256 over seed and text.
func seededSum(seed uint64, s string) (out [sha256.Size]byte) {
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, seed) // a hash does not fail
	_, _ = h.Write([]byte(s))
	return [sha256.Size]byte(h.Sum(nil))
}

// Splits returns the split of every row, in the order of Add.
func (s *Splitter) Splits() ([]uint8, error) {
	out := make([]uint8, s.n) // SplitTrain
	if s.trivial() || s.n == 0 {
		return out, nil
	}
	spanning, err := s.spanning()
	if err != nil {
		return nil, err
	}
	byLabel, err := s.sortedByLabel()
	if err != nil {
		return nil, err
	}
	defer func() { _ = byLabel.Close() }() // scratch files: nothing is lost with them
	names := make([]string, len(s.labels))
	for name, i := range s.labels {
		names[i] = name
	}
	slices.Sort(names)
	var (
		key                    []byte // label and group of the rows in hand
		rows                   []uint64
		rank                   = uint32(1<<32 - 1)
		test, eval, total, pos int
		folds                  []int
	)
	assign := func() {
		if len(rows) == 0 {
			return
		}
		group := [16]byte(key[4:])
		split, known := spanning[group]
		size := len(rows)
		if !known || split == unassigned {
			switch {
			case s.spec.Folds > 0 && float64(test)+float64(size)/2 > s.spec.Test*float64(total):
				k := fewest(folds, pos)
				folds[k] += size
				split = SplitTrain
				if k == s.spec.Fold {
					split = SplitEval
				}
			case float64(test)+float64(size)/2 <= s.spec.Test*float64(total) && s.spec.Test > 0:
				split = SplitTest
			case float64(eval)+float64(size)/2 <= s.spec.Eval*float64(total) && s.spec.Eval > 0:
				split = SplitEval
			default:
				split = SplitTrain
			}
			if known {
				spanning[group] = split
			}
		}
		switch split {
		case SplitTest:
			test += size
		case SplitEval:
			eval += size
		}
		for _, i := range rows {
			out[i] = split
		}
		rows = rows[:0]
	}
	err = byLabel.Each(func(r []byte) error {
		if !bytes.Equal(r[:20], key) {
			assign()
			key = append(key[:0], r[:20]...)
		}
		if l := binary.BigEndian.Uint32(r); l != rank {
			rank, test, eval, folds = l, 0, 0, make([]int, s.spec.Folds)
			total = s.totals[s.labels[names[l]]]
			if s.spec.Folds > 0 {
				pos = int(hash64(s.seed, names[l]) % uint64(s.spec.Folds))
			}
		}
		rows = append(rows, binary.BigEndian.Uint64(r[20:]))
		return nil
	})
	assign()
	return out, err
}

// unassigned marks a group of several labels that no label has come to yet.
const unassigned = uint8(255)

// spanning lists the groups that have rows of more than one label: they go where their first label puts them.
func (s *Splitter) spanning() (map[[16]byte]uint8, error) {
	out := map[[16]byte]uint8{}
	if len(s.labels) < 2 {
		return out, nil
	}
	groups := extsort.New(s.dir, 20, sortedInMemory)
	defer func() { _ = groups.Close() }() // scratch files: nothing is lost with them
	err := s.rows.Each(func(r []byte) error {
		var g [20]byte
		copy(g[:], r[4:20])
		copy(g[16:], r[:4])
		return groups.Add(g[:])
	})
	if err != nil {
		return nil, err
	}
	var last []byte
	err = groups.Each(func(g []byte) error {
		if last != nil && bytes.Equal(last[:16], g[:16]) && !bytes.Equal(last[16:], g[16:]) {
			out[[16]byte(g[:16])] = unassigned
		}
		last = append(last[:0], g...)
		return nil
	})
	return out, err
}

// sortedByLabel sorts the rows by the order of the labels' names, which was not known while rows came.
func (s *Splitter) sortedByLabel() (*extsort.Sorter, error) {
	names := make([]string, 0, len(s.labels))
	for name := range s.labels {
		names = append(names, name)
	}
	slices.Sort(names)
	rank := make([]uint32, len(names))
	for i, name := range names {
		rank[s.labels[name]] = uint32(i)
	}
	out := extsort.New(s.dir, splitRecord, sortedInMemory)
	err := s.rows.Each(func(r []byte) error {
		binary.BigEndian.PutUint32(r, rank[binary.BigEndian.Uint32(r)])
		return out.Add(r)
	})
	if err != nil {
		return nil, errors.Join(err, out.Close())
	}
	return out, nil
}

// PermutationKey orders the training rows whose labels are permuted: the k-th row takes label, response and explanation of the k-th in the
// order of the keys, of equal ones the first.
func PermutationKey(r *Row, seed uint64) uint64 { return hash64(seed^0x7065726d, r.Text+r.Prompt) }

// Close removes the scratch files.
func (s *Splitter) Close() error { return s.rows.Close() }

// groupName names the group of a row; rows without one are grouped by what they say.
func groupName(r *Row) string {
	if r.Group != "" {
		return r.Group
	}
	return "\x00" + r.Text + "\x00" + r.Prompt
}

// fewest is the place of the least number; of equal ones the first from a place on, so that small classes do not all land in fold 0.
func fewest(v []int, from int) int {
	best := from
	for i := range v {
		if k := (from + i) % len(v); v[k] < v[best] {
			best = k
		}
	}
	return best
}

// hash64 is the first 8 bytes of SHA-256 over seed and text: stable across machines and versions.
func hash64(seed uint64, s string) uint64 {
	sum := seededSum(seed, s)
	return binary.LittleEndian.Uint64(sum[:])
}
