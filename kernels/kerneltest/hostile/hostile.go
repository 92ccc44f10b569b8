// Package hostile builds and opens the hostile test backend: a shared object, loaded as a device's is, whose memory the caller can never
// read, whose queues run behind the caller on threads of their own, and whose errors appear late. A program that gives the same results
// on it as on the CPU backend does not touch device memory from Go and forgets no synchronization. See src/hostile.c.
package hostile

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/source"
)

// Open opens a hostile device, closed at the end of the test, which fails if memory is left allocated.
func Open(t testing.TB, o kernels.Options) *kernels.Device {
	t.Helper()
	path, err := Build()
	if err != nil {
		t.Fatal(err)
	}
	o.Backend = path
	d, err := kernels.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// flags are those of package kernels' own build, but -O2: it compiles in half the time, and results may not depend on it.
func flags() []string {
	return []string{"-std=c11", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-fvisibility=hidden", "-pthread"}
}

// Build compiles the backend, unless this very source was compiled before, and returns the path of the shared object in the user's cache
// folder. It needs the module's sources and a C compiler (CC, default gcc).
func Build() (string, error) {
	root, err := source.ModuleRoot()
	if err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	dir := filepath.Join(root, "kernels")
	sources, sum, err := hash(dir)
	if err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	cache = filepath.Join(cache, "tunefleet", "hostile")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	out := filepath.Join(cache, sum+".so")
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	// Packages are tested at the same time: one compiles, the others wait.
	unlock, err := source.Lock(out + ".lock")
	if err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	defer unlock()
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	tmp, err := os.CreateTemp(cache, "build-*.so")
	if err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	_ = tmp.Close()
	defer func() { _ = os.Remove(tmp.Name()) }()
	args := append(flags(), "-I", dir, "-o", tmp.Name())
	cmd := exec.Command(compiler(), append(append(args, sources...), "-lm")...) //nolint:noctx // bounded by the compiler
	if b, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w\n%s", err, b)
	}
	if err := os.Rename(tmp.Name(), out); err != nil {
		return "", fmt.Errorf("cannot build the hostile backend: %w", err)
	}
	return out, nil
}

func compiler() string {
	if cc := os.Getenv("CC"); cc != "" {
		return cc
	}
	return "gcc"
}

// hash returns the C sources and a digest over them, the headers and the flags.
func hash(dir string) (sources []string, sum string, err error) {
	h := sha256.New()
	_, _ = fmt.Fprintln(h, compiler(), flags())
	var all []string
	for _, pattern := range []string{"*.c", "*.h", "kerneltest/hostile/src/*.c"} {
		m, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return nil, "", err
		}
		all = append(all, m...)
	}
	slices.Sort(all)
	for _, f := range all {
		if filepath.Base(f) == "dl.c" { // the loader is the caller's side
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return nil, "", err
		}
		_, _ = fmt.Fprintln(h, filepath.Base(f), len(b))
		_, _ = h.Write(b)
		if strings.HasSuffix(f, ".c") {
			sources = append(sources, f)
		}
	}
	return sources, hex.EncodeToString(h.Sum(nil))[:24], nil
}
