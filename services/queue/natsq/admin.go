package natsq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/tunefleet/tunefleet/schemas"
)

const (
	// headerBytes is the room for headers above the limit of the payload; the server's limit counts both.
	headerBytes = 16 << 10
	// maxWaiting is how many pulls may wait on one consumer: twice the 10,000 workers of the largest pool. It cannot be changed on a
	// living consumer, and only pulls that wait take memory, so that every pool gets the largest.
	maxWaiting = 20_480
	// minPending is the smallest MaxAckPending: an idle pool must still be able to grow between two calls of Ensure.
	minPending = 64
	// intakePending is how many submitted specs may be with the front at a time.
	intakePending = 256
	// intakeWait is how long a spec stays with one front.
	intakeWait = 30 * time.Second
)

func kinds() []schemas.StageKind {
	return []schemas.StageKind{schemas.KindTrain, schemas.KindPrep, schemas.KindEval, schemas.KindExport}
}

// streams are the two streams. FirstSeq is set when one is made: sequences of a stream that was wiped are all lower, so that an
// acknowledgement from before the wipe hits nothing.
func (q *Queue) streams() []jetstream.StreamConfig {
	first := uint64(time.Now().UnixMicro()) //nolint:gosec // positive since 1970
	return []jetstream.StreamConfig{{
		Name: schemas.WorkStream, Description: "tunefleet work messages", Subjects: []string{"tf.work.>"},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: q.cfg.Replicas, Discard: jetstream.DiscardNew,
		DiscardNewPerSubject: true, MaxMsgsPerSubject: 1, MaxMsgs: 200_000, MaxMsgSize: schemas.MaxMessageBytes + headerBytes, FirstSeq: first,
	}, {
		Name: schemas.IntakeStream, Description: "tunefleet submitted specs", Subjects: []string{schemas.IntakeSubject},
		Retention: jetstream.WorkQueuePolicy, Storage: jetstream.FileStorage, Replicas: q.cfg.Replicas, Discard: jetstream.DiscardNew,
		MaxMsgsPerSubject: -1, MaxMsgs: 100_000, MaxBytes: 4 << 30, MaxMsgSize: schemas.MaxSpecBytes + headerBytes, FirstSeq: first,
	}}
}

// Ensure implements queue.Admin.
func (q *Queue) Ensure(ctx context.Context, pools map[string]int) error {
	var errs []error
	for _, cfg := range q.streams() {
		if err := q.ensureStream(ctx, cfg); err != nil {
			return fmt.Errorf("cannot ensure stream %s: %w", cfg.Name, q.mapError(err))
		}
	}
	errs = append(errs, q.ensureConsumer(ctx, schemas.IntakeStream, jetstream.ConsumerConfig{
		Durable: schemas.IntakeDurable, AckPolicy: jetstream.AckExplicitPolicy, AckWait: min(intakeWait, q.cfg.AckWait), MaxDeliver: -1,
		MaxAckPending: intakePending, MaxWaiting: 512, Replicas: q.cfg.Replicas,
	}))
	for _, pool := range slices.Sorted(maps.Keys(pools)) {
		if !schemas.ValidName(pool) {
			errs = append(errs, fmt.Errorf("cannot ensure consumers of pool %q: not a valid name", pool))
			continue
		}
		for _, kind := range kinds() {
			errs = append(errs, q.ensureConsumer(ctx, schemas.WorkStream, jetstream.ConsumerConfig{
				Durable: schemas.WorkDurable(kind, pool), FilterSubject: schemas.WorkFilter(kind, pool), AckPolicy: jetstream.AckExplicitPolicy,
				AckWait: q.cfg.AckWait, MaxDeliver: -1, MaxAckPending: max(minPending, 2*pools[pool]), MaxWaiting: maxWaiting, Replicas: q.cfg.Replicas,
			}))
		}
	}
	return errors.Join(errs...)
}

// ensureStream makes a stream that does not exist. One that does is checked, never changed: its limits are the operator's.
func (q *Queue) ensureStream(ctx context.Context, cfg jetstream.StreamConfig) error {
	s, err := q.js.Stream(ctx, cfg.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		q.forget()
		s, err = q.js.CreateStream(ctx, cfg)
		if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another replica of control was faster
			s, err = q.js.Stream(ctx, cfg.Name)
		}
		if err == nil {
			q.cfg.Logger.Info("created stream", "stream", cfg.Name, "first_sequence", s.CachedInfo().Config.FirstSeq)
		}
	}
	if err != nil {
		return err
	}
	got := s.CachedInfo().Config
	if got.Retention != cfg.Retention || got.Storage != cfg.Storage || got.Discard != cfg.Discard || got.DiscardNewPerSubject != cfg.DiscardNewPerSubject ||
		got.MaxMsgsPerSubject != cfg.MaxMsgsPerSubject {
		return schemas.Errorf(schemas.CodeInvalid, cfg.Name, "the stream has other retention, storage or discard settings than work messages need").
			WithHint("delete the stream; control makes it again and publishes its messages anew")
	}
	return nil
}

// ensureConsumer makes a consumer, or changes MaxAckPending and AckWait of the one there is.
func (q *Queue) ensureConsumer(ctx context.Context, stream string, cfg jetstream.ConsumerConfig) error {
	c, err := q.js.Consumer(ctx, stream, cfg.Durable)
	if err == nil {
		got := c.CachedInfo().Config
		if got.MaxAckPending == cfg.MaxAckPending && got.AckWait == cfg.AckWait && got.FilterSubject == cfg.FilterSubject {
			return nil
		}
		cfg.MaxWaiting = got.MaxWaiting
		cfg.Replicas = got.Replicas
		_, err = q.js.UpdateConsumer(ctx, stream, cfg)
	} else if errors.Is(err, jetstream.ErrConsumerNotFound) {
		_, err = q.js.CreateConsumer(ctx, stream, cfg)
		if errors.Is(err, jetstream.ErrConsumerExists) { // another replica of control was faster
			err = nil
		}
	}
	if err != nil {
		return fmt.Errorf("cannot ensure consumer %s: %w", cfg.Durable, q.mapError(err))
	}
	return nil
}

// SyncAlways implements queue.Admin: it asks the monitoring port of every server that the configuration names.
func (q *Queue) SyncAlways(ctx context.Context) (bool, error) {
	if q.cfg.Monitor == "" {
		return false, schemas.Errorf(schemas.CodeUnavailable, "nats monitor", "cannot tell whether the queue syncs every write: no monitoring URL is configured").
			WithHint("set TUNEFLEET_NATS_MONITOR to http://host:8222")
	}
	for u := range strings.SplitSeq(q.cfg.Monitor, ",") {
		always, err := q.syncAlways(ctx, strings.TrimRight(strings.TrimSpace(u), "/"))
		if err != nil {
			return false, fmt.Errorf("cannot ask %s whether it syncs every write: %w", u, err)
		}
		if !always {
			return false, nil
		}
	}
	return true, nil
}

func (q *Queue) syncAlways(ctx context.Context, base string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, q.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/varz", nil)
	if err != nil {
		return false, err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := c.Do(req)
	if err != nil {
		return false, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("status %s", resp.Status)
	}
	var v struct {
		JetStream struct {
			Config struct {
				SyncAlways bool `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 4<<20)).Decode(&v); err != nil {
		return false, err
	}
	return v.JetStream.Config.SyncAlways, nil
}
