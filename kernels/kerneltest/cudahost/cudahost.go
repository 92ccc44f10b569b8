// Package cudahost builds and opens the CUDA backend for the host: the kernels of kernels/cuda compiled with g++ and run thread by thread on
// an emulation, behind a stand-in for the CUDA runtime (kernels/cuda/host). It tests launch geometry, index arithmetic and the host side
// without a GPU; what it computes is what the kernels say, but nothing about speed, memory order or tensor cores follows from it.
package cudahost

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/tunefleet/tunefleet/kernels"
	"github.com/tunefleet/tunefleet/kernels/kerneltest/source"
)

// Open opens an emulated device, closed at the end of the test, which fails if memory is left allocated.
func Open(t testing.TB, o kernels.Options) *kernels.Device {
	t.Helper()
	path, err := Build(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path, o)
}

// OpenWatched is Open of what BuildWatched builds.
func OpenWatched(t testing.TB, o kernels.Options) *kernels.Device {
	t.Helper()
	path, err := BuildWatched(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return open(t, path, o)
}

func open(t testing.TB, path string, o kernels.Options) *kernels.Device {
	t.Helper()
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

// flags of the compiler. No contraction of a*b+c: where kernels want fma they say so. A misaligned vector, which a GPU would refuse, traps.
var flags = []string{"-std=c++17", "-march=native", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-fPIC", "-fvisibility=hidden", "-pthread", "-DTF_HOST",
	"-fsanitize=alignment"}

// flagsOf are the further flags of a file.
func (b builder) flagsOf(file string) []string {
	if !b.watched {
		return []string{"-O2", "-fsanitize-undefined-trap-on-error"}
	}
	// The emulation itself is not watched; the libraries that it stands in for are.
	if name := filepath.Base(file); filepath.Ext(name) == ".cu" || name == "cublaslt.cc" || name == "cudnn.cc" {
		return []string{"-O1", "-g1", "-DTF_WATCH", "-fsanitize=thread"}
	}
	return []string{"-O2", "-g1", "-DTF_WATCH"}
}

// parallel is how many files are compiled at the same time.
const parallel = 2

// Build compiles what changed since it was last built, file by file, and returns the path of the shared object in the user's cache folder.
// It needs the module's sources and g++ (or CXX).
func Build(ctx context.Context) (string, error) {
	return report(build(ctx, os.Getenv(WatchVariable) != ""))
}

// WatchVariable names the environment variable that, when it is set, makes Build build what BuildWatched does: for a test of another package
// under watch.
const WatchVariable = "TUNEFLEET_CUDAHOST_WATCH"

// BuildWatched is Build of a backend that looks at each access of kernels to memory, for what compute-sanitizer looks for on a GPU: memory that
// is not the kernel's, accesses that nothing orders, reads of what nothing has written, barriers that are not one. What it finds fails the
// queue, and is said on standard error once a place. It is ten times as slow.
func BuildWatched(ctx context.Context) (string, error) { return report(build(ctx, true)) }

func report(path string, err error) (string, error) {
	if err != nil {
		return "", fmt.Errorf("cannot build the CUDA backend for the host: %w", err)
	}
	return path, nil
}

func build(ctx context.Context, watched bool) (string, error) {
	b, err := newBuilder(watched)
	if err != nil {
		return "", err
	}
	// Packages are tested at the same time: one compiles, the others wait.
	unlock, err := source.Lock(filepath.Join(b.cache, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	return b.library(ctx)
}

func newBuilder(watched bool) (b builder, err error) {
	root, err := source.ModuleRoot()
	if err != nil {
		return b, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return b, err
	}
	b = builder{cxx: os.Getenv("CXX"), watched: watched, kernels: filepath.Join(root, "kernels"), cache: filepath.Join(cache, "tunefleet", "cudahost")}
	if b.cxx == "" {
		b.cxx = "g++"
	}
	return b, os.MkdirAll(b.cache, 0o755)
}

type builder struct {
	cxx, kernels, cache string
	watched             bool
}

func (b builder) library(ctx context.Context) (string, error) {
	sources, err := filepath.Glob(filepath.Join(b.kernels, "cuda", "*.cu"))
	if err != nil {
		return "", err
	}
	host, err := filepath.Glob(filepath.Join(b.kernels, "cuda", "host", "*.cc"))
	if err != nil {
		return "", err
	}
	return b.link(ctx, append(sources, host...), "cuda-host-*.so", "-shared", "-pthread", "-Wl,--no-undefined")
}

// link compiles files and links them. The star in the name stands for a digest of what is linked.
func (b builder) link(ctx context.Context, sources []string, name string, flags ...string) (string, error) {
	objects := make([]string, len(sources))
	g, each := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, f := range sources {
		g.Go(func() (err error) { objects[i], err = b.object(each, f); return err })
	}
	if err := g.Wait(); err != nil {
		return "", err
	}
	h := sha256.New()
	_, _ = fmt.Fprintln(h, objects)
	out := filepath.Join(b.cache, strings.Replace(name, "*", hex.EncodeToString(h.Sum(nil))[:24], 1))
	return out, b.make(ctx, out, slices.Concat(flags, objects, []string{"-ldl"}))
}

// object compiles a file. The name of the object is a digest of the file, of the headers it includes, and of the flags.
func (b builder) object(ctx context.Context, file string) (string, error) {
	own := b.flagsOf(file)
	args := slices.Concat(flags, own, []string{"-I", b.kernels, "-I", filepath.Join(b.kernels, "cuda"), "-x", "c++"})
	deps, err := exec.CommandContext(ctx, b.cxx, slices.Concat(args, []string{"-MM", file})...).Output()
	if err != nil {
		return "", explain(err, nil)
	}
	h := sha256.New()
	_, _ = fmt.Fprintln(h, b.cxx, flags, own)
	_, list, _ := strings.Cut(string(deps), ":")
	for _, f := range strings.Fields(strings.ReplaceAll(list, "\\\n", " ")) {
		text, err := os.ReadFile(f)
		if err != nil {
			return "", err
		}
		_, _ = fmt.Fprintln(h, filepath.Base(f), len(text))
		_, _ = h.Write(text)
	}
	name := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	out := filepath.Join(b.cache, name+"-"+hex.EncodeToString(h.Sum(nil))[:24]+".o")
	return out, b.make(ctx, out, slices.Concat(args, []string{"-c", file}))
}

// make runs the compiler, unless its output is there.
func (b builder) make(ctx context.Context, out string, args []string) error {
	if _, err := os.Stat(out); err == nil {
		return nil
	}
	part := out + ".part"
	defer func() { _ = os.Remove(part) }()
	if text, err := exec.CommandContext(ctx, b.cxx, append(slices.Clone(args), "-o", part)...).CombinedOutput(); err != nil {
		return explain(err, text)
	}
	return os.Rename(part, out)
}

func explain(err error, text []byte) error {
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) && text == nil {
		text = ee.Stderr
	}
	return fmt.Errorf("%w\n%s", err, bytes.TrimSpace(text))
}
