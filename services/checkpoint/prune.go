package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// PinPrefix lists what a run's users asked to keep: the object PinPrefix + "<step>-<generation>" (of any content) pins that checkpoint.
func PinPrefix(tenant, run string) string { return "pins/" + tenant + "/" + run + "/" }

// Prune deletes the parts of checkpoints that nothing needs any more and returns the keys deleted; see Droppable. Manifests stay: they name
// the logs of their segments and so hold the run's history.
func Prune(ctx context.Context, objects store.Objects, head *schemas.Head) ([]string, error) {
	drop, err := Droppable(ctx, objects, head)
	if err != nil {
		return nil, err
	}
	for i, o := range drop {
		if err := objects.Delete(ctx, o.Key); err != nil {
			return keysOf(drop[:i]), fmt.Errorf("cannot delete %s: %w", o.Key, err)
		}
	}
	return keysOf(drop), nil
}

func keysOf(objects []schemas.Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, o.Key)
	}
	return out
}

// Droppable lists the parts of checkpoints that nothing needs any more. Needed are the last two commits of HEAD, the final commit of every
// train stage, what the run's pins name, and, while the run may still go on, everything of a generation >= HEAD's but what its own two last
// commits have superseded: a gang stores parts of later steps only (deploy/adr/0003).
func Droppable(ctx context.Context, objects store.Objects, head *schemas.Head) ([]schemas.Object, error) {
	keep := map[string]bool{}
	ref := func(m *schemas.ManifestRef) {
		if m != nil {
			keep[schemas.CheckpointPrefix(head.Tenant, head.Run, m.Step, m.Generation)] = true
		}
	}
	ref(head.Manifest)
	if !plantedbug.Is(plantedbug.PruneNeeded) {
		ref(head.Previous)
	}
	for _, s := range head.Stages {
		ref(s.Manifest)
	}
	base := schemas.RunPrefix(head.Tenant, head.Run) + "ckpt/"
	pinned, err := Pins(ctx, objects, head.Tenant, head.Run)
	if err != nil {
		return nil, err
	}
	for name := range pinned {
		keep[base+name+"/"] = true
	}
	var drop []schemas.Object
	for info, err := range objects.List(ctx, base) {
		if err != nil {
			return nil, fmt.Errorf("cannot list checkpoints of %s/%s: %w", head.Tenant, head.Run, err)
		}
		name, _, ok := strings.Cut(strings.TrimPrefix(info.Key, base), "/")
		step, generation, err := ParseName(name)
		if !ok || err != nil || keep[base+name+"/"] || strings.HasSuffix(info.Key, "/manifest.json") {
			continue
		}
		if head.State.Terminal() || generation < head.Generation || superseded(head, step, generation) {
			drop = append(drop, schemas.Object{Name: name, Key: info.Key, Bytes: info.Bytes})
		}
	}
	return drop, nil
}

// superseded reports whether HEAD's own generation has committed twice after that step of its.
func superseded(head *schemas.Head, step int64, generation uint64) bool {
	m, p := head.Manifest, head.Previous
	if plantedbug.Is(plantedbug.PruneNeeded) && m != nil && generation == head.Generation && step < m.Step {
		return true
	}
	return m != nil && p != nil && generation == head.Generation && m.Generation == generation && p.Generation == generation && step < p.Step
}

// ParseName reads the name of a checkpoint, "<step>-<generation>".
func ParseName(name string) (step int64, generation uint64, err error) {
	s, g, ok := strings.Cut(name, "-")
	step, serr := strconv.ParseInt(s, 10, 64)
	generation, gerr := strconv.ParseUint(g, 10, 64)
	if !ok || serr != nil || gerr != nil || step < 0 {
		return 0, 0, schemas.Errorf(schemas.CodeInvalid, "checkpoint", "%q is no name of a checkpoint (<step>-<generation>)", name)
	}
	return step, generation, nil
}

// Pins lists the names of the checkpoints that a run's users asked to keep.
func Pins(ctx context.Context, objects store.Objects, tenant, run string) (map[string]bool, error) {
	prefix := PinPrefix(tenant, run)
	out := map[string]bool{}
	for info, err := range objects.List(ctx, prefix) {
		if err != nil {
			return nil, fmt.Errorf("cannot list pins of %s/%s: %w", tenant, run, err)
		}
		out[strings.TrimPrefix(info.Key, prefix)] = true
	}
	return out, nil
}

// VerifyParts reads every part of a manifest and compares size and SHA-256, holding nothing: *CorruptError names the first that is missing
// or wrong.
func VerifyParts(ctx context.Context, objects store.Objects, ref schemas.ManifestRef, m *schemas.Manifest) error {
	for _, p := range m.Parts {
		r, err := objects.Open(ctx, p.Key, 0, -1)
		if errors.Is(err, store.ErrNotFound) {
			return &CorruptError{Manifest: ref, Key: p.Key, Reason: "the part is missing"}
		}
		if err != nil {
			return fmt.Errorf("cannot open part %s: %w", p.Key, err)
		}
		sum := sha256.New()
		n, err := io.Copy(sum, io.LimitReader(r, p.Bytes+1))
		if err = errors.Join(err, r.Close()); err != nil {
			return fmt.Errorf("cannot read part %s: %w", p.Key, err)
		}
		if n != p.Bytes || hex.EncodeToString(sum.Sum(nil)) != p.SHA256 {
			return &CorruptError{Manifest: ref, Key: p.Key, Reason: fmt.Sprintf("its %d bytes do not match the manifest's size and SHA-256", n)}
		}
	}
	return nil
}
