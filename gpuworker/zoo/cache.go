package zoo

import (
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
	"github.com/tunefleet/tunefleet/gpuworker/ops"
	"github.com/tunefleet/tunefleet/kernels"
)

// Cache holds the rotated keys and the values of a batch during generation.
type Cache struct {
	Layers []ops.LayerCache
	// Len positions of Cap are filled in each of Rows rows.
	Len, Cap, Rows int
	// KVFirst, when not nil, is the first visible key of each row (left padding).
	KVFirst []int32
	// Starts, when not nil, are the filled positions of each row in place of Len: rows are continued by one token each, whose Positions the
	// batch tells. The caller moves them on.
	Starts []int

	arena *kernels.Arena
}

// NewCache allocates a cache for rows sequences of at most capacity positions; dt is the element type of activations (Tape.Compute).
func NewCache(dev *kernels.Device, info Info, dt kernels.DType, rows, capacity int) (*Cache, error) {
	if rows < 1 || capacity < 1 {
		return nil, fmt.Errorf("cannot make a cache of %d rows and %d positions", rows, capacity)
	}
	c := &Cache{Rows: rows, Cap: capacity}
	bytes := func(dim int) int64 {
		return (dt.Size()*int64(rows)*int64(capacity)*int64(info.KVHeads)*int64(dim) + 255) &^ 255
	}
	arena, err := dev.NewArena("key-value cache", int64(info.Layers)*(bytes(info.HeadDim)+bytes(info.ValueDim)))
	if err != nil {
		return nil, fmt.Errorf("cannot make key-value cache: %w", err)
	}
	c.arena = arena
	for range info.Layers {
		var l ops.LayerCache
		for _, x := range []struct {
			t   *kernels.Tensor
			dim int
		}{{&l.K, info.HeadDim}, {&l.V, info.ValueDim}} {
			if *x.t, err = arena.New(dt, int64(rows), int64(capacity), int64(info.KVHeads), int64(x.dim)); err != nil {
				arena.Close()
				return nil, fmt.Errorf("cannot make key-value cache: %w", err)
			}
		}
		c.Layers = append(c.Layers, l)
	}
	return c, nil
}

// Close frees the cache. The queue that uses it must have been synchronized.
func (c *Cache) Close() {
	if c.arena != nil {
		c.arena.Close()
		c.arena = nil
	}
}

// Repeat copies row 0 of the first n positions to every row.
func (c *Cache) Repeat(q *kernels.Queue, n int) {
	for _, l := range c.Layers {
		for _, x := range []kernels.Tensor{l.K, l.V} {
			x = x.Slice(1, 0, int64(n))
			for r := 1; r < c.Rows; r++ {
				q.Copy(kernels.Copy{X: x.Select(0, 0), Y: x.Select(0, int64(r))})
			}
		}
	}
}

// Take copies the filled positions of row rows[r] of another cache of the same size to each row r.
func (c *Cache) Take(q *kernels.Queue, from *Cache, rows []int) {
	c.Len = from.Len
	for i, l := range c.Layers {
		for _, x := range [][2]kernels.Tensor{{from.Layers[i].K, l.K}, {from.Layers[i].V, l.V}} {
			src, dst := x[0].Slice(1, 0, int64(c.Len)), x[1].Slice(1, 0, int64(c.Len))
			for r, other := range rows {
				q.Copy(kernels.Copy{X: src.Select(0, int64(other)), Y: dst.Select(0, int64(r))})
			}
		}
	}
}

// First is a view of the first rows of the cache, with a length of its own.
func (c *Cache) First(rows int) *Cache {
	v := &Cache{Len: c.Len, Cap: c.Cap, Rows: rows}
	for _, l := range c.Layers {
		v.Layers = append(v.Layers, ops.LayerCache{K: l.K.Slice(0, 0, int64(rows)), V: l.V.Slice(0, 0, int64(rows))})
	}
	return v
}

// Every is a view of n rows of the cache, the first and then every step-th, with a length of its own.
func (c *Cache) Every(first, step, n int) *Cache {
	v := &Cache{Cap: c.Cap, Rows: n}
	pick := func(x kernels.Tensor) kernels.Tensor {
		x = x.Slice(0, int64(first), int64(first+(n-1)*step+1))
		x.Dim[0], x.Stride[0] = int64(n), x.Stride[0]*int64(step)
		return x
	}
	for _, l := range c.Layers {
		v.Layers = append(v.Layers, ops.LayerCache{K: pick(l.K), V: pick(l.V)})
	}
	return v
}

// Prefix copies the first n positions of a row of another cache, which may be of another size, to the same row.
func (c *Cache) Prefix(q *kernels.Queue, from *Cache, row, n int) {
	for i, l := range c.Layers {
		for _, x := range [][2]kernels.Tensor{{from.Layers[i].K, l.K}, {from.Layers[i].V, l.V}} {
			q.Copy(kernels.Copy{X: x[0].Select(0, int64(row)).Slice(0, 0, int64(n)), Y: x[1].Select(0, int64(row)).Slice(0, 0, int64(n))})
		}
	}
}

// filled is the greatest number of filled positions of a row.
func (c *Cache) filled() int {
	if c.Starts != nil {
		return slices.Max(c.Starts)
	}
	return c.Len
}

func (c *Cache) check(b *nn.Batch) error {
	if c.Starts != nil && (b.Seq != 1 || len(c.Starts) != c.Rows || len(b.Positions) != c.Rows) {
		return fmt.Errorf("batch of %d positions does not fit a cache of rows of different lengths: one token a row, with its position", b.Seq)
	}
	if b.Rows != c.Rows || c.filled()+b.Seq > c.Cap || b.Mask != nil || b.Docs != nil {
		return fmt.Errorf("batch of %d rows and %d positions does not fit the cache (%d rows, %d of %d filled, no mask, no documents)", b.Rows, b.Seq, c.Rows, c.filled(), c.Cap)
	}
	return nil
}
