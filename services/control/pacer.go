package control

import (
	"context"
	"sync"
	"time"

	"github.com/tunefleet/tunefleet/services/store"
)

// Bounds of the reading of a replica, all of its pools together: the store sees at most getRate GETs in any paceWindow. While runs that were
// never read and runs that are known both want to be read, the first have freshRate of them and the others the rest; while only one kind
// does, it has all but a few.
const (
	getRate   = 500
	freshRate = 450
	// paceWindow is a little over a second: a GET reaches the store some time after it was allowed.
	paceWindow = 1020 * time.Millisecond
	// reserved are left for the first runs of the other kind.
	reserved = 5
)

// pacer spreads GETs so that no window of a second has more than getRate of them. It counts in a sliding window, not by a bucket that fills:
// a bucket lets a burst pass on top of the rate.
type pacer struct {
	clock func() time.Duration
	mu    sync.Mutex
	log   []grant
	fresh int // in log
	// refused is when a kind (known, fresh) was last refused.
	refused [2]refusal
}

// refusal is when some GETs had to wait.
type refusal struct {
	at   time.Duration
	ever bool
}

func (r refusal) within(now time.Duration) bool { return r.ever && now-r.at < paceWindow }

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
	mine, other := &p.refused[0], &p.refused[1]
	have, share := len(p.log)-p.fresh, getRate-freshRate
	if fresh {
		mine, other = other, mine
		have, share = p.fresh, freshRate
	}
	most := getRate - reserved
	if other.within(now) {
		most = share
	}
	if len(p.log)+n > getRate || have+n > most {
		*mine = refusal{at: now, ever: true}
		return false
	}
	p.add(n, now, fresh)
	return true
}

// wait is how long it takes until n GETs more may be allowed, if nobody else asks.
func (p *pacer) wait(n int) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.clock()
	p.drop(now)
	short := n - (getRate - reserved - len(p.log))
	if short <= 0 {
		return 0
	}
	return p.log[min(short, len(p.log))-1].at + paceWindow - now
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

// Now implements store.Clock.
func (c *counted) Now() time.Time { return store.Now(c.Objects) }

func (c *counted) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	c.pace.spend()
	return c.Objects.Get(ctx, key, limit)
}
