//go:build linux

package clockfault

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_AARCH64

// moreCalls are calls of this architecture that tell the time of day.
var moreCalls []uint32

// sysTime does not exist here.
const sysTime = -1
