package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/control"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
)

const token = "0123456789abcdef0123"

type bench struct {
	objects store.Objects
	live    lease.Store
	url     string
	client  *client.Client
}

// start serves the API with control's real service over in-memory twins.
func start(t *testing.T) *bench {
	t.Helper()
	objects, live := memstore.New(), memlease.New()
	log := slog.New(slog.DiscardHandler)
	service := control.NewService(objects, live, nil, log)
	s, err := api.New(api.Config{Token: token, Poll: 20 * time.Millisecond, Heartbeat: 50 * time.Millisecond, MaxInputBytes: 1 << 20, Spool: t.TempDir(), Version: "test"},
		api.Services{Runs: service, Fleet: service, Operator: service, Checkpoints: service, Objects: objects, Live: live, Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(s.Handler())
	c, err := client.New(srv.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	c.Retry = 10 * time.Millisecond
	t.Cleanup(func() {
		c.Close()
		srv.CloseClientConnections()
		srv.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return &bench{objects: objects, live: live, url: srv.URL, client: c}
}

func spec(key string) *schemas.RunSpec {
	f := schemas.File{Path: "rows.jsonl", SHA256: strings.Repeat("ab", 32), Bytes: 5}
	return (&schemas.RunSpec{Version: 1, Tenant: "acme", Pool: "cpu", Key: key, Name: "clauses", Stages: []schemas.Stage{{Name: "prep", Kind: schemas.KindPrep,
		Prep: &schemas.PrepStage{Data: schemas.Ref{Files: []schemas.File{f}}, Tokenizer: schemas.Ref{Files: []schemas.File{f}}, Parts: 2,
			Columns: map[string]string{"text": "text"}, Outputs: []schemas.PrepOutput{{Name: "text", Form: "pt", Split: "train", CutoffLen: 64}}}}}}).WithDefaults()
}

// end moves the run's HEAD to a state, as control does.
func (b *bench) end(t *testing.T, run string, state schemas.RunState) {
	t.Helper()
	heads := checkpoint.NewHeads(b.objects, checkpoint.Config{})
	ctx := context.Background()
	h := &schemas.Head{Version: 1, Tenant: "acme", Run: run, State: state, Updated: time.Now()}
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.objects.Put(ctx, schemas.HeadKey("acme", run), data, store.Condition{Absent: true}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := heads.Read(ctx, "acme", run); err != nil {
		t.Fatalf("the head that the test wrote is not read: %v", err)
	}
}

func TestSubmitListGetCancel(t *testing.T) {
	b := start(t)
	ctx := t.Context()
	first, err := b.client.Submit(ctx, spec("k1"))
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.client.Submit(ctx, spec("k1"))
	if err != nil || again.Run != first.Run || !again.Duplicate || first.Duplicate {
		t.Fatalf("same key: %+v then %+v, %v", first, again, err)
	}
	if first.Run != schemas.RunID("acme", "k1") {
		t.Errorf("run %s is not the hash of tenant and key", first.Run)
	}
	list, err := b.client.List(ctx, schemas.RunFilter{Tenant: "acme"})
	if err != nil || len(list.Runs) != 1 || list.Runs[0].Run != first.Run || list.Runs[0].State != schemas.RunQueued {
		t.Fatalf("list %+v, %v", list, err)
	}
	v, err := b.client.Act(ctx, "acme", first.Run, schemas.RunCancel)
	if err != nil || v.State != schemas.RunCancelled {
		t.Fatalf("cancel: %+v, %v", v, err)
	}
	if _, err := b.client.Act(ctx, "acme", first.Run, schemas.RunResume); !schemas.IsCode(err, schemas.CodeConflict) {
		t.Errorf("resuming a cancelled run: %v", err)
	}
	if _, err := b.client.Get(ctx, "acme", "00000000000000000000000000"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("unknown run: %v", err)
	}
}

func TestEventsResumeAndEnd(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	reply, err := b.client.Submit(ctx, spec("k2"))
	if err != nil {
		t.Fatal(err)
	}
	add := func(n int) {
		e := schemas.Event{At: time.Now(), Type: schemas.EventStep, Tenant: "acme", Run: reply.Run, Stage: "train", Step: int64(n), Values: map[string]float64{"loss": 1 / float64(n)}}
		if err := b.live.Append(ctx, "acme", reply.Run, e); err != nil {
			t.Error(err)
		}
	}
	add(1)
	add(2)
	stop := errors.New("enough")
	last := ""
	err = b.client.Follow(ctx, "acme", reply.Run, "", func(id string, e schemas.Event) error {
		last = id
		if e.Step == 1 {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) {
		t.Fatalf("got %v", err)
	}
	var steps []int64
	var final schemas.Event
	err = b.client.Follow(ctx, "acme", reply.Run, last, func(id string, e schemas.Event) error {
		if id == "" {
			final = e
			return nil
		}
		if e.Type != schemas.EventStep {
			return nil
		}
		steps = append(steps, e.Step)
		if e.Step == 2 {
			add(3)
			b.end(t, reply.Run, schemas.RunSucceeded)
		}
		return nil
	})
	if err != nil || !slices.Equal(steps, []int64{2, 3}) || final.Message != string(schemas.RunSucceeded) {
		t.Fatalf("steps %v, final %+v, %v", steps, final, err)
	}
}

// commit stores a segment's manifest and log, as rank 0 does, and returns what HEAD points at.
func (b *bench) commit(t *testing.T, run, stage string, generation uint64, from, to int64, parent *schemas.ManifestRef) *schemas.ManifestRef {
	t.Helper()
	put := func(key string, data []byte) string {
		if _, err := b.objects.Put(t.Context(), key, data, store.Condition{}); err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	var log []byte
	for s := from; s <= to; s++ {
		line, err := json.Marshal(stepEvent(run, stage, generation, s))
		if err != nil {
			t.Fatal(err)
		}
		log = append(append(log, line...), '\n')
	}
	m := schemas.Manifest{Version: 1, Tenant: "acme", Run: run, Stage: stage, Step: to, Generation: generation, World: 1, Parent: parent}
	m.Log = schemas.Part{Key: schemas.LogKey("acme", run, to, generation), Bytes: int64(len(log))}
	m.Log.SHA256 = put(m.Log.Key, log)
	data, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	key := schemas.ManifestKey("acme", run, to, generation)
	return &schemas.ManifestRef{Key: key, SHA256: put(key, data), Stage: stage, Step: to, Generation: generation}
}

func stepEvent(run, stage string, generation uint64, step int64) schemas.Event {
	return schemas.Event{At: time.Now(), Type: schemas.EventStep, Tenant: "acme", Run: run, Stage: stage, Generation: generation, Step: step}
}

// TestEventsHoldTheWholeHistory: whoever joins late, or after the tail was lost, is told every step of the lineage once, in order, and then
// the live ones; what a killed generation did beyond the commit is told only if it was live.
func TestEventsHoldTheWholeHistory(t *testing.T) {
	b := start(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reply, err := b.client.Submit(ctx, spec("late"))
	if err != nil {
		t.Fatal(err)
	}
	run := reply.Run
	base := b.commit(t, run, "base", 1, 1, 4, nil)
	first := b.commit(t, run, "tune", 2, 1, 10, nil)
	second := b.commit(t, run, "tune", 4, 11, 20, first)
	h := &schemas.Head{Version: 1, Tenant: "acme", Run: run, State: schemas.RunRunning, Updated: time.Now(), Stage: "tune", Generation: 4, Manifest: second, Previous: first,
		Stages: []schemas.StageState{{Name: "base", Kind: schemas.KindTrain, Manifest: base}, {Name: "tune", Kind: schemas.KindTrain}}}
	put := func() {
		t.Helper()
		data, err := json.Marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := b.objects.Put(ctx, schemas.HeadKey("acme", run), data, store.Condition{}); err != nil {
			t.Fatal(err)
		}
	}
	put()
	live := func(generation uint64, steps ...int64) {
		t.Helper()
		for _, s := range steps {
			if err := b.live.Append(ctx, "acme", run, stepEvent(run, "tune", generation, s)); err != nil {
				t.Error(err)
			}
		}
	}
	// The tail begins at step 18 of the commit; steps 21 and 22 are not committed.
	live(4, 18, 19, 20, 21, 22)
	var got []string
	var resume string
	follow := func(after string) {
		t.Helper()
		err := b.client.Follow(ctx, "acme", run, after, func(id string, e schemas.Event) error {
			if e.Type != schemas.EventStep {
				return nil
			}
			got = append(got, fmt.Sprintf("%s-%d-%d", e.Stage, e.Generation, e.Step))
			switch {
			case e.Step == 21 && e.Generation == 4:
				resume = id
			case e.Step == 22 && e.Generation == 4:
				// Generation 4 dies, 5 goes on from step 20. The tail loses step 23 of it, which its next commit holds.
				live(5, 21, 22)
				third := b.commit(t, run, "tune", 5, 21, 24, second)
				h.Manifest, h.Previous, h.Generation = third, second, 5
				put()
				live(5, 24)
			case e.Step == 24:
				h.State = schemas.RunSucceeded
				put()
			}
			return nil
		})
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
	}
	follow("")
	var want []string
	add := func(stage string, generation uint64, from, to int64) {
		for s := from; s <= to; s++ {
			want = append(want, fmt.Sprintf("%s-%d-%d", stage, generation, s))
		}
	}
	add("base", 1, 1, 4)
	add("tune", 2, 1, 10)
	add("tune", 4, 11, 22)
	add("tune", 5, 21, 24)
	if !slices.Equal(got, want) {
		t.Errorf("told %v\nwant %v", got, want)
	}
	// Who comes back is told what came since, and no history.
	got, want = nil, []string{"tune-4-22", "tune-5-21", "tune-5-22", "tune-5-23", "tune-5-24"}
	follow(resume)
	if !slices.Equal(got, want) {
		t.Errorf("on coming back told %v\nwant %v", got, want)
	}
	// Without any tail the lineage alone is told.
	b.live = nil
	empty, err := api.New(api.Config{Token: token, Poll: 20 * time.Millisecond, Grace: time.Millisecond}, api.Services{Runs: control.NewService(b.objects, memlease.New(), nil, slog.New(slog.DiscardHandler)),
		Objects: b.objects, Live: memlease.New(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(empty.Handler())
	defer srv.Close()
	defer srv.CloseClientConnections()
	c, err := client.New(srv.URL, token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b.client, got, want = c, nil, nil
	add("base", 1, 1, 4)
	add("tune", 2, 1, 10)
	add("tune", 4, 11, 20)
	add("tune", 5, 21, 24)
	follow(resume)
	if !slices.Equal(got, want) {
		t.Errorf("without a tail told %v\nwant %v", got, want)
	}
}

func TestInputsAreCheckedByContent(t *testing.T) {
	b := start(t)
	data := []byte(`{"text":"a clause"}`)
	sum := sha256.Sum256(data)
	f := schemas.File{Path: "rows.jsonl", SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(data))}
	open := func(d []byte) func() (io.ReadCloser, error) {
		return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(d)), nil }
	}
	wrong := bytes.Replace(data, []byte("clause"), []byte("clauze"), 1)
	if err := b.client.Upload(t.Context(), "acme", f, open(wrong)); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Fatalf("wrong content: %v", err)
	}
	if _, err := b.objects.Stat(t.Context(), schemas.InputKey("acme", f.SHA256)); !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a wrong file was stored: %v", err)
	}
	for range 2 {
		if err := b.client.Upload(t.Context(), "acme", f, open(data)); err != nil {
			t.Fatal(err)
		}
	}
	got, _, err := b.objects.Get(t.Context(), schemas.InputKey("acme", f.SHA256), 1<<10)
	if err != nil || !bytes.Equal(got, data) {
		t.Fatalf("stored %q, %v", got, err)
	}
}

// TestUploadOfAKnownLargeFile: the server answers before it has read the body, and that is no broken connection.
func TestUploadOfAKnownLargeFile(t *testing.T) {
	b := start(t)
	data := bytes.Repeat([]byte("0123456789abcdef"), 60_000)
	sum := sha256.Sum256(data)
	f := schemas.File{Path: "big", SHA256: hex.EncodeToString(sum[:]), Bytes: int64(len(data))}
	for i := range 20 {
		read := 0
		open := func() (io.ReadCloser, error) {
			return io.NopCloser(io.TeeReader(bytes.NewReader(data), countWriter{&read})), nil
		}
		if err := b.client.Upload(t.Context(), "acme", f, open); err != nil {
			t.Fatalf("upload %d: %v", i, err)
		}
		if i > 0 && read > 0 {
			t.Fatalf("upload %d sent %d bytes that the server has", i, read)
		}
	}
}

type countWriter struct{ n *int }

func (c countWriter) Write(p []byte) (int, error) { *c.n += len(p); return len(p), nil }

func TestOutputs(t *testing.T) {
	b := start(t)
	reply, err := b.client.Submit(t.Context(), spec("k3"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.objects.Put(t.Context(), schemas.OutputKey("acme", reply.Run, "export", "peft/adapter_config.json"), []byte("{}"), store.Condition{}); err != nil {
		t.Fatal(err)
	}
	list, err := b.client.Outputs(t.Context(), "acme", reply.Run)
	if err != nil || len(list.Outputs) != 1 || list.Outputs[0].Name != "export/peft/adapter_config.json" {
		t.Fatalf("%+v, %v", list, err)
	}
	body, err := b.client.Output(t.Context(), "acme", reply.Run, list.Outputs[0].Name)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if data, err := io.ReadAll(body); err != nil || string(data) != "{}" {
		t.Fatalf("%q, %v", data, err)
	}
	if _, err := b.client.Output(t.Context(), "acme", reply.Run, "export/none"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("missing output: %v", err)
	}
}

// request sends a raw request and returns status, headers and body.
func (b *bench) request(t *testing.T, method, path, body string, header map[string]string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

func TestRefusals(t *testing.T) {
	b := start(t)
	auth := map[string]string{"Authorization": "Bearer " + token}
	with := func(k, v string) map[string]string {
		return map[string]string{"Authorization": "Bearer " + token, k: v}
	}
	for name, c := range map[string]struct {
		method, path, body string
		header             map[string]string
		status             int
		want               string
	}{
		"no token":        {"GET", "/v1/runs", "", nil, 401, "bearer"},
		"wrong token":     {"GET", "/v1/runs", "", map[string]string{"Authorization": "Bearer 0123456789abcdef0124"}, 401, "bearer"},
		"basic auth":      {"GET", "/v1/runs", "", map[string]string{"Authorization": "Basic " + token}, 401, "bearer"},
		"other origin":    {"POST", "/v1/runs", "{}", with("Sec-Fetch-Site", "cross-site"), 403, ""},
		"no JSON":         {"POST", "/v1/runs", "{", auth, 400, "invalid_config"},
		"unknown key":     {"POST", "/v1/runs", `{"tenent":"a"}`, auth, 400, "tenant"},
		"too large":       {"POST", "/v1/runs", strings.Repeat(" ", schemas.MaxSpecBytes+1), auth, 400, "larger than"},
		"bad tenant":      {"GET", "/v1/runs/A..B/x", "", auth, 400, "no name"},
		"bad action":      {"POST", "/v1/runs/acme/abcdefgh/explode", "", auth, 404, "no such action"},
		"bad limit":       {"GET", "/v1/runs?limit=0", "", auth, 400, "limit"},
		"bad state":       {"GET", "/v1/runs?state=sleeping", "", auth, 400, "no state"},
		"bad pool":        {"GET", "/v1/workers?pool=../x", "", auth, 400, "no name"},
		"bad input name":  {"PUT", "/v1/inputs/acme/abc", "x", auth, 400, "SHA256"},
		"output escape":   {"GET", "/v1/runs/acme/abcdefgh/outputs/a%2f..%2f..%2fHEAD.json", "", auth, 400, "no path"},
		"unknown route":   {"GET", "/v1/nothing", "", auth, 404, "no such route"},
		"bad event id":    {"GET", "/v1/runs/acme/abcdefgh/events", "", with("Last-Event-ID", "x\ny"[:1]), 400, "no event id"},
		"input too large": {"PUT", "/v1/inputs/acme/" + strings.Repeat("0", 64), strings.Repeat("x", 1<<20+1), auth, 400, "larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			status, header, body := b.request(t, c.method, c.path, c.body, c.header)
			if status != c.status || !strings.Contains(body, c.want) {
				t.Fatalf("%d %s, expected %d with %q", status, body, c.status, c.want)
			}
			if c.status != 403 {
				var e schemas.APIError
				if err := json.Unmarshal([]byte(body), &e); err != nil || e.Error == nil || e.Error.Code == "" {
					t.Errorf("the body is no APIError: %s", body)
				}
			}
			if header.Get("X-Content-Type-Options") != "nosniff" {
				t.Error("security headers are missing")
			}
		})
	}
}

func TestDashboardAndDescription(t *testing.T) {
	b := start(t)
	status, header, page := b.request(t, "GET", "/", "", nil)
	if status != 200 || !strings.Contains(page, "js/main.js") || !strings.Contains(header.Get("Content-Security-Policy"), "default-src 'none'") {
		t.Fatalf("%d %v", status, header)
	}
	for _, f := range []string{"/js/main.js", "/style.css", "/favicon.svg", "/vendor/uplot/uPlot.iife.min.js", "/vendor/uplot/LICENSE"} {
		if status, _, body := b.request(t, "GET", f, "", nil); status != 200 || body == "" {
			t.Errorf("%s: %d", f, status)
		}
	}
	for _, f := range []string{"api", "charts", "compare", "feed", "fleet", "lib", "list", "main", "run", "runlive", "runtabs"} {
		status, _, script := b.request(t, "GET", "/js/"+f+".js", "", nil)
		if status != 200 {
			t.Fatalf("%s.js: %d", f, status)
		}
		for _, bad := range []string{"innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("} {
			if strings.Contains(script, bad) {
				t.Errorf("%s.js uses %s: what comes from the server must stay text", f, bad)
			}
		}
	}
	status, _, body := b.request(t, "GET", "/openapi.json", "", nil)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			RequestBody map[string]any `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal([]byte(body), &doc); err != nil || status != 200 || doc.OpenAPI != "3.1.0" || len(doc.Paths) < 10 {
		t.Fatalf("%d %v %+v", status, err, doc)
	}
	for path, withBody := range map[string]bool{"/v1/inputs/{tenant}/{sha256}": true, "/v1/pools/{pool}/policy": true, "/v1/runs/{tenant}/{id}/checkpoints/{name}/pin": false} {
		if got := doc.Paths[path]["put"].RequestBody != nil; got != withBody {
			t.Errorf("PUT %s is described with a body: %t", path, got)
		}
	}
	if status, _, _ := b.request(t, "GET", "/healthz", "", nil); status != 200 {
		t.Errorf("healthz: %d", status)
	}
}

func TestClientNamesAnUnreachableServer(t *testing.T) {
	c, err := client.New("http://127.0.0.1:1", token)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.List(t.Context(), schemas.RunFilter{}); !schemas.IsCode(err, schemas.CodeUnavailable) {
		t.Fatalf("got %v", err)
	}
	if _, err := client.New("nats://x", token); !schemas.IsCode(err, schemas.CodeUsage) {
		t.Fatalf("got %v", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	if _, err := api.New(api.Config{Token: "short"}, api.Services{}); err == nil || !strings.Contains(err.Error(), "16 characters") {
		t.Fatal(fmt.Sprint(err))
	}
}
