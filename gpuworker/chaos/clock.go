package chaos

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/clockfault"
	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// envClock is the socket of the supervisor of clocks, for a process that is to enter it.
	envClock = "TUNEFLEET_CHAOS_CLOCK"
	// clockProcess supervises the clocks of others, for row 7.
	clockProcess = "clock"
	clockName    = "clock.sock"
)

func (f *fleet) clockSocket() string { return filepath.Join(f.dir, clockName) }

// enterClock makes this process the same again, under the supervisor of clocks.
func enterClock(socket, name string) error {
	exe, err := os.Executable()
	if err == nil {
		err = os.Unsetenv(envClock)
	}
	if err != nil {
		return fmt.Errorf("cannot enter the supervision of clocks: %w", err)
	}
	return clockfault.Enter(socket, name, exe, os.Args, os.Environ())
}

// clockedWorkers is how many workers' clocks jump.
const clockedWorkers = 2

// superviseClocks starts processes anew under the supervisor of clocks.
func (f *fleet) superviseClocks(ctx context.Context, names []string) error {
	if err := f.start(clockProcess); err != nil {
		return err
	}
	var err error
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end) && ctx.Err() == nil; pause(ctx, 50*time.Millisecond) {
		if _, err = f.clockStatus(ctx, clockProcess); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		f.mu.Lock()
		f.clocked[n] = true
		f.mu.Unlock()
		if err := errors.Join(f.kill(n), f.start(n)); err != nil {
			return err
		}
	}
	return nil
}

func (f *fleet) clockStatus(ctx context.Context, name string) (clockfault.Status, error) {
	cctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	return clockfault.Get(cctx, f.clockSocket(), name)
}

// realClocks starts those whose clock was supervised anew without, and ends the supervisor.
func (f *fleet) realClocks() error {
	f.mu.Lock()
	var names []string
	for n := range f.clocked {
		names = append(names, n)
	}
	clear(f.clocked)
	f.mu.Unlock()
	slices.Sort(names)
	var errs []error
	for _, n := range names {
		errs = append(errs, f.kill(n), f.start(n))
	}
	if f.cell.Alive(clockProcess) {
		errs = append(errs, f.cell.Signal(clockProcess, syscall.SIGKILL))
	}
	return errors.Join(errs...)
}

// jumpClocks lets the wall clocks of two workers, of their ranks and of a control jump an hour ahead, an hour back, and to the right time again,
// while a gang that one of them is in trains. Nothing may come of it: no gang loses its generation (the checker's R11), no commit fails. Every other
// time a member of that gang gets a Spot notice meanwhile.
func jumpClocks(ctx context.Context, a *act) error {
	workers := a.f.workers()
	a.rng.Shuffle(len(workers), func(i, j int) { workers[i], workers[j] = workers[j], workers[i] })
	targets := append(workers[:clockedWorkers], a.pick(a.f.controls()))
	if err := a.f.superviseClocks(ctx, targets); err != nil {
		return err
	}
	pause(ctx, 3*a.f.shape.TTL)
	if !a.until(ctx, 10*a.f.shape.TTL, func() bool { return a.intact(ctx) }) { // what comes of the kills has come
		return errNotReached
	}
	h := a.w.await(ctx, 10*time.Second, func(h *schemas.Head) bool {
		return slices.ContainsFunc(h.Members, func(m schemas.Member) bool { return slices.Contains(targets, m.Worker) }) && a.w.remaining(h) > time.Second
	})
	if h == nil {
		return errNotReached
	}
	if a.rng.IntN(2) == 0 {
		return a.noticeAtWrongTime(ctx, targets, h)
	}
	hold := a.between(2*time.Second, 3*time.Second)
	a.begin(7, "clocks", "of %s: +1 h, -1 h and right again, for %s each", strings.Join(targets, ", "), hold.Round(100*time.Millisecond))
	before := a.f.swaps.Load()
	for _, offset := range []time.Duration{time.Hour, -time.Hour, 0} {
		if err := a.setClocks(ctx, targets, offset); err != nil {
			return err
		}
		pause(ctx, hold)
	}
	swaps := a.f.swaps.Load() - before
	var readings int64
	for _, n := range targets {
		k, err := a.wrongReadings(ctx, n)
		if err != nil {
			return err
		}
		readings += k
	}
	a.what += fmt.Sprintf("; %d wrong readings, %d swaps of HEAD meanwhile", readings, swaps)
	pause(ctx, 3*a.f.shape.TTL) // what comes of it comes late
	if swaps == 0 && ctx.Err() == nil {
		return errors.New("nothing was committed while the clocks were wrong")
	}
	return ctx.Err()
}

// wrongReadings is how often a supervised process was told a wrong time, at least once. Where clocks cannot be made wrong on this machine it notes so
// and returns errNotReached.
func (a *act) wrongReadings(ctx context.Context, name string) (int64, error) {
	st, err := a.f.clockStatus(ctx, name)
	switch {
	case err != nil:
		return 0, err
	case st.Problem != "" || st.Hidden == 0:
		a.what += "; not possible here: " + st.Problem
		return 0, errNotReached
	case st.Answered == 0:
		return 0, fmt.Errorf("%s never read its clock while it was wrong", name)
	}
	return st.Answered, nil
}

// setClocks lets the wall clocks of supervised processes be off.
func (a *act) setClocks(ctx context.Context, names []string, offset time.Duration) error {
	for _, n := range names {
		cctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		_, err := clockfault.Set(cctx, a.f.clockSocket(), n, offset)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// noticeAtWrongTime announces to a member of the gang of h, one of the targets, that its machine goes in two minutes, while its clock is an hour off;
// once it is announced, the clocks jump to an hour off the other way. By the wrong clock the machine has gone an hour ago, or there is no hurry: the
// worker has to leave as it would by the right one, in time and without losing a step (which the figure of lost steps judges).
func (a *act) noticeAtWrongTime(ctx context.Context, targets []string, h *schemas.Head) error {
	i := slices.IndexFunc(h.Members, func(m schemas.Member) bool { return slices.Contains(targets, m.Worker) })
	worker := h.Members[i].Worker
	offset := time.Hour
	if a.rng.IntN(2) == 0 {
		offset = -offset
	}
	a.begin(7, worker, "Spot notice of AWS, 2 minutes, while the clocks of %s are off by %s, then by %s", strings.Join(targets, ", "), offset, -offset)
	if err := a.setClocks(ctx, targets, offset); err != nil {
		return err
	}
	pause(ctx, time.Second)
	readings, err := a.wrongReadings(ctx, worker)
	if err != nil {
		return err
	}
	a.f.spot.announce(worker, 2*time.Minute)
	began := time.Now()
	if err := a.setClocks(ctx, targets, -offset); err != nil {
		return err
	}
	if !a.f.cell.Wait(worker, drainLimit) {
		return fmt.Errorf("%s has not left %s after it was told to", worker, drainLimit)
	}
	a.what += fmt.Sprintf("; %d wrong readings before, left after %.1f s", readings, time.Since(began).Seconds())
	a.f.spot.clear()
	return errors.Join(a.setClocks(ctx, targets, 0), a.f.start(worker))
}
