//go:build linux

package clockfault

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// moreCalls are calls of this architecture that tell the time of day.
var moreCalls = []uint32{unix.SYS_TIME}

const sysTime = unix.SYS_TIME
