// Package otlptest is an OTLP/HTTP collector in memory, for tests: it answers /v1/traces and /v1/metrics and keeps what it got.
package otlptest

import (
	"compress/gzip"
	"encoding/hex"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	colmetric "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// maxBody bounds an export request.
const maxBody = 64 << 20

// Span is a received span, flattened.
type Span struct {
	TraceID, SpanID, ParentID string
	Name                      string
	// Role is the resource attribute tunefleet.role.
	Role       string
	Attributes map[string]string
	// Links holds the span ids that the span links to.
	Links []string
	Error bool
}

// Sink is the collector.
type Sink struct {
	// URL is the value of OTEL_EXPORTER_OTLP_ENDPOINT.
	URL string

	mu      sync.Mutex
	spans   []Span
	metrics map[string]int
}

// Start serves until the test ends.
func Start(t testing.TB) *Sink {
	t.Helper()
	s := &Sink{metrics: map[string]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/traces", s.traces)
	mux.HandleFunc("POST /v1/metrics", s.counts)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	s.URL = srv.URL
	return s
}

// Env is the environment of a process that exports to the sink.
func (s *Sink) Env() []string {
	return []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + s.URL, "OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf", "OTEL_METRIC_EXPORT_INTERVAL=500"}
}

// Spans returns what was received so far.
func (s *Sink) Spans() []Span {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Span(nil), s.spans...)
}

// Metrics counts the data points received per metric name.
func (s *Sink) Metrics() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[string]int, len(s.metrics))
	for k, v := range s.metrics {
		out[k] = v
	}
	return out
}

func body(r *http.Request) ([]byte, error) {
	var in io.Reader = r.Body
	if r.Header.Get("Content-Encoding") == "gzip" {
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, err
		}
		in = z
	}
	return io.ReadAll(io.LimitReader(in, maxBody))
}

func reply(w http.ResponseWriter, m proto.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(b)
}

// received reads a request; false when it was refused.
func received(w http.ResponseWriter, r *http.Request, into proto.Message) bool {
	b, err := body(r)
	if err == nil {
		err = proto.Unmarshal(b, into)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
	}
	return err == nil
}

func (s *Sink) traces(w http.ResponseWriter, r *http.Request) {
	var req coltrace.ExportTraceServiceRequest
	if !received(w, r, &req) {
		return
	}
	s.mu.Lock()
	for _, rs := range req.GetResourceSpans() {
		role := ""
		for _, a := range rs.GetResource().GetAttributes() {
			if a.GetKey() == "tunefleet.role" {
				role = a.GetValue().GetStringValue()
			}
		}
		for _, ss := range rs.GetScopeSpans() {
			for _, sp := range ss.GetSpans() {
				out := Span{TraceID: hex.EncodeToString(sp.GetTraceId()), SpanID: hex.EncodeToString(sp.GetSpanId()),
					ParentID: hex.EncodeToString(sp.GetParentSpanId()), Name: sp.GetName(), Role: role, Attributes: map[string]string{},
					Error: sp.GetStatus().GetCode() == 2}
				for _, a := range sp.GetAttributes() {
					out.Attributes[a.GetKey()] = a.GetValue().GetStringValue()
				}
				for _, l := range sp.GetLinks() {
					out.Links = append(out.Links, hex.EncodeToString(l.GetSpanId()))
				}
				s.spans = append(s.spans, out)
			}
		}
	}
	s.mu.Unlock()
	reply(w, &coltrace.ExportTraceServiceResponse{})
}

func (s *Sink) counts(w http.ResponseWriter, r *http.Request) {
	var req colmetric.ExportMetricsServiceRequest
	if !received(w, r, &req) {
		return
	}
	s.mu.Lock()
	for _, rm := range req.GetResourceMetrics() {
		for _, sm := range rm.GetScopeMetrics() {
			for _, m := range sm.GetMetrics() {
				s.metrics[m.GetName()]++
			}
		}
	}
	s.mu.Unlock()
	reply(w, &colmetric.ExportMetricsServiceResponse{})
}
