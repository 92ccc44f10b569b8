package natsq_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Numbers of the server's errors that have no name in the client.
const (
	errBadRequest  jetstream.ErrorCode = 10003
	errConfig      jetstream.ErrorCode = 10052
	errStoreFailed jetstream.ErrorCode = 10077 // here: the subject has its one message
	errOverlap     jetstream.ErrorCode = 10100
	errDeliverAll  jetstream.ErrorCode = 10101
	errBatchTwice  jetstream.ErrorCode = 10201
)

// onePerSubject is the setting of the work stream.
func onePerSubject(c *jetstream.StreamConfig) {
	c.Discard, c.DiscardNewPerSubject, c.MaxMsgsPerSubject = jetstream.DiscardNew, true, 1
}

// TestFactUniqueWhileQueuedOrInFlight (2): a subject takes no second message while one is queued or in flight, and takes one right after
// the ack.
func TestFactUniqueWhileQueuedOrInFlight(t *testing.T) {
	_, js := lab(t)
	c := puller(t, workQueue(t, js, onePerSubject), jetstream.ConsumerConfig{AckWait: time.Minute})
	put(t, js, "w.a")
	_, err := js.Publish(t.Context(), "w.a", nil)
	refused(t, err, errStoreFailed)
	m := next(t, c)
	_, err = js.Publish(t.Context(), "w.a", nil)
	refused(t, err, errStoreFailed)
	confirm(t, m)
	put(t, js, "w.a")
}

// TestFactMsgIDOutlivesTheAck (3): an id is remembered for the whole window, whatever became of its message and whatever the subject.
func TestFactMsgIDOutlivesTheAck(t *testing.T) {
	_, js := lab(t)
	s := workQueue(t, js, func(c *jetstream.StreamConfig) { c.Duplicates = 24 * time.Hour })
	if have := s.CachedInfo().Config.Duplicates; have != 24*time.Hour {
		t.Errorf("the window is %s", have)
	}
	c := puller(t, s, jetstream.ConsumerConfig{AckWait: time.Minute})
	put(t, js, "w.a", jetstream.WithMsgID("id"))
	confirm(t, next(t, c))
	if ack := put(t, js, "w.b", jetstream.WithMsgID("id")); !ack.Duplicate {
		t.Error("the id was taken again after the ack, on another subject")
	}
	if n := messages(t, s); n != 0 {
		t.Errorf("%d messages are stored", n)
	}
}

// TestFactRejectedPublishKeepsItsID (20): a publish that its subject refuses does not use up its id.
func TestFactRejectedPublishKeepsItsID(t *testing.T) {
	_, js := lab(t)
	c := puller(t, workQueue(t, js, onePerSubject), jetstream.ConsumerConfig{AckWait: time.Minute})
	put(t, js, "w.a", jetstream.WithMsgID("first"))
	_, err := js.Publish(t.Context(), "w.a", nil, jetstream.WithMsgID("second"))
	refused(t, err, errStoreFailed)
	confirm(t, next(t, c))
	if ack := put(t, js, "w.a", jetstream.WithMsgID("second")); ack.Duplicate {
		t.Error("the refused publish has used up its id")
	}
}

// TestFactFiltersOfAWorkQueue (8): consumers of a work queue may not overlap, nor start anywhere but at the beginning.
func TestFactFiltersOfAWorkQueue(t *testing.T) {
	_, js := lab(t)
	s := workQueue(t, js, nil)
	puller(t, s, jetstream.ConsumerConfig{FilterSubject: "w.a.>"})
	_, err := s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "wide", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "w.>"})
	refused(t, err, errOverlap)
	_, err = s.CreateConsumer(t.Context(), jetstream.ConsumerConfig{Durable: "new", AckPolicy: jetstream.AckExplicitPolicy, FilterSubject: "w.b.>",
		DeliverPolicy: jetstream.DeliverNewPolicy})
	refused(t, err, errDeliverAll)
}

// TestFactMinPendingIsNoGang (9): a pull of three that wants a backlog of three may still get one: it says when to start, not how much.
func TestFactMinPendingIsNoGang(t *testing.T) {
	_, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{AckWait: time.Minute, PriorityPolicy: jetstream.PriorityPolicyOverflow, PriorityGroups: []string{"g"}})
	for i := range 3 {
		put(t, js, fmt.Sprint("w.", i))
	}
	batch, err := c.Fetch(3, jetstream.FetchMinPending(3), jetstream.FetchPriorityGroup("g"), jetstream.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for range batch.Messages() {
		n++
	}
	if n != 1 {
		t.Errorf("got %d of 3, want 1", n)
	}
}

// TestFactPriorityWantsAGroup: a pull that names no group is refused by a consumer that has some.
func TestFactPriorityWantsAGroup(t *testing.T) {
	_, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{PriorityPolicy: jetstream.PriorityPolicyPrioritized, PriorityGroups: []string{"g"}})
	put(t, js, "w.a")
	if m, err := c.Next(jetstream.FetchMaxWait(500 * time.Millisecond)); err == nil {
		t.Errorf("got %s", m.Subject())
	} else if errors.Is(err, nats.ErrTimeout) {
		t.Errorf("got %v, want a refusal", err)
	}
	if _, err := c.Next(jetstream.FetchMaxWait(10*time.Second), jetstream.FetchPriorityGroup("g")); err != nil {
		t.Error(err)
	}
}

// TestFactSchedules (10): a schedule puts its message on another subject of the stream with its own headers but not its id; purging its
// subject calls it off.
func TestFactSchedules(t *testing.T) {
	_, js := lab(t)
	s := workQueue(t, js, func(c *jetstream.StreamConfig) { c.Subjects, c.AllowMsgSchedules = []string{"w.>", "sched.>"}, true })
	c := puller(t, s, jetstream.ConsumerConfig{AckWait: time.Minute, FilterSubject: "w.>"})
	m := nats.NewMsg("sched.a")
	m.Header.Set("traceparent", "00-abc")
	if _, err := js.PublishMsg(t.Context(), m, jetstream.WithScheduleAt(time.Now().Add(time.Second)), jetstream.WithScheduleTarget("w.a"), jetstream.WithMsgID("id")); err != nil {
		t.Fatal(err)
	}
	put(t, js, "sched.b", jetstream.WithScheduleAt(time.Now().Add(time.Second)), jetstream.WithScheduleTarget("w.b"))
	if err := s.Purge(t.Context(), jetstream.WithPurgeSubject("sched.b")); err != nil {
		t.Fatal(err)
	}
	got := next(t, c)
	if got.Subject() != "w.a" || got.Headers().Get("traceparent") != "00-abc" || got.Headers().Get("Nats-Msg-Id") != "" {
		t.Errorf("got %s with %v", got.Subject(), got.Headers())
	}
	none(t, c, 1500*time.Millisecond)
}

// TestFactNoSchedulesWithDiscardNew (17): a stream whose subjects are unique cannot have schedules.
func TestFactNoSchedulesWithDiscardNew(t *testing.T) {
	_, js := lab(t)
	_, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "W", Subjects: []string{"w.>"}, Retention: jetstream.WorkQueuePolicy,
		Discard: jetstream.DiscardNew, AllowMsgSchedules: true})
	refused(t, err, errConfig)
}

// TestFactAtomicBatch (11): one message of a batch that is there already rejects all of it.
func TestFactAtomicBatch(t *testing.T) {
	nc, js := lab(t)
	s := workQueue(t, js, func(c *jetstream.StreamConfig) { c.AllowAtomicPublish = true })
	put(t, js, "w.a", jetstream.WithMsgID("known"))
	batch := func(id string, ids ...string) error {
		for i, msgID := range ids {
			m := nats.NewMsg(fmt.Sprintf("w.%s.%d", id, i))
			m.Header.Set("Nats-Batch-Id", id)
			m.Header.Set("Nats-Batch-Sequence", fmt.Sprint(i+1))
			m.Header.Set("Nats-Msg-Id", msgID)
			if i < len(ids)-1 {
				if err := nc.PublishMsg(m); err != nil {
					return err
				}
				continue
			}
			m.Header.Set("Nats-Batch-Commit", "1")
			_, err := js.PublishMsg(t.Context(), m)
			return err
		}
		return nil
	}
	refused(t, batch("one", "a", "known", "c"), errBatchTwice)
	if n := messages(t, s); n != 1 {
		t.Errorf("%d messages are stored after a rejected batch, want the first", n)
	}
	if err := batch("two", "d", "e", "f"); err != nil {
		t.Error(err)
	}
	if n := messages(t, s); n != 4 {
		t.Errorf("%d messages are stored, want 4", n)
	}
}

// TestFactKeyTTL (12): an update drops a key's time to live; a plain publish that expects the revision renews it. What expires is shown to
// watchers as a purge, and the next value has a higher revision.
func TestFactKeyTTL(t *testing.T) {
	_, js := lab(t)
	kv, err := js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: "b", LimitMarkerTTL: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	const ttl = time.Second // the least
	for _, k := range []string{"updated", "renewed"} {
		if _, err := kv.Create(t.Context(), k, []byte("1"), jetstream.KeyTTL(ttl)); err != nil {
			t.Fatal(err)
		}
	}
	w, err := kv.WatchAll(t.Context(), jetstream.UpdatesOnly())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Stop() }()
	e, err := kv.Get(t.Context(), "updated")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Update(t.Context(), "updated", []byte("2"), e.Revision()); err != nil {
		t.Fatal(err)
	}
	e, err = kv.Get(t.Context(), "renewed")
	if err != nil {
		t.Fatal(err)
	}
	ack, err := js.Publish(t.Context(), "$KV.b.renewed", []byte("2"), jetstream.WithExpectLastSequencePerSubject(e.Revision()), jetstream.WithMsgTTL(ttl))
	if err != nil {
		t.Fatal(err)
	}
	holds(t, "the renewed key expires", func() bool {
		_, err := kv.Get(t.Context(), "renewed")
		return errors.Is(err, jetstream.ErrKeyNotFound)
	})
	if e, err := kv.Get(t.Context(), "updated"); err != nil || string(e.Value()) != "2" {
		t.Errorf("the updated key: %v, %v; want it to have lost its time to live", e, err)
	}
	purged := false
	for deadline := time.After(10 * time.Second); !purged; {
		select {
		case u := <-w.Updates():
			purged = u != nil && u.Key() == "renewed" && u.Operation() == jetstream.KeyValuePurge
		case <-deadline:
			t.Fatal("the watcher was told of no purge")
		}
	}
	rev, err := kv.Create(t.Context(), "renewed", []byte("3"))
	if err != nil || rev <= ack.Sequence {
		t.Errorf("revision %d after %d: %v", rev, ack.Sequence, err)
	}
}

// TestFactNoPrefetch (13): a client that asks for one message at a time has no second one while it works on the first.
func TestFactNoPrefetch(t *testing.T) {
	for name, f := range map[string]func(*testing.T, jetstream.Consumer){
		"Consume": func(t *testing.T, c jetstream.Consumer) {
			busy, done := make(chan bool), make(chan bool)
			cc, err := c.Consume(func(jetstream.Msg) {
				select {
				case busy <- true:
				case <-done:
				}
				<-done
			}, jetstream.PullMaxMessages(1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { close(done); cc.Stop(); <-cc.Closed() })
			select {
			case <-busy:
			case <-time.After(10 * time.Second):
				t.Fatal("no message came within 10 s")
			}
		},
		"Messages": func(t *testing.T, c jetstream.Consumer) {
			it, err := c.Messages(jetstream.PullMaxMessages(1))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(it.Stop)
			if _, err := it.Next(jetstream.NextMaxWait(10 * time.Second)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, js := lab(t)
			c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{AckWait: time.Minute})
			for i := range 3 {
				put(t, js, fmt.Sprint("w.", i))
			}
			f(t, c)
			for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if n := pending(t, c); n != 1 {
					t.Fatalf("%d messages are with the client", n)
				}
			}
		})
	}
}

// TestFactDefaults (15).
func TestFactDefaults(t *testing.T) {
	nc, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{})
	if n := c.CachedInfo().Config.MaxWaiting; n != 512 {
		t.Errorf("%d pulls may wait, want 512", n)
	}
	if n := nc.MaxPayload(); n != 1<<20 {
		t.Errorf("a message may have %d bytes, want 1 MiB", n)
	}
}
