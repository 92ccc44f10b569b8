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
	"sync"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxLogBytes bounds the log of one segment.
const maxLogBytes = 1 << 30

// History calls fn with every event of the segment logs that HEAD's lineage names: train stages in order, segments in order, events as they
// were logged. The walk from a stage's newest commit to its first stops where known says that the segment (and so all before it) has been
// handled; nil: nowhere. What cannot be read is reported in one joined error after the rest was delivered; an error of fn ends it at once.
func History(ctx context.Context, objects store.Objects, head *schemas.Head, known func(schemas.ManifestRef) bool, fn func(schemas.ManifestRef, schemas.Event) error) error {
	return (&Segments{}).History(ctx, objects, head, known, fn)
}

// Segments remembers what the segment logs of a run say, for many readers of one run. Its zero value remembers nothing. It is safe for
// concurrent use; readers wait for each other's reads.
type Segments struct {
	// Limit is how many events are remembered; logs that would exceed it are read again each time.
	Limit int

	mu     sync.Mutex
	events int
	known  map[string]*segment
}

// segment is what a manifest says of its segment, and its events once they were read.
type segment struct {
	ref    schemas.ManifestRef
	log    schemas.Part
	parent *schemas.ManifestRef
	read   bool
	events []schemas.Event
}

// manifest is a segment by its manifest.
func (c *Segments) manifest(ctx context.Context, objects store.Objects, ref schemas.ManifestRef) (*segment, error) {
	if c.Limit > 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
	}
	if s := c.known[ref.Key]; s != nil && s.ref.SHA256 == ref.SHA256 {
		return s, nil
	}
	m, err := ReadManifest(ctx, objects, ref)
	if err != nil {
		return nil, err
	}
	s := &segment{ref: ref, log: m.Log, parent: m.Parent}
	if c.Limit > 0 && len(c.known) < c.Limit {
		if c.known == nil {
			c.known = map[string]*segment{}
		}
		c.known[ref.Key] = s
	}
	return s, nil
}

// read are the events of a segment, which nobody may change.
func (c *Segments) read(ctx context.Context, objects store.Objects, s *segment) ([]schemas.Event, error) {
	if c.Limit == 0 {
		return readLog(ctx, objects, s.log)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.read {
		return s.events, nil
	}
	events, err := readLog(ctx, objects, s.log)
	if err == nil && c.events+len(events) <= c.Limit {
		s.read, s.events = true, events
		c.events += len(events)
	}
	return events, err
}

// History is the function of this name, from memory where it can.
func (c *Segments) History(ctx context.Context, objects store.Objects, head *schemas.Head, known func(schemas.ManifestRef) bool, fn func(schemas.ManifestRef, schemas.Event) error) error {
	var errs []error
	for _, st := range head.Stages {
		newest := st.Manifest
		if newest == nil && st.Name == head.Stage {
			newest = head.Manifest
		}
		var segments []*segment
		for ref := newest; ref != nil && ref.Stage == st.Name && (known == nil || !known(*ref)); {
			s, err := c.manifest(ctx, objects, *ref)
			if err != nil {
				errs = append(errs, err)
				break
			}
			segments = append(segments, s)
			ref = s.parent
		}
		for _, s := range slices.Backward(segments) {
			events, err := c.read(ctx, objects, s)
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
