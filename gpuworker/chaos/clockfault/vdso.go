//go:build linux && (amd64 || arm64)

package clockfault

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Entries of the auxiliary vector (linux/auxvec.h).
const (
	atNull        = 0
	atIgnore      = 1
	atSysinfoEHDR = 33
)

// execution lets a process execute what it wants to, and hides the vDSO from the new program before its first instruction.
func (c *clockOf) execution(listener int, q notification) {
	runtime.LockOSThread() // a process is traced by a thread
	defer runtime.UnlockOSThread()
	pid := int(q.pid)
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(pid), 0, unix.PTRACE_O_TRACEEXEC, 0, 0)
	if errno != 0 {
		c.fail(fmt.Errorf("cannot trace process %d: %w", pid, errno))
	}
	r := response{id: q.id, flags: unix.SECCOMP_USER_NOTIF_FLAG_CONTINUE}
	if control(listener, unix.SECCOMP_IOCTL_NOTIF_SEND, unsafe.Pointer(&r)); errno != 0 {
		return
	}
	for {
		var st unix.WaitStatus
		// Any, not pid: a thread that executes takes the number of its process. Of this thread only: others wait for theirs.
		at, err := unix.Wait4(-1, &st, unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil, st.Exited(), st.Signaled():
			return // it is gone
		case st.StopSignal() == unix.SIGTRAP && st.TrapCause() == unix.PTRACE_EVENT_EXEC:
			if err := hide(at); err != nil {
				c.fail(err)
			} else {
				c.hidden.Add(1)
			}
			if err := unix.PtraceDetach(at); err != nil && !errors.Is(err, unix.ESRCH) {
				c.fail(fmt.Errorf("cannot let go of process %d: %w", at, err))
			}
			return
		}
		signal := int(st.StopSignal())
		if st>>16 != 0 {
			signal = 0 // a stop that ptrace made, no signal
		}
		if err := unix.PtraceCont(at, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			c.fail(fmt.Errorf("cannot let process %d go on: %w", at, err))
			return
		}
	}
}

// hide takes the vDSO out of the auxiliary vector of a process that has not begun. Its stack has: argc, the arguments, 0, the environment, 0,
// and pairs of type and value up to a type of 0.
func hide(pid int) error {
	sp, err := stackStart(pid)
	if err != nil {
		return err
	}
	mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("cannot open the memory of process %d: %w", pid, err)
	}
	defer mem.Close()
	word := func(at int64) (uint64, error) {
		var b [8]byte
		if _, err := mem.ReadAt(b[:], at); err != nil {
			return 0, fmt.Errorf("cannot read the stack of process %d: %w", pid, err)
		}
		return binary.NativeEndian.Uint64(b[:]), nil
	}
	argc, err := word(sp)
	if err != nil {
		return err
	}
	at := sp + 8*(int64(argc)+2) //nolint:gosec // bounded by the kernel
	for v := uint64(1); v != 0; at += 8 {
		if v, err = word(at); err != nil {
			return err
		}
	}
	for {
		kind, err := word(at)
		switch {
		case err != nil:
			return err
		case kind == atNull:
			return nil // there is none
		case kind == atSysinfoEHDR:
			if _, err := mem.WriteAt(binary.NativeEndian.AppendUint64(nil, atIgnore), at); err != nil {
				return fmt.Errorf("cannot hide the vDSO from process %d: %w", pid, err)
			}
			return nil
		}
		at += 16
	}
}

// stackStart is where a new process's stack begins, field 28 of /proc/pid/stat.
func stackStart(pid int) (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("cannot find the stack of process %d: %w", pid, err)
	}
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:])) // the name before may contain anything; field 3 is the first
	if len(fields) < 26 {
		return 0, fmt.Errorf("cannot find the stack of process %d in %q", pid, raw)
	}
	sp, err := strconv.ParseUint(fields[25], 10, 63)
	if err != nil {
		return 0, fmt.Errorf("cannot find the stack of process %d: %w", pid, err)
	}
	if sp == 0 {
		return 0, fmt.Errorf("cannot find the stack of process %d: the kernel does not tell", pid)
	}
	return int64(sp), nil //nolint:gosec // 63 bits
}
