package api_test

import (
	"context"
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestWhoComesBackIsToldTheEnd: the run ends while a client is away, and its last steps never come to the tail: they are told from the
// segment logs, and no step a second time, whatever the client's last event was.
func TestWhoComesBackIsToldTheEnd(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reply, err := b.client.Submit(ctx, spec("away"))
	if err != nil {
		t.Fatal(err)
	}
	run := reply.Run
	for s := int64(1); s <= 3; s++ {
		if err := b.live.Append(ctx, "acme", run, stepEvent(run, "tune", 2, s)); err != nil {
			t.Fatal(err)
		}
	}
	note := schemas.Event{At: time.Now(), Type: schemas.EventProgress, Tenant: "acme", Run: run, Stage: "tune", Generation: 2, Step: 3, Message: "still at it"}
	if err := b.live.Append(ctx, "acme", run, note); err != nil {
		t.Fatal(err)
	}
	tail, err := b.live.Tail(ctx, "acme", run, "", 10, 0)
	if err != nil || len(tail) < 4 {
		t.Fatalf("the tail has %d events: %v", len(tail), err)
	}
	m := b.commit(t, run, "tune", 2, 1, 5, nil)
	data, err := json.Marshal(&schemas.Head{Version: 1, Tenant: "acme", Run: run, State: schemas.RunSucceeded, Updated: time.Now(), Stage: "tune", Generation: 2, Manifest: m,
		Stages: []schemas.StageState{{Name: "tune", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Manifest: m}}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.objects.Put(ctx, schemas.HeadKey("acme", run), data, store.Condition{}); err != nil {
		t.Fatal(err)
	}
	for i, last := range tail[len(tail)-3:] { // steps 2 and 3, and the note
		var got []int64
		if err := b.client.Follow(ctx, "acme", run, last.ID, func(_ string, e schemas.Event) error {
			if e.Type == schemas.EventStep {
				got = append(got, e.Step)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		want := [][]int64{{3, 4, 5}, {4, 5}, {4, 5}}[i]
		if !slices.Equal(got, want) {
			t.Errorf("after %+v steps %v are told, want %v", last.Event, got, want)
		}
	}
}
