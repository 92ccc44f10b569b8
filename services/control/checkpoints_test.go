package control

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// TestCheckpoints: a run's checkpoints are listed with what keeps them, verified, pinned and collected.
func TestCheckpoints(t *testing.T) {
	objects := memstore.New()
	s := NewService(objects, nil, nil, nil)
	spec := trainSpec("aaaaaaaa", 1, 1, 1)
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := objects.Put(t.Context(), schemas.SpecKey("t", spec.ID), data, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	h := NewHead(spec)
	h.Stage, h.Seats = "tune", []schemas.Seat{{Issue: 1}}
	h.Stages[0].State = schemas.StageRunning
	if _, err := s.heads.Create(t.Context(), h); err != nil {
		t.Fatal(err)
	}
	member := []schemas.Member{{Rank: 0, Seat: 0, Issue: 1, Worker: "w", Incarnation: "i", Addr: "127.0.0.1:1"}}
	if _, err := s.heads.FormGeneration(t.Context(), "t", spec.ID, "tune", checkpoint.Forming{Members: member}); err != nil {
		t.Fatal(err)
	}
	for step := int64(1); step <= 4; step++ {
		part, err := checkpoint.UploadBytes(t.Context(), objects, checkpoint.PartKey("t", spec.ID, step, 1, 0, 0), bytes.Repeat([]byte{byte(step)}, 100))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.heads.Commit(t.Context(), &schemas.Manifest{Tenant: "t", Run: spec.ID, Stage: "tune", Step: step, Generation: 1, World: 1, Parts: []schemas.Part{part}}); err != nil {
			t.Fatal(err)
		}
	}
	name := func(step int) string { return "00000000000" + string(rune('0'+step)) + "-000001" }
	if err := s.PinCheckpoint(t.Context(), "t", spec.ID, name(1), true); err != nil {
		t.Fatal(err)
	}
	if err := s.PinCheckpoint(t.Context(), "t", spec.ID, name(9), true); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Fatalf("pinned what is not there: %v", err)
	}
	if err := s.PinCheckpoint(t.Context(), "t", spec.ID, "../x", true); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Fatalf("pinned a path: %v", err)
	}
	dry, err := s.CollectCheckpoints(t.Context(), "t", spec.ID, true)
	if err != nil || dry.Dropped != 1 || dry.DroppedBytes != 100 {
		t.Fatalf("dry run %+v: %v", dry, err)
	}
	if _, err := s.CollectCheckpoints(t.Context(), "t", spec.ID, false); err != nil {
		t.Fatal(err)
	}
	broken := checkpoint.PartKey("t", spec.ID, 3, 1, 0, 0)
	if _, err := objects.Put(t.Context(), broken, bytes.Repeat([]byte{9}, 100), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	list, err := s.Checkpoints(t.Context(), "t", spec.ID, true)
	if err != nil || len(list.Checkpoints) != 4 {
		t.Fatalf("list %+v: %v", list, err)
	}
	for i, want := range []struct {
		role     string
		pruned   bool
		verified string
	}{{"pinned", false, "ok"}, {"", true, ""}, {"previous", false, broken}, {"head", false, "ok"}} {
		c := list.Checkpoints[i]
		if c.Name != name(i+1) || c.Role != want.role || c.Pruned != want.pruned || !strings.HasPrefix(c.Verified, want.verified) || want.verified == "" && c.Verified != "" {
			t.Errorf("checkpoint %+v, want %+v", c, want)
		}
	}
	if err := s.PinCheckpoint(t.Context(), "t", spec.ID, name(1), false); err != nil {
		t.Fatal(err)
	}
	if got, err := s.CollectCheckpoints(t.Context(), "t", spec.ID, false); err != nil || got.Dropped != 1 {
		t.Fatalf("after unpinning %+v: %v", got, err)
	}
}
