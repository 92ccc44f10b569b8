package train

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/store"
)

// partMeter counts the bytes of checkpoint parts that come from the store.
type partMeter struct {
	store.Objects
	bytes atomic.Int64
}

func (m *partMeter) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	r, err := m.Objects.Open(ctx, key, from, to)
	if err != nil || !strings.Contains(key, "rank-") {
		return r, err
	}
	return struct {
		io.Reader
		io.Closer
	}{io.TeeReader(r, tally{&m.bytes}), r}, nil
}

type tally struct{ n *atomic.Int64 }

func (c tally) Write(p []byte) (int, error) {
	c.n.Add(int64(len(p)))
	return len(p), nil
}

// trainedHash is the final state's hash.
func (f *fleet) trainedHash() string {
	f.t.Helper()
	m, err := checkpoint.ReadManifest(f.t.Context(), f.objects, *f.head().Manifest)
	if err != nil {
		f.t.Fatal(err)
	}
	if !m.Final {
		f.t.Fatalf("the newest commit, of step %d, is not final", m.Step)
	}
	return m.StateHash
}

// interrupted trains a gang of three until it is told to stop, which it does with a commit.
func interrupted(t *testing.T, stage schemas.Stage, keep []string) *fleet {
	t.Helper()
	f := newFleet(t, stage)
	err := errors.Join(f.generation("train", plan{world: 3, control: schemas.ControlPause, controlAt: 5, keep: keep, peers: true})...)
	if err == nil || f.head().Step < 5 {
		t.Fatalf("the gang ended with %v at step %d", err, f.head().Step)
	}
	return f
}

func keepers(t *testing.T, n int) (dirs []string) {
	for range n {
		dirs = append(dirs, t.TempDir())
	}
	return dirs
}

// TestReplacementReadsFromPeers: a gang that lost a member forms again; what survivors stored is read from their disks, by themselves and by the
// others, and only what the lost machine stored comes from the store. The result is the undisturbed run's, also when what a peer kept is
// damaged, and when the world changes.
func TestReplacementReadsFromPeers(t *testing.T) {
	stage := toyStage("train", "full")
	calm := newFleet(t, stage)
	if err := errors.Join(calm.generation("train", plan{world: 3})...); err != nil {
		t.Fatal(err)
	}
	want := calm.trainedHash()
	for name, c := range map[string]struct {
		world  int
		spoil  func(t *testing.T, keep []string)
		nobody bool
	}{
		"same size":           {world: 3},
		"smaller":             {world: 2},
		"damaged on a peer":   {world: 3, spoil: flipKept},
		"cut short on a peer": {world: 3, spoil: cutKept},
		"nobody kept any":     {world: 3, nobody: true},
	} {
		t.Run(name, func(t *testing.T) {
			keep := keepers(t, 3)
			f := interrupted(t, stage, keep)
			m, err := checkpoint.ReadManifest(t.Context(), f.objects, *f.head().Manifest)
			if err != nil {
				t.Fatal(err)
			}
			var all, lost int64
			for _, p := range m.Parts {
				all += p.Bytes
				if p.Rank == 1 {
					lost += p.Bytes
				}
			}
			if c.world < 3 {
				keep = []string{keep[0], keep[2]} // nobody came for rank 1
			} else {
				keep[1] = t.TempDir() // another machine
			}
			if c.spoil != nil {
				c.spoil(t, keep)
			}
			if c.nobody {
				keep = keepers(t, 3)
			}
			meter := &partMeter{Objects: f.objects}
			f.objects, f.events = meter, nil
			if err := errors.Join(f.generation("train", plan{world: c.world, keep: keep, peers: true})...); err != nil {
				t.Fatal(err)
			}
			if got := f.trainedHash(); got != want {
				t.Errorf("state %.12s, undisturbed %.12s", got, want)
			}
			// Each rank may need a little of the lost part; none needs the survivors' from the store.
			got, most := meter.bytes.Load(), int64(c.world)*lost
			if c.spoil == nil && !c.nobody && (got > most || got == 0) {
				t.Errorf("%d bytes came from the store; the lost machine's part has %d, all have %d", got, lost, all)
			}
			if c.nobody && got < all {
				t.Errorf("%d bytes came from the store, the checkpoint has %d", got, all)
			}
			if said := noteOf(f.events); !strings.Contains(said, "resumed at step") {
				t.Errorf("events say %q of where the state came from", said)
			}
		})
	}
}

func noteOf(events []schemas.Event) string {
	for _, e := range events {
		if e.Type == schemas.EventNote && strings.Contains(e.Message, "resumed") {
			return e.Message
		}
	}
	return ""
}

// eachKept edits the kept parts of rank 2.
func eachKept(t *testing.T, keep []string, edit func([]byte) []byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(keep[len(keep)-1], "*.part"))
	if err != nil || len(files) == 0 {
		t.Fatalf("rank 2 kept %v, %v", files, err)
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, edit(raw), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func flipKept(t *testing.T, keep []string) {
	eachKept(t, keep, func(b []byte) []byte { b[len(b)/2] ^= 4; return b })
}

func cutKept(t *testing.T, keep []string) {
	eachKept(t, keep, func(b []byte) []byte { return b[:len(b)/2] })
}

// TestKeptPartsAreBounded: a rank keeps the parts of its newest two checkpoints.
func TestKeptPartsAreBounded(t *testing.T) {
	keep := keepers(t, 1)
	f := newFleet(t, toyStage("train", "full"))
	if err := errors.Join(f.generation("train", plan{world: 1, keep: keep})...); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(keep[0], "*"))
	if err != nil || len(files) != 2 {
		t.Errorf("kept %v, %v", files, err)
	}
}

// TestStrangersGetNoParts: without the generation's token, and for anything but an offered part, a peer gives nothing.
func TestStrangersGetNoParts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "aa.part"), []byte("weights"), 0o600); err != nil {
		t.Fatal(err)
	}
	ln, addr, err := listenLoopback(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	x := &sharing{}
	o := offer{Address: addr, Token: "right", Parts: []string{"aa"}}
	x.serve(ln, checkpoint.OpenKept(dir), o)
	defer func() {
		if err := x.close(); err != nil {
			t.Error(err)
		}
	}()
	client := &http.Client{Transport: &http.Transport{DialContext: dialPeer}}
	defer client.CloseIdleConnections()
	read := func(o offer, part schemas.Part, from, to int64) ([]byte, error) {
		o.Parts = []string{part.SHA256}
		body, err := (&peerParts{offer: o, client: client}).Open(t.Context(), part, from, to)
		if err != nil {
			return nil, err
		}
		defer body.Close()
		return io.ReadAll(body)
	}
	if b, err := read(o, schemas.Part{SHA256: "aa", Bytes: 7}, 1, 4); err != nil || !bytes.Equal(b, []byte("eig")) {
		t.Errorf("a member gets %q, %v", b, err)
	}
	wrong := o
	wrong.Token = "wrong"
	for name, try := range map[string]func() ([]byte, error){
		"wrong token":      func() ([]byte, error) { return read(wrong, schemas.Part{SHA256: "aa", Bytes: 7}, 0, 7) },
		"no token":         func() ([]byte, error) { return read(offer{Address: addr}, schemas.Part{SHA256: "aa", Bytes: 7}, 0, 7) },
		"another part":     func() ([]byte, error) { return read(o, schemas.Part{SHA256: "bb", Bytes: 7}, 0, 7) },
		"a path":           func() ([]byte, error) { return read(o, schemas.Part{SHA256: "../aa", Bytes: 7}, 0, 7) },
		"a range reversed": func() ([]byte, error) { return read(o, schemas.Part{SHA256: "aa", Bytes: 7}, 5, 2) },
	} {
		if b, err := try(); err == nil {
			t.Errorf("%s: %q", name, b)
		}
	}
}
