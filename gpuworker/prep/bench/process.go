package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// measured is what one run of a contender gives.
type measured struct {
	Version string `json:"version,omitempty"`
	// Seconds are those of the preparation alone: without imports, without loading Python's tokenizer, without the upload of the data.
	Seconds   float64 `json:"seconds"`
	Rows      int64   `json:"rows,omitempty"`
	Sequences int64   `json:"sequences,omitempty"`
	Tokens    int64   `json:"tokens,omitempty"`
	Digest    string  `json:"digest,omitempty"`
	// UploadS is the time to put the data into the object store, FirstPartS that of the first of Parts parts.
	UploadS    float64 `json:"upload_s,omitempty"`
	FirstPartS float64 `json:"first_part_s,omitempty"`
	Parts      int     `json:"parts,omitempty"`
	// ProcessS is the wall time of the whole process, CPUS its CPU time with that of its children, PeakBytes the most memory (proportional set
	// size) that it and its children held together.
	ProcessS  float64 `json:"process_s"`
	CPUS      float64 `json:"cpu_s"`
	PeakBytes int64   `json:"peak_bytes"`
}

// command runs a contender, which prints one JSON line at its end, and measures it from outside.
func command(ctx context.Context, dir string, env []string, name string, args ...string) (measured, error) {
	var m measured
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	start := time.Now()
	if err := cmd.Start(); err != nil {
		return m, fmt.Errorf("cannot start %s: %w", name, err)
	}
	done := make(chan struct{})
	peak := make(chan int64, 1)
	go func() {
		most := int64(0)
		for {
			select {
			case <-done:
				peak <- most
				return
			case <-time.After(200 * time.Millisecond):
				most = max(most, treeBytes(cmd.Process.Pid))
			}
		}
	}()
	err := cmd.Wait()
	close(done)
	most := <-peak
	if err != nil {
		text := errs.String()
		return m, fmt.Errorf("%s failed: %w\n%s", filepath.Base(name), err, text[max(0, len(text)-3000):])
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &m); err != nil {
		return m, fmt.Errorf("cannot read what %s printed: %w", name, err)
	}
	m.PeakBytes, m.ProcessS = most, time.Since(start).Seconds()
	m.CPUS = (cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()).Seconds()
	return m, nil
}

// treeBytes is the proportional set size of a process and all its descendants: pages that several share are counted once.
func treeBytes(pid int) int64 {
	parents := map[int]int{}
	dirs, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return 0
	}
	for _, d := range dirs {
		b, err := os.ReadFile(d)
		if err != nil {
			continue
		}
		rest := string(b[bytes.LastIndexByte(b, ')')+1:])
		f := strings.Fields(rest)
		id, err := strconv.Atoi(filepath.Base(filepath.Dir(d)))
		if err != nil || len(f) < 2 {
			continue
		}
		if p, err := strconv.Atoi(f[1]); err == nil {
			parents[id] = p
		}
	}
	sum := int64(0)
	for id := range parents {
		for p, depth := id, 0; p > 1 && depth < 64; p, depth = parents[p], depth+1 {
			if p == pid {
				sum += setSize(id)
				break
			}
		}
	}
	return sum
}

func setSize(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0
	}
	for _, l := range strings.Split(string(b), "\n") {
		if f := strings.Fields(l); len(f) >= 2 && f[0] == "Pss:" {
			kb, err := strconv.ParseInt(f[1], 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	return 0
}

// cpuSeconds is the CPU time of this process.
func cpuSeconds() float64 {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
