package labels

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/clean"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

// Conflict is a group of rows that say the same, or nearly, and have different labels.
type Conflict struct {
	// Rows are places in the data set, ascending: the first maxConflictRows of Size.
	Rows []int `json:"rows"`
	Size int   `json:"size"`
	// Votes counts the rows of each label.
	Votes map[string]int `json:"votes"`
	// Majority is the label of more than half of the rows, "" when there is none.
	Majority string `json:"majority,omitempty"`
	Text     string `json:"text"`
}

const (
	// maxConflictRows bounds the rows that a conflict names.
	maxConflictRows = 1000
	// matchRecord is the first row of a group and one of its rows.
	matchRecord     = 8 + 8
	matchesInMemory = 1 << 17
)

// Finder finds groups of rows that say the same and disagree. Rows and matches lie in scratch files; memory holds what minhash.Spilled does, and
// 4 bytes for each row of the group at hand. Add all rows, then call Each once; Close removes the scratch files.
type Finder struct {
	near   *minhash.Spilled
	groups *extsort.Sorter
	rows   *data.RowFile
	// places holds where each row begins in rows, 8 bytes a row.
	places *os.File
	w      *bufio.Writer
}

// NewFinder makes a finder of rows of at least a Jaccard similarity (1: equal but for case, white space and punctuation), with scratch files in
// dir ("": the system's temporary folder).
func NewFinder(dir string, similarity float64, seed uint64) (f *Finder, err error) {
	f = &Finder{groups: extsort.New(dir, matchRecord, matchesInMemory)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	if f.near, err = minhash.NewSpilled(dir, similarity, 1, seed); err != nil {
		return nil, err
	}
	if f.rows, err = data.NewRowFile(dir, 1<<20); err != nil {
		return nil, err
	}
	if f.places, err = os.CreateTemp(dir, "places-*"); err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	f.w = bufio.NewWriter(f.places)
	return f, nil
}

// Close removes the scratch files.
func (f *Finder) Close() error {
	err := f.groups.Close()
	if f.near != nil {
		err = errors.Join(err, f.near.Close())
	}
	if f.rows != nil {
		err = errors.Join(err, f.rows.Close())
	}
	if f.places != nil {
		err = errors.Join(err, f.places.Close(), os.Remove(f.places.Name()))
	}
	return err
}

// Add takes the next row. One without a label does not count.
func (f *Finder) Add(r *data.Row) error {
	text := ""
	if r.Label != "" {
		text = r.User()
	}
	if err := f.near.Add(text); err != nil {
		return err
	}
	if _, err := f.w.Write(binary.BigEndian.AppendUint64(nil, uint64(f.rows.Offset()))); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	return f.rows.Add(&data.Row{Label: r.Label, Text: text})
}

// Each gives every conflict, by its first row, with the entries that it makes in a review file: all of its rows when there is no majority, else
// those that differ from it, each text once.
func (f *Finder) Each(give func(c *Conflict, review []clean.ReviewEntry) error) error {
	if _, _, err := f.rows.Finish(); err != nil {
		return err
	}
	if err := f.w.Flush(); err != nil {
		return fmt.Errorf("cannot write a scratch file: %w", err)
	}
	err := f.near.Each(nil, func(m minhash.Match) error {
		return f.groups.Add(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(m.Of)), uint64(m.Row)))
	})
	if err != nil {
		return err
	}
	var group []int32 // the first row, then the others
	end := func() error {
		if len(group) == 0 {
			return nil
		}
		return f.judge(group, give)
	}
	err = f.groups.Each(func(r []byte) error {
		of, row := int32(binary.BigEndian.Uint64(r)), int32(binary.BigEndian.Uint64(r[8:]))
		if len(group) == 0 || group[0] != of {
			if err := end(); err != nil {
				return err
			}
			group = append(group[:0], of)
		}
		group = append(group, row)
		return nil
	})
	if err != nil {
		return err
	}
	return end()
}

// judge counts the votes of a group, and gives it when there are several labels.
func (f *Finder) judge(group []int32, give func(c *Conflict, review []clean.ReviewEntry) error) error {
	c := &Conflict{Size: len(group), Votes: map[string]int{}}
	for i, row := range group {
		r, err := f.row(row)
		if err != nil {
			return err
		}
		if c.Votes[r.Label]++; i == 0 {
			c.Text = r.Text
		}
		if i < maxConflictRows {
			c.Rows = append(c.Rows, int(row))
		}
	}
	if len(c.Votes) < 2 {
		return nil
	}
	var votes []string
	for l, n := range c.Votes {
		votes = append(votes, fmt.Sprintf("%s: %d", l, n))
		if 2*n > len(group) {
			c.Majority = l
		}
	}
	slices.Sort(votes)
	reason := "rows that say the same have the labels " + strings.Join(votes, ", ")
	var review []clean.ReviewEntry
	seen := map[string]bool{} // a text is in one group only
	for _, row := range group {
		r, err := f.row(row)
		if err != nil {
			return err
		}
		id := clean.RowID(r)
		if r.Label == c.Majority || seen[id] {
			continue
		}
		seen[id] = true
		review = append(review, clean.ReviewEntry{ID: id, Text: r.Text, Label: r.Label, Suggested: c.Majority, Reason: reason})
	}
	return give(c, review)
}

// row reads a row that was added.
func (f *Finder) row(i int32) (*data.Row, error) {
	var at [8]byte
	if _, err := f.places.ReadAt(at[:], 8*int64(i)); err != nil {
		return nil, fmt.Errorf("cannot read a scratch file: %w", err)
	}
	return f.rows.At(int64(binary.BigEndian.Uint64(at[:])))
}
