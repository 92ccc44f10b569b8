//go:build linux && (amd64 || arm64)

package clockfault

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// notification is struct seccomp_notif.
type notification struct {
	id    uint64
	pid   uint32
	flags uint32
	nr    int32
	arch  uint32
	ip    uint64
	args  [6]uint64
}

// response is struct seccomp_notif_resp.
type response struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// clockOf is the clock of a name.
type clockOf struct {
	offset    atomic.Int64
	processes atomic.Int64
	hidden    atomic.Int64
	answered  atomic.Int64

	mu      sync.Mutex
	problem string
}

func (c *clockOf) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.problem == "" {
		c.problem = err.Error()
	}
}

func (c *clockOf) status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Status{Processes: int(c.processes.Load()), Hidden: c.hidden.Load(), Answered: c.answered.Load(), Problem: c.problem}
}

// supervisor answers for all that have entered.
type supervisor struct {
	mu     sync.Mutex
	clocks map[string]*clockOf
}

func (s *supervisor) clock(name string) *clockOf {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clocks[name]
	if c == nil {
		c = &clockOf{}
		s.clocks[name] = c
	}
	return c
}

// Serve supervises those that enter at a socket, which it makes, until ctx ends. Those that are still there then get errors for their readings
// of the clock: end them first.
func Serve(ctx context.Context, socket string) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot supervise clocks: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("cannot supervise clocks: %w", err)
	}
	if err := os.Chmod(socket, 0o600); err != nil {
		return errors.Join(fmt.Errorf("cannot supervise clocks: %w", err), l.Close())
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	s := &supervisor{clocks: map[string]*clockOf{}}
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot supervise clocks: %w", err)
		}
		u, ok := conn.(*net.UnixConn)
		if !ok {
			_ = conn.Close()
			continue
		}
		go s.serve(u)
	}
}

// maxMessage bounds a line on the socket.
const maxMessage = 4096

// serve answers one line.
func (s *supervisor) serve(u *net.UnixConn) {
	defer u.Close()
	line, oob := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, no, _, _, err := u.ReadMsgUnix(line, oob)
	if err != nil {
		return
	}
	listener := received(oob[:no])
	var m message
	if err = json.Unmarshal(bytes.TrimSpace(line[:n]), &m); err == nil && m.Enter != (listener >= 0) {
		err = errors.New("a process enters with a listener, and nobody else has one")
	}
	var r reply
	if err != nil {
		r.Error = err.Error()
		if listener >= 0 {
			_ = unix.Close(listener)
		}
	} else {
		c := s.clock(m.Name)
		if m.Set {
			c.offset.Store(int64(m.Offset))
		}
		if m.Enter {
			c.processes.Add(1)
			go func() {
				defer c.processes.Add(-1)
				c.answer(listener)
			}()
		}
		r.Status = c.status()
	}
	_ = json.NewEncoder(u).Encode(r) // whoever asked has gone
}

// received is the file descriptor that came with a message, -1 when none did.
func received(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) != 1 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1
	}
	unix.CloseOnExec(fds[0])
	return fds[0]
}

// answer answers the listener's notifications until no process is left under the filter.
func (c *clockOf) answer(listener int) {
	defer func() { _ = unix.Close(listener) }()
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}} //nolint:gosec // a file descriptor
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			c.fail(fmt.Errorf("cannot wait for readings of the clock: %w", err))
			return
		}
		if fds[0].Revents&unix.POLLIN == 0 {
			return // nobody is left
		}
		var q notification
		if errno := control(listener, unix.SECCOMP_IOCTL_NOTIF_RECV, unsafe.Pointer(&q)); errno != 0 {
			continue // it died meanwhile
		}
		if q.nr == unix.SYS_EXECVE || q.nr == unix.SYS_EXECVEAT {
			go c.execution(listener, q)
			continue
		}
		r := response{id: q.id}
		if err := c.tell(listener, &q, &r); err != nil {
			r.errno = -int32(unix.EFAULT)
		}
		control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)) // it may have died
	}
}

func control(fd int, request uintptr, arg unsafe.Pointer) unix.Errno {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(arg))
	return errno
}

// tell writes the moved time where the call wants it.
func (c *clockOf) tell(listener int, q *notification, r *response) error {
	offset := time.Duration(c.offset.Load())
	var ts unix.Timespec
	id := int32(unix.CLOCK_REALTIME)
	if q.nr == unix.SYS_CLOCK_GETTIME {
		id = int32(q.args[0]) //nolint:gosec // a clock's id
	}
	if err := unix.ClockGettime(id, &ts); err != nil {
		return err
	}
	if offset != 0 {
		c.answered.Add(1)
	}
	nanos := ts.Nano() + int64(offset)
	second, rest := nanos/1e9, nanos%1e9
	var to uint64
	out := binary.NativeEndian.AppendUint64(nil, uint64(second)) //nolint:gosec // after 1970
	switch int(q.nr) {
	case unix.SYS_CLOCK_GETTIME:
		to, out = q.args[1], binary.NativeEndian.AppendUint64(out, uint64(rest)) //nolint:gosec // as above
	case unix.SYS_GETTIMEOFDAY:
		to, out = q.args[0], binary.NativeEndian.AppendUint64(out, uint64(rest/1000)) //nolint:gosec // as above
	case sysTime:
		to, r.val = q.args[0], second
	}
	if to == 0 {
		return nil
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", q.pid), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer mem.Close()
	// The process may have died and its number been given to another one before the file was opened: what is open now is the right one's when
	// the notification is still valid.
	if errno := control(listener, unix.SECCOMP_IOCTL_NOTIF_ID_VALID, unsafe.Pointer(&q.id)); errno != 0 {
		return errno
	}
	_, err = mem.WriteAt(out, int64(to)) //nolint:gosec // an address
	return err
}
