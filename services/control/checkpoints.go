package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxCheckpoints bounds how many checkpoints one call looks at: the newest ones.
const maxCheckpoints = 1000

// Checkpoints lists the newest checkpoints of a run, oldest first. With verify every part that is still there to be verified is read and
// compared with its manifest.
func (s *Service) Checkpoints(ctx context.Context, tenant, run string, verify bool) (*schemas.CheckpointList, error) {
	head, err := s.head(ctx, tenant, run)
	if err != nil {
		return nil, err
	}
	out := &schemas.CheckpointList{Checkpoints: []schemas.CheckpointView{}}
	if head == nil {
		return out, nil
	}
	pins, err := checkpoint.Pins(ctx, s.objects, tenant, run)
	if err != nil {
		return nil, unreachable(err)
	}
	base := schemas.RunPrefix(tenant, run) + "ckpt/"
	stored, bytes := map[string]int{}, map[string]int64{}
	var names []string
	for info, err := range s.objects.List(ctx, base) {
		if err != nil {
			return nil, unreachable(err)
		}
		name, file, _ := strings.Cut(strings.TrimPrefix(info.Key, base), "/")
		if file == "manifest.json" {
			names = append(names, name)
			continue
		}
		stored[name]++
		bytes[name] += info.Bytes
	}
	slices.Sort(names)
	for _, name := range names[max(0, len(names)-maxCheckpoints):] {
		c, ref, m, err := s.checkpoint(ctx, tenant, run, name, head)
		if err != nil {
			return nil, err
		}
		c.Bytes, c.Pruned = bytes[name], stored[name] < c.Parts
		if c.Role == "" && pins[name] {
			c.Role = "pinned"
		}
		if verify && !c.Pruned {
			c.Verified = "ok"
			var bad *checkpoint.CorruptError
			if err := checkpoint.VerifyParts(ctx, s.objects, ref, m); errors.As(err, &bad) {
				c.Verified = bad.Key + ": " + bad.Reason
			} else if err != nil {
				return nil, unreachable(err)
			}
		}
		out.Checkpoints = append(out.Checkpoints, *c)
	}
	return out, nil
}

// head is HEAD of a run, nil while it is queued; CodeNotFound when there is no such run.
func (s *Service) head(ctx context.Context, tenant, run string) (*schemas.Head, error) {
	if _, _, err := s.spec(ctx, tenant, run); err != nil {
		return nil, err
	}
	head, _, err := s.heads.Read(ctx, tenant, run)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unreachable(err)
	}
	return head, nil
}

func (s *Service) checkpoint(ctx context.Context, tenant, run, name string, head *schemas.Head) (*schemas.CheckpointView, schemas.ManifestRef, *schemas.Manifest, error) {
	step, generation, err := checkpoint.ParseName(name)
	if err != nil {
		return nil, schemas.ManifestRef{}, nil, err
	}
	key := schemas.ManifestKey(tenant, run, step, generation)
	data, _, err := s.objects.Get(ctx, key, checkpoint.MaxManifestBytes)
	if err != nil {
		return nil, schemas.ManifestRef{}, nil, unreachable(err)
	}
	var m schemas.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, schemas.ManifestRef{}, nil, fmt.Errorf("cannot decode manifest %s: %w", key, err)
	}
	ref := schemas.ManifestRef{Key: key, Stage: m.Stage, Step: m.Step, Generation: m.Generation}
	c := &schemas.CheckpointView{Name: name, Stage: m.Stage, Step: m.Step, Generation: m.Generation, World: m.World, Parts: len(m.Parts), Created: m.Created}
	is := func(r *schemas.ManifestRef) bool { return r != nil && r.Key == key }
	final := slices.ContainsFunc(head.Stages, func(st schemas.StageState) bool { return is(st.Manifest) })
	switch {
	case is(head.Manifest):
		c.Role = "head"
	case is(head.Previous):
		c.Role = "previous"
	case final:
		c.Role = "final"
	}
	return c, ref, &m, nil
}

// CollectCheckpoints deletes the parts of a run's checkpoints that nothing needs; with dry it only counts them.
func (s *Service) CollectCheckpoints(ctx context.Context, tenant, run string, dry bool) (*schemas.CheckpointList, error) {
	head, err := s.head(ctx, tenant, run)
	if err != nil || head == nil {
		return &schemas.CheckpointList{}, err
	}
	drop, err := checkpoint.Droppable(ctx, s.objects, head)
	if err != nil {
		return nil, unreachable(err)
	}
	out := &schemas.CheckpointList{}
	for _, o := range drop {
		if !dry {
			if err := s.objects.Delete(ctx, o.Key); err != nil {
				return nil, unreachable(err)
			}
		}
		out.Dropped++
		out.DroppedBytes += o.Bytes
	}
	return out, nil
}

// PinCheckpoint keeps a checkpoint for good, or with pin false no longer. CodeNotFound when the run has no such checkpoint or its parts are
// pruned already.
func (s *Service) PinCheckpoint(ctx context.Context, tenant, run, name string, pin bool) error {
	if _, _, err := checkpoint.ParseName(name); err != nil {
		return err
	}
	key := checkpoint.PinPrefix(tenant, run) + name
	if !pin {
		if _, err := s.head(ctx, tenant, run); err != nil {
			return err
		}
		if err := s.objects.Delete(ctx, key); err != nil && !errors.Is(err, store.ErrNotFound) {
			return unreachable(err)
		}
		return nil
	}
	// Pin first, then look: a collection that ran in between leaves a pin of nothing, which is taken back.
	list, err := s.Checkpoints(ctx, tenant, run, false)
	if err != nil {
		return err
	}
	has := func(l *schemas.CheckpointList) bool {
		return slices.ContainsFunc(l.Checkpoints, func(c schemas.CheckpointView) bool { return c.Name == name && !c.Pruned })
	}
	gone := schemas.Errorf(schemas.CodeNotFound, name, "run %s has no checkpoint of this name with all its parts", run).WithHint("tunefleet ckpt ls %s lists them", run)
	if !has(list) {
		return gone
	}
	if _, err := s.objects.Put(ctx, key, []byte("{}"), store.Condition{}); err != nil {
		return unreachable(err)
	}
	if list, err = s.Checkpoints(ctx, tenant, run, false); err != nil {
		return err
	}
	if !has(list) {
		return errors.Join(gone, s.objects.Delete(ctx, key))
	}
	return nil
}
