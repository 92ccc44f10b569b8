package s3store

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"syscall"

	"github.com/minio/minio-go/v7"

	"github.com/tunefleet/tunefleet/services/store"
)

// mapError turns a client error into the port's, keeping the cause.
func mapError(err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, store.ErrTooLarge) {
		return err
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.StatusCode == http.StatusNotFound || r.Code == "NoSuchKey":
		return fmt.Errorf("%w: %w", store.ErrNotFound, err)
	case r.StatusCode == http.StatusPreconditionFailed:
		return fmt.Errorf("%w: %w", store.ErrPrecondition, err)
	case r.StatusCode == http.StatusInsufficientStorage || r.Code == "XMinioStorageFull" || r.Code == "QuotaExceeded" || errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: %w", store.ErrFull, err)
	case transient(err):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return err
}

// transient reports whether the same request may succeed later.
func transient(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, store.ErrTooLarge) {
		return false
	}
	r := minio.ToErrorResponse(err)
	if r.StatusCode != 0 {
		return r.StatusCode >= 500 && r.StatusCode != http.StatusInsufficientStorage && r.StatusCode != http.StatusNotImplemented ||
			r.StatusCode == http.StatusTooManyRequests || r.StatusCode == http.StatusConflict || r.StatusCode == http.StatusRequestTimeout || garbled(err)
	}
	return r.Code == "" || errors.Is(err, context.DeadlineExceeded) || isNetwork(err)
}

// garbled reports whether the server says that what came over the connection was no HTTP request. versitygw does so now and then for a
// request that follows an empty body on the same connection, which it then closes: the same request on another one succeeds.
func garbled(err error) bool {
	r := minio.ToErrorResponse(err)
	return r.StatusCode == http.StatusBadRequest && r.Code == "BadRequest"
}

func isNetwork(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}

// isDialError reports whether the request was never sent.
func isDialError(err error) bool {
	var oe *net.OpError
	return errors.As(err, &oe) && oe.Op == "dial"
}
