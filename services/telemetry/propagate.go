package telemetry

import (
	"context"
	"strings"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/tunefleet/tunefleet/schemas"
)

// Carrier adapts message headers for propagation. Keys are written in lower case and found in any case: NATS keeps case as it is.
type Carrier map[string]string

// Get returns the value of a key in any case, "" when absent.
func (c Carrier) Get(key string) string {
	if v, ok := c[strings.ToLower(key)]; ok {
		return v
	}
	for k, v := range c {
		if strings.EqualFold(k, key) {
			return v
		}
	}
	return ""
}

// Set stores a value under the lower-case key.
func (c Carrier) Set(key, value string) { c[strings.ToLower(key)] = value }

// Keys lists the keys.
func (c Carrier) Keys() []string {
	out := make([]string, 0, len(c))
	for k := range c {
		out = append(out, k)
	}
	return out
}

// Inject returns the headers that carry the span of ctx.
func Inject(ctx context.Context) map[string]string {
	c := Carrier{}
	otel.GetTextMapPropagator().Inject(ctx, c)
	return c
}

// Extract returns ctx with the remote span of the headers as parent.
func Extract(ctx context.Context, headers map[string]string) context.Context {
	return otel.GetTextMapPropagator().Extract(ctx, Carrier(headers))
}

// TraceParent is the W3C traceparent of the span of ctx, "" without one.
func TraceParent(ctx context.Context) string { return Carrier(Inject(ctx)).Get("traceparent") }

// WithTraceParent continues the trace of a traceparent value (of a spec or the environment).
func WithTraceParent(ctx context.Context, traceparent string) context.Context {
	if traceparent == "" {
		return ctx
	}
	return Extract(ctx, map[string]string{"traceparent": traceparent})
}

// StartProcess starts the CONSUMER span of a pulled work message: its parent is the run's own trace (so that one trace follows the run),
// with a link to the context that published this very message.
func StartProcess(ctx context.Context, m schemas.Message, runTrace string, headers map[string]string) (context.Context, trace.Span) {
	opts := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindConsumer), trace.WithAttributes(MessageAttributes(m)...),
		trace.WithAttributes(attribute.String(AttrOperation, "process"), attribute.String(AttrOperationType, "process"))}
	if l := trace.LinkFromContext(Extract(context.Background(), headers)); l.SpanContext.IsValid() {
		opts = append(opts, trace.WithLinks(l))
	}
	if runTrace != "" {
		ctx = WithTraceParent(ctx, runTrace)
	} else {
		ctx = Extract(ctx, headers)
	}
	return Tracer().Start(ctx, SpanProcess, opts...)
}

// StartPublish starts the PRODUCER span of a work message; inject its context into the message's headers.
func StartPublish(ctx context.Context, m schemas.Message) (context.Context, trace.Span) {
	return Tracer().Start(ctx, SpanPublish, trace.WithSpanKind(trace.SpanKindProducer), trace.WithAttributes(MessageAttributes(m)...),
		trace.WithAttributes(attribute.String(AttrOperation, "publish"), attribute.String(AttrOperationType, "send")))
}

// MessageAttributes describes a work message.
func MessageAttributes(m schemas.Message) []attribute.KeyValue {
	a := []attribute.KeyValue{attribute.String(AttrSystem, "nats"), attribute.String(AttrDestination, schemas.WorkSubject(m)),
		attribute.String(AttrConversation, m.Run), attribute.String(AttrRun, m.Run), attribute.String(AttrTenant, m.Tenant),
		attribute.String(AttrStage, m.Stage), attribute.String(AttrKind, string(m.Kind)), attribute.String(AttrPool, m.Pool),
		attribute.Int64(AttrIssue, int64(m.Issue))}
	if m.Kind == schemas.KindTrain {
		return append(a, attribute.Int(AttrSeat, m.Seat))
	}
	return append(a, attribute.Int(AttrPart, m.Part))
}

// End ends a span, recording err (by its code, not its text, which may quote data) when it is not nil.
func End(span trace.Span, err error) {
	if err != nil {
		code := string(schemas.AsErrorInfo(err).Code)
		span.SetAttributes(attribute.String(AttrErrorType, code))
		span.SetStatus(codes.Error, code)
	}
	span.End()
}
