package checkpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

const (
	// rowBlocks bounds what one request asks for where there is a choice of sources, so that their speeds are seen.
	rowBlocks = 8
	// slowSource is the speed in bytes a second under which the store is tried once: it may be faster.
	slowSource = 64 << 20
	// FromStore is the store's name among the sources.
	FromStore = "store"
)

// lane is a source, or the store, with what came from it.
type lane struct {
	src   Source // nil: the store
	bytes int64
	took  time.Duration
	gone  bool
}

// rate is bytes a second, 0 while nothing is known.
func (l *lane) rate() float64 {
	if l.took <= 0 {
		return 0
	}
	return float64(l.bytes) / l.took.Seconds()
}

func (l *lane) name() string {
	if l.src == nil {
		return FromStore
	}
	return l.src.Name()
}

// Prefer adds places where parts are read from when that is faster than the store. Call it before reading.
func (r *Reader) Prefer(sources ...Source) {
	for _, s := range sources {
		r.lanes = append(r.lanes, &lane{src: s})
	}
}

// From is the number of verified and unverified bytes read so far by source: FromStore, Local, peers by their names.
func (r *Reader) From() map[string]int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]int64{}
	for _, l := range append([]*lane{&r.stored}, r.lanes...) {
		if l.bytes > 0 {
			out[l.name()] += l.bytes
		}
	}
	return out
}

// choose picks where to read a part from: this machine, else the fastest peer that is not slower than the store; one whose speed is unknown
// is tried. A slow peer has the store measured against it.
func (r *Reader) choose(p schemas.Part) *lane {
	r.mu.Lock()
	defer r.mu.Unlock()
	var best *lane
	for _, l := range r.lanes {
		switch {
		case l.gone || !l.src.Has(p):
		case l.src.Name() == Local:
			return l
		case best == nil || best.rate() > 0 && (l.rate() == 0 || l.rate() > best.rate()):
			best = l
		}
	}
	if best == nil {
		return &r.stored
	}
	if peer, stored := best.rate(), r.stored.rate(); peer > 0 && peer < slowSource && (stored == 0 || stored > peer) {
		return &r.stored
	}
	return best
}

// open reads bytes [from, to) of a part by a lane; to < 0 is its end.
func (r *Reader) open(ctx context.Context, l *lane, p schemas.Part, from, to int64) (io.ReadCloser, error) {
	if l.src != nil {
		body, err := l.src.Open(ctx, p, from, to)
		if err != nil {
			return nil, fmt.Errorf("cannot read part %s from %s: %w", p.Key, l.name(), err)
		}
		return body, nil
	}
	body, err := r.objects.Open(ctx, p.Key, from, to)
	if errors.Is(err, store.ErrNotFound) {
		return nil, &CorruptError{Manifest: r.ref, Key: p.Key, Reason: "the part is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read part %s: %w", p.Key, err)
	}
	return body, nil
}

// count notes what a lane gave.
func (r *Reader) count(l *lane, n int64, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.bytes += n
	l.took += took
}

// pass gives a lane up for this reader; it reports false for the store, which is never given up.
func (r *Reader) pass(l *lane) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.gone = l.src != nil
	return l.gone
}
