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
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// MaxManifestBytes bounds a manifest (10,000 parts of 100 ranges are about 100 MiB).
const MaxManifestBytes = 128 << 20

// Commit makes a checkpoint the newest truth of its run: it checks that every part and the log are stored at their sizes, writes the
// manifest with a single PUT and swaps HEAD (Manifest, Previous, Step), fenced by m.Generation. Rank 0 calls it after every rank has
// stored its parts; m.Parent, m.Version and m.Created are filled in. Committing the same manifest again is no error.
//
// CodeFenced (stop for good) when HEAD has a higher generation, another stage, or the run is not running.
func (h *Heads) Commit(ctx context.Context, m *schemas.Manifest) (*schemas.Head, error) {
	if err := checkManifest(m); err != nil {
		return nil, err
	}
	key := schemas.ManifestKey(m.Tenant, m.Run, m.Step, m.Generation)
	head, err := h.readRetry(ctx, m.Tenant, m.Run)
	if err != nil {
		return nil, err
	}
	if err := commitFence(head, m); err != nil {
		return nil, err
	}
	if head.Manifest != nil && head.Manifest.Key == key {
		if head.Manifest.Final != m.Final {
			return nil, schemas.Errorf(schemas.CodeConflict, key, "step %d is committed already, with final: %v", m.Step, head.Manifest.Final)
		}
		return head, nil
	}
	m.Version, m.Parent, m.Created = 1, head.Manifest, h.cfg.Now()
	parts := m.Parts
	if m.Log.Key != "" {
		parts = append(parts[:len(parts):len(parts)], m.Log)
	}
	for _, p := range parts {
		if err := h.checkPart(ctx, p); err != nil {
			return nil, err
		}
	}
	data, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("cannot encode manifest %s: %w", key, err)
	}
	if len(data) > MaxManifestBytes {
		return nil, fmt.Errorf("cannot write manifest %s: %d bytes: %w", key, len(data), store.ErrTooLarge)
	}
	data, err = h.putManifest(ctx, key, data, m)
	if err != nil {
		return nil, err
	}
	if plantedbug.Is(plantedbug.CommitOutsideHead) && !m.Final {
		return head, nil
	}
	sum := sha256.Sum256(data)
	ref := schemas.ManifestRef{Key: key, SHA256: hex.EncodeToString(sum[:]), Stage: m.Stage, Step: m.Step, Generation: m.Generation, Final: m.Final}
	return h.swap(ctx, m.Tenant, m.Run, m, func(head *schemas.Head) error {
		if head.Manifest != nil && head.Manifest.Key == key {
			return ErrNoChange
		}
		// The stage may have been closed by control between an ambiguous swap of ours and its re-reading.
		if st := head.StageByName(m.Stage); st != nil && st.Manifest != nil && st.Manifest.Key == key {
			return ErrNoChange
		}
		if err := commitFence(head, m); err != nil {
			return err
		}
		head.Previous, head.Manifest, head.Step = head.Manifest, &ref, m.Step
		for i := range head.Ended {
			// A commit may pass after the end was recorded, until the next generation is minted: the generation got that far.
			if head.Ended[i].Generation == m.Generation {
				head.Ended = slices.Clone(head.Ended)
				head.Ended[i].Step = m.Step
			}
		}
		return nil
	})
}

func checkManifest(m *schemas.Manifest) error {
	if m == nil || m.Tenant == "" || m.Run == "" || m.Stage == "" || m.Generation == 0 || m.Step < 0 {
		return schemas.Errorf(schemas.CodeInternal, "", "cannot commit a manifest without tenant, run, stage, generation or step")
	}
	prefix := schemas.CheckpointPrefix(m.Tenant, m.Run, m.Step, m.Generation)
	for _, p := range m.Parts {
		if len(p.Key) <= len(prefix) || p.Key[:len(prefix)] != prefix {
			return schemas.Errorf(schemas.CodeInternal, p.Key, "cannot commit a part outside of %s", prefix)
		}
		if len(p.SHA256) != 2*sha256.Size {
			return schemas.Errorf(schemas.CodeInternal, p.Key, "cannot commit a part without its SHA-256")
		}
		if n := (p.Bytes + schemas.BlockBytes - 1) / schemas.BlockBytes; len(p.Blocks) > 0 && int64(len(p.Blocks)) != n {
			return schemas.Errorf(schemas.CodeInternal, p.Key, "cannot commit a part of %d bytes with %d blocks", p.Bytes, len(p.Blocks))
		}
		for _, r := range p.Ranges {
			if r.From < 0 || r.To < r.From || r.Offset < 0 || r.Offset+4*(r.To-r.From) > p.Bytes {
				return schemas.Errorf(schemas.CodeInternal, p.Key, "range [%d, %d) of %s at offset %d does not fit %d bytes", r.From, r.To, r.Tensor, r.Offset, p.Bytes)
			}
		}
	}
	return nil
}

func commitFence(head *schemas.Head, m *schemas.Manifest) error {
	if err := fence(head, m.Generation); err != nil {
		return err
	}
	place := schemas.HeadKey(head.Tenant, head.Run)
	if head.Stage != m.Stage {
		return schemas.Errorf(schemas.CodeFenced, place, "cannot commit stage %q: HEAD is at stage %q", m.Stage, head.Stage)
	}
	if head.Manifest != nil && (head.Manifest.Final || head.Manifest.Step > m.Step) {
		return schemas.Errorf(schemas.CodeFenced, place, "cannot commit step %d: HEAD has step %d", m.Step, head.Manifest.Step)
	}
	return nil
}

func (h *Heads) checkPart(ctx context.Context, p schemas.Part) error {
	r := h.newRetry()
	for {
		info, err := h.objects.Stat(ctx, p.Key)
		switch {
		case err == nil && info.Bytes != p.Bytes:
			return schemas.Errorf(schemas.CodeInternal, p.Key, "cannot commit: the part has %d bytes, %d were reported", info.Bytes, p.Bytes)
		case err == nil:
			return nil
		case !retryable(err):
			return fmt.Errorf("cannot commit: cannot find part %s: %w", p.Key, err)
		}
		if err := r.wait(ctx, err); err != nil {
			return fmt.Errorf("cannot commit: cannot find part %s: %w", p.Key, err)
		}
	}
}

func (h *Heads) readRetry(ctx context.Context, tenant, run string) (*schemas.Head, error) {
	r := h.newRetry()
	for {
		head, _, err := h.Read(ctx, tenant, run)
		if err == nil || !retryable(err) {
			return head, err
		}
		if err := r.wait(ctx, err); err != nil {
			return nil, fmt.Errorf("cannot read HEAD of %s/%s: %w", tenant, run, err)
		}
	}
}

// putManifest writes the manifest with If-None-Match and returns the bytes that are stored: when an earlier attempt of the same commit
// got through, its bytes (they differ in the time of creation only).
func (h *Heads) putManifest(ctx context.Context, key string, data []byte, m *schemas.Manifest) ([]byte, error) {
	r := h.newRetry()
	for {
		_, err := h.objects.Put(ctx, key, data, store.Condition{Absent: true})
		if err == nil {
			return data, nil
		}
		if !retryable(err) {
			return nil, fmt.Errorf("cannot write manifest %s: %w", key, err)
		}
		if have, _, gerr := h.objects.Get(ctx, key, MaxManifestBytes); gerr == nil {
			if !sameManifest(have, m) {
				return nil, schemas.Errorf(schemas.CodeFenced, key, "another manifest is stored under this key")
			}
			return have, nil
		} else if !errors.Is(gerr, store.ErrNotFound) && !retryable(gerr) {
			return nil, fmt.Errorf("cannot read manifest %s: %w", key, gerr)
		}
		if err := r.wait(ctx, err); err != nil {
			return nil, fmt.Errorf("cannot write manifest %s: %w", key, err)
		}
	}
}

func sameManifest(have []byte, m *schemas.Manifest) bool {
	var old schemas.Manifest
	if json.Unmarshal(have, &old) != nil {
		return false
	}
	mine := *m
	old.Created, mine.Created = time.Time{}, time.Time{}
	a, errA := json.Marshal(&old)
	b, errB := json.Marshal(&mine)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

// ReadManifest reads the manifest that ref points at and verifies its SHA-256. *CorruptError when it is missing or does not match, twice.
func ReadManifest(ctx context.Context, objects store.Objects, ref schemas.ManifestRef) (*schemas.Manifest, error) {
	m, err := readManifest(ctx, objects, ref)
	if bad := (*CorruptError)(nil); errors.As(err, &bad) {
		return readManifest(ctx, objects, ref)
	}
	return m, err
}

func readManifest(ctx context.Context, objects store.Objects, ref schemas.ManifestRef) (*schemas.Manifest, error) {
	data, _, err := objects.Get(ctx, ref.Key, MaxManifestBytes)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &CorruptError{Manifest: ref, Key: ref.Key, Reason: "the manifest is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read manifest %s: %w", ref.Key, err)
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != ref.SHA256 && !plantedbug.Is(plantedbug.UnverifiedParts) {
		return nil, &CorruptError{Manifest: ref, Key: ref.Key, Reason: "the manifest's SHA-256 is " + hex.EncodeToString(sum[:]) + ", HEAD says " + ref.SHA256}
	}
	var m schemas.Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, &CorruptError{Manifest: ref, Key: ref.Key, Reason: "the manifest is no JSON: " + err.Error()}
	}
	if err := checkManifest(&m); err != nil || m.Step != ref.Step || m.Generation != ref.Generation || m.Stage != ref.Stage {
		return nil, &CorruptError{Manifest: ref, Key: ref.Key, Reason: fmt.Sprintf("the manifest is of stage %q, step %d, generation %d (%v)", m.Stage, m.Step, m.Generation, err)}
	}
	return &m, nil
}

// CorruptError says that a manifest or part is missing or does not match its SHA-256. It unwraps to a *schemas.ErrorInfo with CodeVerify whose
// place is the manifest's key; EndGeneration with that error walks HEAD back to the parent.
type CorruptError struct {
	Manifest schemas.ManifestRef
	// Key is the object that is wrong.
	Key    string
	Reason string
}

// Error implements error.
func (e *CorruptError) Error() string {
	return fmt.Sprintf("checkpoint %s is corrupt: %s: %s", e.Manifest.Key, e.Key, e.Reason)
}

// Unwrap gives the error as it travels.
func (e *CorruptError) Unwrap() error { return e.Info() }

// Info is the error as it travels.
func (e *CorruptError) Info() *schemas.ErrorInfo {
	return &schemas.ErrorInfo{Code: schemas.CodeVerify, Place: e.Manifest.Key, Message: e.Key + ": " + e.Reason}
}
