package checkpoint

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
	"github.com/tunefleet/tunefleet/services/store"
)

// maxLogBytes bounds the log of one segment.
const maxLogBytes = 1 << 30

// History calls fn with every event of the segment logs that HEAD's lineage names: train stages in order, segments in order, events as they
// were logged. The walk from a stage's newest commit to its first stops where known says that the segment (and so all before it) has been
// handled; nil: nowhere. What cannot be read is reported in one joined error after the rest was delivered; an error of fn ends it at once.
func History(ctx context.Context, objects store.Objects, head *schemas.Head, known func(schemas.ManifestRef) bool, fn func(schemas.ManifestRef, schemas.Event) error) error {
	var errs []error
	for _, st := range head.Stages {
		newest := st.Manifest
		if newest == nil && st.Name == head.Stage {
			newest = head.Manifest
		}
		type segment struct {
			ref schemas.ManifestRef
			log schemas.Part
		}
		var segments []segment
		for ref := newest; ref != nil && ref.Stage == st.Name && (known == nil || !known(*ref)); {
			m, err := ReadManifest(ctx, objects, *ref)
			if err != nil {
				errs = append(errs, err)
				break
			}
			segments = append(segments, segment{*ref, m.Log})
			ref = m.Parent
		}
		for _, s := range slices.Backward(segments) {
			events, err := readLog(ctx, objects, s.log)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, e := range events {
				if err := fn(s.ref, e); err != nil {
					return err
				}
			}
		}
	}
	return errors.Join(errs...)
}

// readLog reads and verifies the log of one segment.
func readLog(ctx context.Context, objects store.Objects, p schemas.Part) ([]schemas.Event, error) {
	data, _, err := objects.Get(ctx, p.Key, maxLogBytes)
	if err != nil {
		return nil, fmt.Errorf("cannot read log %s: %w", p.Key, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 {
		return nil, fmt.Errorf("cannot use log %s: its SHA-256 is not what the manifest says", p.Key)
	}
	var out []schemas.Event
	for line := range bytes.Lines(data) {
		var e schemas.Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("cannot decode log %s: %w", p.Key, err)
		}
		out = append(out, e)
	}
	return out, nil
}
