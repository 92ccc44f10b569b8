package consume

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
)

// maxHints bounds what is remembered of offers that were left to others.
const maxHints = 256

// hints remembers which offers of seats this worker has left to those that held them before. It belongs to the pull loop.
type hints struct {
	delay time.Duration
	// since tells by offer when it was first seen.
	since map[string]time.Time
}

// leave reports whether the worker is to leave a message to others: it offers a seat of a gang that yielded, the worker was not in that
// gang, and it has not waited delay since it first saw the offer. All seats that are given out together are one offer, so that nobody
// waits longer than that for a gang, whoever else comes or not.
func (h *hints) leave(d queue.Delivery, worker string, now time.Time) bool {
	names := d.Header()[schemas.HeaderWarm]
	if m := d.Message(); names == "" || m.Kind != schemas.KindTrain || slices.Contains(strings.Split(names, ","), worker) {
		return false
	}
	m := d.Message()
	offer := fmt.Sprintf("%s/%s/%s/%d", m.Tenant, m.Run, m.Stage, m.Issue)
	if first, ok := h.since[offer]; ok {
		return now.Sub(first) < h.delay
	}
	if h.since == nil || len(h.since) >= maxHints {
		h.since = map[string]time.Time{} // what is forgotten is waited for once more
	}
	h.since[offer] = now
	return true
}

// leaveToOthers gives a message back that is for others first, and waits until they have had the time. It reports whether it did.
func (a *Agent) leaveToOthers(ctx context.Context, h *hints, d queue.Delivery) bool {
	if !h.leave(d, a.cfg.Name, time.Now()) {
		return false
	}
	m := d.Message()
	if err := d.Return(ctx); err != nil {
		a.logger.Debug("cannot leave a seat to those that held it", "run", m.Run, "error", err)
		return false
	}
	a.logger.Debug("leaving a seat to those that held it", "run", m.Run, "stage", m.Stage, "seat", m.Seat, "issue", m.Issue)
	pause(ctx, a.cfg.HintDelay)
	return true
}
