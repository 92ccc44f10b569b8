package main

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tunefleet/tunefleet/kernels/nvml"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// gpuGauge is an instrument and how its value is read off a sample; a value below 0 is not known and not reported.
type gpuGauge struct {
	name, unit, text string
	value            func(s nvml.Sample) float64
}

func gpuGauges() []gpuGauge {
	return []gpuGauge{
		{telemetry.MetricGPUUtilization, "1", "Share of the last sampling period in which a kernel ran", func(s nvml.Sample) float64 { return float64(s.GPUPercent) / 100 }},
		{telemetry.MetricGPUMemoryUsage, "By", "Memory of the device in use by all processes", func(s nvml.Sample) float64 { return float64(s.MemoryUsed) }},
		{telemetry.MetricGPUMemoryLimit, "By", "Memory of the device", func(s nvml.Sample) float64 { return float64(s.MemoryTotal) }},
		{telemetry.MetricGPUPower, "W", "Power draw of the board", func(s nvml.Sample) float64 { return float64(s.PowerMilliwatts) / 1000 }},
		{telemetry.MetricGPUTemperature, "Cel", "Temperature of the chip", func(s nvml.Sample) float64 { return float64(s.TemperatureC) }},
		{telemetry.MetricGPUErrors, "{error}", "Memory errors that could not be corrected since the driver was loaded", func(s nvml.Sample) float64 { return float64(s.ECCUncorrected) }},
		{telemetry.MetricGPUThrottled, "1", "1 while power, heat or protection slow the clock down", func(s nvml.Sample) float64 {
			if s.Throttle < 0 {
				return -1
			}
			return float64(min(1, len(nvml.Reasons(s.Throttle))))
		}},
	}
}

// watchGPUs reads the machine's GPUs now and then until ctx ends; latest returns at once what they said last, nothing when the driver has not
// answered for three rounds: one that hangs must hold up nobody.
func watchGPUs(ctx context.Context, library string, every time.Duration) (latest func() []schemas.GPUView, err error) {
	lib, err := nvml.Open(library)
	if err != nil {
		return nil, err
	}
	type seen struct {
		at   time.Time
		gpus []schemas.GPUView
	}
	var last atomic.Pointer[seen]
	go func() {
		defer lib.Close()
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			if samples, err := lib.Read(); err == nil {
				last.Store(&seen{time.Now(), gpuViews(samples)})
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}()
	return func() []schemas.GPUView {
		if s := last.Load(); s != nil && time.Since(s.at) < 3*every {
			return s.gpus
		}
		return nil
	}, nil
}

func gpuViews(samples []nvml.Sample) []schemas.GPUView {
	out := make([]schemas.GPUView, len(samples))
	for i, s := range samples {
		power := s.PowerMilliwatts
		if power >= 0 {
			power = (power + 500) / 1000
		}
		out[i] = schemas.GPUView{Name: s.Name, Utilization: s.GPUPercent, MemoryUsed: s.MemoryUsed, MemoryTotal: s.MemoryTotal, PowerW: power, TemperatureC: s.TemperatureC,
			Slowed: strings.Join(nvml.Reasons(s.Throttle), ", ")}
	}
	return out
}

// observeGPUs reports what the driver's management library says of the machine's GPUs, whenever metrics are collected. stop is never nil.
func observeGPUs(m metric.Meter, library string) (stop func(), err error) {
	lib, err := nvml.Open(library)
	if err != nil {
		return func() {}, err
	}
	gauges := gpuGauges()
	instruments := make([]metric.Float64ObservableGauge, len(gauges))
	all := make([]metric.Observable, len(gauges))
	for i, g := range gauges {
		if instruments[i], err = m.Float64ObservableGauge(g.name, metric.WithUnit(g.unit), metric.WithDescription(g.text)); err != nil {
			lib.Close()
			return func() {}, err
		}
		all[i] = instruments[i]
	}
	reg, err := m.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		samples, err := lib.Read()
		for _, s := range samples {
			at := metric.WithAttributes(attribute.String(telemetry.AttrGPU, s.UUID), attribute.String(telemetry.AttrGPUName, s.Name))
			for i, g := range gauges {
				if v := g.value(s); v >= 0 {
					o.ObserveFloat64(instruments[i], v, at)
				}
			}
		}
		return err
	}, all...)
	if err != nil {
		lib.Close()
		return func() {}, err
	}
	return func() { _ = errors.Join(reg.Unregister()); lib.Close() }, nil
}
