package checkpoint_test

import (
	"errors"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestRanksReadOnlyTheirRanges: of a checkpoint that one rank wrote, each of four ranks fetches little more than its quarter, and a flipped bit
// is found by whoever reads its block, however it reads it, and by Verify.
func TestRanksReadOnlyTheirRanges(t *testing.T) {
	objects, heads := newRun(t, 1)
	const name, n = "param/big", 10 << 20 // 40 MiB: ten blocks
	w, err := checkpoint.NewPartWriter(t.TempDir(), checkpoint.PartKey(tenant, run, 10, 1, 0, 0), 0)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]float32, n)
	for i := range whole {
		whole[i] = float32(i % 8191)
	}
	if err := w.Add(name, []int64{n}, 0, whole); err != nil {
		t.Fatal(err)
	}
	p, err := w.Upload(t.Context(), objects)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if len(p.Blocks) != 10 {
		t.Fatalf("the part of %d bytes has %d blocks", p.Bytes, len(p.Blocks))
	}
	m := &schemas.Manifest{Tenant: tenant, Run: run, Stage: stage, Step: 10, Generation: 1, World: 1, Parts: []schemas.Part{p}}
	if m.Log, err = checkpoint.UploadBytes(t.Context(), objects, schemas.LogKey(tenant, run, 10, 1), nil); err != nil {
		t.Fatal(err)
	}
	head, err := heads.Commit(t.Context(), m)
	if err != nil {
		t.Fatal(err)
	}
	open := func() *checkpoint.Reader {
		r, err := checkpoint.Open(t.Context(), objects, *head.Manifest, t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
		return r
	}
	for rank := range 4 {
		r := open()
		from, to := rank*n/4, (rank+1)*n/4
		dst := make([]float32, 100_000)
		for at := from; at < to; at += len(dst) {
			d := dst[:min(len(dst), to-at)]
			if err := r.ReadAt(t.Context(), name, int64(at), d); err != nil {
				t.Fatal(err)
			}
			for i, v := range d {
				if v != whole[at+i] {
					t.Fatalf("element %d is %v, want %v", at+i, v, whole[at+i])
				}
			}
		}
		if got, most := r.Fetched(), int64(n+2*schemas.BlockBytes); got > most {
			t.Errorf("rank %d fetched %d bytes for its %d", rank, got, n)
		}
	}
	data, _, err := objects.Get(t.Context(), p.Key, 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	for _, damage := range []func([]byte) []byte{
		func(b []byte) []byte { b[5*schemas.BlockBytes+77] ^= 4; return b },
		func(b []byte) []byte { return b[:len(b)-1] },
	} {
		if _, err := objects.Put(t.Context(), p.Key, damage(append([]byte(nil), data...)), store.Condition{}); err != nil {
			t.Fatal(err)
		}
		r := open()
		if err := r.ReadAt(t.Context(), name, 0, make([]float32, 1000)); err != nil {
			t.Errorf("an undamaged block: %v", err)
		}
		var bad *checkpoint.CorruptError
		if err := r.Verify(t.Context()); !errors.As(err, &bad) || bad.Key != p.Key {
			t.Errorf("a damaged part passes: %v", err)
		}
	}
}
