package telemetry

// Service and instrumentation names.
const (
	// Scope is the instrumentation scope of every tracer and meter.
	Scope = "github.com/tunefleet/tunefleet"
	// ServiceName is the default of service.name (OTEL_SERVICE_NAME wins).
	ServiceName = "tunefleet"
)

// Span names. Messaging spans follow OpenTelemetry's messaging conventions ("{operation} {destination template}"); a run is one trace.
const (
	SpanSubmit  = "run submit"
	SpanFront   = "run accept"
	SpanDecide  = "control transition"
	SpanPublish = "publish tf.work"
	SpanProcess = "process tf.work"
	SpanSegment = "train segment"
	SpanPart    = "stage part"
	SpanCommit  = "checkpoint commit"
	SpanForm    = "gang form"
)

// Attribute keys: messaging.* where the conventions have them, tunefleet.* otherwise. Values never hold prompts, samples or secrets.
const (
	AttrSystem        = "messaging.system"
	AttrOperation     = "messaging.operation.name"
	AttrOperationType = "messaging.operation.type"
	AttrDestination   = "messaging.destination.name"
	AttrConversation  = "messaging.message.conversation_id"
	AttrRun           = "tunefleet.run"
	AttrTenant        = "tunefleet.tenant"
	AttrStage         = "tunefleet.stage"
	AttrKind          = "tunefleet.stage.kind"
	AttrPool          = "tunefleet.pool"
	AttrSeat          = "tunefleet.seat"
	AttrIssue         = "tunefleet.issue"
	AttrPart          = "tunefleet.part"
	AttrGeneration    = "tunefleet.generation"
	AttrRank          = "tunefleet.rank"
	AttrStep          = "tunefleet.step"
	AttrState         = "tunefleet.state"
	AttrCause         = "tunefleet.cause"
	AttrPhase         = "tunefleet.checkpoint.phase"
	AttrSource        = "tunefleet.restore.source"
	AttrWorker        = "tunefleet.worker"
	AttrGPU           = "hw.id"
	AttrGPUName       = "hw.name"
	AttrErrorType     = "error.type"
)

// Metric names.
const (
	MetricStepDuration    = "tunefleet.train.step.duration"
	MetricTokens          = "tunefleet.train.tokens"
	MetricLoss            = "tunefleet.train.loss"
	MetricGradNorm        = "tunefleet.train.grad_norm"
	MetricCommitDuration  = "tunefleet.checkpoint.duration"
	MetricCommitBytes     = "tunefleet.checkpoint.bytes"
	MetricRestoreBytes    = "tunefleet.restore.bytes"
	MetricQueued          = "tunefleet.queue.depth"
	MetricWorkers         = "tunefleet.worker.count"
	MetricDemanded        = "tunefleet.workers_demanded"
	MetricRuns            = "tunefleet.run.active"
	MetricRunsEnded       = "tunefleet.run.ended"
	MetricRunTime         = "tunefleet.run.time"
	MetricGoodput         = "tunefleet.run.goodput"
	MetricLeaseLost       = "tunefleet.lease.lost"
	MetricFenced          = "tunefleet.fenced"
	MetricRedeliveries    = "tunefleet.redeliveries"
	MetricGPUUtilization  = "hw.gpu.utilization"
	MetricGPUMemoryUsage  = "hw.gpu.memory.usage"
	MetricGPUMemoryLimit  = "hw.gpu.memory.limit"
	MetricGPUPower        = "tunefleet.gpu.power"
	MetricGPUTemperature  = "tunefleet.gpu.temperature"
	MetricGPUErrors       = "tunefleet.gpu.memory_errors"
	MetricGPUThrottled    = "tunefleet.gpu.throttled"
	MetricProcessDuration = "messaging.process.duration"
)
