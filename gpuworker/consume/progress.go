package consume

import (
	"context"
	"log/slog"
	"strconv"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
)

// publisher moves events to the live tail. It never blocks the work: when the lease server is slow or gone, events are dropped here (the
// segment logs keep them).
type publisher struct {
	leases lease.Progress
	logger *slog.Logger
	queue  chan schemas.Event
	done   chan struct{}
}

const (
	publishQueue = 4096
	publishBatch = 200
	publishEvery = 100 * time.Millisecond
)

func newPublisher(ctx context.Context, leases lease.Progress, logger *slog.Logger) *publisher {
	p := &publisher{leases: leases, logger: logger, queue: make(chan schemas.Event, publishQueue), done: make(chan struct{})}
	go p.run(ctx)
	return p
}

func (p *publisher) send(e schemas.Event) {
	if e.At.IsZero() {
		e.At = time.Now().UTC()
	}
	select {
	case p.queue <- e:
	default:
	}
}

// run appends what has come in since the last round, at most every publishEvery; when ctx ends it writes what is left and stops.
func (p *publisher) run(ctx context.Context) {
	defer close(p.done)
	for {
		var batch []schemas.Event
		select {
		case e := <-p.queue:
			batch = append(batch, e)
		case <-ctx.Done():
			select {
			case e := <-p.queue:
				batch = append(batch, e)
			default:
				return
			}
		}
	fill:
		for len(batch) < publishBatch {
			select {
			case e := <-p.queue:
				batch = append(batch, e)
			default:
				break fill
			}
		}
		p.publish(context.WithoutCancel(ctx), batch)
		if ctx.Err() == nil {
			select {
			case <-time.After(publishEvery):
			case <-ctx.Done():
			}
		}
	}
}

type runName struct{ tenant, run string }

func (p *publisher) publish(ctx context.Context, batch []schemas.Event) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	byRun := map[runName][]schemas.Event{}
	for _, e := range batch {
		n := runName{e.Tenant, e.Run}
		byRun[n] = append(byRun[n], e)
	}
	for n, events := range byRun {
		err := p.leases.Append(ctx, n.tenant, n.run, events...)
		if fields := progressFields(events); err == nil && len(fields) > 0 {
			err = p.leases.SetProgress(ctx, n.tenant, n.run, fields)
		}
		if err != nil {
			p.logger.Debug("live events dropped", "run", n.run, "events", len(events), "error", err)
		}
	}
}

// progressFields are the newest figures of a batch: stage, step and every value.
func progressFields(events []schemas.Event) map[string]string {
	f := map[string]string{}
	for _, e := range events {
		if e.Type != schemas.EventStep && e.Type != schemas.EventProgress {
			continue
		}
		f["stage"] = e.Stage
		f["updated"] = e.At.Format(time.RFC3339Nano)
		if e.Type == schemas.EventStep {
			f["step"] = strconv.FormatInt(e.Step, 10)
			f["generation"] = strconv.FormatUint(e.Generation, 10)
		}
		for k, v := range e.Values {
			f[k] = strconv.FormatFloat(v, 'g', -1, 64)
		}
	}
	return f
}
