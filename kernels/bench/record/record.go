// Package record says on what a benchmark ran and keeps its report, for the benchmarks of all parts.
package record

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Commit is the short hash of the working folder's commit; "unknown" outside a repository.
func Commit(ctx context.Context) string {
	b, err := exec.CommandContext(ctx, "git", "rev-parse", "--short", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
}

// CPU is the processor's name; "unknown" where the system does not say.
func CPU() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown"
	}
	for l := range strings.Lines(string(b)) {
		if k, v, ok := strings.Cut(l, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "unknown"
}

// Save writes a report as indented JSON to a new file in dir, which is made where it is missing: name and the time (UTC). It returns the path.
func Save(dir, name string, report any) (string, error) {
	b, err := json.MarshalIndent(report, "", " ")
	if err != nil {
		return "", fmt.Errorf("cannot encode the report: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cannot make the folder of results: %w", err)
	}
	path := filepath.Join(dir, name+"-"+time.Now().UTC().Format("20060102-150405")+".json")
	if err := os.WriteFile(path, append(b, '\n'), 0o644); err != nil { //nolint:gosec // a report for everybody
		return "", fmt.Errorf("cannot write the report: %w", err)
	}
	return path, nil
}
