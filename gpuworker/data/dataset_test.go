package data_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// flippy flips a bit of what is read of one object, a number of times.
type flippy struct {
	*memstore.Store
	key   string
	times int
	reads int
}

func (s *flippy) Open(ctx context.Context, key string, from, length int64) (io.ReadCloser, error) {
	r, err := s.Store.Open(ctx, key, from, length)
	if err != nil || key != s.key {
		return r, err
	}
	defer r.Close()
	raw, err := io.ReadAll(r)
	if s.reads++; s.reads <= s.times {
		raw[len(raw)/2] ^= 4
	}
	return io.NopCloser(bytes.NewReader(raw)), err
}

// A shard whose bits flipped on the way is read again; one that is wrong in the store is an error that names it, after two readings.
func TestAShardIsReadAgainBeforeItIsRefused(t *testing.T) {
	t.Parallel()
	w := data.NewShardWriter()
	for i := range 40 {
		if err := w.Add(data.Sequence{IDs: []int32{1, int32(i), 3}, Labels: []int32{-100, int32(i), 3}}); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := w.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	spec := &schemas.RunSpec{Tenant: "a", ID: "r", Stages: []schemas.Stage{{Name: "prep", Prep: &schemas.PrepStage{Parts: 1, Outputs: []schemas.PrepOutput{{Name: "train"}}}}}}
	shard := schemas.Object{Name: "train/" + data.ObjectShard, Key: schemas.CacheKey("a", "hash", data.ObjectShard), Bytes: int64(len(raw)), SHA256: hex.EncodeToString(sum[:])}
	result, err := json.Marshal(schemas.StageResult{Objects: []schemas.Object{shard}})
	if err != nil {
		t.Fatal(err)
	}
	for times, wantReads := range []int{1, 2, 2} {
		s := &flippy{Store: memstore.New(), key: shard.Key, times: times}
		for key, b := range map[string][]byte{shard.Key: raw, schemas.CacheKey("a", "hash", "entry.json"): []byte("{}"), schemas.ResultKey("a", "r", "prep", 0): result} {
			if _, err := s.Put(t.Context(), key, b, store.Condition{}); err != nil {
				t.Fatal(err)
			}
		}
		d, err := data.OpenDataset(t.Context(), s, spec, "prep/train", t.TempDir())
		if s.reads != wantReads {
			t.Errorf("%d flips: read %d times, want %d", times, s.reads, wantReads)
		}
		if times == 2 {
			if !schemas.IsCode(err, schemas.CodeVerify) || !strings.Contains(err.Error(), shard.Key) || !strings.Contains(err.Error(), "read twice") {
				t.Errorf("a damaged shard: %v", err)
			}
			if _, err := s.Stat(t.Context(), schemas.CacheKey("a", "hash", "entry.json")); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("the next run would use the damaged shard again: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if q, err := d.Sequence(t.Context(), 39); err != nil || d.Len() != 40 || q.IDs[1] != 39 {
			t.Errorf("%d flips: %d sequences, the last %v, %v", times, d.Len(), q, err)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
}
