// Package queue is the port to the work queue: work messages that are pulled, extended and acknowledged, specs handed in by producers,
// and pokes. The NATS JetStream adapter is package natsq, the in-memory twin memq; both pass queuetest.Run.
//
// Acks are not fenced (a stale holder can extend, nak or ack a message that somebody else now holds), so an ack is never a commit:
// callers ack only after reading in the object store that the message is obsolete.
package queue

import (
	"context"
	"errors"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// Errors that callers decide on.
var (
	// ErrEmpty: nothing to pull within the wait.
	ErrEmpty = errors.New("no message")
	// ErrDuplicate: a message with the same subject is already in the queue.
	ErrDuplicate = errors.New("message already queued")
	// ErrNoStream: the streams or consumers do not exist (yet, or the broker was wiped); control recreates them.
	ErrNoStream = errors.New("work stream does not exist")
	// ErrUnavailable: the server cannot be reached now; the client keeps trying to reconnect.
	ErrUnavailable = errors.New("queue is unavailable")
)

// AckWait is how long a delivery stays with its puller without Extend: a backstop only.
const AckWait = 90 * time.Second

// Work moves work messages.
type Work interface {
	// Publish stores a message durably. ErrDuplicate when its subject is queued or in flight, ErrNoStream when the stream is missing.
	Publish(ctx context.Context, m schemas.Message, header map[string]string) error
	// Pull waits up to wait for one message of (kind, pool); with a wait of 0 it only looks. ErrEmpty, ErrNoStream.
	Pull(ctx context.Context, kind schemas.StageKind, pool string, wait time.Duration) (Delivery, error)
	// PullAny waits up to wait for one message of any of the kinds, for all of them at a time. What comes besides goes back at once: nobody has
	// begun to work on it. ErrEmpty, ErrNoStream.
	PullAny(ctx context.Context, kinds []schemas.StageKind, pool string, wait time.Duration) (Delivery, error)
	// Delete removes the message of that subject by stream sequence, delivered or not. No error when there is none.
	Delete(ctx context.Context, subject string) error
	// Queued reports whether a message with that subject is in the stream (delivered or not).
	Queued(ctx context.Context, subject string) (bool, error)
	// Poke sends a lossy hint that HEAD of a run changed.
	Poke(ctx context.Context, tenant, run string) error
	// Poked calls fn at each poke of the run (tenant and run may be "*") until stop is called.
	Poked(tenant, run string, fn func()) (stop func(), err error)
}

// Delivery is one pulled message.
type Delivery interface {
	Message() schemas.Message
	Header() map[string]string
	// Extend restarts AckWait.
	Extend(ctx context.Context) error
	// Return gives the message back at once, for another puller. Best effort: one that does not reach the server comes back after AckWait.
	Return(ctx context.Context) error
	// Ack removes the message for good. Call it only after reading that the message is obsolete or its result is stored.
	Ack(ctx context.Context) error
}

// Admin is control's side: streams and consumers.
type Admin interface {
	// Ensure creates the streams and, for each pool, one durable consumer per kind, with FirstSeq = unix microseconds for a new stream.
	// workers bounds MaxAckPending and MaxWaiting (2x each). Idempotent; called at start and every 10 s.
	Ensure(ctx context.Context, pools map[string]int) error
	// SyncAlways reports whether the server fsyncs every write.
	SyncAlways(ctx context.Context) (bool, error)
}

// Intake is the path of specs from producers to the front.
type Intake interface {
	// Submit publishes a spec and waits for the front's reply (the acknowledgement).
	Submit(ctx context.Context, spec []byte, header map[string]string) ([]byte, error)
	// Serve calls front for each submitted spec and sends its reply, until ctx ends. The message is removed after the reply.
	Serve(ctx context.Context, front func(ctx context.Context, spec []byte, header map[string]string) []byte) error
}
