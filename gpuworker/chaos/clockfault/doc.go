// Package clockfault moves the wall clock of a running process and of all that it starts, and of nothing else on the machine: the monotonic
// clock goes on undisturbed. It works on unchanged binaries on Linux (amd64, arm64) without root, where ptrace is allowed.
//
// Two things are in the way. Go and the C library read the clock through the vDSO, without a system call: a supervisor hides it from a
// process as it begins (ptrace at the stop of its exec, the entry AT_SYSINFO_EHDR of the auxiliary vector on its stack becomes AT_IGNORE).
// And the system call has to be answered: a filter of seccomp, which children inherit, hands clock_gettime of the wall clock, gettimeofday and
// time to the supervisor (SECCOMP_RET_USER_NOTIF), which writes the real time plus an offset into the caller's memory. The filter also
// reports each exec, so that the supervisor is attached for that moment only.
//
// Serve is the supervisor and wants a process of its own (it waits for stops of processes that others wait for). Enter puts the calling
// process under it and executes a command in its place. Dial talks to it.
package clockfault
