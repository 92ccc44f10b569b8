package kernels

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// availableMemory is how many bytes a process can have beside what it has, without swapping: what the system says (its page cache counts as
// free, since it is given back on demand), or what the container is allowed beyond what it has, whichever is less; 0 where neither tells. proc
// and cgroup are /proc and /sys/fs/cgroup.
func availableMemory(proc, cgroup string) int64 {
	n := int64(0)
	if raw, err := os.ReadFile(filepath.Join(proc, "meminfo")); err == nil {
		n = keyed(raw, "MemAvailable:") << 10
	}
	most, err := number(filepath.Join(cgroup, "memory.max"))
	if err != nil { // "max": no limit, or an older hierarchy
		return n
	}
	used, err := number(filepath.Join(cgroup, "memory.current"))
	if err != nil {
		return n
	}
	if raw, err := os.ReadFile(filepath.Join(cgroup, "memory.stat")); err == nil {
		used -= keyed(raw, "inactive_file") // of the page cache, given back on demand
	}
	left := max(1, most-used)
	if n == 0 {
		return left
	}
	return min(n, left)
}

// keyed is the number after a key at the beginning of a line, 0 for none.
func keyed(raw []byte, key string) (n int64) {
	for line := range bytes.Lines(raw) {
		if rest, ok := bytes.CutPrefix(line, []byte(key)); ok {
			if _, err := fmt.Sscan(string(rest), &n); err == nil {
				return n
			}
		}
	}
	return 0
}

// number is the one number of a file.
func number(file string) (int64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
}
