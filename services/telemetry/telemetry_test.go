package telemetry_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
	"github.com/tunefleet/tunefleet/services/telemetry/otlptest"
)

// TestOneTraceOverAQueueHop exports to an OTLP sink: the consumer's span belongs to the submitter's trace and links to the publisher's.
func TestOneTraceOverAQueueHop(t *testing.T) {
	sink := otlptest.Start(t)
	for _, kv := range sink.Env() {
		k, v, _ := strings.Cut(kv, "=")
		t.Setenv(k, v)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	stop, err := telemetry.Setup(ctx, "test", "v0")
	if err != nil {
		t.Fatal(err)
	}
	m := schemas.Message{Kind: schemas.KindTrain, Pool: "cpu", Tenant: "t", Run: "r", Stage: "s", Seat: 1, Issue: 2}
	sctx, submit := telemetry.Tracer().Start(ctx, telemetry.SpanSubmit)
	runTrace := telemetry.TraceParent(sctx)
	pctx, publish := telemetry.StartPublish(telemetry.WithTraceParent(ctx, runTrace), m)
	headers := telemetry.Inject(pctx)
	publish.End()
	_, process := telemetry.StartProcess(ctx, m, runTrace, headers)
	telemetry.End(process, schemas.Errorf(schemas.CodeData, "f:1", "the row says hunter2"))
	submit.End()
	tm, err := telemetry.NewTrainMetrics(telemetry.Meter())
	if err != nil {
		t.Fatal(err)
	}
	tm.Tokens.Add(ctx, 5)
	if err := stop(ctx); err != nil {
		t.Fatal(err)
	}
	by := map[string]otlptest.Span{}
	for _, s := range sink.Spans() {
		by[s.Name] = s
	}
	sub, pub, proc := by[telemetry.SpanSubmit], by[telemetry.SpanPublish], by[telemetry.SpanProcess]
	if sub.TraceID == "" || proc.TraceID != sub.TraceID || pub.TraceID != sub.TraceID {
		t.Fatalf("traces differ: submit %q, publish %q, process %q", sub.TraceID, pub.TraceID, proc.TraceID)
	}
	if len(proc.Links) != 1 || proc.Links[0] != pub.SpanID {
		t.Errorf("process links to %v, want the publish span %s", proc.Links, pub.SpanID)
	}
	if proc.Attributes[telemetry.AttrErrorType] != "bad_data" || !proc.Error {
		t.Errorf("process span has no error type: %v", proc.Attributes)
	}
	for _, v := range proc.Attributes {
		if strings.Contains(v, "hunter2") {
			t.Errorf("the error's text, which may quote data, is in an attribute: %q", v)
		}
	}
	if sink.Metrics()[telemetry.MetricTokens] == 0 {
		t.Errorf("no %s among %v", telemetry.MetricTokens, sink.Metrics())
	}
}

func TestLoggerHidesSecrets(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	log := telemetry.NewLogger(&b, slog.LevelInfo, true)
	log.Info("connecting", "url", "nats://user:hunter2@127.0.0.1:4222", "secret_key", "hunter2", "key", telemetry.Secret("hunter2"),
		"err", errors.New("401 for Bearer hunter2"), "tokens", 7)
	if strings.Contains(b.String(), "hunter2") {
		t.Errorf("a secret was logged: %s", b.String())
	}
	var m map[string]any
	if err := json.Unmarshal(b.Bytes(), &m); err != nil {
		t.Fatal(err)
	}
	if m["tokens"] != 7.0 || m["url"] != "nats://user:***@127.0.0.1:4222" {
		t.Errorf("too much was hidden: %v", m)
	}
}

func TestSecretHidesInJSON(t *testing.T) {
	t.Parallel()
	b, err := json.Marshal(struct{ K telemetry.Secret }{"hunter2"})
	if err != nil || strings.Contains(string(b), "hunter2") {
		t.Errorf("got %s, %v", b, err)
	}
}

func TestCarrierFindsAnyCase(t *testing.T) {
	t.Parallel()
	c := telemetry.Carrier{"Traceparent": "x"}
	if c.Get("traceparent") != "x" {
		t.Error("upper-case key not found")
	}
}
