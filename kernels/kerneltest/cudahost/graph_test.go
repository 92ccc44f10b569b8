package cudahost_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/cudahost"
)

// chain is a few operations on a queue that a caller repeats, with its own input each time.
type chain struct {
	q        *kernels.Queue
	x, y, w  kernels.Tensor
	sum, bad kernels.Tensor
}

const chainRows, chainWidth = 8, 32

func newChain(t *testing.T) *chain {
	t.Helper()
	d := cudahost.Open(t, kernels.Options{})
	q, err := d.NewQueue(kernels.Compute)
	if err != nil {
		t.Fatal(err)
	}
	a, err := d.NewArena("chain", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = q.Close()
		a.Close()
	})
	c := &chain{q: q}
	for _, n := range []*kernels.Tensor{&c.x, &c.y, &c.sum} {
		if *n, err = a.New(kernels.F32, chainRows, chainWidth); err != nil {
			t.Fatal(err)
		}
	}
	if c.w, err = a.New(kernels.F32, chainWidth); err != nil {
		t.Fatal(err)
	}
	if c.bad, err = a.New(kernels.F32, chainRows, chainWidth+1); err != nil {
		t.Fatal(err)
	}
	w := make([]float32, chainWidth)
	for i := range w {
		w[i] = 1 + float32(i)/8
	}
	kernels.Upload(q, c.w, w)
	return c
}

// run gives sum(silu(x * w)) over the calls so far, whose input is i in some places.
func (c *chain) run(t *testing.T, i, times int) []float32 {
	t.Helper()
	x := make([]float32, chainRows*chainWidth)
	for k := range x {
		x[k] = float32((k*7+i*3)%11) - 5
	}
	kernels.Upload(c.q, c.x, x)
	for range times {
		c.q.Mul(kernels.Mul{A: c.x, B: c.w, Y: c.y})
		c.q.ActFwd(kernels.ActFwd{X: c.y, Y: c.y, Act: kernels.SiLU})
		c.q.Add(kernels.Add{A: c.y, B: c.x, Y: c.sum, Alpha: 1, Beta: 0.5})
		c.q.Mul(kernels.Mul{A: c.sum, B: c.y, Y: c.sum})
	}
	out := make([]float32, len(x))
	if err := kernels.Download(c.q, out, c.sum); err != nil {
		t.Fatal(err)
	}
	return out
}

// TestGraphs: a sequence of operations that comes again is launched as a graph where that was measured faster, with the same results.
func TestGraphs(t *testing.T) {
	const rounds = 12
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "off")
	plain := newChain(t)
	var want [][]float32
	for i := range rounds {
		want = append(want, plain.run(t, i, 3))
	}
	if c := plain.q.Graphs(); c != (kernels.GraphCounts{}) {
		t.Errorf("off: %+v", c)
	}
	// The first time is a stranger, then three are measured one by one, one makes the graph, three are measured as a graph.
	for name, c := range map[string]struct {
		choice, variable, value string
		want                    kernels.GraphCounts
	}{
		"auto":                 {"auto", "", "", kernels.GraphCounts{Made: 1, Launches: rounds - 4, Operations: 12 * (rounds - 4)}},
		"the default":          {"", "", "", kernels.GraphCounts{Made: 1, Launches: rounds - 4, Operations: 12 * (rounds - 4)}},
		"auto, slower":         {"auto", "TUNEFLEET_FAKE_GRAPH_US", "1000000", kernels.GraphCounts{Made: 1, Slower: 1, Launches: 4, Operations: 12 * 4}},
		"auto, not recorded":   {"auto", "TUNEFLEET_FAKE_GRAPHS", "none", kernels.GraphCounts{Refused: 1}},
		"on":                   {"on", "", "", kernels.GraphCounts{Made: 1, Launches: rounds - 1, Operations: 12 * (rounds - 1)}},
		"on, though slower":    {"on", "TUNEFLEET_FAKE_GRAPH_US", "1000000", kernels.GraphCounts{Made: 1, Launches: rounds - 1, Operations: 12 * (rounds - 1)}},
		"on, and not recorded": {"on", "TUNEFLEET_FAKE_GRAPHS", "none", kernels.GraphCounts{Refused: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TUNEFLEET_CUDA_GRAPHS", c.choice)
			if c.variable != "" {
				t.Setenv(c.variable, c.value)
			}
			ch := newChain(t)
			for i := range rounds {
				if got := ch.run(t, i, 3); !slices.Equal(got, want[i]) {
					t.Fatalf("round %d: other results than without graphs", i)
				}
			}
			if got := ch.q.Graphs(); got != c.want {
				t.Errorf("%+v, want %+v", got, c.want)
			}
		})
	}
}

// TestGraphsOfManyOperations: long sequences are cut, where they were cut before, and what comes in between is in order.
func TestGraphsOfManyOperations(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "off")
	plain := newChain(t)
	want := plain.run(t, 1, 50)
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "on")
	c := newChain(t)
	for range 3 {
		if got := c.run(t, 1, 50); !slices.Equal(got, want) {
			t.Fatal("other results than without graphs")
		}
	}
	// 200 operations: a sequence of 128 and one of 72.
	if got, want := c.q.Graphs(), (kernels.GraphCounts{Made: 2, Launches: 4, Operations: 400}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestGraphsFollowWorkspace: graphs know where workspace was; with another one they are made again.
func TestGraphsFollowWorkspace(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "on")
	c := newChain(t)
	d := c.q.Device()
	a, err := d.NewArena("matrices", 64<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	bias := func(n int) {
		x, err := a.New(kernels.F32, int64(n), 64)
		if err != nil {
			t.Fatal(err)
		}
		y, err := a.New(kernels.F32, 64)
		if err != nil {
			t.Fatal(err)
		}
		ones := make([]float32, n*64)
		for i := range ones {
			ones[i] = 1
		}
		for round := range 4 {
			kernels.Upload(c.q, x, ones)
			for range 4 {
				c.q.ColSum(kernels.ColSum{X: x, Y: y})
			}
			got := make([]float32, 64)
			if err := kernels.Download(c.q, got, y); err != nil {
				t.Fatal(err)
			}
			if got[0] != float32(n) || got[63] != float32(n) {
				t.Fatalf("%d rows, round %d: sums %v and %v", n, round, got[0], got[63])
			}
		}
	}
	for range 3 {
		c.run(t, 1, 3)
	}
	bias(4096)
	if c.q.Workspace() == 0 {
		t.Fatal("sums of columns took no workspace")
	}
	for range 3 {
		c.run(t, 1, 3)
	}
	if got := c.q.Graphs(); got.Made != 3 || got.Refused != 0 {
		t.Errorf("%+v, want 3 graphs made", got)
	}
}

// TestGraphsNameTheOperation: an operation that was held back is named when it fails, and what followed it is not run.
func TestGraphsNameTheOperation(t *testing.T) {
	c := newChain(t)
	c.q.Mul(kernels.Mul{A: c.x, B: c.w, Y: c.y})
	c.q.Mul(kernels.Mul{A: c.x, B: c.bad, Y: c.y})
	c.q.ActFwd(kernels.ActFwd{X: c.y, Y: c.y, Act: kernels.SiLU})
	err := c.q.Sync()
	if err == nil || !strings.Contains(err.Error(), "mul: ") {
		t.Errorf("%v, want an error that names mul", err)
	}
}

// TestGraphsLeaveWhatVaries: operations whose numbers change from call to call are not held back, and what never comes again makes no graphs.
func TestGraphsLeaveWhatVaries(t *testing.T) {
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "on")
	c := newChain(t)
	for i := range 600 {
		for k := range 5 {
			c.q.Add(kernels.Add{A: c.x, B: c.x, Y: c.y, Alpha: float32(i), Beta: float32(k)})
		}
		c.q.Dropout(kernels.Dropout{X: c.y, Y: c.y, P: 0.5, Seed: uint64(i)})
	}
	if err := c.q.Sync(); err != nil {
		t.Fatal(err)
	}
	if got := c.q.Graphs(); got != (kernels.GraphCounts{}) {
		t.Errorf("%+v, want none", got)
	}
}

// TestGraphsWrongChoice: a word that the variable does not have is refused.
func TestGraphsWrongChoice(t *testing.T) {
	path, err := cudahost.Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("TUNEFLEET_CUDA_GRAPHS", "yes")
	d, err := kernels.Open(kernels.Options{Backend: path})
	if err == nil {
		_ = d.Close()
		t.Fatal("opened")
	}
	if !strings.Contains(err.Error(), `TUNEFLEET_CUDA_GRAPHS is "yes"; it can be auto, on or off`) {
		t.Error(err)
	}
}
