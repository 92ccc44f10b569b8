package chaostest

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"

	"crypto/sha256"

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

// ReadLineage walks from the final commit of a stage to its first one and verifies every object on the way: parts and logs match their
// SHA-256, each segment's log holds exactly the steps since the parent's commit, once and in order, and generations never go back.
func ReadLineage(ctx context.Context, objects store.Objects, final schemas.ManifestRef) (Lineage, error) {
	l := Lineage{Steps: final.Step}
	if !final.Final {
		return l, fmt.Errorf("commit %s is not final", final.Key)
	}
	generations := map[uint64]bool{}
	for ref := &final; ref != nil; {
		m, err := checkpoint.ReadManifest(ctx, objects, *ref)
		if err != nil {
			return l, err
		}
		if m.Step != ref.Step || m.Generation != ref.Generation {
			return l, fmt.Errorf("manifest %s says step %d, generation %d, its reference %d, %d", ref.Key, m.Step, m.Generation, ref.Step, ref.Generation)
		}
		sum := sha256.New()
		slices.SortFunc(m.Parts, func(a, b schemas.Part) int { return a.Rank - b.Rank })
		for _, p := range m.Parts {
			data, err := readPart(ctx, objects, p)
			if err != nil {
				return l, err
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
				return l, fmt.Errorf("commit %s has a parent of the later generation %d", ref.Key, m.Parent.Generation)
			}
		}
		if err := checkLog(ctx, objects, m, from); err != nil {
			return l, err
		}
		l.Commits++
		generations[m.Generation] = true
		ref = m.Parent
		if ref != nil && ref.Stage != m.Stage {
			ref = nil
		}
	}
	l.Generations = len(generations)
	return l, nil
}

// checkLog verifies that the segment's log holds the steps from+1 ... m.Step, each once, all of the manifest's generation.
func checkLog(ctx context.Context, objects store.Objects, m *schemas.Manifest, from int64) error {
	data, err := readPart(ctx, objects, m.Log)
	if err != nil {
		return err
	}
	want := from + 1
	for line := range bytes.Lines(data) {
		var e schemas.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return fmt.Errorf("cannot decode log %s: %w", m.Log.Key, err)
		}
		if e.Type != schemas.EventStep {
			continue
		}
		if e.Step != want || e.Generation != m.Generation {
			return fmt.Errorf("log %s has step %d of generation %d where step %d of generation %d belongs", m.Log.Key, e.Step, e.Generation, want, m.Generation)
		}
		want++
	}
	if want != m.Step+1 {
		return fmt.Errorf("log %s ends before step %d, the commit is of step %d", m.Log.Key, want, m.Step)
	}
	return nil
}
