// Package store is the port to the object store, where truth lives: any S3 with correct conditional writes. The S3 adapter is package
// s3store (minio-go), the in-memory twin memstore; both pass storetest.Run, whose races are also the probe that doctor runs.
package store

import (
	"context"
	"errors"
	"io"
	"iter"
	"time"
)

// Errors that callers decide on.
var (
	ErrNotFound = errors.New("object not found")
	// ErrPrecondition: If-Match or If-None-Match failed (412): somebody else wrote.
	ErrPrecondition = errors.New("object was changed by another writer")
	// ErrAmbiguous: the outcome of the write is unknown (timeout, 409, connection lost after sending): re-read and compare.
	ErrAmbiguous = errors.New("outcome of the write is unknown")
	// ErrTooLarge: the object is larger than the caller's limit.
	ErrTooLarge = errors.New("object is larger than the limit")
	// ErrUnavailable: the store cannot be reached or refuses service (5xx, timeouts) after retries.
	ErrUnavailable = errors.New("object store is unavailable")
	// ErrFull: the store has no space left.
	ErrFull = errors.New("object store is full")
	// ErrUnsafe: the store failed the conditional-write probe.
	ErrUnsafe = errors.New("object store has no correct conditional writes")
)

// Info describes an object.
type Info struct {
	Key      string
	Bytes    int64
	ETag     string
	Modified time.Time
}

// Clock is what a store may also implement: it knows the time of its server, which is then the time of all that use it, whatever the clocks of
// their machines say.
type Clock interface {
	// Now is the server's time, UTC; the machine's where the two are close or nothing is known.
	Now() time.Time
}

// Now is the time by the store's clock where it has one, else the machine's, UTC.
func Now(o Objects) time.Time {
	if c, ok := o.(Clock); ok {
		return c.Now().UTC()
	}
	return time.Now().UTC()
}

// Condition guards a Put: at most one field is set.
type Condition struct {
	// Absent: only if the key does not exist (If-None-Match: *).
	Absent bool
	// ETag: only if the current object has this ETag (If-Match).
	ETag string
}

// Objects is an object store.
type Objects interface {
	// Get returns an object of at most limit bytes, whole.
	Get(ctx context.Context, key string, limit int64) ([]byte, Info, error)
	// Put writes a small object with a single PUT and returns its ETag.
	Put(ctx context.Context, key string, data []byte, c Condition) (etag string, err error)
	// Upload streams size bytes (a part; multipart allowed; no condition).
	Upload(ctx context.Context, key string, r io.Reader, size int64) error
	// Open streams bytes [from, to) of an object; to < 0 means to the end.
	Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error)
	// Stat returns what is known of an object without its content.
	Stat(ctx context.Context, key string) (Info, error)
	// List yields the objects under a prefix in key order.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
	// Delete removes an object; no error when there is none.
	Delete(ctx context.Context, key string) error
}
