// Package memlease is the lease store in memory, for unit tests. It passes the same conformance suite as the Redis adapter.
package memlease

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// Store implements lease.Store.
type Store struct {
	mu       sync.Mutex
	now      func() time.Time
	down     bool
	boot     string
	seq      int
	leases   map[string]held
	control  map[string]schemas.Control
	offers   map[string]offered
	progress map[string]map[string]string
	events   map[string][]lease.StreamEvent
	workers  map[string]map[string]registered
}

type held struct {
	owner lease.Owner
	exp   time.Time
}

type offered struct {
	addr lease.Address
	exp  time.Time
}

type registered struct {
	w   lease.Worker
	exp time.Time
}

var _ lease.Store = (*Store)(nil)

// New makes an empty store on the wall clock.
func New() *Store { return NewAt(time.Now) }

// NewAt makes an empty store on the given clock.
func NewAt(now func() time.Time) *Store {
	s := &Store{now: now}
	s.Wipe()
	return s
}

// Wipe loses everything, as a server without persistence that restarts.
func (s *Store) Wipe() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boot = ""
	s.leases, s.control, s.offers = map[string]held{}, map[string]schemas.Control{}, map[string]offered{}
	s.progress, s.events = map[string]map[string]string{}, map[string][]lease.StreamEvent{}
	s.workers = map[string]map[string]registered{}
}

// SetDown makes every call fail with lease.ErrUnavailable, or work again.
func (s *Store) SetDown(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
}

// enter locks the store; the caller unlocks unless there is an error.
func (s *Store) enter(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	if s.down {
		s.mu.Unlock()
		return fmt.Errorf("cannot reach the lease server: %w", lease.ErrUnavailable)
	}
	return nil
}

// Acquire implements lease.Leases.
func (s *Store) Acquire(ctx context.Context, key string, o lease.Owner, ttl time.Duration) (lease.Owner, error) {
	if err := s.enter(ctx); err != nil {
		return lease.Owner{}, err
	}
	defer s.mu.Unlock()
	h, ok := s.leases[key]
	if ok && h.exp.After(s.now()) && h.owner.Incarnation != o.Incarnation && h.owner.Issue >= o.Issue {
		return h.owner, fmt.Errorf("cannot acquire %s (held by %s): %w", key, h.owner.Worker, lease.ErrHeld)
	}
	s.leases[key] = held{o, s.now().Add(ttl)}
	return o, nil
}

// Renew implements lease.Leases.
func (s *Store) Renew(ctx context.Context, key string, o lease.Owner, ttl time.Duration) (schemas.Control, error) {
	if err := s.enter(ctx); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	h, ok := s.leases[key]
	if ok && h.exp.After(s.now()) {
		if h.owner.Incarnation != o.Incarnation && h.owner.Issue >= o.Issue || h.owner.Incarnation == o.Incarnation && h.owner.Issue > o.Issue {
			return "", fmt.Errorf("cannot renew %s: %w", key, lease.ErrLost)
		}
	}
	s.leases[key] = held{o, s.now().Add(ttl)}
	return s.control[runOf(key)], nil
}

// runOf cuts "{tenant/run}" out of a key.
func runOf(key string) string {
	_, rest, _ := strings.Cut(key, "{")
	run, _, _ := strings.Cut(rest, "}")
	return run
}

// Release implements lease.Leases.
func (s *Store) Release(ctx context.Context, key string, o lease.Owner) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if h := s.leases[key]; h.owner.Incarnation == o.Incarnation && h.owner.Issue == o.Issue {
		delete(s.leases, key)
	}
	return nil
}

// Holders implements lease.Leases.
func (s *Store) Holders(ctx context.Context, keys []string) (map[string]lease.Owner, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	out := map[string]lease.Owner{}
	for _, k := range keys {
		if h, ok := s.leases[k]; ok && h.exp.After(s.now()) {
			out[k] = h.owner
		}
	}
	return out, nil
}

// SetControl implements lease.Leases.
func (s *Store) SetControl(ctx context.Context, tenant, run string, c schemas.Control) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.control[tenant+"/"+run] = c
	return nil
}

// Boot implements lease.Leases.
func (s *Store) Boot(ctx context.Context) (string, error) {
	if err := s.enter(ctx); err != nil {
		return "", err
	}
	defer s.mu.Unlock()
	if s.boot == "" {
		s.boot = strings.ToLower(ulid.Make().String())
	}
	return s.boot, nil
}

// Offer implements lease.Rendezvous.
func (s *Store) Offer(ctx context.Context, key string, a lease.Address, ttl time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	s.offers[key] = offered{a, s.now().Add(ttl)}
	return nil
}

// Offers implements lease.Rendezvous.
func (s *Store) Offers(ctx context.Context, keys []string) ([]lease.Address, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var out []lease.Address
	for _, k := range keys {
		if o, ok := s.offers[k]; ok && o.exp.After(s.now()) {
			out = append(out, o.addr)
		}
	}
	return out, nil
}

// Withdraw implements lease.Rendezvous.
func (s *Store) Withdraw(ctx context.Context, key string, o lease.Owner) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.offers[key].addr.Owner.Incarnation == o.Incarnation {
		delete(s.offers, key)
	}
	return nil
}

// SetProgress implements lease.Progress.
func (s *Store) SetProgress(ctx context.Context, tenant, run string, fields map[string]string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	k := schemas.ProgressKey(tenant, run)
	if s.progress[k] == nil {
		s.progress[k] = map[string]string{}
	}
	maps.Copy(s.progress[k], fields)
	return nil
}

// GetProgress implements lease.Progress.
func (s *Store) GetProgress(ctx context.Context, tenant, run string) (map[string]string, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	out := map[string]string{}
	maps.Copy(out, s.progress[schemas.ProgressKey(tenant, run)])
	return out, nil
}

// Append implements lease.Progress.
func (s *Store) Append(ctx context.Context, tenant, run string, events ...schemas.Event) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	k := schemas.StreamKey(tenant, run)
	for _, e := range events {
		s.seq++
		s.events[k] = append(s.events[k], lease.StreamEvent{ID: strconv.Itoa(s.seq) + "-0", Event: e})
	}
	if n := len(s.events[k]); n > 22_000 {
		s.events[k] = slices.Clone(s.events[k][n-20_000:])
	}
	return nil
}

// Tail implements lease.Progress.
func (s *Store) Tail(ctx context.Context, tenant, run, after string, limit int, wait time.Duration) ([]lease.StreamEvent, error) {
	from := 0
	if after != "" {
		n, err := strconv.Atoi(strings.TrimSuffix(after, "-0"))
		if err != nil {
			return nil, fmt.Errorf("cannot read the event id %q: %w", after, err)
		}
		from = n
	}
	deadline := time.Now().Add(wait)
	for {
		out, err := s.tailOnce(ctx, schemas.StreamKey(tenant, run), from, limit)
		if err != nil || len(out) > 0 || !time.Now().Before(deadline) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (s *Store) tailOnce(ctx context.Context, key string, from, limit int) ([]lease.StreamEvent, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var out []lease.StreamEvent
	for _, e := range s.events[key] {
		if n, _ := strconv.Atoi(strings.TrimSuffix(e.ID, "-0")); n > from && len(out) < limit {
			out = append(out, e)
		}
	}
	return out, nil
}

// Register implements lease.Inventory.
func (s *Store) Register(ctx context.Context, w lease.Worker, ttl time.Duration) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	if s.workers[w.Pool] == nil {
		s.workers[w.Pool] = map[string]registered{}
	}
	s.workers[w.Pool][w.Incarnation] = registered{w, s.now().Add(ttl)}
	return nil
}

// Workers implements lease.Inventory.
func (s *Store) Workers(ctx context.Context, pool string) ([]lease.Worker, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var out []lease.Worker
	for id, r := range s.workers[pool] {
		if !r.exp.After(s.now()) {
			delete(s.workers[pool], id)
			continue
		}
		out = append(out, r.w)
	}
	slices.SortFunc(out, func(a, b lease.Worker) int { return strings.Compare(a.Incarnation, b.Incarnation) })
	return out, nil
}

// Deregister implements lease.Inventory.
func (s *Store) Deregister(ctx context.Context, w lease.Worker) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	delete(s.workers[w.Pool], w.Incarnation)
	return nil
}
