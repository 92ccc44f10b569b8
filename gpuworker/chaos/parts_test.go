package chaos

import (
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/spot"
	"github.com/tunefleet/tunefleet/services/config"
)

func TestPictureIsXML(t *testing.T) {
	file := filepath.Join(t.TempDir(), "loss.svg")
	if err := picture(file, "a < b", Curve{3, 2, 1}, Curve{3, 2, 1}, []mark{{2, "kill"}, {99, "outside"}}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(strings.NewReader(string(data)))
	paths := 0
	for {
		tok, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok && e.Name.Local == "path" {
			paths++
		}
	}
	if paths < 5 || !strings.Contains(string(data), "1 faults") {
		t.Errorf("%d paths in %s", paths, data)
	}
}

// TestTrainingRunIsValid resolves the run that the suite trains, with its tokenizer and data.
func TestTrainingRunIsValid(t *testing.T) {
	file, err := trainProject(t.TempDir(), 3, 100, trainDelay)
	if err != nil {
		t.Fatal(err)
	}
	r, err := config.Load(t.Context(), file, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	st, err := r.Spec.StageOf(trainStage)
	if err != nil || st.Train.Steps != 100 || st.Train.CommitEvery != trainCommit || st.Train.StepDelayMS != 200 || len(r.Inputs) == 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestMetadataTellsOneWorker(t *testing.T) {
	m, err := newMetadata()
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	m.announce("worker-2", time.Minute)
	for worker, want := range map[string]bool{"worker-1": false, "worker-2": true} {
		w, err := spot.New(spot.Config{Cloud: spot.AWS, Endpoint: m.url(worker), Poll: 10 * time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan bool, 1)
		go func() {
			n, err := w.Wait(t.Context())
			got <- err == nil && time.Until(n.At) > 50*time.Second
		}()
		select {
		case ok := <-got:
			if !ok || !want {
				t.Errorf("%s: noticed %v, want %v", worker, ok, want)
			}
		case <-time.After(time.Second):
			if want {
				t.Errorf("%s hears nothing", worker)
			}
		}
	}
	resp, err := http.Get(m.url("worker-1") + "/else")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("status %d", resp.StatusCode)
	}
}
