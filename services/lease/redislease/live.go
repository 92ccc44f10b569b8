package redislease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// SetProgress implements lease.Progress.
func (s *Store) SetProgress(ctx context.Context, tenant, run string, fields map[string]string) error {
	if len(fields) == 0 {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	key := schemas.ProgressKey(tenant, run)
	pipe := s.c.Pipeline()
	pipe.HSet(ctx, key, fields)
	pipe.PExpire(ctx, key, softTTL)
	if _, err := pipe.Exec(ctx); err != nil {
		return fail("set", key, err)
	}
	return nil
}

// GetProgress implements lease.Progress.
func (s *Store) GetProgress(ctx context.Context, tenant, run string) (map[string]string, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	m, err := s.c.HGetAll(ctx, schemas.ProgressKey(tenant, run)).Result()
	if err != nil {
		return nil, fail("read", schemas.ProgressKey(tenant, run), err)
	}
	return m, nil
}

// Append implements lease.Progress.
func (s *Store) Append(ctx context.Context, tenant, run string, events ...schemas.Event) error {
	if len(events) == 0 {
		return nil
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	key := schemas.StreamKey(tenant, run)
	pipe := s.c.Pipeline()
	for _, e := range events {
		b, err := json.Marshal(e)
		if err != nil {
			return fmt.Errorf("cannot append to %s: %w", key, err)
		}
		pipe.XAdd(ctx, &redis.XAddArgs{Stream: key, MaxLen: streamLen, Approx: true, Values: []any{"e", b}})
	}
	pipe.PExpire(ctx, key, softTTL)
	if _, err := pipe.Exec(ctx); err != nil {
		return fail("append to", key, err)
	}
	return nil
}

// Tail implements lease.Progress. It polls: a blocking XREAD would hold a connection per follower.
func (s *Store) Tail(ctx context.Context, tenant, run, after string, limit int, wait time.Duration) ([]lease.StreamEvent, error) {
	start := "-"
	if after != "" {
		start = "(" + after
	}
	key, deadline := schemas.StreamKey(tenant, run), time.Now().Add(wait)
	for {
		out, err := s.tailOnce(ctx, key, start, limit)
		if err != nil || len(out) > 0 || !time.Now().Before(deadline) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(min(100*time.Millisecond, time.Until(deadline))):
		}
	}
}

func (s *Store) tailOnce(ctx context.Context, key, start string, limit int) ([]lease.StreamEvent, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	msgs, err := s.c.XRangeN(ctx, key, start, "+", int64(limit)).Result()
	if err != nil {
		return nil, fail("read", key, err)
	}
	out := make([]lease.StreamEvent, 0, len(msgs))
	for _, m := range msgs {
		var e schemas.Event
		v, _ := m.Values["e"].(string)
		if err := json.Unmarshal([]byte(v), &e); err != nil {
			return nil, fmt.Errorf("cannot read %s %s: %w", key, m.ID, err)
		}
		out = append(out, lease.StreamEvent{ID: m.ID, Event: e})
	}
	return out, nil
}

// Register implements lease.Inventory.
func (s *Store) Register(ctx context.Context, w lease.Worker, ttl time.Duration) error {
	b, err := json.Marshal(w)
	if err != nil {
		return fmt.Errorf("cannot register worker %s: %w", w.Name, err)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	pipe := s.c.Pipeline()
	pipe.SAdd(ctx, schemas.WorkersKey(w.Pool), w.Incarnation)
	pipe.Set(ctx, schemas.WorkerKey(w.Pool, w.Incarnation), b, ttl)
	if _, err := pipe.Exec(ctx); err != nil {
		return fail("register", "worker "+w.Name, err)
	}
	return nil
}

// Workers implements lease.Inventory and forgets the expired.
func (s *Store) Workers(ctx context.Context, pool string) ([]lease.Worker, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	ids, err := s.c.SMembers(ctx, schemas.WorkersKey(pool)).Result()
	if err != nil {
		return nil, fail("list", "workers of "+pool, err)
	}
	pipe := s.c.Pipeline()
	cmds := make([]*redis.StringCmd, len(ids))
	for i, id := range ids {
		cmds[i] = pipe.Get(ctx, schemas.WorkerKey(pool, id))
	}
	if len(ids) > 0 {
		if _, err := pipe.Exec(ctx); err != nil && !errors.Is(err, redis.Nil) {
			return nil, fail("list", "workers of "+pool, err)
		}
	}
	var out []lease.Worker
	for i, c := range cmds {
		b, err := c.Bytes()
		if errors.Is(err, redis.Nil) {
			s.c.SRem(ctx, schemas.WorkersKey(pool), ids[i])
			continue
		}
		var w lease.Worker
		if err == nil {
			err = json.Unmarshal(b, &w)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read worker %s: %w", ids[i], err)
		}
		out = append(out, w)
	}
	return out, nil
}

// Deregister implements lease.Inventory.
func (s *Store) Deregister(ctx context.Context, w lease.Worker) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	pipe := s.c.Pipeline()
	pipe.SRem(ctx, schemas.WorkersKey(w.Pool), w.Incarnation)
	pipe.Del(ctx, schemas.WorkerKey(w.Pool, w.Incarnation))
	if _, err := pipe.Exec(ctx); err != nil {
		return fail("deregister", "worker "+w.Name, err)
	}
	return nil
}
