package clean

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/extsort"
	"github.com/tunefleet/tunefleet/gpuworker/data/minhash"
)

// Consensus finds rows whose label differs from that of more than half of their group: rows that say the same in other words. A group is named by
// the rows; rows that name none are one with those of whose words they have nearly all (nearIdentical). Memory holds 4 bytes a row and what
// minhash.Spilled does. Add all rows, then call Each once; Close removes the scratch files.
type Consensus struct {
	near   *minhash.Spilled
	votes  *extsort.Sorter
	ids    map[string]uint32
	labels []uint32 // by row
	buf    [voteRecord]byte
}

const (
	// nearIdentical is the Jaccard similarity from which on rows ought to have the same label.
	nearIdentical = 0.95
	// voteRecord is 128 bits of the group's hash, a label and a row.
	voteRecord = 16 + 4 + 8
	// votesInMemory is how many votes are sorted in memory at a time.
	votesInMemory = 1 << 17
)

// NewConsensus makes a finder whose scratch files are in dir.
func NewConsensus(dir string, seed uint64) (*Consensus, error) {
	near, err := minhash.NewSpilled(dir, nearIdentical, 1, seed)
	if err != nil {
		return nil, err
	}
	return &Consensus{near: near, votes: extsort.New(dir, voteRecord, votesInMemory), ids: map[string]uint32{"": 0}}, nil
}

// Close removes the scratch files.
func (c *Consensus) Close() error { return errors.Join(c.near.Close(), c.votes.Close()) }

// Add takes the next row.
func (c *Consensus) Add(r *data.Row) error {
	id, ok := c.ids[r.Label]
	if !ok {
		id = uint32(len(c.ids))
		c.ids[r.Label] = id
	}
	c.labels = append(c.labels, id)
	alone := ""
	if r.Group == "" && r.Label != "" {
		alone = r.User()
	}
	if err := c.near.Add(alone); err != nil || r.Group == "" {
		return err
	}
	return c.vote("g"+r.Group, len(c.labels)-1)
}

// vote adds the label of a row to the votes of a group.
func (c *Consensus) vote(group string, row int) error {
	h := sha256.Sum256([]byte(group))
	copy(c.buf[:16], h[:])
	binary.BigEndian.PutUint32(c.buf[16:], c.labels[row])
	binary.BigEndian.PutUint64(c.buf[20:], uint64(row))
	return c.votes.Add(c.buf[:])
}

// Each gives every row with a label that its group has outvoted to f. Rows that skip names are left out of everything.
func (c *Consensus) Each(skip func(row int) bool, f func(row int) error) error {
	err := c.near.Each(skip, func(m minhash.Match) error {
		group := "r" + string(binary.BigEndian.AppendUint64(nil, uint64(m.Of)))
		// The row that others are like votes with each of them; equal votes follow each other, and count once.
		return errors.Join(c.vote(group, m.Of), c.vote(group, m.Row))
	})
	if err != nil {
		return err
	}
	var group [16]byte
	var rows []int
	judge := func() error {
		count := map[uint32]int{}
		for _, r := range rows {
			count[c.labels[r]]++
		}
		for label, n := range count {
			if 2*n <= len(rows) {
				continue
			}
			for _, r := range rows {
				if l := c.labels[r]; l != label && l != 0 {
					if err := f(r); err != nil {
						return err
					}
				}
			}
		}
		rows = rows[:0]
		return nil
	}
	err = c.votes.Each(func(v []byte) error {
		row := int(binary.BigEndian.Uint64(v[20:]))
		if skip(row) {
			return nil
		}
		if g := [16]byte(v); g != group {
			if err := judge(); err != nil {
				return err
			}
			group = g
		}
		if len(rows) == 0 || rows[len(rows)-1] != row {
			rows = append(rows, row)
		}
		return nil
	})
	if err != nil {
		return err
	}
	return judge()
}
