//go:build linux && (amd64 || arm64)

package clockfault

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data: nr, arch, instruction pointer, args.
const (
	offNumber = 0
	offArch   = 4
	offArg0   = 16
)

// wallClocks are the ids of clocks that tell the time of day: CLOCK_REALTIME, its coarse sister, and TAI.
var wallClocks = []uint32{unix.CLOCK_REALTIME, unix.CLOCK_REALTIME_COARSE, unix.CLOCK_TAI}

// program hands readings of the wall clock and executions to the supervisor, and lets everything else pass.
func program() []unix.SockFilter {
	const (
		load = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		same = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		ret  = unix.BPF_RET | unix.BPF_K
	)
	// Jumps count instructions forward: the numbers of calls follow, then the two answers.
	calls := append([]uint32{unix.SYS_EXECVE, unix.SYS_EXECVEAT, unix.SYS_GETTIMEOFDAY}, moreCalls...)
	var p []unix.SockFilter
	// Behind the arch check: load nr, compare with clock_gettime (then its clocks), compare with the calls.
	clocks := uint8(len(wallClocks)) //nolint:gosec // three
	n := uint8(len(calls))           //nolint:gosec // four
	p = append(p, unix.SockFilter{Code: load, K: offArch}, unix.SockFilter{Code: same, Jt: 0, Jf: 1 + 1 + 1 + clocks + 1 + n, K: auditArch})
	p = append(p, unix.SockFilter{Code: load, K: offNumber}, unix.SockFilter{Code: same, Jt: 0, Jf: 1 + clocks + 1, K: unix.SYS_CLOCK_GETTIME})
	p = append(p, unix.SockFilter{Code: load, K: offArg0})
	for i, c := range wallClocks {
		p = append(p, unix.SockFilter{Code: same, Jt: clocks - uint8(i) + n + 1, Jf: 0, K: c}) //nolint:gosec // three
	}
	p = append(p, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}) // another clock
	for i, c := range calls {
		p = append(p, unix.SockFilter{Code: same, Jt: n - uint8(i), Jf: 0, K: c}) //nolint:gosec // four
	}
	return append(p, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF})
}

// install puts the filter on the calling thread and what comes of it, and returns the listener.
func install() (int, error) {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return -1, fmt.Errorf("cannot give up privileges for a filter: %w", err)
	}
	p := program()
	prog := unix.SockFprog{Len: uint16(len(p)), Filter: &p[0]} //nolint:gosec // a dozen
	// A thread that waits for the answer is only to be killed, not interrupted (Linux 5.19): the runtime's signals would ask again and again.
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER|unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
		uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(p)
	if errno != 0 {
		return -1, fmt.Errorf("the kernel takes no filter with a listener: %w", errno)
	}
	unix.CloseOnExec(int(fd)) //nolint:gosec // a file descriptor
	return int(fd), nil       //nolint:gosec // as above
}

// Unsupported says why this machine cannot do it, "" when it can. It tries the filter on a thread of its own, which then ends.
func Unsupported() string {
	if raw, err := os.ReadFile("/proc/sys/kernel/yama/ptrace_scope"); err == nil && strings.TrimSpace(string(raw)) != "0" && os.Geteuid() != 0 {
		return "kernel.yama.ptrace_scope is " + strings.TrimSpace(string(raw)) + ": processes may not be traced"
	}
	answer := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine, and the filter with it
		fd, err := install()
		if err == nil {
			err = unix.Close(fd)
		}
		answer <- err
	}()
	if err := <-answer; err != nil {
		return err.Error()
	}
	return ""
}

// Enter puts the calling process under the supervisor that listens at socket, by a name, and executes a program in its place: it returns on
// failure only. argv[0] is the program's name for itself.
func Enter(socket, name, program string, argv, env []string) error {
	runtime.LockOSThread()
	conn, err := net.Dial("unix", socket) //nolint:noctx // this process becomes another one
	if err != nil {
		return fmt.Errorf("cannot reach the supervisor of clocks: %w", err)
	}
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return errors.New("the socket of the supervisor of clocks is none of Unix")
	}
	line, err := json.Marshal(message{Name: name, Enter: true})
	if err != nil {
		return fmt.Errorf("cannot enter the supervision of clocks: %w", err)
	}
	// From here on this thread may not read the wall clock before the supervisor has the listener; other threads are not under the filter.
	fd, err := install()
	if err != nil {
		return err
	}
	if err := handOver(u, append(line, '\n'), fd); err != nil {
		return err
	}
	if _, err := readReply(conn); err != nil {
		return err
	}
	return fmt.Errorf("cannot execute %s: %w", program, syscall.Exec(program, argv, env)) //nolint:gosec // what the caller names
}

// handOver sends a line with a file descriptor and closes the latter here.
func handOver(u *net.UnixConn, line []byte, fd int) error {
	done := make(chan error)
	go func() { // on another thread, whose clock is not trapped: the network poller looks at deadlines
		_, _, err := u.WriteMsgUnix(line, unix.UnixRights(fd), nil)
		done <- errors.Join(err, unix.Close(fd))
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("cannot hand the listener to the supervisor of clocks: %w", err)
	}
	return nil
}
