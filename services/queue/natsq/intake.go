package natsq

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// fronts is how many specs one front works on at a time.
const fronts = 16

// Submit implements queue.Intake. The stream's own acknowledgement only says that the spec will not be lost; the front's reply is the
// answer. When ctx ends first the outcome is unknown: submit the same spec (same key or id) again.
func (q *Queue) Submit(ctx context.Context, spec []byte, header map[string]string) ([]byte, error) {
	if len(spec) > schemas.MaxSpecBytes {
		return nil, schemas.Errorf(schemas.CodeInvalid, "", "the spec has %d bytes, limit %d", len(spec), schemas.MaxSpecBytes)
	}
	inbox := q.nc.NewInbox()
	sub, err := q.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, fmt.Errorf("cannot submit: %w", q.mapError(err))
	}
	defer func() { _ = sub.Unsubscribe() }()
	h := telemetry.Inject(ctx)
	maps.Copy(h, header)
	msg := &nats.Msg{Subject: schemas.IntakeSubject, Data: spec, Header: toHeader(h)}
	msg.Header.Set(schemas.ReplyHeader, inbox)
	if _, err := q.js.PublishMsg(ctx, msg, jetstream.WithExpectStream(schemas.IntakeStream)); err != nil {
		return nil, fmt.Errorf("cannot submit: %w", q.mapError(err))
	}
	reply, err := sub.NextMsgWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot read the answer to a submitted spec (it is stored and will be read): %w", err)
	}
	return reply.Data, nil
}

// Serve implements queue.Intake: up to 16 specs at a time, until ctx ends; then nil. A nil reply of the front means that it could not
// decide now; the spec comes again later.
func (q *Queue) Serve(ctx context.Context, front func(ctx context.Context, spec []byte, header map[string]string) []byte) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, fronts)
	for ctx.Err() == nil {
		err := q.serveBatch(ctx, func(msg jetstream.Msg) {
			slots <- struct{}{}
			wg.Go(func() {
				defer func() { <-slots }()
				q.answer(ctx, msg, front)
			})
		})
		if err != nil && ctx.Err() == nil {
			q.cfg.Logger.Debug("cannot read submitted specs, trying on", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(250 * time.Millisecond):
			}
		}
	}
	return nil
}

func (q *Queue) serveBatch(ctx context.Context, do func(jetstream.Msg)) error {
	c, err := q.consumer(ctx, schemas.IntakeStream, schemas.IntakeDurable)
	if err != nil {
		return q.mapError(err)
	}
	batch, cancel, err := q.fetch(ctx, c, fronts, 2*time.Second)
	if err != nil {
		return q.mapError(err)
	}
	for {
		select {
		case msg, ok := <-batch.Messages():
			if !ok {
				cancel()
				return q.mapError(fetchError(batch))
			}
			do(msg)
		case <-ctx.Done():
			q.giveBack(batch, cancel)
			return nil
		}
	}
}

// answer asks the front and sends its reply; the spec is removed only afterwards, so that a front that dies leaves it to another.
func (q *Queue) answer(ctx context.Context, msg jetstream.Msg, front func(context.Context, []byte, map[string]string) []byte) {
	to := msg.Headers().Get(schemas.ReplyHeader)
	reply := front(ctx, msg.Data(), fromHeader(msg.Headers()))
	var err error
	switch {
	case ctx.Err() != nil:
		err = msg.Nak() // the front was interrupted: what it says is not an answer
	case reply == nil:
		err = msg.NakWithDelay(min(time.Second, q.cfg.AckWait/2))
	default:
		// Only inboxes: a submitter must not be able to make the front publish elsewhere.
		if strings.HasPrefix(to, "_INBOX.") && !strings.ContainsAny(to, "*> \t\r\n") {
			if err = q.nc.Publish(to, reply); err != nil {
				q.cfg.Logger.Warn("cannot answer a submitted spec", "error", err)
				err = msg.Nak()
				break
			}
		}
		err = msg.Ack()
	}
	if err != nil {
		q.cfg.Logger.Debug("cannot settle a submitted spec", "error", err)
	}
}
