package prep_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// meter counts what is read of and written to each object.
type meter struct {
	store.Objects
	mu            sync.Mutex
	read, written map[string]int64
	requests      int
	// stop, when set, is called before an upload.
	stop func(key string) error
}

func newMeter(o store.Objects) *meter {
	return &meter{Objects: o, read: map[string]int64{}, written: map[string]int64{}}
}

func (m *meter) add(to map[string]int64, key string, n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	to[key] += n
	m.requests++
}

func (m *meter) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	b, i, err := m.Objects.Get(ctx, key, limit)
	m.add(m.read, key, int64(len(b)))
	return b, i, err
}

func (m *meter) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	r, err := m.Objects.Open(ctx, key, from, to)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	m.add(m.read, key, int64(len(b)))
	return io.NopCloser(strings.NewReader(string(b))), errors.Join(err, r.Close())
}

func (m *meter) Stat(ctx context.Context, key string) (store.Info, error) {
	m.add(m.read, key, 0)
	return m.Objects.Stat(ctx, key)
}

func (m *meter) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	if m.stop != nil {
		if err := m.stop(key); err != nil {
			return err
		}
	}
	m.add(m.written, key, size)
	return m.Objects.Upload(ctx, key, r, size)
}

// sum adds up the bytes of keys that end in suffix.
func (m *meter) sum(of map[string]int64, suffix string) (n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, v := range of {
		if strings.HasSuffix(k, suffix) {
			n += v
		}
	}
	return n
}

func (m *meter) reset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	clear(m.read)
	clear(m.written)
	m.requests = 0
}

// longRows are n rows of about size bytes each, few of which are tokens.
func longRows(n, size int) []byte {
	var b strings.Builder
	pad := strings.Repeat("x", size)
	for i := range n {
		fmt.Fprintf(&b, `{"instruction":"question %d","input":"","output":"answer %d","unused":%q}`+"\n", i, i, pad)
	}
	return []byte(b.String())
}

// TestPartsReadTheirOwnRows: the file is read once, by the first part; the others read the byte ranges of their rows. Rows in a random order
// are read whole, but never more than once a part.
func TestPartsReadTheirOwnRows(t *testing.T) {
	const parts, chunk = 6, 4 << 20
	set := longRows(3000, 10_000) // 30 MB
	for _, c := range []struct {
		name    string
		valSize float64
		most    int64
	}{{"in order", 0, int64(len(set)) + parts*2*chunk}, {"shuffled", 0.1, (parts-1)*int64(len(set)) + parts*2*chunk}} {
		t.Run(c.name, func(t *testing.T) {
			outs := []schemas.PrepOutput{sft("train", "train")}
			f := factory(t, schemas.FactorySpec{Stage: "sft", BatchSize: 50, ValSize: c.valSize}, outs, set)
			m := newMeter(f.objects)
			f.objects, f.spec.Stages[0].Prep.Parts = m, parts
			input := schemas.InputKey("acme", f.spec.Stages[0].Prep.Factory.Train[0].Data.Files[0].SHA256)
			for p := range parts {
				if err := f.handle(t.Context(), p); err != nil {
					t.Fatal(err)
				}
				if got := m.read[input]; got != int64(len(set)) {
					t.Fatalf("after part %d the file was read %.2f times", p, float64(got)/float64(len(set)))
				}
			}
			if got := m.sum(m.read, "/rows"); got == 0 || got > c.most {
				t.Errorf("%d bytes of rows were read, at most %d are needed", got, c.most)
			}
			if got := m.sum(m.written, "/rows"); got > int64(len(set)) {
				t.Errorf("rows were stored %.2f times", float64(got)/float64(len(set)))
			}
		})
	}
}

// TestDamagedRowsAreNoticed: a changed byte of stored rows is an error, and rows that are gone are made again.
func TestDamagedRowsAreNoticed(t *testing.T) {
	f := factory(t, schemas.FactorySpec{Stage: "sft"}, []schemas.PrepOutput{sft("train", "train")}, longRows(2500, 100))
	f.spec.Stages[0].Prep.Parts = 2
	if err := f.handle(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	key := f.damage("/rows")
	if err := f.handle(t.Context(), 1); !schemas.IsCode(err, schemas.CodeVerify) {
		t.Fatalf("damaged rows: %v", err)
	}
	if err := f.objects.Delete(t.Context(), key); err != nil {
		t.Fatal(err)
	}
	if err := f.handle(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if n := len(texts(t, f, "train")); n != 2500 {
		t.Fatalf("%d sequences", n)
	}
}

// TestALostWorkerRepeatsOnePart: a worker dies before its part is stored. The parts that were done are not touched, and only the lost one is
// made again.
func TestALostWorkerRepeatsOnePart(t *testing.T) {
	const parts, lost = 4, 2
	f := factory(t, schemas.FactorySpec{Stage: "sft", BatchSize: 10}, []schemas.PrepOutput{sft("train", "train")}, alpaca(400))
	m := newMeter(f.objects)
	f.objects, f.spec.Stages[0].Prep.Parts = m, parts
	died := errors.New("killed")
	m.stop = func(key string) error {
		if strings.HasSuffix(key, "/shard") && len(f.uploads(m)) == lost {
			return died
		}
		return nil
	}
	for p := range lost {
		if err := f.handle(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.handle(t.Context(), lost); !errors.Is(err, died) {
		t.Fatalf("the part ends with %v", err)
	}
	before := f.uploads(m)
	m.stop = nil
	// Every part's message is delivered again, as after the worst of crashes: only what is missing is made.
	for p := range parts {
		if err := f.handle(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	after := f.uploads(m)
	if len(before) != lost || len(after) != parts {
		t.Fatalf("%d shards before, %d after", len(before), len(after))
	}
	for k, n := range before {
		if after[k] != n {
			t.Errorf("%s was written again", k)
		}
	}
	if n := len(texts(t, f, "train")); n != 400 {
		t.Errorf("%d sequences", n)
	}
}

func (f *fixture) uploads(m *meter) map[string]int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[string]int64{}
	for k, n := range m.written {
		if strings.HasSuffix(k, "/shard") {
			out[k] = n
		}
	}
	return out
}

// TestAWholePreparationFromTheCache: the same preparation under another run reads neither data nor tokenizer, and costs a few requests a part.
func TestAWholePreparationFromTheCache(t *testing.T) {
	const parts = 16
	f := factory(t, schemas.FactorySpec{Stage: "sft", BatchSize: 10}, []schemas.PrepOutput{sft("train", "train")}, alpaca(800))
	m := newMeter(f.objects)
	f.objects, f.spec.Stages[0].Prep.Parts = m, parts
	for p := range parts {
		if err := f.handle(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	m.reset()
	f.spec.ID = "r2"
	start := time.Now()
	for p := range parts {
		if err := f.handle(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("a cache hit of %d parts takes %v", parts, d)
	}
	if read := m.sum(m.read, ""); read > 64<<10 || m.requests > 4*parts || len(m.written) > 0 {
		t.Errorf("%d bytes read, %d requests, %d uploads", read, m.requests, len(m.written))
	}
}

// TestOrdersAreSmall: rows one set after the other take no memory, however many they are.
func TestOrdersAreSmall(t *testing.T) {
	o, err := source.Mix([]int{1 << 30, 1 << 29}, "concat", nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	if p := o.At(1<<30 + 5); o.Len() != 1<<30+1<<29 || p.Set != 1 || p.Row != 5 {
		t.Fatalf("%d rows, %v", o.Len(), p)
	}
}
