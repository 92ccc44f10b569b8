package producer_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"

	"github.com/tunefleet/tunefleet/producer"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

func secret(s string) telemetry.Secret { return telemetry.Secret(s) }

// upload stores the rows that the examples prepare.
func upload(c *producer.Client) schemas.File {
	return must(c.Upload(context.Background(), "acme", "rows.jsonl", strings.NewReader(`{"text":"hello"}`+"\n")))
}

func ExampleClient_Submit() {
	f := must(startFleet(true))
	defer f.Close()
	ctx := context.Background()
	c := must(producer.Open(ctx, f.Config()))
	defer c.Close()

	spec := prepRun("clauses", upload(c))
	spec.Key = "clauses-2026-11" // calls with the same key meet the same run
	first := must(c.Submit(ctx, spec))
	again := must(c.Submit(ctx, spec))
	fmt.Println(first.Run == again.Run, first.Duplicate, again.Duplicate)
	// Output: true false true
}

func ExampleClient_Follow() {
	f := must(startFleet(true))
	defer f.Close()
	ctx := context.Background()
	c := must(producer.Open(ctx, f.Config()))
	defer c.Close()

	run := must(c.Submit(ctx, prepRun("clauses", upload(c))))
	view := must(c.Follow(ctx, run.Tenant, run.Run, func(e schemas.Event) error {
		if e.Type == schemas.EventStage {
			fmt.Println(e.Stage, e.Message)
		}
		return nil
	}))
	fmt.Println(view.State)
	// Output:
	// prep running
	// prep succeeded
	// succeeded
}

func ExampleClient_Get() {
	f := must(startFleet(false))
	defer f.Close()
	ctx := context.Background()
	c := must(producer.Open(ctx, f.Config()))
	defer c.Close()

	run := must(c.Submit(ctx, prepRun("clauses", upload(c))))
	view := must(c.Get(ctx, run.Tenant, run.Run))
	fmt.Println(view.Name, view.Pool, view.Spec.Stages[0].Prep.Parts)
	// Output: clauses cpu 2
}

func ExampleClient_List() {
	f := must(startFleet(false))
	defer f.Close()
	ctx := context.Background()
	c := must(producer.Open(ctx, f.Config()))
	defer c.Close()

	data := upload(c)
	for _, name := range []string{"a", "b", "c"} {
		must(c.Submit(ctx, prepRun(name, data)))
	}
	page := must(c.List(ctx, schemas.RunFilter{Tenant: "acme", Limit: 2}))
	rest := must(c.List(ctx, schemas.RunFilter{Tenant: "acme", Limit: 2, After: page.Next}))
	fmt.Println(len(page.Runs), len(rest.Runs), rest.Next == "")
	// Output: 2 1 true
}

func ExampleClient_Cancel() {
	f := must(startFleet(false))
	defer f.Close()
	ctx := context.Background()
	c := must(producer.Open(ctx, f.Config()))
	defer c.Close()

	run := must(c.Submit(ctx, prepRun("clauses", upload(c))))
	view := must(c.Cancel(ctx, run.Tenant, run.Run))
	fmt.Println(view.State)
	// Output: cancelled
}

func open(t *testing.T, cfg producer.Config) *producer.Client {
	t.Helper()
	c, err := producer.Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestEitherWayIn(t *testing.T) {
	f, err := startFleet(true)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	both := f.Config()
	overNATS, overHTTP := both, both
	overNATS.API, overHTTP.NATS = "", natsq.Config{}
	n, h := open(t, overNATS), open(t, overHTTP)
	file, err := h.Upload(t.Context(), "acme", "rows.jsonl", bytes.NewReader([]byte("{}\n")))
	if err != nil || file.Bytes != 3 {
		t.Fatalf("file %+v: %v", file, err)
	}
	spec := prepRun("x", file)
	spec.Key = "k"
	a, err := n.Submit(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.Submit(t.Context(), spec)
	if err != nil || a.Run != b.Run || a.Run != schemas.RunID("acme", "k") || !b.Duplicate {
		t.Fatalf("over NATS %+v, over HTTP %+v: %v", a, b, err)
	}
	if _, err := h.Follow(t.Context(), a.Tenant, a.Run, func(schemas.Event) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := n.Get(t.Context(), a.Tenant, a.Run); !schemas.IsCode(err, schemas.CodeUsage) {
		t.Fatalf("Get without an API: %v", err)
	}
	stop := errors.New("enough")
	if _, err := h.Follow(t.Context(), a.Tenant, a.Run, func(schemas.Event) error { return stop }); !errors.Is(err, stop) {
		t.Fatalf("Follow after fn's error: %v", err)
	}
}

func TestBadSpecsAndNamesAreRefused(t *testing.T) {
	f, err := startFleet(false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	c := open(t, f.Config())
	for _, cfg := range []producer.Config{{NATS: f.NATS}, {API: f.API, Token: secret(f.Token)}} {
		spec := prepRun("x", schemas.File{Path: "a", SHA256: "b", Bytes: 1})
		spec.Pool = "No Pool"
		_, err := open(t, cfg).Submit(t.Context(), spec)
		if !schemas.IsCode(err, schemas.CodeInvalid) || !strings.Contains(err.Error(), "pool") || !strings.Contains(err.Error(), "sha256") {
			t.Errorf("got %v", err)
		}
	}
	if _, err := c.Upload(t.Context(), "acme", "../x", strings.NewReader("")); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("got %v", err)
	}
	if _, err := c.Get(t.Context(), "acme", "nothing0"); !schemas.IsCode(err, schemas.CodeNotFound) {
		t.Errorf("got %v", err)
	}
	if _, err := producer.Open(t.Context(), producer.Config{}); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("got %v", err)
	}
}

// TestSubmitWaitsForTheBroker: a broker without streams (control is away) and then none at all; the run is handed in once.
func TestSubmitWaitsForTheBroker(t *testing.T) {
	ns, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoLog: true, NoSigs: true})
	if err != nil {
		t.Fatal(err)
	}
	ns.Start()
	t.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	if !ns.ReadyForConnections(10 * time.Second) {
		t.Fatal("the broker is not ready")
	}
	c := open(t, producer.Config{NATS: natsq.Config{URL: ns.ClientURL()}, Patience: 300 * time.Millisecond})
	if _, err := c.Submit(t.Context(), prepRun("x", schemas.File{})); !schemas.IsCode(err, schemas.CodeUnavailable) {
		t.Fatalf("without streams: %v", err)
	}
	patient := open(t, producer.Config{NATS: natsq.Config{URL: ns.ClientURL()}, Patience: 20 * time.Second})
	type result struct {
		reply *schemas.SubmitReply
		err   error
	}
	done := make(chan result, 1)
	go func() {
		r, err := patient.Submit(t.Context(), prepRun("x", schemas.File{Path: "a", SHA256: strings.Repeat("ab", 32), Bytes: 1}))
		done <- result{r, err}
	}()
	q, err := natsq.Open(t.Context(), natsq.Config{URL: ns.ClientURL()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(q.Close)
	if err := q.Ensure(t.Context(), map[string]int{"cpu": 1}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var keys []string
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = q.Serve(ctx, func(_ context.Context, spec []byte, header map[string]string) []byte {
			s, err := schemas.DecodeSpec(spec)
			if err != nil {
				return []byte("no JSON")
			}
			keys = append(keys, s.Key)
			return []byte(`{"run":"r","tenant":"acme","state":"queued"}`)
		})
	}()
	r := <-done
	cancel()
	<-served
	if r.err != nil || r.reply.Run != "r" {
		t.Fatalf("reply %+v: %v", r.reply, r.err)
	}
	if slices.Sort(keys); len(slices.Compact(keys)) != 1 || !strings.HasPrefix(keys[0], "once-") {
		t.Fatalf("the tries of one call had the keys %q", keys)
	}
}
