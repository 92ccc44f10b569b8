// Package telemetry sets up logs (slog), traces and metrics (OpenTelemetry) for every tunefleet process, and holds their names in one
// file. Exporters are configured by the standard OTEL_* variables only; without an endpoint nothing is exported and spans cost next to
// nothing.
//
// One trace follows a run: the submitter's context travels in the spec (RunSpec.TraceParent) and in message headers; control and workers
// continue it, and a hop over the queue is also a span link, because a message may wait for hours or be delivered twice.
package telemetry
