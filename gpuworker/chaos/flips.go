package chaos

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

// bitFlips is how many bits are flipped, one at a time, in a final checkpoint.
const bitFlips = 600

// inMemory copies objects into a store of its own.
func inMemory(ctx context.Context, objects map[string][]byte) (*memstore.Store, error) {
	mem := memstore.New()
	for k, data := range objects {
		if _, err := mem.Put(ctx, k, data, store.Condition{}); err != nil {
			return nil, fmt.Errorf("cannot copy %s: %w", k, err)
		}
	}
	return mem, nil
}

// flipBits flips one bit of one object of the run's final checkpoint (manifest or part) after the other, and lets the reader that ranks use
// open and verify it: it must refuse each time. loaded counts the times it did not.
func flipBits(ctx context.Context, mem store.Objects, objects map[string][]byte, head *schemas.Head, dir string, seed uint64) (flips, loaded int, err error) {
	st := head.StageByName(trainStage)
	if st == nil || st.Manifest == nil {
		return 0, 0, nil
	}
	ref := *st.Manifest
	prefix := strings.TrimSuffix(ref.Key, "manifest.json")
	var keys []string
	for k, data := range objects {
		if strings.HasPrefix(k, prefix) && len(data) > 0 {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	if err := openVerified(ctx, mem, ref, dir); err != nil {
		return 0, 0, fmt.Errorf("the undamaged checkpoint is refused: %w", err)
	}
	r := rand.New(rand.NewPCG(seed, 0xf11b)) //nolint:gosec // the flips must be repeatable
	for ; flips < bitFlips && ctx.Err() == nil; flips++ {
		key := keys[r.IntN(len(keys))]
		bad := bytes.Clone(objects[key])
		bad[r.IntN(len(bad))] ^= 1 << r.IntN(8)
		if _, err := mem.Put(ctx, key, bad, store.Condition{}); err != nil {
			return flips, loaded, err
		}
		err := openVerified(ctx, mem, ref, dir)
		var corrupt *checkpoint.CorruptError
		if err == nil {
			loaded++
		} else if !errors.As(err, &corrupt) {
			return flips, loaded, fmt.Errorf("a flipped bit of %s is not reported as damage: %w", key, err)
		}
		if _, err := mem.Put(ctx, key, objects[key], store.Condition{}); err != nil {
			return flips, loaded, err
		}
	}
	return flips, loaded, ctx.Err()
}

// openVerified opens a checkpoint as a rank does and reads all of it.
func openVerified(ctx context.Context, objects store.Objects, ref schemas.ManifestRef, dir string) error {
	r, err := checkpoint.Open(ctx, objects, ref, dir)
	if err != nil {
		return err
	}
	return errors.Join(r.Verify(ctx), r.Close())
}
