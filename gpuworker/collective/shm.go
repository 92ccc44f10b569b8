package collective

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Ranks on one host pass large payloads through memory that both map; headers, small payloads, and the word that a rank is gone go by TCP
// as ever. A segment holds one ring a direction:
//
//	0    nonce (proves that both sides mapped the same memory)
//	64   u64 bytes produced by the dialing rank     128  u64 bytes of them consumed
//	192  u64 bytes produced by the accepting rank   256  u64 bytes of them consumed
//	4096 ring of the dialing rank, then that of the accepting one
const (
	ringBytes    = 1 << 20
	ringChunk    = 128 << 10 // what is announced to the other side at a time
	segmentBytes = 4096 + 2*ringBytes
	nonceBytes   = 32
)

// ring is one direction of a segment as seen by one of its ends.
type ring struct {
	produced, consumed *atomic.Uint64
	data               []byte
}

// segment is shared memory between two ranks.
type segment struct {
	mem []byte
	// out is written by this rank, in read by it.
	out, in ring
}

func newSegment(mem []byte, dialer bool) *segment {
	at := func(i int) *atomic.Uint64 { return (*atomic.Uint64)(unsafe.Pointer(&mem[i])) }
	a := ring{at(64), at(128), mem[4096 : 4096+ringBytes]}
	b := ring{at(192), at(256), mem[4096+ringBytes:]}
	if dialer {
		return &segment{mem: mem, out: a, in: b}
	}
	return &segment{mem: mem, out: b, in: a}
}

func (s *segment) close() {
	if s != nil {
		_ = syscall.Munmap(s.mem) // it is mapped
	}
}

func mapFile(fd int) ([]byte, error) {
	return syscall.Mmap(fd, 0, segmentBytes, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
}

// offerBytes is what the dialing rank tells of its memory: process, file descriptor, nonce; all zero when it has none to share.
const offerBytes = 8 + nonceBytes

// share agrees on shared memory over an authenticated connection. It returns nil without an error when the ranks are on different hosts, or
// cannot see each other's memory for another reason: they then go on by TCP alone.
func share(c *net.TCPConn, dialer, wanted bool, deadline time.Time) (*segment, error) {
	if err := c.SetDeadline(deadline); err != nil {
		return nil, err
	}
	defer func() { _ = c.SetDeadline(time.Time{}) }() // the first call sets its own
	if dialer {
		return offerMemory(c, wanted)
	}
	raw := make([]byte, offerBytes)
	if _, err := io.ReadFull(c, raw); err != nil {
		return nil, fmt.Errorf("cannot read the offer of shared memory: %w", err)
	}
	var s *segment
	if wanted {
		s = openMemory(raw)
	}
	reply := []byte{0}
	if s != nil {
		reply[0] = 1
	}
	if _, err := c.Write(reply); err != nil {
		s.close()
		return nil, fmt.Errorf("cannot answer the offer of shared memory: %w", err)
	}
	return s, nil
}

// sameHost reports whether both ends of a connection have the same address.
func sameHost(c *net.TCPConn) bool {
	l, lok := c.LocalAddr().(*net.TCPAddr)
	r, rok := c.RemoteAddr().(*net.TCPAddr)
	return lok && rok && l.IP.Equal(r.IP)
}

func offerMemory(c *net.TCPConn, wanted bool) (*segment, error) {
	raw := make([]byte, offerBytes)
	var mem []byte
	if wanted && sameHost(c) {
		// Memory without a name: nothing is left behind when a rank is killed.
		if fd, err := unix.MemfdCreate("tunefleet", unix.MFD_CLOEXEC); err == nil {
			defer unix.Close(fd)
			if err = unix.Ftruncate(fd, segmentBytes); err == nil {
				mem, err = mapFile(fd)
			}
			if err == nil {
				rand.Read(mem[:nonceBytes])
				binary.LittleEndian.PutUint32(raw, uint32(os.Getpid()))
				binary.LittleEndian.PutUint32(raw[4:], uint32(fd))
				copy(raw[8:], mem[:nonceBytes])
			}
		}
	}
	reply := []byte{0}
	_, err := c.Write(raw)
	if err == nil {
		_, err = io.ReadFull(c, reply)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("cannot agree on shared memory: %w", err)
	case mem != nil && reply[0] == 1:
		return newSegment(mem, true), nil
	}
	if mem != nil {
		err = errors.Join(err, syscall.Munmap(mem))
	}
	return nil, err
}

// openMemory maps what the other rank offers, nil when that is nothing or cannot be seen from here.
func openMemory(raw []byte) *segment {
	pid, fd := binary.LittleEndian.Uint32(raw), binary.LittleEndian.Uint32(raw[4:])
	if pid == 0 {
		return nil
	}
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || st.Size() != segmentBytes {
		return nil
	}
	mem, err := mapFile(int(f.Fd()))
	if err != nil {
		return nil
	}
	if !bytes.Equal(mem[:nonceBytes], raw[8:]) { // another process of that number, in another namespace
		_ = syscall.Munmap(mem) // it is mapped
		return nil
	}
	return newSegment(mem, false)
}

// await waits until ready holds: busy at first, then asleep for ever longer times; what says why it is useless to wait on.
func await(ready func() bool, gone func() error) error {
	const busy = 256
	nap := 10 * time.Microsecond
	for i := 0; !ready(); i++ {
		if i < busy {
			runtime.Gosched()
			continue
		}
		if err := gone(); err != nil {
			if ready() {
				return nil
			}
			return err
		}
		time.Sleep(nap)
		nap = min(2*nap, time.Millisecond)
	}
	return nil
}

// put copies data into the ring, as fast as the other side takes it out.
func (r ring) put(data []byte, gone func() error) error {
	for len(data) > 0 {
		done := r.produced.Load()
		if err := await(func() bool { return done-r.consumed.Load() < ringBytes }, gone); err != nil {
			return err
		}
		at := int(done % ringBytes)
		n := min(len(data), ringChunk, ringBytes-at, ringBytes-int(done-r.consumed.Load()))
		copy(r.data[at:at+n], data[:n])
		r.produced.Store(done + uint64(n))
		data = data[n:]
	}
	return nil
}

// take fills dst from the ring.
func (r ring) take(dst []byte, gone func() error) error {
	for len(dst) > 0 {
		done := r.consumed.Load()
		if err := await(func() bool { return r.produced.Load() != done }, gone); err != nil {
			return err
		}
		have := r.produced.Load() - done
		if have > ringBytes {
			return errors.New("the other rank has written over what was not read")
		}
		at := int(done % ringBytes)
		n := min(len(dst), int(have), ringBytes-at)
		copy(dst[:n], r.data[at:at+n])
		r.consumed.Store(done + uint64(n))
		dst = dst[n:]
	}
	return nil
}

// gone says why waiting for a peer's side of the shared memory is useless: the mesh is broken, the deadline has passed, or the peer's end of
// the connection is closed.
func (t *TCP) gone(p *peer, deadline time.Time) func() error {
	return func() error {
		if err := t.failure(); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return context.DeadlineExceeded
		}
		raw, err := p.conn.SyscallConn()
		if err != nil {
			return err
		}
		var n int
		var perr error
		one := make([]byte, 1)
		if err := raw.Control(func(fd uintptr) {
			n, _, perr = syscall.Recvfrom(int(fd), one, syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		}); err != nil {
			return err
		}
		switch {
		case errors.Is(perr, syscall.EAGAIN), errors.Is(perr, syscall.EINTR):
			return nil
		case perr != nil:
			return perr
		case n == 0:
			return io.EOF
		}
		return nil // the next frame, or the other direction's
	}
}
