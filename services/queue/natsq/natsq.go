// Package natsq is the NATS JetStream adapter of the work queue. The work stream has work-queue retention and holds one message per
// subject, so that a message is unique while it is queued or in flight and may be published again as soon as it is acknowledged; no
// message id and no dedupe window are involved. The connection never gives up.
package natsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Queue implements queue.Work, queue.Admin and queue.Intake.
type Queue struct {
	nc  *nats.Conn
	js  jetstream.JetStream
	cfg Config

	mu        sync.Mutex
	consumers map[string]jetstream.Consumer
	stream    jetstream.Stream
	closed    bool
	leaving   sync.WaitGroup
}

var (
	_ queue.Work   = (*Queue)(nil)
	_ queue.Admin  = (*Queue)(nil)
	_ queue.Intake = (*Queue)(nil)
)

// Open connects, trying until ctx ends; later it reconnects by itself, for ever.
func Open(ctx context.Context, cfg Config) (*Queue, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the queue's configuration: %w", err)
	}
	q := &Queue{cfg: cfg, consumers: map[string]jetstream.Consumer{}}
	connected := make(chan struct{}, 1)
	up := func(nc *nats.Conn) {
		cfg.Logger.Info("connected to the queue", "server", telemetry.Redact(nc.ConnectedUrl()))
		q.forget()
		select {
		case connected <- struct{}{}:
		default:
		}
	}
	opts := []nats.Option{
		nats.Name(cfg.Name), nats.Timeout(cfg.Timeout), nats.MaxReconnects(-1), nats.ReconnectWait(250 * time.Millisecond),
		nats.ReconnectJitter(250*time.Millisecond, time.Second), nats.RetryOnFailedConnect(true), nats.PingInterval(10 * time.Second), nats.MaxPingsOutstanding(2),
		// Nothing is buffered while disconnected: a publish or an ack that leaves minutes late is worse than one that fails at once.
		nats.ReconnectBufSize(-1),
		nats.ConnectHandler(up), nats.ReconnectHandler(up),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err != nil {
				cfg.Logger.Warn("lost the connection to the queue, reconnecting", "error", err)
			}
		}),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) { cfg.Logger.Debug("queue client", "error", err) }),
	}
	switch {
	case cfg.User != "":
		opts = append(opts, nats.UserInfo(cfg.User, cfg.Password.Reveal()))
	case cfg.Token != "":
		opts = append(opts, nats.Token(cfg.Token.Reveal()))
	case cfg.Creds != "":
		opts = append(opts, nats.UserCredentials(cfg.Creds))
	}
	nc, err := nats.Connect(cfg.URL, opts...)
	if err != nil {
		return nil, fmt.Errorf("cannot connect to the queue: %w", errors.New(telemetry.Redact(err.Error())))
	}
	q.nc = nc
	if q.js, err = jetstream.New(nc, jetstream.WithDefaultTimeout(cfg.Timeout)); err != nil {
		nc.Close()
		return nil, fmt.Errorf("cannot use JetStream: %w", err)
	}
	for !nc.IsConnected() {
		select {
		case <-connected:
		case <-ctx.Done():
			last := nc.LastError()
			nc.Close()
			return nil, fmt.Errorf("cannot connect to the queue: %w: %w", queue.ErrUnavailable, errors.Join(ctx.Err(), last))
		}
	}
	return q, nil
}

// Close gives back what is on its way to pullers that have left, and drops the connection.
func (q *Queue) Close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.leaving.Wait()
	q.nc.Close()
}

// Connected reports whether the connection is up now.
func (q *Queue) Connected() bool { return q.nc.IsConnected() }

// forget drops handles of streams and consumers that may be gone.
func (q *Queue) forget() {
	q.mu.Lock()
	defer q.mu.Unlock()
	clear(q.consumers)
	q.stream = nil
}

// mapError turns a client error into the port's, keeping the cause.
func (q *Queue) mapError(err error) error {
	var api *jetstream.APIError
	var info *schemas.ErrorInfo
	switch {
	case err == nil || errors.Is(err, context.Canceled) || errors.As(err, &info):
		return err
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, jetstream.ErrStreamNotFound),
		errors.Is(err, jetstream.ErrConsumerNotFound), errors.Is(err, jetstream.ErrConsumerDeleted), errors.Is(err, jetstream.ErrConsumerDoesNotExist),
		errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		q.forget()
		return fmt.Errorf("%w: %w", queue.ErrNoStream, err)
	case errors.As(err, &api) && strings.Contains(api.Description, "maximum messages per subject exceeded"):
		return fmt.Errorf("%w: %w", queue.ErrDuplicate, err)
	case errors.As(err, &api) && api.Code < 500 && api.Code != 0:
		return err
	}
	return fmt.Errorf("%w: %w", queue.ErrUnavailable, err)
}

// toHeader makes NATS headers with lower-case keys. NATS keeps case, so that both ends must agree on one.
func toHeader(h map[string]string) nats.Header {
	out := nats.Header{}
	for k, v := range h {
		out.Set(strings.ToLower(k), v)
	}
	return out
}

func fromHeader(h nats.Header) map[string]string {
	out := make(map[string]string, len(h))
	for k := range h {
		out[strings.ToLower(k)] = h.Get(k)
	}
	return out
}

// Publish implements queue.Work. The span of ctx travels in the header unless the caller gave one.
func (q *Queue) Publish(ctx context.Context, m schemas.Message, header map[string]string) error {
	subject := schemas.WorkSubject(m)
	b, err := json.Marshal(m)
	if err != nil {
		return fmt.Errorf("cannot publish %s: %w", subject, err)
	}
	if len(b) > schemas.MaxMessageBytes {
		return fmt.Errorf("cannot publish %s: %d bytes, limit %d", subject, len(b), schemas.MaxMessageBytes)
	}
	h := telemetry.Inject(ctx)
	maps.Copy(h, header)
	_, err = q.js.PublishMsg(ctx, &nats.Msg{Subject: subject, Data: b, Header: toHeader(h)}, jetstream.WithExpectStream(schemas.WorkStream))
	if err != nil {
		return fmt.Errorf("cannot publish %s: %w", subject, q.mapError(err))
	}
	return nil
}

// consumer returns a handle of a durable, asking the server once per connection.
func (q *Queue) consumer(ctx context.Context, stream, durable string) (jetstream.Consumer, error) {
	q.mu.Lock()
	c, ok := q.consumers[durable]
	q.mu.Unlock()
	if ok {
		return c, nil
	}
	c, err := q.js.Consumer(ctx, stream, durable)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.consumers[durable] = c
	return c, nil
}

// Pull implements queue.Work. A message that arrives after ctx has ended goes back at once: nobody has begun to work on it.
func (q *Queue) Pull(ctx context.Context, kind schemas.StageKind, pool string, wait time.Duration) (queue.Delivery, error) {
	durable := schemas.WorkDurable(kind, pool)
	c, err := q.consumer(ctx, schemas.WorkStream, durable)
	if err != nil {
		return nil, fmt.Errorf("cannot pull from %s: %w", durable, q.mapError(err))
	}
	var batch jetstream.MessageBatch
	cancel := context.CancelFunc(func() {})
	if wait > 0 {
		batch, cancel, err = q.fetch(ctx, c, 1, wait)
	} else {
		batch, err = c.FetchNoWait(1)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot pull from %s: %w", durable, q.mapError(err))
	}
	select {
	case msg, ok := <-batch.Messages():
		cancel()
		if ok {
			return q.delivery(msg)
		}
	case <-ctx.Done():
		q.giveBack(batch, cancel)
		return nil, fmt.Errorf("cannot pull from %s: %w", durable, ctx.Err())
	}
	if err := fetchError(batch); err != nil {
		return nil, fmt.Errorf("cannot pull from %s: %w", durable, q.mapError(err))
	}
	if !q.nc.IsConnected() {
		return nil, fmt.Errorf("cannot pull from %s: %w", durable, queue.ErrUnavailable)
	}
	return nil, queue.ErrEmpty
}

// PullAny implements queue.Work.
func (q *Queue) PullAny(ctx context.Context, kinds []schemas.StageKind, pool string, wait time.Duration) (queue.Delivery, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	type pulled struct {
		d   queue.Delivery
		err error
	}
	got := make(chan pulled, len(kinds))
	for _, k := range kinds {
		go func() {
			d, err := q.Pull(ctx, k, pool, wait)
			got <- pulled{d, err}
		}()
	}
	var first queue.Delivery
	var failure error
	for range kinds {
		p := <-got
		switch {
		case p.err != nil:
			if failure == nil && first == nil && !errors.Is(p.err, queue.ErrEmpty) {
				failure = p.err
			}
		case first == nil:
			first = p.d
			stop() // the other pulls end at once
		default:
			if err := p.d.(*delivery).msg.Nak(); err != nil {
				q.cfg.Logger.Debug("cannot give back a message", "error", err)
			}
		}
	}
	switch {
	case first != nil:
		return first, nil
	case failure != nil:
		return nil, failure
	}
	return nil, queue.ErrEmpty
}

// fetch asks for up to n messages within wait. It does not end with ctx: see giveBack. cancel ends it at once.
func (q *Queue) fetch(ctx context.Context, c jetstream.Consumer, n int, wait time.Duration) (jetstream.MessageBatch, context.CancelFunc, error) {
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), max(wait, 5*time.Millisecond))
	batch, err := c.Fetch(n, jetstream.FetchContext(fctx))
	if err != nil {
		cancel()
		return nil, nil, err
	}
	return batch, cancel, nil
}

// fetchError is why a batch ended, nil when there was nothing more within the wait.
func fetchError(b jetstream.MessageBatch) error {
	err := b.Error()
	if errors.Is(err, nats.ErrTimeout) || errors.Is(err, jetstream.ErrNoMessages) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}

// giveBack returns messages that are on their way to a puller who has left, so that they need not wait for AckWait. It takes up to a second
// in the background, as long as a pull that a worker left may stand at the server; Close waits for it.
func (q *Queue) giveBack(batch jetstream.MessageBatch, cancel context.CancelFunc) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		cancel()
		return
	}
	q.leaving.Go(func() {
		t := time.AfterFunc(time.Second, cancel)
		defer func() { t.Stop(); cancel() }()
		for msg := range batch.Messages() {
			if err := msg.Nak(); err != nil {
				q.cfg.Logger.Debug("cannot give back a message", "error", err)
			}
		}
	})
}

// delivery decodes a pulled message; one that can never be read is removed.
func (q *Queue) delivery(msg jetstream.Msg) (queue.Delivery, error) {
	var m schemas.Message
	if err := schemas.DecodeStrict(msg.Data(), &m, schemas.MaxMessageBytes); err != nil {
		err = fmt.Errorf("cannot read message %s: %w", msg.Subject(), err)
		return nil, errors.Join(err, msg.TermWithReason("unreadable"))
	}
	return &delivery{q: q, msg: msg, m: m, header: fromHeader(msg.Headers())}, nil
}

type delivery struct {
	q      *Queue
	msg    jetstream.Msg
	m      schemas.Message
	header map[string]string
}

func (d *delivery) Message() schemas.Message  { return d.m }
func (d *delivery) Header() map[string]string { return d.header }

// Extend implements queue.Delivery. The server does not answer, so that only a broken connection is noticed.
func (d *delivery) Extend(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot extend %s: %w", d.msg.Subject(), err)
	}
	if !d.q.nc.IsConnected() {
		return fmt.Errorf("cannot extend %s: %w", d.msg.Subject(), queue.ErrUnavailable)
	}
	if err := d.msg.InProgress(); err != nil {
		return fmt.Errorf("cannot extend %s: %w", d.msg.Subject(), d.q.mapError(err))
	}
	return nil
}

// Return implements queue.Delivery. The server does not answer.
func (d *delivery) Return(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot return %s: %w", d.msg.Subject(), err)
	}
	if err := d.msg.Nak(); err != nil {
		return fmt.Errorf("cannot return %s: %w", d.msg.Subject(), d.q.mapError(err))
	}
	return nil
}

// Ack implements queue.Delivery and waits for the server's answer.
func (d *delivery) Ack(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, d.q.cfg.Timeout)
	defer cancel()
	err := d.msg.DoubleAck(ctx)
	if err == nil || errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return nil
	}
	return fmt.Errorf("cannot acknowledge %s: %w", d.msg.Subject(), d.q.mapError(err))
}

func (q *Queue) work(ctx context.Context) (jetstream.Stream, error) {
	q.mu.Lock()
	s := q.stream
	q.mu.Unlock()
	if s != nil {
		return s, nil
	}
	s, err := q.js.Stream(ctx, schemas.WorkStream)
	if err != nil {
		return nil, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.stream = s
	return s, nil
}

// last returns the sequence of the message of a subject, 0 when there is none.
func (q *Queue) last(ctx context.Context, subject string) (jetstream.Stream, uint64, error) {
	s, err := q.work(ctx)
	if err != nil {
		return nil, 0, err
	}
	raw, err := s.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return s, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	return s, raw.Sequence, nil
}

// Delete implements queue.Work. The sequence belongs to this very message: one published again in between stays.
func (q *Queue) Delete(ctx context.Context, subject string) error {
	ctx, cancel := context.WithTimeout(ctx, 2*q.cfg.Timeout)
	defer cancel()
	s, seq, err := q.last(ctx, subject)
	if err == nil && seq > 0 {
		err = s.DeleteMsg(ctx, seq)
		if errors.Is(err, jetstream.ErrMsgDeleteUnsuccessful) || errors.Is(err, jetstream.ErrMsgNotFound) {
			// Acknowledged in between, most likely; a look tells.
			var again uint64
			if _, again, err = q.last(ctx, subject); err == nil && again == seq {
				err = jetstream.ErrMsgDeleteUnsuccessful
			}
		}
	}
	if err != nil {
		return fmt.Errorf("cannot delete %s: %w", subject, q.mapError(err))
	}
	return nil
}

// Queued implements queue.Work.
func (q *Queue) Queued(ctx context.Context, subject string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	_, seq, err := q.last(ctx, subject)
	if err != nil {
		return false, fmt.Errorf("cannot look for %s: %w", subject, q.mapError(err))
	}
	return seq > 0, nil
}

// Poke implements queue.Work.
func (q *Queue) Poke(_ context.Context, tenant, run string) error {
	if err := q.nc.Publish(schemas.PokeSubject(tenant, run), nil); err != nil {
		return fmt.Errorf("cannot poke %s/%s: %w", tenant, run, q.mapError(err))
	}
	return nil
}

// Poked implements queue.Work.
func (q *Queue) Poked(tenant, run string, fn func()) (func(), error) {
	sub, err := q.nc.Subscribe(schemas.PokeSubject(tenant, run), func(*nats.Msg) { fn() })
	if err != nil {
		return nil, fmt.Errorf("cannot listen for pokes: %w", q.mapError(err))
	}
	if q.nc.IsConnected() {
		// The subscription must be known to the server before the caller reads HEAD, or a poke in between is lost for no reason.
		if err := q.nc.FlushTimeout(q.cfg.Timeout); err != nil {
			q.cfg.Logger.Debug("cannot flush a subscription", "error", err)
		}
	}
	return func() {
		if err := sub.Unsubscribe(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			q.cfg.Logger.Debug("cannot unsubscribe", "error", err)
		}
	}, nil
}
