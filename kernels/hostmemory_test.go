package kernels

import (
	"os"
	"path/filepath"
	"testing"
)

// TestAvailableMemory: the page cache counts as free, and a container has no more than it is allowed.
func TestAvailableMemory(t *testing.T) {
	proc, cgroup := t.TempDir(), t.TempDir()
	check := func(what string, want int64) {
		t.Helper()
		if got := availableMemory(proc, cgroup); got != want {
			t.Errorf("%s: %d bytes are free, expected %d", what, got, want)
		}
	}
	put := func(dir, name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	check("nothing is known", 0)
	put(proc, "meminfo", "MemTotal:       2000 kB\nMemAvailable:    1000 kB\n")
	check("no container", 1000<<10)
	put(cgroup, "memory.max", "max\n")
	check("a container without a limit", 1000<<10)
	put(cgroup, "memory.max", "600000\n")
	put(cgroup, "memory.current", "500000\n")
	check("a container", 100000)
	put(cgroup, "memory.stat", "anon 1\ninactive_file 50000\n")
	check("a container with a page cache", 150000)
}
