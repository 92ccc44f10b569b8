package schemas

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"strings"
)

var nameRE = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,62}$`)

// ValidName reports whether s may be a tenant, pool, stage or output name: lower-case letters, digits, "_" and "-", at most 63.
// Such a name is safe in object keys, NATS subjects, Redis keys and file names.
func ValidName(s string) bool { return nameRE.MatchString(s) }

// RunID derives the id of a run with an idempotency key: lower-case hex, 26 characters.
func RunID(tenant, key string) string {
	h := sha256.Sum256([]byte(tenant + "\x00" + key))
	return hex.EncodeToString(h[:13])
}

// Object keys (S3). All single PUTs but the parts of a checkpoint.

// OpenPrefix lists the open runs of a pool.
func OpenPrefix(pool string) string { return "open/" + pool + "/" }

// OpenKey is the accepted spec: outbox, queue index and spec in one object, written with If-None-Match.
func OpenKey(pool string, prio int, tenant, run string) string {
	return fmt.Sprintf("open/%s/%d-%s-%s.json", pool, prio, tenant, run)
}

// OpenBatchKey is the index entry of many runs accepted together: an OpenBatch, which control turns into an open object each. Its name is
// not that of an open run: it has a "-" too few.
func OpenBatchKey(pool, id string) string { return OpenPrefix(pool) + openBatch + id + ".json" }

const openBatch = "batch-"

// IsOpenBatch reports whether the key of an object below "open/" is that of a batch.
func IsOpenBatch(key string) bool {
	name := key[strings.LastIndexByte(key, '/')+1:]
	return strings.HasPrefix(name, openBatch) && strings.Count(name, "-") == 1
}

// EndedPrefix indexes the ended runs of a tenant ("" = all tenants), in the order of their ids.
func EndedPrefix(tenant string) string {
	if tenant == "" {
		return "ended/"
	}
	return "ended/" + tenant + "/"
}

// EndedKey is the index record (a RunView) of a run that has ended, written before its open object is deleted.
func EndedKey(tenant, run string) string { return EndedPrefix(tenant) + run + ".json" }

// RunPrefix is where everything of a run lies.
func RunPrefix(tenant, run string) string { return "runs/" + tenant + "/" + run + "/" }

// HeadKey is HEAD.
func HeadKey(tenant, run string) string { return RunPrefix(tenant, run) + "HEAD.json" }

// SpecKey is the spec beside HEAD, copied there when the run is started, so that it outlives the open object.
func SpecKey(tenant, run string) string { return RunPrefix(tenant, run) + "SPEC.json" }

// CheckpointPrefix holds the parts and the manifest of one commit; unique because a generation never repeats.
func CheckpointPrefix(tenant, run string, step int64, generation uint64) string {
	return fmt.Sprintf("%sckpt/%012d-%06d/", RunPrefix(tenant, run), step, generation)
}

// ManifestKey is the manifest within a CheckpointPrefix.
func ManifestKey(tenant, run string, step int64, generation uint64) string {
	return CheckpointPrefix(tenant, run, step, generation) + "manifest.json"
}

// LogKey is the log of the segment that ended at step.
func LogKey(tenant, run string, step int64, generation uint64) string {
	return fmt.Sprintf("%slog/%012d-%06d.jsonl", RunPrefix(tenant, run), step, generation)
}

// ResultKey is the result object of a part.
func ResultKey(tenant, run, stage string, part int) string {
	return fmt.Sprintf("%sstages/%s/part-%05d.json", RunPrefix(tenant, run), stage, part)
}

// FailureKey is the record of a failed attempt at a part.
func FailureKey(tenant, run, stage string, part int, issue uint64) string {
	return fmt.Sprintf("%sstages/%s/fail-%05d-%06d.json", RunPrefix(tenant, run), stage, part, issue)
}

// StageResultKey is the merged result of a prep, eval or export stage.
func StageResultKey(tenant, run, stage string) string {
	return fmt.Sprintf("%sstages/%s/result.json", RunPrefix(tenant, run), stage)
}

// OutputKey is a file of a run's output (export).
func OutputKey(tenant, run, stage, path string) string {
	return fmt.Sprintf("%soutput/%s/%s", RunPrefix(tenant, run), stage, path)
}

// LedgerKey is the ledger of a pool.
func LedgerKey(pool string) string { return "pools/" + pool + "/LEDGER.json" }

// CacheKey is a content-addressed object of prep.
func CacheKey(tenant, hash, name string) string { return "cache/" + tenant + "/" + hash + "/" + name }

// InputKey is an uploaded input file, by content.
func InputKey(tenant, sha string) string { return "cache/" + tenant + "/input/" + sha }

// NATS subjects and stream names.
const (
	// WorkStream holds work messages (work-queue retention, one message per subject).
	WorkStream = "TF_WORK"
	// IntakeStream holds submitted specs until the front has replied.
	IntakeStream = "TF_INTAKE"
	// IntakeSubject is where producers publish a spec; headers ReplyHeader and traceparent.
	IntakeSubject = "tf.intake.submit"
	// IntakeDurable is the front's consumer.
	IntakeDurable = "tf_front"
	// ReplyHeader names the subject that the front's answer goes to (JetStream uses the NATS reply for its own ack).
	ReplyHeader = "Tf-Reply"
)

// WorkSubject is unique per issue of a seat or part.
func WorkSubject(m Message) string {
	return fmt.Sprintf("tf.work.%s.%s.%s.%s.%s.%d.%d", m.Kind, m.Pool, m.Tenant, m.Run, m.Stage, m.Index(), m.Issue)
}

// WorkFilter is the filter of the consumer of (kind, pool).
func WorkFilter(kind StageKind, pool string) string {
	return fmt.Sprintf("tf.work.%s.%s.>", kind, pool)
}

// WorkDurable is the durable consumer of (kind, pool).
func WorkDurable(kind StageKind, pool string) string { return fmt.Sprintf("tf_%s_%s", kind, pool) }

// PokeSubject carries a hint (core NATS, lossy) that HEAD of the run changed.
func PokeSubject(tenant, run string) string { return "tf.poke." + tenant + "." + run }

// Redis keys. Everything here can be lost at any time.

// BootKey holds the incarnation id of the Redis server, set by the first control that finds it missing.
const BootKey = "tf:boot"

// LeaseKey is the lease of a seat or part.
func LeaseKey(tenant, run, stage string, index int) string {
	return fmt.Sprintf("tf:{%s/%s}:lease:%s:%d", tenant, run, stage, index)
}

// RendezvousKey is where the holder of a seat registers the address of its rank for the next generation.
func RendezvousKey(tenant, run, stage string, seat int) string {
	return fmt.Sprintf("tf:{%s/%s}:rdv:%s:%d", tenant, run, stage, seat)
}

// ProgressKey is the hash of the run's latest progress.
func ProgressKey(tenant, run string) string { return fmt.Sprintf("tf:{%s/%s}:progress", tenant, run) }

// StreamKey is the live tail of the run's events.
func StreamKey(tenant, run string) string { return fmt.Sprintf("tf:{%s/%s}:events", tenant, run) }

// WorkersKey is the set of workers of a pool; WorkerKey the record of one.
func WorkersKey(pool string) string { return "tf:pool:" + pool + ":workers" }

// WorkerKey is the inventory record of one worker incarnation.
func WorkerKey(pool, incarnation string) string { return "tf:pool:" + pool + ":worker:" + incarnation }
