package telemetry

import (
	"errors"

	"go.opentelemetry.io/otel/metric"
)

// TrainMetrics are the instruments of a training rank. Run ids are not attributes: their number has no bound.
type TrainMetrics struct {
	StepDuration   metric.Float64Histogram
	Tokens         metric.Int64Counter
	Loss           metric.Float64Gauge
	GradNorm       metric.Float64Gauge
	CommitDuration metric.Float64Histogram
	CommitBytes    metric.Int64Counter
	// RestoreBytes has the attribute AttrSource: the store, this machine, or peers.
	RestoreBytes metric.Int64Counter
}

// NewTrainMetrics makes the instruments; errors are those of the meter provider.
func NewTrainMetrics(m metric.Meter) (*TrainMetrics, error) {
	var t TrainMetrics
	errs := make([]error, 7)
	t.StepDuration, errs[0] = m.Float64Histogram(MetricStepDuration, metric.WithUnit("s"), metric.WithDescription("Duration of an optimizer step"))
	t.Tokens, errs[1] = m.Int64Counter(MetricTokens, metric.WithUnit("{token}"), metric.WithDescription("Tokens trained on"))
	t.Loss, errs[2] = m.Float64Gauge(MetricLoss, metric.WithUnit("1"), metric.WithDescription("Training loss of the last step"))
	t.GradNorm, errs[3] = m.Float64Gauge(MetricGradNorm, metric.WithUnit("1"), metric.WithDescription("Gradient norm before clipping"))
	t.CommitDuration, errs[4] = m.Float64Histogram(MetricCommitDuration, metric.WithUnit("s"), metric.WithDescription("Duration of a checkpoint by phase"))
	t.CommitBytes, errs[5] = m.Int64Counter(MetricCommitBytes, metric.WithUnit("By"), metric.WithDescription("Bytes of checkpoint parts stored"))
	t.RestoreBytes, errs[6] = m.Int64Counter(MetricRestoreBytes, metric.WithUnit("By"), metric.WithDescription("Bytes of checkpoint parts read to go on from, by source"))
	return &t, errors.Join(errs...)
}

// WorkerMetrics are the instruments of an agent.
type WorkerMetrics struct {
	ProcessDuration metric.Float64Histogram
	LeaseLost       metric.Int64Counter
	Fenced          metric.Int64Counter
	Redeliveries    metric.Int64Counter
}

// NewWorkerMetrics makes the instruments.
func NewWorkerMetrics(m metric.Meter) (*WorkerMetrics, error) {
	var w WorkerMetrics
	errs := make([]error, 4)
	w.ProcessDuration, errs[0] = m.Float64Histogram(MetricProcessDuration, metric.WithUnit("s"), metric.WithDescription("Time a work message was held"),
		metric.WithExplicitBucketBoundaries(0.1, 0.5, 1, 5, 15, 60, 300, 1800, 3600, 4*3600, 24*3600))
	w.LeaseLost, errs[1] = m.Int64Counter(MetricLeaseLost, metric.WithUnit("{lease}"), metric.WithDescription("Leases taken by another owner"))
	w.Fenced, errs[2] = m.Int64Counter(MetricFenced, metric.WithUnit("{write}"), metric.WithDescription("Writes refused because a newer generation exists"))
	w.Redeliveries, errs[3] = m.Int64Counter(MetricRedeliveries, metric.WithUnit("{message}"), metric.WithDescription("Messages met again or obsolete"))
	return &w, errors.Join(errs...)
}
