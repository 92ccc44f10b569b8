// Package fixturetest finds what tests compare with: the reference fixtures and a Python with the reference libraries. Without them a test
// skips and says what is missing; with TUNEFLEET_REQUIRE_FIXTURES=1, as in CI, it fails.
package fixturetest

import (
	"os"
	"path/filepath"
	"testing"
)

// missing skips the test, or fails it where the references are required.
func missing(t testing.TB, format string, args ...any) {
	t.Helper()
	if os.Getenv("TUNEFLEET_REQUIRE_FIXTURES") == "1" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// Dir is a folder of the reference fixtures: elem below TUNEFLEET_FIXTURES, by default shared/fixtures beside the repository.
func Dir(t testing.TB, elem ...string) string { return find(t, "TUNEFLEET_FIXTURES", "fixtures", elem) }

// Data is a folder of real data: elem below TUNEFLEET_DATA, by default shared/data beside the repository.
func Data(t testing.TB, elem ...string) string { return find(t, "TUNEFLEET_DATA", "data", elem) }

func find(t testing.TB, variable, name string, elem []string) string {
	t.Helper()
	root := os.Getenv(variable)
	if root == "" {
		root = filepath.Join(repository(t), "..", "shared", name)
	}
	dir := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(dir); err != nil {
		missing(t, "the reference set is not here (%s): %v", variable, err)
	}
	return dir
}

// repository is the folder of go.mod: tests run in their package's folder.
func repository(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if filepath.Dir(dir) == dir {
			t.Fatal("no go.mod above the test's folder")
		}
		dir = filepath.Dir(dir)
	}
}

// Python is the interpreter with torch, transformers and peft: TUNEFLEET_PYTHON, or the one that "go tool task python" makes.
func Python(t testing.TB) string {
	t.Helper()
	if p := os.Getenv("TUNEFLEET_PYTHON"); p != "" {
		return p
	}
	return interpreter(t, "TUNEFLEET_VENV", "venv", "torch, transformers and peft", "python")
}

// LLaMAFactory is the interpreter with LLaMA-Factory and datasets: of the folder TUNEFLEET_LF_VENV, or the one that "go tool task llamafactory"
// makes.
func LLaMAFactory(t testing.TB) string {
	t.Helper()
	return interpreter(t, "TUNEFLEET_LF_VENV", "llamafactory", "LLaMA-Factory and datasets", "llamafactory")
}

// interpreter is the Python of a folder that a variable names, by default one in the user's cache.
func interpreter(t testing.TB, variable, name, with, task string) string {
	t.Helper()
	venv := os.Getenv(variable)
	if venv == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		venv = filepath.Join(cache, "tunefleet", name)
	}
	p := filepath.Join(venv, "bin", "python")
	if _, err := os.Stat(p); err != nil {
		missing(t, "no Python with %s (make it with: go tool task %s): %v", with, task, err)
	}
	return p
}
