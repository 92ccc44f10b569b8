package labels

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/data"
)

// Choice samples and balances training rows: Add them in their order, then call Sample and Balance. Memory holds 16 bytes a row, texts of labels
// once. What is chosen depends on the seed and on what rows say, not on their order.
type Choice struct {
	seed uint64
	ids  map[string]uint32
	// names are the labels by their number.
	names []string
	items []item
	gone  []bool // nil: none
	buf   []byte
}

type item struct {
	key   uint64
	label uint32
}

// NewChoice makes an empty choice.
func NewChoice(seed uint64) *Choice { return &Choice{seed: seed, ids: map[string]uint32{}} }

// Add takes the next training row.
func (c *Choice) Add(r *data.Row) {
	id, ok := c.ids[r.Label]
	if !ok {
		id = uint32(len(c.names))
		c.ids[r.Label] = id
		c.names = append(c.names, r.Label)
	}
	c.buf = binary.LittleEndian.AppendUint64(c.buf[:0], c.seed)
	for i, s := range []string{r.Label, r.Text, r.Prompt, r.Response} {
		if i > 0 {
			c.buf = append(c.buf, 0)
		}
		c.buf = append(c.buf, s...)
	}
	sum := sha256.Sum256(c.buf)
	c.items = append(c.items, item{binary.LittleEndian.Uint64(sum[:]), id})
}

// Keeps reports whether the i-th row that was added is still among the chosen.
func (c *Choice) Keeps(i int) bool { return c.gone == nil || !c.gone[i] }

// class is a label and the places of its rows that are kept.
type class struct {
	name   string
	places []int32
}

// classes are the labels that have rows, by name, each with its rows in the order of their keys.
func (c *Choice) classes() (out []class, total int) {
	places := make([][]int32, len(c.names))
	for i := range c.items {
		if c.Keeps(i) {
			l := c.items[i].label
			places[l] = append(places[l], int32(i))
			total++
		}
	}
	for l, p := range places {
		if len(p) > 0 {
			slices.SortStableFunc(p, func(a, b int32) int { return cmp.Compare(c.items[a].key, c.items[b].key) })
			out = append(out, class{c.names[l], p})
		}
	}
	slices.SortFunc(out, func(a, b class) int { return cmp.Compare(a.name, b.name) })
	return out, total
}

// Sample keeps at most n rows, every label in proportion (largest remainders; at least one row of each while n allows); 0 keeps all.
func (c *Choice) Sample(n int) {
	classes, total := c.classes()
	if n <= 0 || total <= n {
		return
	}
	quota := make([]int, len(classes))
	type rest struct {
		class int
		part  float64
	}
	var rests []rest
	used := 0
	for i, l := range classes {
		exact := float64(n) * float64(len(l.places)) / float64(total)
		quota[i] = int(exact)
		if quota[i] == 0 && n >= len(classes) {
			quota[i] = 1
		}
		used += quota[i]
		rests = append(rests, rest{i, exact - float64(int(exact))})
	}
	slices.SortStableFunc(rests, func(a, b rest) int { return cmp.Compare(b.part, a.part) })
	for k := 0; used < n; k = (k + 1) % len(rests) {
		if i := rests[k].class; quota[i] < len(classes[i].places) {
			quota[i]++
			used++
		}
	}
	for used > n { // the rows that rare labels were given beyond their share
		most := 0
		for i := range quota {
			if quota[i] > quota[most] {
				most = i
			}
		}
		quota[most]--
		used--
	}
	c.keep(classes, func(i int) int { return quota[i] })
}

// keep keeps so many rows of each label.
func (c *Choice) keep(classes []class, quota func(i int) int) {
	if c.gone == nil {
		c.gone = make([]bool, len(c.items))
	}
	for i, l := range classes {
		for _, p := range l.places[min(len(l.places), quota(i)):] {
			c.gone[p] = true
		}
	}
}

// Balance makes the labels equally frequent: "undersample" cuts to the rarest, "oversample" names rows to be repeated, in their order, up to
// the most frequent. Any other mode changes nothing.
func (c *Choice) Balance(mode string) (repeated []int32) {
	classes, total := c.classes()
	if len(classes) < 2 {
		return nil
	}
	least, most := total, 0
	for _, l := range classes {
		least, most = min(least, len(l.places)), max(most, len(l.places))
	}
	switch mode {
	case "undersample":
		c.keep(classes, func(int) int { return least })
	case "oversample":
		for _, l := range classes {
			for k := len(l.places); k < most; k++ {
				repeated = append(repeated, l.places[k%len(l.places)])
			}
		}
	}
	return repeated
}
