package autograd

import (
	"math/rand/v2"
	"testing"
)

// TestSpansNeverOverlap lends and takes back at random and checks that what is lent is disjoint, that everything coalesces again, and
// that equal sequences give equal addresses.
func TestSpansNeverOverlap(t *testing.T) {
	t.Parallel()
	const size = 1 << 16
	run := func(seed uint64) []int64 {
		rng := rand.New(rand.NewPCG(seed, 1))
		s := newSpans(size)
		type lent struct{ off, n int64 }
		var live []lent
		var trace []int64
		for range 2000 {
			if rng.IntN(3) > 0 {
				n := int64(rng.IntN(3000) + 1)
				off, ok := s.alloc(n)
				if !ok {
					continue
				}
				for _, l := range live {
					if off < l.off+roundUp(l.n) && l.off < off+roundUp(n) {
						t.Fatalf("[%d,+%d) overlaps [%d,+%d)", off, n, l.off, l.n)
					}
				}
				live = append(live, lent{off, n})
				trace = append(trace, off)
			} else if len(live) > 0 {
				i := rng.IntN(len(live))
				s.release(live[i].off, live[i].n)
				live = append(live[:i], live[i+1:]...)
			}
		}
		for _, l := range live {
			s.release(l.off, l.n)
		}
		if len(s.free) != 1 || s.free[0] != (span{0, size}) || s.used != 0 {
			t.Fatalf("not whole again: %v, %d used", s.free, s.used)
		}
		return trace
	}
	for seed := range uint64(20) {
		a, b := run(seed), run(seed)
		for i := range a {
			if a[i] != b[i] {
				t.Fatal("addresses differ between equal sequences")
			}
		}
	}
}

// A range that is reserved again after everything was taken back overlaps nothing, and coalesces when it is given back.
func TestSpansReserve(t *testing.T) {
	t.Parallel()
	const size = 1 << 14
	old := newSpans(size)
	var kept, dropped []span
	for i := range 20 {
		n := int64(64 * (i%5 + 1))
		off, ok := old.alloc(n)
		if !ok {
			t.Fatal("full")
		}
		if i%3 == 0 {
			kept = append(kept, span{off, n})
		} else {
			dropped = append(dropped, span{off, n})
		}
	}
	s := newSpans(size)
	total := int64(0)
	for _, k := range kept {
		s.reserve(k.off, k.size)
		total += k.size
	}
	if s.used != total {
		t.Fatalf("%d bytes are used, not %d", s.used, total)
	}
	for _, d := range dropped {
		s.reserve(d.off, d.size) // free again, so it can be taken
	}
	for range 1000 {
		off, ok := s.alloc(64)
		if !ok {
			break
		}
		for _, k := range kept {
			if off < k.off+k.size && k.off < off+64 {
				t.Fatalf("%d is within what is reserved: %v", off, k)
			}
		}
		dropped = append(dropped, span{off, 64})
	}
	for _, x := range append(kept, dropped...) {
		s.release(x.off, x.size)
	}
	if len(s.free) != 1 || s.free[0] != (span{0, size}) || s.used != 0 {
		t.Fatalf("not whole again: %v, %d used", s.free, s.used)
	}
}

func TestLayoutBounds(t *testing.T) {
	t.Parallel()
	u := &Unit{Params: []*Param{{Name: "a", Shape: []int64{100, 100}}, {Name: "b", Shape: []int64{7}}, {Name: "f", Shape: []int64{5000}, Frozen: true}, {Name: "c", Shape: []int64{3, 4096}}}}
	for _, l := range []Layout{u.DataLayout(), u.GradLayout()} {
		chunks := l.Chunks()
		starts := map[int64]bool{0: true, l.Len: true}
		for _, c := range chunks {
			starts[c.Offset] = true
			if c.Start%ChunkLen != 0 || c.Len > ChunkLen {
				t.Fatalf("bad chunk %+v", c)
			}
		}
		for world := 1; world <= 9; world++ {
			b := l.Bounds(world, nil)
			if b[0] != 0 || b[world] != l.Len {
				t.Fatalf("bounds %v do not cover %d", b, l.Len)
			}
			for r := 1; r <= world; r++ {
				if b[r] < b[r-1] || !starts[b[r]] {
					t.Fatalf("world %d: bound %d of %v is not at a chunk", world, r, b)
				}
			}
		}
	}
	l := u.GradLayout()
	for world := 1; world <= 9; world++ {
		for r, at := range l.Bounds(world, func(p *Param) bool { return p.Name == "a" }) {
			if inside := at > 0 && at < 10000; inside {
				t.Fatalf("world %d: bound %d is at %d, inside a parameter that may not be cut", world, r, at)
			}
		}
	}
	if n := len(u.GradLayout().Slots); n != 3 {
		t.Fatalf("frozen parameter in gradient layout: %d slots", n)
	}
}
