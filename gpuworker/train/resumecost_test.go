package train

import (
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// readMeter counts the requests that read, and the bytes that they read.
type readMeter struct {
	store.Objects
	requests, bytes atomic.Int64
}

func (m *readMeter) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	b, i, err := m.Objects.Get(ctx, key, limit)
	m.requests.Add(1)
	m.bytes.Add(int64(len(b)))
	return b, i, err
}

func (m *readMeter) Stat(ctx context.Context, key string) (store.Info, error) {
	m.requests.Add(1)
	return m.Objects.Stat(ctx, key)
}

func (m *readMeter) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	r, err := m.Objects.Open(ctx, key, from, to)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(r)
	m.requests.Add(1)
	m.bytes.Add(int64(len(b)))
	return io.NopCloser(strings.NewReader(string(b))), errors.Join(err, r.Close())
}

// countedData counts the sequences that are read.
type countedData struct {
	*toyData
	read atomic.Int64
}

func (d *countedData) Sequence(ctx context.Context, i int) (Sequence, error) {
	d.read.Add(1)
	return d.toyData.Sequence(ctx, i)
}

// TestResumingCostsTheSameAtAnyStep: a gang that goes on after a few steps and one that goes on near step 60 read as many bytes in as many requests,
// and no sequence but those of the step that they train: no data are read over again.
func TestResumingCostsTheSameAtAnyStep(t *testing.T) {
	type cost struct{ requests, bytes, sequences int64 }
	at := func(step int64) cost {
		stage := toyStage("train", "lora")
		stage.Train.Epochs, stage.Train.Steps = 0, 64
		f := newFleet(t, stage)
		d := &countedData{toyData: newToyData(23, 5)}
		f.rows = d
		if err := errors.Join(f.generation("train", plan{world: 1, control: schemas.ControlPause, controlAt: step})...); err == nil || !strings.Contains(err.Error(), "committed") {
			t.Fatalf("the gang ends with %v", err)
		}
		from := f.head().Step
		if from < step || from > step+4 {
			t.Fatalf("the last commit is of step %d, wanted one near %d", from, step)
		}
		m := &readMeter{Objects: f.objects}
		f.objects = m
		d.read.Store(0)
		if errs := f.generation("train", plan{world: 1, killAt: from + 1}); errors.Join(errs...) == nil {
			t.Fatal("the gang was not stopped")
		}
		return cost{m.requests.Load(), m.bytes.Load(), d.read.Load()}
	}
	early, late := at(6), at(60)
	if early.requests == 0 || early.bytes == 0 || early.sequences == 0 {
		t.Fatalf("nothing was counted: %+v", early)
	}
	// The manifest keeps the norms of the last steps that anomalies are told by, a window of bounded size that is not full at first.
	if late.requests != early.requests || late.bytes > early.bytes+4096 || late.sequences > early.sequences+12 {
		t.Errorf("near step 60 %+v, near step 6 %+v", late, early)
	}
}
