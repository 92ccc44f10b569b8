package telemetry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/propagation"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// flushTimeout bounds how long the end of a process waits for a collector.
const flushTimeout = 3 * time.Second

// Enabled reports whether the OTEL_* variables ask for an OTLP export of the signal ("TRACES" or "METRICS").
func Enabled(signal string) bool {
	if os.Getenv("OTEL_SDK_DISABLED") == "true" || os.Getenv("OTEL_"+signal+"_EXPORTER") == "none" {
		return false
	}
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_"+signal+"_ENDPOINT") != ""
}

// Setup installs the global tracer and meter providers and the W3C propagators. role names the process ("control", "worker", "rank",
// "producer", "api"). Call the returned function before the process ends; it flushes for at most three seconds and a collector that is
// down never holds up or fails anything else.
func Setup(ctx context.Context, role, version string) (shutdown func(context.Context) error, err error) {
	otel.SetTextMapPropagator(propagation.NewCompositeTextMapPropagator(propagation.TraceContext{}, propagation.Baggage{}))
	if !Enabled("TRACES") && !Enabled("METRICS") {
		return func(context.Context) error { return nil }, nil
	}
	res, err := resource.New(ctx, resource.WithAttributes(attribute.String("service.name", ServiceName),
		attribute.String("service.version", version), attribute.String("service.instance.id", fmt.Sprintf("%s-%d", role, os.Getpid())),
		attribute.String("tunefleet.role", role)), resource.WithHost(), resource.WithFromEnv())
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		return nil, fmt.Errorf("cannot describe this process to OpenTelemetry: %w", err)
	}
	var stop []func(context.Context) error
	if Enabled("TRACES") {
		exp, err := otlptracehttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot set up the OTLP trace exporter: %w", err)
		}
		tp := sdktrace.NewTracerProvider(sdktrace.WithBatcher(exp, sdktrace.WithBatchTimeout(time.Second)), sdktrace.WithResource(res))
		otel.SetTracerProvider(tp)
		stop = append(stop, tp.Shutdown)
	}
	if Enabled("METRICS") {
		exp, err := otlpmetrichttp.New(ctx)
		if err != nil {
			return nil, fmt.Errorf("cannot set up the OTLP metric exporter: %w", err)
		}
		mp := sdkmetric.NewMeterProvider(sdkmetric.WithReader(sdkmetric.NewPeriodicReader(exp)), sdkmetric.WithResource(res))
		otel.SetMeterProvider(mp)
		stop = append(stop, mp.Shutdown)
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTimeout)
		defer cancel()
		var errs []error
		for _, f := range stop {
			errs = append(errs, f(ctx))
		}
		return errors.Join(errs...)
	}, nil
}

// Tracer is tunefleet's tracer of the installed provider.
func Tracer() trace.Tracer { return otel.Tracer(Scope) }

// Meter is tunefleet's meter of the installed provider.
func Meter() metric.Meter { return otel.Meter(Scope) }
