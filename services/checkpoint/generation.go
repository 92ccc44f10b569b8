package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
)

// Forming is a proposed generation.
type Forming struct {
	// Expect is the generation that HEAD must have; the new one is Expect+1.
	Expect uint64
	// Members hold exactly the wanted seats at their current issues, with ranks 0..n-1.
	Members []schemas.Member
	// Numerics is the fingerprint of the members' arithmetic, recorded in HEAD ("" = not recorded).
	Numerics string
	// Unjudged allows to form after a failure that control has not answered: when it does not for long.
	Unjudged bool
}

// FormGeneration mints generation Expect+1 with the members and returns the HEAD that it starts from (its Manifest is what every rank
// loads). CodeFenced when HEAD has moved on (read it again and offer again), CodeConflict when the members are not the wanted seats.
func (h *Heads) FormGeneration(ctx context.Context, tenant, run, stage string, f Forming) (*schemas.Head, error) {
	return h.Swap(ctx, tenant, run, func(head *schemas.Head) error {
		if head.Generation == f.Expect+1 && slices.Equal(head.Members, f.Members) {
			return ErrNoChange // an earlier attempt of this swap, since overwritten by another field's writer
		}
		if err := fence(head, f.Expect); err != nil {
			return err
		}
		if head.Stage != stage || len(head.Members) > 0 && !endedGeneration(head, f.Expect) {
			return schemas.Errorf(schemas.CodeConflict, "", "cannot form a generation of stage %q: HEAD has stage %q, generation %d with %d members", stage, head.Stage, head.Generation, len(head.Members))
		}
		if head.Unjudged() && !f.Unjudged {
			return schemas.Errorf(schemas.CodeConflict, "", "cannot form a generation: generation %d failed and control has not answered", head.Generation)
		}
		if err := checkMembers(head, f.Members); err != nil {
			return err
		}
		if f.Numerics != "" {
			head.Numerics = f.Numerics
		}
		if head.Generation == 0 || !plantedbug.Is(plantedbug.GenerationReused) {
			head.Generation++
		}
		head.Members, head.Warm = slices.Clone(f.Members), nil
		return nil
	})
}

func checkMembers(head *schemas.Head, members []schemas.Member) error {
	if len(members) == 0 || len(members) != len(head.Seats) {
		return schemas.Errorf(schemas.CodeConflict, "", "cannot form a generation: %d members for %d seats", len(members), len(head.Seats))
	}
	ranks := make([]bool, len(members))
	seats := map[int]bool{}
	for _, m := range members {
		if m.Rank < 0 || m.Rank >= len(members) || ranks[m.Rank] || seats[m.Seat] {
			return schemas.Errorf(schemas.CodeConflict, "", "cannot form a generation: rank %d or seat %d is out of range or taken twice", m.Rank, m.Seat)
		}
		ranks[m.Rank], seats[m.Seat] = true, true
		if !slices.Contains(head.Seats, schemas.Seat{Seat: m.Seat, Issue: m.Issue}) {
			return schemas.Errorf(schemas.CodeConflict, "", "cannot form a generation: HEAD does not want seat %d at issue %d", m.Seat, m.Issue)
		}
	}
	return nil
}

func endedGeneration(head *schemas.Head, generation uint64) bool {
	return slices.ContainsFunc(head.Ended, func(e schemas.GenerationEnd) bool { return e.Generation == generation })
}

// EndGeneration records why a generation ended and takes its members out of HEAD. It is idempotent. CodeFenced when HEAD has moved on.
//
// When info names the checkpoint of HEAD as corrupt (CodeVerify with the manifest's key, see CorruptError), HEAD goes back to the
// parent commit, mints a generation and records the end as infrastructure.
func (h *Heads) EndGeneration(ctx context.Context, tenant, run string, generation uint64, cause schemas.Cause, info *schemas.ErrorInfo) (*schemas.Head, error) {
	if info != nil && info.Code == schemas.CodeVerify {
		head, err := h.walkBack(ctx, tenant, run, generation, info)
		if !errors.Is(err, errNotCorrupt) {
			return head, err
		}
	}
	return h.SwapGeneration(ctx, tenant, run, generation, func(head *schemas.Head) error {
		if endedGeneration(head, generation) {
			return ErrNoChange
		}
		head.Ended = append(head.Ended, schemas.GenerationEnd{Generation: generation, Cause: cause, Step: head.Step, Error: info, At: h.cfg.Now()})
		head.Disband(cause)
		return nil
	})
}

var errNotCorrupt = errors.New("the commit that HEAD names is not the corrupt one")

// walkBack moves HEAD from a corrupt commit to its parent and mints a generation.
func (h *Heads) walkBack(ctx context.Context, tenant, run string, generation uint64, info *schemas.ErrorInfo) (*schemas.Head, error) {
	head, _, err := h.Read(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	// An error that was wrapped on its way keeps its text only.
	if head.Manifest == nil || head.Manifest.Key != info.Place && !strings.Contains(info.Message, head.Manifest.Key) {
		return nil, errNotCorrupt
	}
	bad := *head.Manifest
	parent := head.Previous
	if m, err := ReadManifest(ctx, h.objects, bad); err == nil {
		parent = m.Parent
	}
	var grand *schemas.ManifestRef
	if parent != nil {
		m, err := ReadManifest(ctx, h.objects, *parent)
		if err == nil {
			grand = m.Parent
		} else if retryable(err) {
			return nil, fmt.Errorf("cannot walk back from %s: %w", bad.Key, err)
		}
	}
	return h.SwapGeneration(ctx, tenant, run, generation, func(head *schemas.Head) error {
		if head.Manifest == nil || *head.Manifest != bad {
			return errNotCorrupt
		}
		if !endedGeneration(head, generation) {
			head.Ended = append(head.Ended, schemas.GenerationEnd{Generation: generation, Cause: schemas.CauseInfrastructure, Step: head.Step, Error: info, At: h.cfg.Now()})
		}
		head.Manifest, head.Previous, head.Step = parent, grand, 0
		if parent != nil {
			head.Step = parent.Step
		}
		head.Generation++
		head.Members = nil
		return nil
	})
}
