package remote_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/gpuworker/data/remote/remotetest"
	"github.com/tunefleet/tunefleet/schemas"
)

// TestPruneRemovesWhatWasUsedLongestAgo fills a cache with three models of which two share a file, and makes room.
func TestPruneRemovesWhatWasUsedLongestAgo(t *testing.T) {
	t.Parallel()
	hubs := remotetest.New(t)
	shared := string(make([]byte, 1000))
	for name, own := range map[string]string{"acme/old": "1", "acme/middle": "22", "acme/new": "333"} {
		files := map[string]string{"config.json": `{"v":` + own + `}`}
		if name != "acme/middle" {
			files["shared.safetensors"] = shared
		}
		hubs.Repo("models", name, "main", files)
	}
	dir := t.TempDir()
	f, err := remote.New(remote.Config{Dir: dir, HF: hubs.URL, MS: hubs.URL, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	folders := map[string]string{}
	for i, name := range []string{"acme/old", "acme/middle", "acme/new"} {
		found, err := f.Model(t.Context(), "hf://"+name, func(string) bool { return true }, nil)
		if err != nil {
			t.Fatal(err)
		}
		folders[name] = found.Dir
		at := time.Now().Add(time.Duration(i-10) * time.Hour)
		if err := os.Chtimes(found.Dir+".json", at, at); err != nil {
			t.Fatal(err)
		}
	}
	u, err := f.Use()
	if err != nil || len(u.Entries) != 3 || u.Entries[2].Origin == "" || u.Entries[2].Files != 2 || u.Bytes != 1000+7+8+9 || u.Loose != 0 {
		t.Fatalf("%v: %+v", err, u)
	}
	// The oldest one goes, but what it shares with the newest stays.
	p, err := f.Prune(u.Bytes-1, time.Hour)
	if err != nil || len(p.Entries) != 1 || p.Bytes != 7 {
		t.Fatalf("%v: %+v", err, p)
	}
	for name, want := range map[string]bool{"acme/old": false, "acme/middle": true, "acme/new": true} {
		if _, err := os.Stat(filepath.Join(folders[name], "config.json")); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(folders["acme/new"], "shared.safetensors")); err != nil || string(b) != shared {
		t.Errorf("the shared file is gone: %v", err)
	}
	// What was used a moment ago stays, whatever the bound.
	if _, err := f.Model(t.Context(), "hf://acme/new", func(string) bool { return true }, nil); err != nil {
		t.Fatal(err)
	}
	if p, err = f.Prune(0, time.Hour); err != nil || len(p.Entries) != 1 || p.Bytes != 8 {
		t.Fatalf("%v: %+v", err, p)
	}
	// Nothing is removed under someone who fetches.
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_SH); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Prune(0, 0); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Errorf("pruning beside a fetch: %v", err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if p, err = f.Prune(0, 0); err != nil || p.Bytes != 1009 {
		t.Fatalf("%v: %+v", err, p)
	}
	if u, err = f.Use(); err != nil || len(u.Entries) != 0 || u.Bytes != 0 {
		t.Fatalf("%v: %+v", err, u)
	}
}

// TestTheCacheHasABound: fetching makes room by itself, but keeps what it has just fetched.
func TestTheCacheHasABound(t *testing.T) {
	t.Parallel()
	hubs := remotetest.New(t)
	for _, name := range []string{"acme/a", "acme/b"} {
		hubs.Repo("models", name, "main", map[string]string{"config.json": `"` + name + `"`})
	}
	f, err := remote.New(remote.Config{Dir: t.TempDir(), CacheBytes: 10, HF: hubs.URL, MS: hubs.URL, Attempts: 1})
	if err != nil {
		t.Fatal(err)
	}
	a, err := f.Model(t.Context(), "hf://acme/a", func(string) bool { return true }, nil)
	if err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(a.Dir+".json", past, past); err != nil {
		t.Fatal(err)
	}
	b, err := f.Model(t.Context(), "hf://acme/b", func(string) bool { return true }, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Dir); err == nil {
		t.Error("the first model is still there")
	}
	if _, err := os.Stat(filepath.Join(b.Dir, "config.json")); err != nil {
		t.Error(err)
	}
	if err := (remote.FromEnv(func(k string) string { return map[string]string{"TUNEFLEET_REMOTE_CACHE_BYTES": "much"}[k] })).WithDefaults().Validate(); err == nil {
		t.Error("a bound that is no number is accepted")
	}
}
