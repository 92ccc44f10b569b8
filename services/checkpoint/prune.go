package checkpoint

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// PinPrefix lists what a run's users asked to keep: the object PinPrefix + "<step>-<generation>" (of any content) pins that checkpoint.
func PinPrefix(tenant, run string) string { return "pins/" + tenant + "/" + run + "/" }

// Prune deletes the parts of checkpoints that nothing needs any more and returns the keys deleted. It keeps the last two commits of HEAD,
// the final commit of every train stage, what the run's pins name, and, while the run may still go on, everything of generation >= HEAD's.
// Manifests stay: they name the logs of their segments and so hold the run's history.
func Prune(ctx context.Context, objects store.Objects, head *schemas.Head) ([]string, error) {
	keep := map[string]bool{}
	ref := func(m *schemas.ManifestRef) {
		if m != nil {
			keep[schemas.CheckpointPrefix(head.Tenant, head.Run, m.Step, m.Generation)] = true
		}
	}
	ref(head.Manifest)
	ref(head.Previous)
	for _, s := range head.Stages {
		ref(s.Manifest)
	}
	base := schemas.RunPrefix(head.Tenant, head.Run) + "ckpt/"
	pins := PinPrefix(head.Tenant, head.Run)
	for info, err := range objects.List(ctx, pins) {
		if err != nil {
			return nil, fmt.Errorf("cannot list pins of %s/%s: %w", head.Tenant, head.Run, err)
		}
		keep[base+strings.TrimPrefix(info.Key, pins)+"/"] = true
	}
	var drop []string
	for info, err := range objects.List(ctx, base) {
		if err != nil {
			return nil, fmt.Errorf("cannot list checkpoints of %s/%s: %w", head.Tenant, head.Run, err)
		}
		name, _, ok := strings.Cut(strings.TrimPrefix(info.Key, base), "/")
		_, gen, dash := strings.Cut(name, "-")
		generation, err := strconv.ParseUint(gen, 10, 64)
		if !ok || !dash || err != nil || keep[base+name+"/"] || generation >= head.Generation && !head.State.Terminal() || strings.HasSuffix(info.Key, "/manifest.json") {
			continue
		}
		drop = append(drop, info.Key)
	}
	for i, key := range drop {
		if err := objects.Delete(ctx, key); err != nil {
			return drop[:i], fmt.Errorf("cannot delete %s: %w", key, err)
		}
	}
	return drop, nil
}
