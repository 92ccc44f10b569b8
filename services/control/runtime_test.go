package control_test

import (
	"math"
	"testing"
	"time"

	"go.opentelemetry.io/otel"
	sdk "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// TestTimeOfRunsIsInTheMetrics: the counters of what the time of ended runs went to add up to their wall time within half a percent, as a
// clock beside them measures it, and agree with the runs' pages by cause.
func TestTimeOfRunsIsInTheMetrics(t *testing.T) {
	reader := sdk.NewManualReader()
	old := otel.GetMeterProvider()
	otel.SetMeterProvider(sdk.NewMeterProvider(sdk.WithReader(reader)))
	t.Cleanup(func() { otel.SetMeterProvider(old) })
	w := newWorld(t)
	w.control("c1")
	w.worker("w1")
	w.worker("w2")
	// The spec is stored between the two moments; a run's wall time goes from there to its end.
	want, least, most, goodput := map[string]float64{}, 0.0, 0.0, 0.0
	for _, key := range []string{"a", "b"} {
		began := time.Now()
		run := w.submit(spec(t, key, "prep", "tune", "export"))
		accepted := time.Now()
		v := w.ends(run, schemas.RunSucceeded)
		if v.Time == nil {
			t.Fatal("the run's page has no times")
		}
		end := v.Updated // by HEAD, whose last change ended the run
		if end.Before(began) || end.After(time.Now()) {
			t.Fatalf("the run ended at %s, it was begun at %s", end, began)
		}
		least, most = least+end.Sub(accepted).Seconds(), most+end.Sub(began).Seconds()
		for cause, s := range v.Time.Seconds {
			want[cause] += s
		}
		goodput += v.Time.Goodput
	}
	got, n, sum := map[string]float64{}, uint64(0), 0.0
	// A run is counted a moment after its open object is gone.
	for deadline := time.Now().Add(10 * time.Second); n < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d runs are counted", n)
		}
		var all metricdata.ResourceMetrics
		if err := reader.Collect(t.Context(), &all); err != nil {
			t.Fatal(err)
		}
		clear(got)
		n, sum = 0, 0
		for _, scope := range all.ScopeMetrics {
			for _, m := range scope.Metrics {
				switch data := m.Data.(type) {
				case metricdata.Sum[float64]:
					for _, p := range data.DataPoints {
						if cause, ok := p.Attributes.Value(telemetry.AttrCause); ok && m.Name == telemetry.MetricRunTime {
							got[cause.AsString()] += p.Value
						}
					}
				case metricdata.Histogram[float64]:
					for _, p := range data.DataPoints {
						if m.Name == telemetry.MetricGoodput {
							n, sum = n+p.Count, sum+p.Sum
						}
					}
				}
			}
		}
	}
	total := 0.0
	for cause, s := range got {
		total += s
		if math.Abs(s-want[cause]) > 0.005*least {
			t.Errorf("%s: %g s in the metrics, %g s in the pages", cause, s, want[cause])
		}
	}
	if len(got) != len(want) || math.Abs(sum-goodput) > 0.01 {
		t.Errorf("metrics %v and goodput %g, pages %v and %g", got, sum, want, goodput)
	}
	if total < 0.995*least || total > 1.005*most {
		t.Errorf("the causes add up to %.4f s, the wall time is %.4f to %.4f s", total, least, most)
	}
}
