package zoo

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/nn"
)

// TestALiBiIsTransformers: the bias of keys, bit for bit, with padding and holes, more than 256 positions and numbers of heads that are no
// powers of two (testdata/alibi/make.py).
func TestALiBiIsTransformers(t *testing.T) {
	raw, err := os.ReadFile("testdata/alibi/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden []struct {
		Kind    string
		Heads   int
		HeadDim int `json:"head_dim"`
		Mask    []string
		Sample  []float64
		SHA256  string
	}
	if err := json.Unmarshal(raw, &golden); err != nil || len(golden) == 0 {
		t.Fatalf("%d cases: %v", len(golden), err)
	}
	for _, g := range golden {
		var a *alibi
		switch g.Kind {
		case "bloom":
			a = &alibi{slopes: alibiSlopes(g.Heads), value: product}
		case "falcon":
			a = FalconConfig{Sizes: Sizes{Heads: g.Heads, Hidden: g.Heads * g.HeadDim}}.alibi()
		case "mpt":
			a = &alibi{slopes: mptSlopes(g.Heads), value: product, fromEnd: true}
		}
		b := &nn.Batch{Rows: len(g.Mask), Seq: len(g.Mask[0])}
		for _, row := range g.Mask {
			for _, c := range row {
				b.Mask = append(b.Mask, uint8(c-'0'))
			}
		}
		bias, rows := a.bias(b, nil)
		if rows == 1 {
			bias = slices.Repeat(bias, b.Rows)
		}
		step := max(1, len(bias)/40)
		near := g.Kind == "bloom" && g.Heads == 32 // torch rounds the 15th power the wrong way
		for i, want := range g.Sample {
			got, w := bias[i*step], float32(want)
			if got != w && !(near && (got == math.Nextafter32(w, 0) || got == math.Nextafter32(w, 1e9))) {
				t.Fatalf("%s, %d heads, mask %v: bias %d is %v, transformers has %v", g.Kind, g.Heads, g.Mask, i*step, got, want)
			}
		}
		if near {
			continue
		}
		h := sha256.New()
		for _, v := range bias {
			h.Write(binary.LittleEndian.AppendUint32(nil, math.Float32bits(v+0)))
		}
		if got := hex.EncodeToString(h.Sum(nil)); got != g.SHA256 {
			t.Errorf("%s, %d heads, mask %v: other bits than transformers'", g.Kind, g.Heads, g.Mask)
		}
	}
}

// TestALiBiPositions: packed documents begin again, and a cache goes on.
func TestALiBiPositions(t *testing.T) {
	a, m := &alibi{slopes: []float32{1}, value: product}, &alibi{slopes: []float32{1}, value: product, fromEnd: true}
	for _, c := range []struct {
		name string
		a    *alibi
		b    nn.Batch
		c    *Cache
		want []float32
	}{
		{"documents", a, nn.Batch{Rows: 1, Seq: 7, Docs: []int32{0, 3, 3, 4, 7}}, nil, []float32{0, 1, 2, 0, 0, 1, 2}},
		{"documents and padding", a, nn.Batch{Rows: 1, Seq: 7, Docs: []int32{0, 3, 7}, Mask: []uint8{0, 1, 1, 1, 1, 0, 0}}, nil, []float32{0, 0, 1, 0, 1, 0, 0}},
		{"documents of MPT", m, nn.Batch{Rows: 1, Seq: 5, Docs: []int32{0, 3, 5}}, nil, []float32{-2, -1, 0, -1, 0}},
		{"rows alike", a, nn.Batch{Rows: 2, Seq: 3}, nil, []float32{0, 1, 2}},
		{"cache", a, nn.Batch{Rows: 2, Seq: 1}, &Cache{Len: 4}, []float32{0, 1, 2, 3, 4}},
		{"cache of MPT", m, nn.Batch{Rows: 2, Seq: 2}, &Cache{Len: 2}, []float32{-3, -2, -1, 0}},
		{"padded cache", a, nn.Batch{Rows: 2, Seq: 1}, &Cache{Len: 4, KVFirst: []int32{0, 2}}, []float32{0, 1, 2, 3, 4, 0, 0, 0, 1, 2}},
	} {
		if got, _ := c.a.bias(&c.b, c.c); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, expected %v", c.name, got, c.want)
		}
	}
}
