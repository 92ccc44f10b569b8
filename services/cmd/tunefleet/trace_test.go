package main

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/services/telemetry"
	"github.com/tunefleet/tunefleet/services/telemetry/otlptest"
)

// TestOneTraceFollowsARun sends every process's telemetry to a collector and finds one trace from the submit to the segments.
func TestOneTraceFollowsARun(t *testing.T) {
	sink := otlptest.Start(t)
	env := append(sink.Env(), "OTEL_BSP_SCHEDULE_DELAY=200", "OTEL_METRIC_EXPORT_INTERVAL=500")
	dir := up(t, env, "--workers", "2")
	p := project(t)
	r := cli(t, env, "submit", filepath.Join(p, "run.yaml"), "--follow", "--no-color", "--dir", dir)
	r.want(t, 0, "run succeeded")

	var trace string
	want := map[string]string{ // span name -> role
		telemetry.SpanSubmit: "producer", telemetry.SpanFront: "control", telemetry.SpanPublish: "control", telemetry.SpanProcess: "worker", telemetry.SpanSegment: "rank",
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		missing := map[string]bool{}
		for n := range want {
			missing[n] = true
		}
		segments, linked := 0, 0
		for _, s := range sink.Spans() {
			if s.Name == telemetry.SpanSubmit {
				trace = s.TraceID
			}
		}
		for _, s := range sink.Spans() {
			if s.TraceID != trace {
				continue
			}
			if want[s.Name] == s.Role {
				delete(missing, s.Name)
			}
			if s.Name == telemetry.SpanSegment {
				segments++
			}
			if s.Name == telemetry.SpanProcess && len(s.Links) > 0 {
				linked++
			}
		}
		metrics := sink.Metrics()
		if trace != "" && len(missing) == 0 && segments >= 2 && linked > 0 && metrics[telemetry.MetricLoss] > 0 {
			return
		}
		if time.Now().After(deadline) {
			for _, s := range sink.Spans() {
				t.Logf("%s %s in %s", s.Role, s.Name, s.TraceID)
			}
			t.Fatalf("trace %s: missing %v, %d segments (expected 2), %d process spans linked to their publisher, metrics %v", trace, missing, segments, linked, metrics)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
