package control

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxLedgerBytes bounds a ledger (1,000 tenants are about 100 KiB).
const maxLedgerBytes = 4 << 20

// keeper holds one pool's ledger for one control replica.
type keeper struct {
	objects store.Objects
	pool    string
	owner   string
	ttl     time.Duration
	clock   func() time.Duration

	cur  schemas.Ledger
	etag string
	// until is when the ownership ends on the own clock unless renewed; 0 = not the owner.
	until time.Duration
	// decayed is when usage last decayed.
	decayed time.Duration
	// seen is the last foreign state and since when it has not changed.
	seen  string
	since time.Duration
}

// own renews or takes the ledger and reports whether this replica owns it now. usage is added to the tenants' usage when the ledger is
// written; used reports whether it was.
func (k *keeper) own(ctx context.Context, usage map[string]float64) (owned, used bool, err error) {
	now := k.clock()
	if k.until > 0 && now < k.until-2*k.ttl/3 {
		return true, false, nil
	}
	if k.until > 0 {
		err := k.update(ctx, func(l *schemas.Ledger) { addUsage(l, usage, now-k.decayed, time.Now()) })
		if err == nil {
			k.decayed = now
		}
		return k.until > k.clock(), err == nil, err
	}
	data, info, err := k.objects.Get(ctx, schemas.LedgerKey(k.pool), maxLedgerBytes)
	if errors.Is(err, store.ErrNotFound) {
		k.cur, k.etag = schemas.Ledger{Version: 1, Pool: k.pool}, ""
		err = k.update(ctx, func(*schemas.Ledger) {})
		return k.until > 0, false, err
	}
	if err != nil {
		return false, false, fmt.Errorf("cannot read ledger of pool %s: %w", k.pool, err)
	}
	var l schemas.Ledger
	if err := json.Unmarshal(data, &l); err != nil || l.Pool != k.pool {
		return false, false, fmt.Errorf("cannot decode ledger of pool %s (it says %q): %w", k.pool, l.Pool, err)
	}
	if state := fmt.Sprintf("%d/%s", l.Rev, l.Nonce); k.seen != state {
		k.seen, k.since = state, now
	}
	if l.Owner != "" && l.Owner != k.owner && now-k.since <= max(l.TTL, time.Millisecond) {
		k.cur = l
		return false, false, nil
	}
	k.cur, k.etag = l, info.ETag
	err = k.update(ctx, func(*schemas.Ledger) {})
	return k.until > 0, false, err
}

// update swaps the ledger, keeping or taking the ownership. When another replica wrote in between, the ownership is gone.
func (k *keeper) update(ctx context.Context, mutate func(*schemas.Ledger)) error {
	start := k.clock()
	next := k.cur
	next.Usage, next.Spent = maps.Clone(k.cur.Usage), maps.Clone(k.cur.Spent)
	mutate(&next)
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails since Go 1.24
	next.Rev, next.Nonce, next.TTL, next.Updated = k.cur.Rev+1, hex.EncodeToString(b[:]), k.ttl, time.Now().UTC()
	if next.Owner != releasedOwner {
		next.Owner = k.owner
	} else {
		next.Owner = ""
	}
	data, err := json.Marshal(&next)
	if err != nil {
		return fmt.Errorf("cannot encode ledger of pool %s: %w", k.pool, err)
	}
	cond := store.Condition{ETag: k.etag}
	if k.etag == "" {
		cond = store.Condition{Absent: true}
	}
	etag, err := k.objects.Put(ctx, schemas.LedgerKey(k.pool), data, cond)
	if err != nil {
		got, info, rerr := k.objects.Get(ctx, schemas.LedgerKey(k.pool), maxLedgerBytes)
		var have schemas.Ledger
		switch {
		case rerr == nil && json.Unmarshal(got, &have) == nil && have.Nonce == next.Nonce:
			etag = info.ETag
		case errors.Is(err, store.ErrPrecondition):
			k.until, k.seen = 0, ""
			return fmt.Errorf("cannot swap ledger of pool %s: %w", k.pool, err)
		default:
			// Unknown outcome: the ownership runs out by itself unless a later swap succeeds. A write that got through after all makes
			// the next swap fail, and the ledger is then read and taken over again.
			if k.clock() >= k.until {
				k.until = 0
			}
			return fmt.Errorf("cannot swap ledger of pool %s: %w", k.pool, err)
		}
	}
	k.cur, k.etag, k.seen = next, etag, ""
	if k.until == 0 {
		k.decayed = start
	}
	k.until = start + k.ttl
	if next.Owner == "" {
		k.until = 0
	}
	return nil
}

// releasedOwner marks a ledger that is being given up, so that another replica need not wait.
const releasedOwner = "-"

// release gives the ledger up if it is owned.
func (k *keeper) release(ctx context.Context) error {
	if k.until == 0 {
		return nil
	}
	return k.update(ctx, func(l *schemas.Ledger) { l.Owner = releasedOwner })
}

// usageHalfLife is how fast old usage is forgotten, so that a tenant that comes late is not served before all others for ever.
const usageHalfLife = 24 * time.Hour

// addUsage lets old usage decay over elapsed and adds the new, there and to what the month has used.
func addUsage(l *schemas.Ledger, usage map[string]float64, elapsed time.Duration, wall time.Time) {
	if m := month(wall); l.Month != m {
		l.Month, l.Spent = m, nil
	}
	if len(usage) > 0 && l.Spent == nil {
		l.Spent = map[string]float64{}
	}
	keep := math.Exp2(-elapsed.Hours() / usageHalfLife.Hours())
	for tenant, v := range l.Usage {
		if l.Usage[tenant] = v * keep; v < 1 {
			delete(l.Usage, tenant)
		}
	}
	for tenant, v := range usage {
		if l.Usage == nil {
			l.Usage = map[string]float64{}
		}
		l.Usage[tenant] += v
		l.Spent[tenant] += v
	}
}
