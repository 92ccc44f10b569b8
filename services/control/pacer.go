package control

import (
	"context"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/services/store"
)

// Bounds of the reading of a replica, all of its pools together: the store sees at most getRate GETs in any paceWindow. Runs that were never
// read may take freshRate of them; runs that are known have the rest, and all but a few while none of the others waits.
const (
	getRate   = 500
	freshRate = 450
	// paceWindow is a little over a second: a GET reaches the store some time after it was allowed.
	paceWindow = 1020 * time.Millisecond
	// reserved are left for the first runs that come when all others are known.
	reserved = 10
)

// pacer spreads GETs so that no window of a second has more than getRate of them. It counts in a sliding window, not by a bucket that fills:
// a bucket lets a burst pass on top of the rate.
type pacer struct {
	clock func() time.Duration
	mu    sync.Mutex
	log   []grant
	fresh int // in log
	// refused is when one that is fresh was last refused, full says that there was one.
	refused time.Duration
	full    bool
}

type grant struct {
	at    time.Duration
	fresh bool
}

// drop forgets what has left the window; the lock is held.
func (p *pacer) drop(now time.Duration) {
	n := 0
	for ; n < len(p.log) && p.log[n].at <= now-paceWindow; n++ {
		if p.log[n].fresh {
			p.fresh--
		}
	}
	p.log = p.log[n:]
}

func (p *pacer) add(n int, now time.Duration, fresh bool) {
	for range n {
		p.log = append(p.log, grant{at: now, fresh: fresh})
	}
	if fresh {
		p.fresh += n
	}
}

// take allows n GETs now, or none; fresh says that they are about a run that was never read.
func (p *pacer) take(n int, fresh bool) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	p.drop(now)
	most := freshRate
	if !fresh {
		if most = getRate - reserved; p.full && now-p.refused < paceWindow {
			most = getRate - freshRate
		}
	}
	have := p.fresh
	if !fresh {
		have = len(p.log) - p.fresh
	}
	if len(p.log)+n > getRate || have+n > most {
		if fresh {
			p.refused, p.full = now, true
		}
		return false
	}
	p.add(n, now, fresh)
	return true
}

// spend counts a GET that is made whatever the window holds: those that follow wait for it.
func (p *pacer) spend() {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	p.drop(now)
	p.add(1, now, false)
}

// counted is an object store whose GETs the pacer counts.
type counted struct {
	store.Objects
	pace *pacer
}

func (c *counted) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	c.pace.spend()
	return c.Objects.Get(ctx, key, limit)
}
