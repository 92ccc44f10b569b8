package api_test

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/store"
)

// TestARunWithoutItsTailTellsItsStory: what HEAD remembers is told when the live tail was lost, before the tail's events when it was trimmed,
// and not at all when it is whole.
func TestARunWithoutItsTailTellsItsStory(t *testing.T) {
	begun := time.Now().Add(-time.Hour).UTC()
	at := func(minutes int) time.Time { return begun.Add(time.Duration(minutes) * time.Minute) }
	head := func(run string) *schemas.Head {
		return &schemas.Head{Version: 1, Tenant: "acme", Run: run, State: schemas.RunSucceeded, Updated: at(50), Created: begun, Generation: 3,
			Stages: []schemas.StageState{{Name: "prep", Kind: schemas.KindPrep, State: schemas.StageSucceeded, Started: at(1), Ended: at(2)},
				{Name: "base", Kind: schemas.KindTrain, State: schemas.StageSucceeded, Started: at(3), Ended: at(50)}},
			Ended: []schemas.GenerationEnd{{Generation: 1, Cause: schemas.CauseInfrastructure, Step: 40, At: at(10)}, {Generation: 2, Cause: schemas.CausePreempted, Step: 80, At: at(20)}, {Generation: 3, Cause: schemas.CauseDone, Step: 100, At: at(50)}}}
	}
	told := []string{"stage.state prep running", "stage.state prep succeeded", "stage.state base running", "gang.member_lost  generation 1 ended: infrastructure",
		"note  generation 2 ended: preempted", "stage.state base succeeded"}
	for name, c := range map[string]struct {
		tail []schemas.Event
		want []string
	}{
		"lost":    {nil, append(slices.Clone(told), "run.state  succeeded")},
		"trimmed": {[]schemas.Event{{At: at(15), Type: schemas.EventWarning, Message: "slow"}}, append(slices.Clone(told[:4]), "warning  slow", "run.state  succeeded")},
		"whole":   {[]schemas.Event{{At: at(0), Type: schemas.EventSubmitted}, {At: at(15), Type: schemas.EventWarning, Message: "slow"}}, []string{"run.submitted  ", "warning  slow", "run.state  succeeded"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			reply, err := b.client.Submit(t.Context(), spec("story"))
			if err != nil {
				t.Fatal(err)
			}
			b.live.(*memlease.Store).Wipe()
			data, err := json.Marshal(head(reply.Run))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := b.objects.Put(t.Context(), schemas.HeadKey("acme", reply.Run), data, store.Condition{Absent: true}); err != nil {
				t.Fatal(err)
			}
			for _, e := range c.tail {
				e.Tenant, e.Run = "acme", reply.Run
				if err := b.live.Append(t.Context(), "acme", reply.Run, e); err != nil {
					t.Fatal(err)
				}
			}
			var got []string
			err = b.client.Follow(t.Context(), "acme", reply.Run, "", func(_ string, e schemas.Event) error {
				if e.Type == schemas.EventSubmitted && name != "whole" {
					return nil // at the time at which the object was written
				}
				got = append(got, e.Type+" "+e.Stage+" "+e.Message)
				return nil
			})
			if err != nil || !slices.Equal(got, c.want) {
				t.Errorf("told %q, want %q: %v", got, c.want, err)
			}
		})
	}
}
