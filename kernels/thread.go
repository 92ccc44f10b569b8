package kernels

import (
	"context"
	"errors"
	"runtime"
	"sync"
)

// ErrThreadClosed is returned by Do after Close.
var ErrThreadClosed = errors.New("kernels: device thread is closed")

// Thread runs functions one after another on one operating-system thread, for devices whose libraries keep state per thread.
type Thread struct {
	work chan func()
	done chan struct{}
	gone chan struct{}
	once sync.Once
}

// NewThread starts the thread; Close ends it.
func NewThread() *Thread {
	t := &Thread{work: make(chan func()), done: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		defer close(t.gone)
		// Never unlocked: the operating-system thread ends with this goroutine, and whatever a library tied to it.
		runtime.LockOSThread()
		for {
			select {
			case f := <-t.work:
				f()
			case <-t.done:
				return
			}
		}
	}()
	return t
}

// Do runs fn on the thread and returns its error. When ctx ends before fn was started, fn does not run; once started it is waited for.
func (t *Thread) Do(ctx context.Context, fn func() error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	result := make(chan error, 1)
	select {
	case t.work <- func() { result <- fn() }:
		return <-result
	case <-ctx.Done():
		return ctx.Err()
	case <-t.done:
		return ErrThreadClosed
	}
}

// Close waits for the function that is running and ends the thread.
func (t *Thread) Close() {
	t.once.Do(func() { close(t.done) })
	<-t.gone
}
