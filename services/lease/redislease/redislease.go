// Package redislease is the Redis adapter of leases, rendezvous, progress and the worker inventory. It uses only commands that the
// embedded server has too, and gives up quickly when the server is away: callers train on without it.
package redislease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"
	"github.com/redis/go-redis/v9"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

const (
	// callTimeout bounds one call: a holder that waits longer for a renewal than this would rather train on.
	callTimeout = 2 * time.Second
	// streamLen is about how many events of a run are kept.
	streamLen = 20_000
	// softTTL is how long progress and control words of a run outlive their last write.
	softTTL = 7 * 24 * time.Hour
)

// Store implements lease.Store.
type Store struct{ c redis.UniversalClient }

var _ lease.Store = (*Store)(nil)

// New makes a client of a redis:// or rediss:// URL; it does not connect yet.
func New(url string) (*Store, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, fmt.Errorf("cannot read the Redis URL: %w", errors.New(strings.ReplaceAll(err.Error(), url, "redis://***")))
	}
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.MaxRetries, o.ContextTimeoutEnabled = callTimeout, callTimeout, callTimeout, 1, true
	return &Store{c: redis.NewClient(o)}, nil
}

// Close closes the connections.
func (s *Store) Close() error { return s.c.Close() }

// Check refuses a server that evicts keys by itself: it would drop leases under memory pressure. Servers that do not tell are accepted.
func (s *Store) Check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := s.c.Ping(ctx).Err(); err != nil {
		return fail("reach", "the Redis server", err)
	}
	got, err := s.c.ConfigGet(ctx, "maxmemory-policy").Result()
	if err != nil {
		return nil // managed and embedded servers refuse CONFIG; nothing is known against them
	}
	if p := got["maxmemory-policy"]; strings.HasPrefix(p, "allkeys-") {
		return schemas.Errorf(schemas.CodeInvalid, "maxmemory-policy", "Redis evicts any key (%s) and would drop leases", p).
			WithHint("set maxmemory-policy to noeviction or a volatile- policy")
	}
	return nil
}

func fail(verb, what string, err error) error {
	return fmt.Errorf("cannot %s %s: %w: %w", verb, what, lease.ErrUnavailable, err)
}

// bounded is a context for one call.
func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, callTimeout)
}

func ownerArgs(o lease.Owner, ttl time.Duration) []any {
	return []any{o.Worker, o.Incarnation, o.Issue, ttl.Milliseconds()}
}

func ownerOf(v []any) (lease.Owner, error) {
	if len(v) < 3 {
		return lease.Owner{}, fmt.Errorf("cannot read a lease: %d fields", len(v))
	}
	issue, err := strconv.ParseUint(fmt.Sprint(v[2]), 10, 64)
	return lease.Owner{Worker: fmt.Sprint(v[0]), Incarnation: fmt.Sprint(v[1]), Issue: issue}, err
}

// Acquire implements lease.Leases.
func (s *Store) Acquire(ctx context.Context, key string, o lease.Owner, ttl time.Duration) (lease.Owner, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	v, err := acquire.Run(ctx, s.c, []string{key}, ownerArgs(o, ttl)...).Slice()
	if err != nil {
		return lease.Owner{}, fail("acquire", key, err)
	}
	if v[0] == int64(1) {
		return o, nil
	}
	h, err := ownerOf(v[1:])
	if err != nil {
		return h, fmt.Errorf("cannot acquire %s: %w", key, err)
	}
	return h, fmt.Errorf("cannot acquire %s (held by %s): %w", key, h.Worker, lease.ErrHeld)
}

// Renew implements lease.Leases.
func (s *Store) Renew(ctx context.Context, key string, o lease.Owner, ttl time.Duration) (schemas.Control, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	v, err := renew.Run(ctx, s.c, []string{key, controlKey(key)}, ownerArgs(o, ttl)...).Slice()
	if err != nil {
		return "", fail("renew", key, err)
	}
	if v[0] != int64(1) {
		return "", fmt.Errorf("cannot renew %s: %w", key, lease.ErrLost)
	}
	return schemas.Control(fmt.Sprint(v[1])), nil
}

// controlKey is the run's control word, in the same hash slot as its leases: "tf:{tenant/run}:control".
func controlKey(leaseKey string) string {
	i := strings.Index(leaseKey, "}:")
	if i < 0 {
		return leaseKey + ":control"
	}
	return leaseKey[:i+2] + "control"
}

// Release implements lease.Leases.
func (s *Store) Release(ctx context.Context, key string, o lease.Owner) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := release.Run(ctx, s.c, []string{key}, o.Incarnation, o.Issue).Err(); err != nil {
		return fail("release", key, err)
	}
	return nil
}

// Holders implements lease.Leases; one round trip for all keys.
func (s *Store) Holders(ctx context.Context, keys []string) (map[string]lease.Owner, error) {
	out := map[string]lease.Owner{}
	if len(keys) == 0 {
		return out, nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := holder.Load(ctx, s.c).Err(); err != nil {
		return nil, fail("read", "leases", err)
	}
	pipe := s.c.Pipeline()
	cmds := make([]*redis.Cmd, len(keys))
	for i, k := range keys {
		cmds[i] = holder.EvalSha(ctx, pipe, []string{k})
	}
	if _, err := pipe.Exec(ctx); err != nil {
		return nil, fail("read", "leases", err)
	}
	for i, c := range cmds {
		v, err := c.Slice()
		if err != nil {
			return nil, fail("read", keys[i], err)
		}
		if len(v) == 0 {
			continue
		}
		if out[keys[i]], err = ownerOf(v); err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", keys[i], err)
		}
	}
	return out, nil
}

// SetControl implements lease.Leases.
func (s *Store) SetControl(ctx context.Context, tenant, run string, c schemas.Control) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	key := controlKey(schemas.LeaseKey(tenant, run, "", 0))
	if err := s.c.Set(ctx, key, string(c), softTTL).Err(); err != nil {
		return fail("set", key, err)
	}
	return nil
}

// Boot implements lease.Leases.
func (s *Store) Boot(ctx context.Context) (string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := s.c.SetNX(ctx, schemas.BootKey, strings.ToLower(ulid.Make().String()), 0).Err(); err != nil {
		return "", fail("read", "the server's incarnation", err)
	}
	id, err := s.c.Get(ctx, schemas.BootKey).Result()
	if err != nil {
		return "", fail("read", "the server's incarnation", err)
	}
	return id, nil
}

// Offer implements lease.Rendezvous.
func (s *Store) Offer(ctx context.Context, key string, a lease.Address, ttl time.Duration) error {
	b, err := json.Marshal(a)
	if err != nil {
		return fmt.Errorf("cannot offer %s: %w", key, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	pipe := s.c.TxPipeline()
	pipe.HSet(ctx, key, "inc", a.Owner.Incarnation, "data", b)
	pipe.PExpire(ctx, key, ttl)
	if _, err := pipe.Exec(ctx); err != nil {
		return fail("offer", key, err)
	}
	return nil
}

// Offers implements lease.Rendezvous; absent offers are left out.
func (s *Store) Offers(ctx context.Context, keys []string) ([]lease.Address, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	pipe := s.c.Pipeline()
	cmds := make([]*redis.StringCmd, len(keys))
	for i, k := range keys {
		cmds[i] = pipe.HGet(ctx, k, "data")
	}
	if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
		return nil, fail("read", "offers", err)
	}
	var out []lease.Address
	for i, c := range cmds {
		b, err := c.Bytes()
		if errors.Is(err, redis.Nil) {
			continue
		}
		var a lease.Address
		if err == nil {
			err = json.Unmarshal(b, &a)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read %s: %w", keys[i], err)
		}
		out = append(out, a)
	}
	return out, nil
}

// Withdraw implements lease.Rendezvous.
func (s *Store) Withdraw(ctx context.Context, key string, o lease.Owner) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	if err := withdraw.Run(ctx, s.c, []string{key}, o.Incarnation).Err(); err != nil {
		return fail("withdraw", key, err)
	}
	return nil
}
