package chaostest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// Lineage is what the final commit of a train stage says about how it came about.
type Lineage struct {
	// Hash is the final commit's StateHash or, when it has none, the SHA-256 over the content of its parts in rank order.
	Hash string
	// Commits is the number of commits from the first to the final one, Generations of how many generations they are.
	Commits     int
	Generations int
	Steps       int64
}

// ReadLineage verifies how the final commit of a train stage came about: each step from 1 to the last was logged exactly once, in order,
// along the lineage; parts, manifests and logs match their SHA-256; generations never go back. Commits whose manifests were pruned are
// judged by their logs and by what HEAD recorded about the ended generations.
func ReadLineage(ctx context.Context, objects store.Objects, head *schemas.Head, stage string) (Lineage, error) {
	st := head.StageByName(stage)
	if st == nil || st.Manifest == nil || !st.Manifest.Final {
		return Lineage{}, fmt.Errorf("HEAD has no final commit of stage %q", stage)
	}
	l := Lineage{Steps: st.Manifest.Step}
	generations := map[uint64]bool{}
	ref := st.Manifest
	for ref != nil && ref.Stage == stage {
		m, err := checkpoint.ReadManifest(ctx, objects, *ref)
		var gone *checkpoint.CorruptError
		if errors.As(err, &gone) && ref.Generation < head.Generation && l.Commits > 0 {
			break // pruned
		}
		if err != nil {
			return l, err
		}
		if err := l.add(ctx, objects, m); err != nil {
			return l, err
		}
		generations[m.Generation] = true
		ref = m.Parent
	}
	if ref != nil && ref.Stage == stage {
		if err := l.pruned(ctx, objects, head, *ref, generations); err != nil {
			return l, err
		}
	}
	l.Generations = len(generations)
	return l, nil
}

// add verifies one commit: its parts and the log of its segment.
func (l *Lineage) add(ctx context.Context, objects store.Objects, m *schemas.Manifest) error {
	sum := sha256.New()
	slices.SortFunc(m.Parts, func(a, b schemas.Part) int { return a.Rank - b.Rank })
	for _, p := range m.Parts {
		data, err := readPart(ctx, objects, p)
		if errors.Is(err, store.ErrNotFound) && l.Commits > 0 {
			continue // pruned: the manifest stays and names the log
		}
		if err != nil {
			return err
		}
		sum.Write(data)
	}
	if l.Hash == "" {
		if l.Hash = m.StateHash; l.Hash == "" {
			l.Hash = hex.EncodeToString(sum.Sum(nil))
		}
	}
	from := int64(0)
	if m.Parent != nil && m.Parent.Stage == m.Stage {
		from = m.Parent.Step
		if m.Parent.Generation > m.Generation {
			return fmt.Errorf("the commit of step %d, generation %d has a parent of generation %d", m.Step, m.Generation, m.Parent.Generation)
		}
	}
	data, err := readPart(ctx, objects, m.Log)
	if err != nil {
		return err
	}
	next, err := checkLog(data, m.Log.Key, from+1, m.Generation)
	if err == nil && next != m.Step+1 {
		err = fmt.Errorf("log %s ends before step %d, the commit is of step %d", m.Log.Key, next, m.Step)
	}
	l.Commits++
	return err
}

// pruned verifies the logs of the steps up to last, the newest commit whose manifest is gone. Which logs are of the lineage follows from
// HEAD: a generation's commits lie between the steps at which it and its predecessor ended.
func (l *Lineage) pruned(ctx context.Context, objects store.Objects, head *schemas.Head, last schemas.ManifestRef, generations map[uint64]bool) error {
	type span struct{ from, to int64 }
	spans := map[uint64]span{}
	from := int64(0)
	for _, e := range head.Ended {
		spans[e.Generation] = span{from, e.Step}
		if from = e.Step; e.Cause == schemas.CauseDone {
			from = 0
		}
	}
	next := int64(1)
	prefix := schemas.RunPrefix(head.Tenant, head.Run) + "log/"
	for info, err := range objects.List(ctx, prefix) {
		if err != nil {
			return fmt.Errorf("cannot list logs: %w", err)
		}
		var step int64
		var generation uint64
		if _, err := fmt.Sscanf(info.Key[len(prefix):], "%d-%d.jsonl", &step, &generation); err != nil {
			return fmt.Errorf("cannot tell step and generation of %s: %w", info.Key, err)
		}
		s, ok := spans[generation]
		if !ok || step <= s.from || step > s.to || step > last.Step || generation > last.Generation {
			continue // stored, but never committed, or verified above
		}
		data, _, err := objects.Get(ctx, info.Key, info.Bytes)
		if err != nil {
			return err
		}
		if next, err = checkLog(data, info.Key, next, generation); err != nil {
			return err
		}
		if next != step+1 {
			return fmt.Errorf("log %s ends before step %d", info.Key, next)
		}
		l.Commits++
		generations[generation] = true
	}
	if next != last.Step+1 {
		return fmt.Errorf("the logs end before step %d, the newest pruned commit is of step %d", next, last.Step)
	}
	return nil
}

// checkLog verifies that a segment's log holds consecutive steps from next on, all of one generation, and returns the step after its last.
func checkLog(data []byte, key string, next int64, generation uint64) (int64, error) {
	for line := range bytes.Lines(data) {
		var e schemas.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return next, fmt.Errorf("cannot decode log %s: %w", key, err)
		}
		if e.Type != schemas.EventStep {
			continue
		}
		if e.Step != next || e.Generation != generation {
			return next, fmt.Errorf("log %s has step %d of generation %d where step %d of generation %d belongs", key, e.Step, e.Generation, next, generation)
		}
		next++
	}
	return next, nil
}
