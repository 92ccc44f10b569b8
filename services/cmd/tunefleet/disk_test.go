package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// smallDisk mounts a file system of its own over dir and returns a function that leaves so many bytes free on it.
func smallDisk(t *testing.T, dir string, bytes int64) (leave func(free int64)) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700,size="+sizeOf(bytes)); err != nil {
		t.Skipf("cannot mount a small file system here (root is needed): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("cannot unmount %s: %v", dir, err)
		}
	})
	filler := filepath.Join(dir, "filler")
	return func(free int64) {
		t.Helper()
		if err := os.Remove(filler); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		var st syscall.Statfs_t
		if err := syscall.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		n := int64(st.Bavail)*st.Bsize - free
		if n <= 0 {
			return
		}
		f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		chunk := make([]byte, 64<<10)
		for n > 0 {
			k, err := f.Write(chunk[:min(n, int64(len(chunk)))])
			if n -= int64(k); errors.Is(err, syscall.ENOSPC) {
				return
			} else if err != nil {
				t.Fatal(err)
			}
		}
	}
}

func sizeOf(bytes int64) string { b, _ := json.Marshal(bytes); return string(b) } // a number always encodes

// wholeInput reports whether a file is an input with the content that its name, a SHA-256, promises.
func wholeInput(path string) bool {
	if !strings.Contains(path, "/cache/default/input/") {
		return false
	}
	data, err := os.ReadFile(path)
	sum := sha256.Sum256(data)
	return err == nil && hex.EncodeToString(sum[:]) == filepath.Base(path)
}

// TestLittleRoom: a disk with a few hundred MB is enough for the embedded servers, whose streams reserve gigabytes; one with next to nothing is
// refused at once, and not waited on.
func TestLittleRoom(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	leave := smallDisk(t, dir, 256<<20)
	p := project(t)
	train := func() result {
		return cli(t, nil, "submit", filepath.Join(p, "run.yaml"), "--follow", "--dir", dir)
	}
	t.Run("some", func(t *testing.T) {
		upIn(t, dir, nil, "--workers", "1")
		train().want(t, 0)
	})
	leave(20 << 20)
	cli(t, nil, "up", "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeDiskFull], "MiB are free there", "--dir")
}

// TestPortTaken: another program on a port of the data directory is told at once, with the way out, which keeps the runs.
func TestPortTaken(t *testing.T) {
	dir := t.TempDir()
	rec, err := embedded.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []int{rec.NATS, rec.Monitor, rec.Redis, rec.S3, rec.API} {
		l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			t.Fatal(err)
		}
		cli(t, nil, "up", "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeConflict], strconv.Itoa(port), "in use", "embedded.json")
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFullFileSystem fills real file systems: the store's, so that nothing at all fits, or no checkpoint; and the user's. Each time the error
// says so with its own exit code, nothing half-written is left, and once there is room again the same cell runs the same work.
func TestFullFileSystem(t *testing.T) {
	full := schemas.ExitCodes()[schemas.CodeDiskFull]
	// The mount must be there before the server is; up makes its data directory itself.
	dir := t.TempDir()
	leave := smallDisk(t, filepath.Join(dir, "s3"), 48<<20)
	upIn(t, dir, nil, "--workers", "1")
	p := project(t)
	small := strings.ReplaceAll(projectYAML, "world: {min: 1, max: 2}", "world: {min: 1, max: 1}")
	put(t, p, "run.yaml", small)
	// Checkpoints of this one have 12 MB.
	put(t, p, "big.yaml", strings.NewReplacer("hidden_size: 16", "hidden_size: 256", "intermediate_size: 32", "intermediate_size: 512").Replace(small))
	run, big := filepath.Join(p, "run.yaml"), filepath.Join(p, "big.yaml")
	objects := func() []string {
		var out []string
		err := filepath.WalkDir(filepath.Join(dir, "s3"), func(path string, d os.DirEntry, err error) error {
			// The ledger is control's, the locks are the gateway's: they come when they like. An uploaded input may stay, whole, for the next try.
			mine := !strings.Contains(path, ".vgwlocks") && !wholeInput(path) && !strings.Contains(path, "/pools/") && !strings.Contains(path, "/probe/") && filepath.Base(path) != "filler"
			if errors.Is(err, os.ErrNotExist) {
				return nil
			}
			if err == nil && !d.IsDir() && mine {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}

	t.Run("nothing fits into the store", func(t *testing.T) {
		before := objects()
		leave(0)
		began := time.Now()
		cli(t, nil, "submit", run, "--dir", dir).want(t, full, "space")
		if took := time.Since(began); took > time.Minute {
			t.Errorf("it took %s to say so", took)
		}
		leave(40 << 20)
		added := func() []string {
			return slices.DeleteFunc(objects(), func(o string) bool { return slices.Contains(before, o) })
		}
		// What control is writing just now is given the time to become whole.
		for until := time.Now().Add(5 * time.Second); len(added()) > 0 && time.Now().Before(until); {
			time.Sleep(50 * time.Millisecond)
		}
		if left := added(); len(left) > 0 {
			t.Errorf("something was left in the store: %v", left)
		}
		if r := cli(t, nil, "list", "--dir", dir, "--json"); r.code != 0 || strings.Contains(r.out, `"run"`) {
			t.Errorf("a run that was refused is listed: %+v", r)
		}
	})
	t.Run("no checkpoint fits into the store", func(t *testing.T) {
		leave(3 << 20)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
		defer cancel()
		out := filepath.Join(t.TempDir(), "out")
		r := cliContext(ctx, t, nil, "train", big, "--dir", dir, "--output_dir", out, "--log_dir", t.TempDir(), "--no-color")
		r.want(t, full, "space")
		if left, _ := filepath.Glob(filepath.Join(out, "*")); len(left) > 0 {
			t.Errorf("half a result was written: %v", left)
		}
		leave(40 << 20)
		for _, path := range objects() {
			if strings.Contains(path, "/ckpt/") && strings.HasSuffix(path, "manifest.json") {
				t.Errorf("a checkpoint was committed: %s", path)
			}
		}
	})
	var id string
	t.Run("with room again the same work runs", func(t *testing.T) {
		r := cli(t, nil, "submit", run, "--dir", dir, "--json")
		r.want(t, 0)
		var reply struct{ Run string }
		if err := json.Unmarshal([]byte(r.out), &reply); err != nil {
			t.Fatalf("%v: %s", err, r.out)
		}
		id = reply.Run
		cli(t, nil, "watch", id, "--dir", dir, "--no-color").want(t, 0, "succeeded")
	})
	t.Run("outputs do not fit", func(t *testing.T) {
		to := filepath.Join(t.TempDir(), "to")
		leave := smallDisk(t, to, 1<<20)
		leave(16 << 10)
		cli(t, nil, "outputs", id, "--dir", dir, "--to", to).want(t, full, "no space left")
		err := filepath.WalkDir(to, func(path string, d os.DirEntry, err error) error {
			if err == nil && strings.HasSuffix(path, ".part") {
				t.Errorf("half a file was left: %s", path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		leave(1 << 20)
		cli(t, nil, "outputs", id, "--dir", dir, "--to", to).want(t, 0)
	})
}
