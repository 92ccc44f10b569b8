package localrun

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
)

// Gang trains stages of one run on ranks that are goroutines of this process.
type Gang struct {
	Heads *checkpoint.Heads
	Spec  *schemas.RunSpec
	// Worker is the prefix of the ranks' names.
	Worker string

	issue uint64
}

// Train runs a stage from its newest commit to its end, in one generation of world ranks, and marks it as succeeded. task makes the task of
// one rank, done is called when the rank has ended. It returns HEAD as it is then; errors are those of the ranks and of HEAD's swaps.
func (g *Gang) Train(ctx context.Context, h consume.Handler, stage string, world int, task func() (t *consume.Task, done func() error, err error)) (*schemas.Head, error) {
	head, members, err := g.form(ctx, stage, world)
	if err != nil {
		return nil, fmt.Errorf("cannot form the gang of stage %s: %w", stage, err)
	}
	// All tasks before the first rank: ranks wait for each other.
	tasks, after := make([]*consume.Task, world), make([]func() error, world)
	for rank := range world {
		if tasks[rank], after[rank], err = task(); err != nil {
			for _, done := range after[:rank] {
				err = errors.Join(err, done())
			}
			return nil, err
		}
	}
	errs := make([]error, world)
	var wg sync.WaitGroup
	for rank, c := range collective.NewLocal(world) {
		t := tasks[rank]
		t.Message.Seat = rank
		t.Gang = &consume.Gang{Generation: head.Generation, Rank: rank, World: world, Members: members, Collective: c, Head: head,
			Control: func() schemas.Control { return schemas.ControlNone },
			Commit: func(ctx context.Context, m *schemas.Manifest) error {
				m.Tenant, m.Run, m.Stage, m.Generation, m.World = head.Tenant, head.Run, head.Stage, head.Generation, world
				_, err := g.Heads.Commit(ctx, m)
				return err
			}}
		wg.Go(func() {
			err := h(ctx, t)
			errs[rank] = errors.Join(err, c.Close(), after[rank]())
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	head, err = g.Heads.Swap(ctx, g.Spec.Tenant, g.Spec.ID, func(h *schemas.Head) error {
		ref := *h.Manifest
		s := h.StageByName(stage)
		s.Manifest, s.State = &ref, schemas.StageSucceeded
		h.Members = nil
		h.Ended = append(h.Ended, schemas.GenerationEnd{Generation: h.Generation, Cause: schemas.CauseDone, Step: h.Step})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot end stage %s: %w", stage, err)
	}
	return head, nil
}

// form issues the seats and mints the generation.
func (g *Gang) form(ctx context.Context, stage string, world int) (*schemas.Head, []schemas.Member, error) {
	var members []schemas.Member
	head, err := g.Heads.Swap(ctx, g.Spec.Tenant, g.Spec.ID, func(h *schemas.Head) error {
		if h.Stage != stage {
			h.Stage, h.Manifest, h.Previous, h.Step = stage, nil, nil, 0
		}
		h.Seats, h.Members, members = nil, nil, nil
		for i := range world {
			g.issue++
			h.Seats = append(h.Seats, schemas.Seat{Seat: i, Issue: g.issue})
			members = append(members, schemas.Member{Rank: i, Seat: i, Issue: g.issue, Worker: fmt.Sprint(g.Worker, i)})
		}
		return nil
	})
	if err != nil {
		return nil, nil, err
	}
	head, err = g.Heads.FormGeneration(ctx, g.Spec.Tenant, g.Spec.ID, stage, checkpoint.Forming{Expect: head.Generation, Members: members})
	return head, members, err
}
