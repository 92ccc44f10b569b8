package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
)

// Probe checks that the store's conditional writes are correct under concurrency (DESIGN 2, rule 3): many writers race on If-None-Match
// and on If-Match and exactly one wins each time; If-Match on a missing key fails; a stale ETag fails. It writes and deletes a few small
// objects under "probe/". A store that fails is refused: ErrUnsafe; one that cannot be reached: the underlying error.
func Probe(ctx context.Context, o Objects) error {
	const writers, rounds = 8, 3
	id := make([]byte, 8)
	if _, err := rand.Read(id); err != nil {
		return fmt.Errorf("cannot probe the object store: %w", err)
	}
	for r := range rounds {
		key := fmt.Sprintf("probe/%s-%d", hex.EncodeToString(id), r)
		if err := probeRound(ctx, o, key, writers); err != nil {
			return fmt.Errorf("cannot trust the object store: %w", err)
		}
	}
	return nil
}

func probeRound(ctx context.Context, o Objects, key string, writers int) (err error) {
	defer func() { err = errors.Join(err, o.Delete(context.WithoutCancel(ctx), key)) }()
	if _, err := o.Put(ctx, key, []byte("x"), Condition{ETag: "00000000000000000000000000000000"}); err == nil {
		return fmt.Errorf("%w: If-Match on a missing key succeeded", ErrUnsafe)
	} else if !errors.Is(err, ErrPrecondition) && !errors.Is(err, ErrNotFound) {
		return err
	}
	etag, err := probeRace(ctx, o, key, writers, Condition{Absent: true})
	if err != nil {
		return err
	}
	next, err := probeRace(ctx, o, key, writers, Condition{ETag: etag})
	if err != nil {
		return err
	}
	if _, err := o.Put(ctx, key, []byte("stale"), Condition{ETag: etag}); err == nil {
		return fmt.Errorf("%w: If-Match with a stale ETag succeeded", ErrUnsafe)
	} else if !errors.Is(err, ErrPrecondition) {
		return err
	}
	_, info, err := o.Get(ctx, key, 1<<10)
	if err != nil {
		return err
	}
	if info.ETag != next {
		return fmt.Errorf("%w: the object's ETag is not the winner's", ErrUnsafe)
	}
	return nil
}

// probeRace lets writers write different bytes under one condition and returns the winner's ETag.
func probeRace(ctx context.Context, o Objects, key string, writers int, c Condition) (string, error) {
	etags, errs := make([]string, writers), make([]error, writers)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			<-start
			etags[i], errs[i] = o.Put(ctx, key, fmt.Appendf(nil, "%s writer %d", c.ETag, i), c)
		})
	}
	close(start)
	wg.Wait()
	winners, etag := 0, ""
	for i, err := range errs {
		switch {
		case err == nil:
			winners, etag = winners+1, etags[i]
		case errors.Is(err, ErrAmbiguous):
			return "", fmt.Errorf("outcome of a probe write is unknown: %w", err)
		case !errors.Is(err, ErrPrecondition):
			return "", err
		}
	}
	if winners != 1 {
		return "", fmt.Errorf("%w: %d of %d racing writers won, exactly one must", ErrUnsafe, winners, writers)
	}
	return etag, nil
}
