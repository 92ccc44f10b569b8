// Package lease is the port to soft state: leases, rendezvous addresses, progress, the live event stream and the worker inventory.
// All of it may vanish at any time without costing a step. The Redis adapter is package redislease, the in-memory twin memlease; both
// pass leasetest.Run.
package lease

import (
	"context"
	"errors"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

// Errors that callers decide on.
var (
	// ErrHeld: somebody else holds the lease.
	ErrHeld = errors.New("lease is held by another owner")
	// ErrLost: the lease is now someone else's. A missing key is not lost: renewing re-acquires it.
	ErrLost = errors.New("lease was taken by another owner")
	// ErrUnavailable: the server cannot be reached.
	ErrUnavailable = errors.New("lease server is unavailable")
)

// TTL is the default time to live of a lease (by the server's clock, in Lua).
const TTL = 10 * time.Second

// Owner identifies a holder: worker incarnation and the issue it acts for.
type Owner struct {
	Worker      string `json:"worker"`
	Incarnation string `json:"incarnation"`
	Issue       uint64 `json:"issue"`
}

// Leases are hints of life, never permissions. Keys come from schemas.LeaseKey.
type Leases interface {
	// Acquire takes the lease when it is free, expired, mine, or held for a lower issue. ErrHeld otherwise (with the holder).
	Acquire(ctx context.Context, key string, o Owner, ttl time.Duration) (holder Owner, err error)
	// Renew extends my lease and re-acquires a missing one; ErrLost when another owner has it. The reply carries the control word last
	// set with SetControl for the run of the key ("" if none).
	Renew(ctx context.Context, key string, o Owner, ttl time.Duration) (control schemas.Control, err error)
	// Release frees the lease if it is mine.
	Release(ctx context.Context, key string, o Owner) error
	// Holders returns the live holder of each key; absent keys are missing from the map.
	Holders(ctx context.Context, keys []string) (map[string]Owner, error)
	// SetControl stores the control word that renewals of the run's leases return.
	SetControl(ctx context.Context, tenant, run string, c schemas.Control) error
	// Boot returns the incarnation id of the server, minting one when there is none: a changed id means that everything was lost.
	Boot(ctx context.Context) (string, error)
}

// Address is a seat holder's offer to join the next generation.
type Address struct {
	Owner Owner  `json:"owner"`
	Seat  int    `json:"seat"`
	Addr  string `json:"addr"`
	// After is the newest generation that this rank has left: it may join any later one.
	After uint64 `json:"after"`
	// Numerics is the fingerprint of the rank's arithmetic.
	Numerics string `json:"numerics"`
}

// Rendezvous collects the addresses of a forming gang. Keys come from schemas.RendezvousKey.
type Rendezvous interface {
	Offer(ctx context.Context, key string, a Address, ttl time.Duration) error
	Offers(ctx context.Context, keys []string) ([]Address, error)
	Withdraw(ctx context.Context, key string, o Owner) error
}

// Progress is the live view of a run.
type Progress interface {
	// SetProgress overwrites fields of the run's progress hash.
	SetProgress(ctx context.Context, tenant, run string, fields map[string]string) error
	GetProgress(ctx context.Context, tenant, run string) (map[string]string, error)
	// Append adds events to the live tail (about 20,000 are kept).
	Append(ctx context.Context, tenant, run string, events ...schemas.Event) error
	// Tail returns up to limit events after the id ("" = from the oldest kept), waiting up to wait for the first.
	Tail(ctx context.Context, tenant, run, after string, limit int, wait time.Duration) ([]StreamEvent, error)
}

// StreamEvent is an event with its stream id.
type StreamEvent struct {
	ID    string        `json:"id"`
	Event schemas.Event `json:"event"`
}

// Worker is the inventory record of one agent; the API shows it as it is.
type Worker = schemas.WorkerView

// Inventory lists workers; records expire unless refreshed.
type Inventory interface {
	Register(ctx context.Context, w Worker, ttl time.Duration) error
	Workers(ctx context.Context, pool string) ([]Worker, error)
	Deregister(ctx context.Context, w Worker) error
}

// Store is everything the package offers; adapters implement it whole.
type Store interface {
	Leases
	Rendezvous
	Progress
	Inventory
}
