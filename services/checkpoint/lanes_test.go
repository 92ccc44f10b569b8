package checkpoint

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// held is a source in memory.
type held struct {
	name string
	data []byte
	err  error
	asks int
}

func (h *held) Name() string          { return h.name }
func (h *held) Has(schemas.Part) bool { return true }
func (h *held) Open(_ context.Context, _ schemas.Part, from, to int64) (io.ReadCloser, error) {
	if h.asks++; h.err != nil {
		return nil, h.err
	}
	if to < 0 {
		to = int64(len(h.data))
	}
	return io.NopCloser(bytes.NewReader(h.data[min(from, int64(len(h.data))):min(to, int64(len(h.data)))])), nil
}

// stored writes a checkpoint of one part with the values 0, 1, 2 ... and returns its bytes.
func stored(t *testing.T, objects store.Objects, n int) (schemas.ManifestRef, []byte) {
	t.Helper()
	w, err := NewPartWriter(t.TempDir(), PartKey("acme", "r1", 1, 1, 0, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	values := make([]float32, n)
	for i := range values {
		values[i] = float32(i)
	}
	if err := w.Add("w", []int64{int64(n)}, 0, values); err != nil {
		t.Fatal(err)
	}
	p, err := w.Upload(t.Context(), objects)
	if err != nil {
		t.Fatal(err)
	}
	heads := NewHeads(objects, Config{})
	head, err := heads.Create(t.Context(), schemas.Head{Tenant: "acme", Run: "r1", State: schemas.RunRunning, Stage: "train", Seats: []schemas.Seat{{Issue: 1}}, LastIssue: 1,
		Stages: []schemas.StageState{{Name: "train", Kind: schemas.KindTrain, State: schemas.StageRunning}}})
	if err != nil {
		t.Fatal(err)
	}
	if head, err = heads.FormGeneration(t.Context(), "acme", "r1", "train", Forming{Expect: head.Generation, Members: []schemas.Member{{Issue: 1}}}); err != nil {
		t.Fatal(err)
	}
	head, err = heads.Commit(t.Context(), &schemas.Manifest{Tenant: "acme", Run: "r1", Stage: "train", Generation: head.Generation, World: 1, Step: 1, Parts: []schemas.Part{p}})
	if err != nil {
		t.Fatal(err)
	}
	raw, _, err := objects.Get(t.Context(), p.Key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return *head.Manifest, raw
}

// TestSourcesBeforeTheStore: small parts and parts of many blocks are read from a source that has them; what it spoils, cuts short or refuses
// comes from the next one or the store, and a source that failed is not asked again.
func TestSourcesBeforeTheStore(t *testing.T) {
	for name, n := range map[string]int{"one block": 1000, "many blocks": 3*schemas.BlockBytes/4 + 5} {
		t.Run(name, func(t *testing.T) {
			objects := memstore.New()
			ref, raw := stored(t, objects, n)
			spoiled := bytes.Clone(raw)
			spoiled[len(spoiled)/2]++
			for kind, c := range map[string]struct {
				src       *held
				fromStore bool
			}{
				"good":    {src: &held{name: "peer", data: raw}},
				"spoiled": {src: &held{name: "peer", data: spoiled}, fromStore: true},
				"short":   {src: &held{name: "peer", data: raw[:len(raw)-1]}, fromStore: true},
				"refuses": {src: &held{name: "peer", err: errors.New("no")}, fromStore: true},
			} {
				r, err := Open(t.Context(), objects, ref, t.TempDir())
				if err != nil {
					t.Fatal(err)
				}
				r.Prefer(c.src)
				got := make([]float32, n)
				for range 2 {
					if err := r.ReadAt(t.Context(), "w", 0, got); err != nil {
						t.Fatalf("%s: %v", kind, err)
					}
				}
				for i, v := range got {
					if v != float32(i) {
						t.Fatalf("%s: element %d is %g", kind, i, v)
					}
				}
				if from := r.Fetched(); (from > 0) != c.fromStore {
					t.Errorf("%s: %d bytes came from the store", kind, from)
				}
				if c.fromStore && c.src.asks > 1 {
					t.Errorf("%s: a source that failed was asked %d times", kind, c.src.asks)
				}
				if err := r.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// TestTheFasterSourceIsChosen: this machine first, an unknown peer is tried, a slow one has the store measured against it, and the faster of
// the two goes on.
func TestTheFasterSourceIsChosen(t *testing.T) {
	near, peer, other := &held{name: Local}, &held{name: "peer"}, &held{name: "peer"}
	mib := func(n int64) int64 { return n << 20 }
	for name, c := range map[string]struct {
		lanes  []*lane
		stored lane
		want   Source
	}{
		"nobody":               {nil, lane{}, nil},
		"this machine":         {[]*lane{{src: peer, bytes: mib(900), took: time.Second}, {src: near}}, lane{}, near},
		"unknown peer":         {[]*lane{{src: peer}}, lane{bytes: mib(500), took: time.Second}, peer},
		"fast peer":            {[]*lane{{src: peer, bytes: mib(100), took: time.Second}}, lane{bytes: mib(200), took: time.Second}, peer},
		"slow peer, no figure": {[]*lane{{src: peer, bytes: mib(10), took: time.Second}}, lane{}, nil},
		"slow, store slower":   {[]*lane{{src: peer, bytes: mib(10), took: time.Second}}, lane{bytes: mib(5), took: time.Second}, peer},
		"slow, store faster":   {[]*lane{{src: peer, bytes: mib(10), took: time.Second}}, lane{bytes: mib(50), took: time.Second}, nil},
		"two peers":            {[]*lane{{src: peer, bytes: mib(100), took: time.Second}, {src: other, bytes: mib(300), took: time.Second}}, lane{}, other},
		"gone":                 {[]*lane{{src: peer, gone: true}}, lane{}, nil},
	} {
		r := &Reader{lanes: c.lanes, stored: c.stored}
		if got := r.choose(schemas.Part{}); got.src != c.want {
			t.Errorf("%s: %v", name, got.name())
		}
	}
}
