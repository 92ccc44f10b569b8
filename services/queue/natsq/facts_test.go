package natsq_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// The design of the queue rests on what a JetStream server does, as it was measured before the code was written. Each fact is a test
// against a real server: an upgrade that changes one fails here, by name, before it loses work.
//
//	fact                                                                    test
//	 1 acks, naks and heartbeats are not fenced                             TestFactAcksAreNotFenced
//	 2 one message a subject, queued or in flight                           TestFactUniqueWhileQueuedOrInFlight
//	 3 Msg-Id outlives the ack and ignores the subject                      TestFactMsgIDOutlivesTheAck
//	 4 MaxAckPending is a quota, live editable; a delayed nak holds its slot  TestFactMaxAckPendingIsAQuota
//	 5 BackOff overrides AckWait                                            TestFactBackOffOverridesAckWait
//	 6 MaxDeliver: the message stays; the advisory wants a waiting pull     TestFactExhaustedMessages
//	 7 a deleted message in flight: its holder is not told                  TestFactDeletedInFlight
//	 8 work queue filters: no overlap, all messages                         TestFactFiltersOfAWorkQueue
//	 9 min_pending is no gang                                               TestFactMinPendingIsNoGang
//	10 schedules on a work queue keep headers, lose the Msg-Id              TestFactSchedules
//	11 one duplicate rejects an atomic batch                                TestFactAtomicBatch
//	12 a KV update drops the TTL; a publish renews it; revisions rise       TestFactKeyTTL
//	13 one message at a time is not prefetched                              TestFactNoPrefetch
//	14 a heartbeat is a Raft proposal on three servers                      read in the source; cost: consume/queuebench, seats on R3
//	15 512 pulls a consumer, 1 MiB a message                                TestFactDefaults
//	16 a paused consumer does not redeliver, and takes acks                 TestFactPause
//	17 no schedules beside DiscardNew                                       TestFactNoSchedulesWithDiscardNew
//	18 a nak'd message comes before newer ones                              TestFactNakComesFirst
//	19 a parked overflow pull makes exhaustion show in time                 TestFactSentinel
//	20 a rejected publish does not use up its Msg-Id                        TestFactRejectedPublishKeepsItsID
//	   a pull without group on a prioritized consumer is refused            TestFactPriorityWantsAGroup
//	   an exhausted message can be moved away by its sequence               TestFactExhaustedMessages
//	   on three servers an acknowledged message goes after the answer       TestConformanceOnThreeServers (the suite waits for it)
//	   an ack from before a wipe hits nothing where sequences go on         queuetest, "an ack from before a wipe hits nothing"
//	 1, 2, 7 and the ack from before a wipe, on three servers               TestConformanceOnThreeServers
//
// Of Redis: expiry by the server's clock, and eviction that is refused (redislease: TestRealServer, TestEvictingServerIsRefused). Of S3:
// If-None-Match and If-Match under races, If-Match on a missing key, equal bytes give equal ETags (storetest by embedded: TestServers on
// versitygw, TestMinIO on MinIO; the answers' meaning in s3store: TestConditionalPut).

// lab is a real server with a connection to it.
func lab(t *testing.T) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	t.Parallel()
	s := start(t, t.TempDir(), -1, false)
	t.Cleanup(func() { stop(s) })
	nc, err := nats.Connect(s.ClientURL(), nats.UserInfo("u", "pass"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// workQueue makes a work queue W of the subjects w.>.
func workQueue(t *testing.T, js jetstream.JetStream, change func(*jetstream.StreamConfig)) jetstream.Stream {
	t.Helper()
	cfg := jetstream.StreamConfig{Name: "W", Subjects: []string{"w.>"}, Retention: jetstream.WorkQueuePolicy}
	if change != nil {
		change(&cfg)
	}
	s, err := js.CreateStream(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// puller makes the durable consumer "c".
func puller(t *testing.T, s jetstream.Stream, cfg jetstream.ConsumerConfig) jetstream.Consumer {
	t.Helper()
	cfg.Durable, cfg.AckPolicy = "c", jetstream.AckExplicitPolicy
	c, err := s.CreateOrUpdateConsumer(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func put(t *testing.T, js jetstream.JetStream, subject string, opts ...jetstream.PublishOpt) *jetstream.PubAck {
	t.Helper()
	ack, err := js.Publish(t.Context(), subject, []byte("x"), opts...)
	if err != nil {
		t.Fatal(err)
	}
	return ack
}

func next(t *testing.T, c jetstream.Consumer) jetstream.Msg {
	t.Helper()
	m, err := c.Next(jetstream.FetchMaxWait(10 * time.Second))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// none says that nothing is delivered for a while.
func none(t *testing.T, c jetstream.Consumer, wait time.Duration) {
	t.Helper()
	if m, err := c.Next(jetstream.FetchMaxWait(wait)); err == nil {
		t.Fatalf("%s was delivered", m.Subject())
	} else if !errors.Is(err, nats.ErrTimeout) {
		t.Fatal(err)
	}
}

func confirm(t *testing.T, m jetstream.Msg) {
	t.Helper()
	if err := m.DoubleAck(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// code is the server's number of an error, 0 when it is none of the server's.
func code(err error) jetstream.ErrorCode {
	var api *jetstream.APIError
	if errors.As(err, &api) {
		return api.ErrorCode
	}
	var js jetstream.JetStreamError
	if errors.As(err, &js) && js.APIError() != nil {
		return js.APIError().ErrorCode
	}
	return 0
}

func refused(t *testing.T, err error, want jetstream.ErrorCode) {
	t.Helper()
	if code(err) != want {
		t.Errorf("got %v (%d), want error %d", err, code(err), want)
	}
}

// holds polls until a condition holds.
func holds(t *testing.T, what string, f func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !f(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 10 s", what)
		}
	}
}

func messages(t *testing.T, s jetstream.Stream) uint64 {
	t.Helper()
	i, err := s.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i.State.Msgs
}

func pending(t *testing.T, c jetstream.Consumer) int {
	t.Helper()
	i, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return i.NumAckPending
}

// advisories counts what the server says on a subject.
func advisories(t *testing.T, nc *nats.Conn, subject string) *nats.Subscription {
	t.Helper()
	sub, err := nc.SubscribeSync(subject)
	if err != nil {
		t.Fatal(err)
	}
	if err := nc.Flush(); err != nil {
		t.Fatal(err)
	}
	return sub
}

// arrived waits for one advisory.
func arrived(t *testing.T, sub *nats.Subscription) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if _, err := sub.NextMsgWithContext(ctx); err != nil {
		t.Fatalf("no advisory: %v", err)
	}
}

const (
	exhausted  = "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.W.>"
	terminated = "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.W.>"
	naked      = "$JS.EVENT.ADVISORY.CONSUMER.MSG_NAKED.W.>"
)
