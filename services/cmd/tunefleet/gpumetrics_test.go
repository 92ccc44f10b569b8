package main

import (
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tunefleet/tunefleet/services/telemetry"
)

func TestGPUsOfTheInventory(t *testing.T) {
	so := fakeNVML(t)
	if _, err := watchGPUs(t.Context(), "/nowhere.so", time.Second); err == nil {
		t.Error("a library that is not there was opened")
	}
	latest, err := watchGPUs(t.Context(), so, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(30 * time.Second)
	for len(latest()) == 0 && time.Now().Before(deadline) {
		time.Sleep(5 * time.Millisecond)
	}
	got := latest()
	if len(got) != 1 {
		t.Fatalf("GPUs %+v", got)
	}
	if g := got[0]; g.Name == "" || g.Utilization != 97 || g.MemoryUsed != 1<<30 || g.MemoryTotal != 80<<30 || g.PowerW != 412 || g.TemperatureC != 61 || g.Slowed == "" {
		t.Errorf("GPU %+v", g)
	}
}

// fakeNVML builds a management library of one GPU.
func fakeNVML(t *testing.T) string {
	t.Helper()
	so := filepath.Join(t.TempDir(), "libnvidia-ml.so.1")
	if out, err := exec.CommandContext(t.Context(), "gcc", "-shared", "-fPIC", "-o", so, "../../../kernels/nvml/testdata/fake.c").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return so
}

func TestGPUMetrics(t *testing.T) {
	so := fakeNVML(t)
	reader := sdk.NewManualReader()
	meter := sdk.NewMeterProvider(sdk.WithReader(reader)).Meter("test")
	if stop, err := observeGPUs(meter, "/nowhere.so"); err == nil {
		t.Error("a library that is not there was opened")
	} else {
		stop()
	}
	stop, err := observeGPUs(meter, so)
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	var rm metricdata.ResourceMetrics
	if err := reader.Collect(t.Context(), &rm); err != nil {
		t.Fatal(err)
	}
	got := map[string]float64{}
	for _, sm := range rm.ScopeMetrics {
		for _, m := range sm.Metrics {
			g, ok := m.Data.(metricdata.Gauge[float64])
			if !ok || len(g.DataPoints) != 1 {
				t.Fatalf("%s is %+v", m.Name, m.Data)
			}
			if id, _ := g.DataPoints[0].Attributes.Value(telemetry.AttrGPU); id.AsString() != "GPU-1" {
				t.Errorf("%s is of GPU %q", m.Name, id.AsString())
			}
			got[m.Name] = g.DataPoints[0].Value
		}
	}
	for name, want := range map[string]float64{telemetry.MetricGPUUtilization: 0.97, telemetry.MetricGPUMemoryUsage: 1 << 30, telemetry.MetricGPUMemoryLimit: 80 << 30,
		telemetry.MetricGPUPower: 412.345, telemetry.MetricGPUTemperature: 61, telemetry.MetricGPUErrors: 2, telemetry.MetricGPUThrottled: 1} {
		if got[name] != want {
			t.Errorf("%s is %g, want %g", name, got[name], want)
		}
	}
}
