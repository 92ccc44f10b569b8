package checkpoint

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxHeadBytes bounds a HEAD object (1,000 ended generations with long errors are about 1 MiB).
const maxHeadBytes = 4 << 20

// Errors that callers decide on.
var (
	// ErrNoChange is returned by a mutate function to say that HEAD is already as wanted: Swap returns the current HEAD and no error.
	ErrNoChange = errors.New("HEAD is already as wanted")
	// ErrExists: HEAD is there already.
	ErrExists = errors.New("HEAD exists already")
)

// Config bounds how long a swap fights before it gives up.
type Config struct {
	// Attempts bounds the swaps lost to other writers (default 50).
	Attempts int
	// Budget bounds the time spent on a store that does not answer (default 2 minutes).
	Budget time.Duration
	// Now is the clock of Created, Updated and At (default: store.Now of the store); nothing is decided by it.
	Now func() time.Time
}

// WithDefaults fills what is unset.
func (c Config) WithDefaults() Config {
	if c.Attempts <= 0 {
		c.Attempts = 50
	}
	if c.Budget <= 0 {
		c.Budget = 2 * time.Minute
	}
	return c
}

// Heads reads and swaps HEAD objects. It is safe for concurrent use.
type Heads struct {
	objects store.Objects
	cfg     Config
}

// NewHeads returns a Heads over an object store.
func NewHeads(objects store.Objects, cfg Config) *Heads {
	cfg = cfg.WithDefaults()
	if cfg.Now == nil {
		cfg.Now = func() time.Time { return store.Now(objects) }
	}
	return &Heads{objects: objects, cfg: cfg}
}

// Objects returns the store that the HEADs lie in.
func (h *Heads) Objects() store.Objects { return h.objects }

// Read returns HEAD and its ETag. A queued run has none: store.ErrNotFound.
func (h *Heads) Read(ctx context.Context, tenant, run string) (*schemas.Head, string, error) {
	data, info, err := h.objects.Get(ctx, schemas.HeadKey(tenant, run), maxHeadBytes)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read HEAD of %s/%s: %w", tenant, run, err)
	}
	head, err := DecodeHead(data)
	if err != nil {
		return nil, "", fmt.Errorf("cannot read HEAD of %s/%s: %w", tenant, run, err)
	}
	if head.Tenant != tenant || head.Run != run {
		return nil, "", fmt.Errorf("cannot read HEAD of %s/%s: the object is of run %s/%s", tenant, run, head.Tenant, head.Run)
	}
	return head, info.ETag, nil
}

// DecodeHead parses a HEAD object.
func DecodeHead(data []byte) (*schemas.Head, error) {
	if len(data) > maxHeadBytes {
		return nil, fmt.Errorf("cannot decode HEAD: %d bytes are over the limit of %d", len(data), maxHeadBytes)
	}
	var head schemas.Head
	if err := json.Unmarshal(data, &head); err != nil {
		return nil, fmt.Errorf("cannot decode HEAD: %w", err)
	}
	if head.Version != 1 || head.Run == "" || head.Tenant == "" || head.State == "" {
		return nil, fmt.Errorf("cannot decode HEAD: version %d, tenant %q, run %q, state %q", head.Version, head.Tenant, head.Run, head.State)
	}
	return &head, nil
}

// Create writes the first HEAD of a run (If-None-Match). ErrExists, with the HEAD that is there, when another writer was first.
func (h *Heads) Create(ctx context.Context, head schemas.Head) (*schemas.Head, error) {
	head.Version, head.Rev, head.Nonce = 1, 1, newNonce()
	head.Created = h.cfg.Now()
	head.Updated = head.Created
	data, err := json.Marshal(&head)
	if err != nil {
		return nil, fmt.Errorf("cannot encode HEAD of %s/%s: %w", head.Tenant, head.Run, err)
	}
	r := h.newRetry()
	for {
		_, err := h.objects.Put(ctx, schemas.HeadKey(head.Tenant, head.Run), data, store.Condition{Absent: true})
		if err == nil {
			return &head, nil
		}
		if !retryable(err) {
			return nil, fmt.Errorf("cannot create HEAD of %s/%s: %w", head.Tenant, head.Run, err)
		}
		got, _, rerr := h.Read(ctx, head.Tenant, head.Run)
		switch {
		case rerr == nil && got.Nonce == head.Nonce:
			return got, nil
		case rerr == nil:
			return got, ErrExists
		case !errors.Is(rerr, store.ErrNotFound) && !retryable(rerr):
			return nil, rerr
		}
		if err := r.wait(ctx, err); err != nil {
			return nil, fmt.Errorf("cannot create HEAD of %s/%s: %w", head.Tenant, head.Run, err)
		}
	}
}

// Swap replaces HEAD by what mutate makes of it, with rev+1 and a nonce. mutate works on a copy, may run several times (after another
// writer's swap it sees that writer's HEAD), must be idempotent, and returns ErrNoChange when nothing is to be done; any other error
// ends the swap and is returned as it is. After a write of unknown outcome HEAD is read again: the own nonce means done.
func (h *Heads) Swap(ctx context.Context, tenant, run string, mutate func(*schemas.Head) error) (*schemas.Head, error) {
	return h.swap(ctx, tenant, run, nil, mutate)
}

// swap is Swap; commit is the manifest that it commits, nil when it commits none. The time since the swap before is accounted for.
func (h *Heads) swap(ctx context.Context, tenant, run string, commit *schemas.Manifest, mutate func(*schemas.Head) error) (*schemas.Head, error) {
	nonce := newNonce()
	r := h.newRetry()
	for {
		head, etag, err := h.Read(ctx, tenant, run)
		if err != nil {
			if !retryable(err) {
				return nil, err
			}
			if err := r.wait(ctx, err); err != nil {
				return nil, fmt.Errorf("cannot swap HEAD of %s/%s: %w", tenant, run, err)
			}
			continue
		}
		if head.Nonce == nonce {
			return head, nil
		}
		before := *head
		before.Stages = slices.Clone(head.Stages)
		if err := mutate(head); err != nil {
			if errors.Is(err, ErrNoChange) {
				return head, nil
			}
			return nil, err
		}
		head.Rev++
		head.Nonce = nonce
		head.Account(&before, commit, h.cfg.Now())
		data, err := json.Marshal(head)
		if err != nil {
			return nil, fmt.Errorf("cannot encode HEAD of %s/%s: %w", tenant, run, err)
		}
		if len(data) > maxHeadBytes {
			return nil, fmt.Errorf("cannot swap HEAD of %s/%s: %d bytes: %w", tenant, run, len(data), store.ErrTooLarge)
		}
		condition := store.Condition{ETag: etag}
		if plantedbug.Is(plantedbug.SwapBlindly) {
			condition = store.Condition{}
		}
		if _, err = h.objects.Put(ctx, schemas.HeadKey(tenant, run), data, condition); err == nil {
			return head, nil
		}
		if !retryable(err) {
			return nil, fmt.Errorf("cannot swap HEAD of %s/%s: %w", tenant, run, err)
		}
		if err := r.wait(ctx, err); err != nil {
			return nil, fmt.Errorf("cannot swap HEAD of %s/%s: %w", tenant, run, err)
		}
	}
}

// SwapGeneration is Swap for writers bound to a generation: when HEAD has a higher one, the run has ended, or it is not running, it
// returns a *schemas.ErrorInfo with CodeFenced: the writer stops for good.
func (h *Heads) SwapGeneration(ctx context.Context, tenant, run string, generation uint64, mutate func(*schemas.Head) error) (*schemas.Head, error) {
	return h.Swap(ctx, tenant, run, func(head *schemas.Head) error {
		if err := fence(head, generation); err != nil {
			return err
		}
		return mutate(head)
	})
}

func fence(head *schemas.Head, generation uint64) error {
	place := schemas.HeadKey(head.Tenant, head.Run)
	if plantedbug.Is(plantedbug.NoFencing) || plantedbug.Is(plantedbug.CancelIsNotFinal) && head.State == schemas.RunCancelled {
		return nil
	}
	if head.Generation != generation {
		return schemas.Errorf(schemas.CodeFenced, place, "generation %d is over: HEAD has generation %d", generation, head.Generation)
	}
	if head.State != schemas.RunRunning {
		return schemas.Errorf(schemas.CodeFenced, place, "generation %d is over: the run is %s", generation, head.State)
	}
	return nil
}

func newNonce() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// retryable reports whether the write may be tried again after re-reading.
func retryable(err error) bool {
	return errors.Is(err, store.ErrPrecondition) || errors.Is(err, store.ErrAmbiguous) || errors.Is(err, store.ErrUnavailable)
}

// retry counts lost races and the time lost to a store that does not answer.
type retry struct {
	cfg   Config
	lost  int
	start time.Time
	delay time.Duration
}

func (h *Heads) newRetry() *retry {
	return &retry{cfg: h.cfg, start: time.Now(), delay: 4 * time.Millisecond}
}

// wait sleeps a jittered, growing time, or returns why not to try again.
func (r *retry) wait(ctx context.Context, cause error) error {
	if errors.Is(cause, store.ErrPrecondition) {
		if r.lost++; r.lost >= r.cfg.Attempts {
			return fmt.Errorf("lost %d races: %w", r.lost, cause)
		}
	} else if time.Since(r.start) > r.cfg.Budget {
		return cause
	}
	d := r.delay/2 + time.Duration(mrand.Int64N(int64(r.delay)))
	r.delay = min(2*r.delay, time.Second)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w (last: %w)", ctx.Err(), cause)
	}
}
