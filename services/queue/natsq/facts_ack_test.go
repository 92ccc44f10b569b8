package natsq_test

import (
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// TestFactAcksAreNotFenced (1): after a redelivery the first holder can extend the second's time, force a third delivery, and remove the
// message, and is told that all is well. (The port's own calls: queuetest, "a stale ack removes the message".)
func TestFactAcksAreNotFenced(t *testing.T) {
	for name, f := range map[string]func(*testing.T, jetstream.Stream, jetstream.Consumer, jetstream.Msg){
		"extend": func(t *testing.T, _ jetstream.Stream, c jetstream.Consumer, first jetstream.Msg) {
			for range 6 { // twice AckWait
				if err := first.InProgress(); err != nil {
					t.Fatal(err)
				}
				none(t, c, 330*time.Millisecond)
			}
		},
		"nak": func(t *testing.T, _ jetstream.Stream, c jetstream.Consumer, first jetstream.Msg) {
			began := time.Now()
			if err := first.Nak(); err != nil {
				t.Fatal(err)
			}
			third := next(t, c)
			if md, err := third.Metadata(); err != nil || md.NumDelivered != 3 {
				t.Errorf("delivery %+v: %v", md, err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("delivered again after %s, as if nobody had returned it", took)
			}
		},
		"ack": func(t *testing.T, s jetstream.Stream, _ jetstream.Consumer, first jetstream.Msg) {
			confirm(t, first)
			holds(t, "the message is gone", func() bool { return messages(t, s) == 0 })
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, js := lab(t)
			s := workQueue(t, js, nil)
			wait := time.Second
			if name == "nak" {
				wait = 4 * time.Second // a busy machine must not be taken for it
			}
			c := puller(t, s, jetstream.ConsumerConfig{AckWait: wait})
			put(t, js, "w.a")
			first, second := next(t, c), next(t, c)
			if md, err := second.Metadata(); err != nil || md.NumDelivered != 2 {
				t.Fatalf("delivery %+v: %v", md, err)
			}
			f(t, s, c, first)
		})
	}
}

// TestFactMaxAckPendingIsAQuota (4): the server delivers no more than the quota; a delayed nak keeps its slot; the bound and the times of a
// living consumer can be changed.
func TestFactMaxAckPendingIsAQuota(t *testing.T) {
	_, js := lab(t)
	s := workQueue(t, js, nil)
	cfg := jetstream.ConsumerConfig{AckWait: time.Minute, MaxAckPending: 2, FilterSubject: "w.a.>"}
	c := puller(t, s, cfg)
	for _, subject := range []string{"w.a.1", "w.a.2", "w.a.3", "w.a.4"} {
		put(t, js, subject)
	}
	batch, err := c.Fetch(4, jetstream.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		t.Fatal(err)
	}
	var got []jetstream.Msg
	for m := range batch.Messages() {
		got = append(got, m)
	}
	if len(got) != 2 {
		t.Fatalf("%d messages with a quota of 2", len(got))
	}
	if err := got[0].NakWithDelay(time.Minute); err != nil {
		t.Fatal(err)
	}
	none(t, c, 300*time.Millisecond)
	cfg.MaxAckPending, cfg.FilterSubject, cfg.FilterSubjects = 3, "", []string{"w.a.>", "w.b"}
	cfg.BackOff = []time.Duration{30 * time.Second, time.Minute}
	cfg.AckWait = 30 * time.Second
	c = puller(t, s, cfg)
	if have := c.CachedInfo().Config; have.MaxAckPending != 3 || len(have.FilterSubjects) != 2 || have.AckWait != 30*time.Second || len(have.BackOff) != 2 {
		t.Errorf("after the change: %+v", have)
	}
	confirm(t, next(t, c))
	confirm(t, got[1])
}

// TestFactBackOffOverridesAckWait (5).
func TestFactBackOffOverridesAckWait(t *testing.T) {
	_, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{AckWait: time.Hour, BackOff: []time.Duration{300 * time.Millisecond}, MaxDeliver: 5})
	if have := c.CachedInfo().Config.AckWait; have != 300*time.Millisecond {
		t.Errorf("AckWait is %s", have)
	}
	put(t, js, "w.a")
	next(t, c)
	if md, err := next(t, c).Metadata(); err != nil || md.NumDelivered != 2 {
		t.Errorf("delivery %+v: %v", md, err)
	}
}

// TestFactExhaustedMessages (6): a message that was delivered as often as it may stays in the stream, invisible, also when the bound is
// raised; it can be read and deleted by its sequence. The advisory comes in time only while a pull waits.
func TestFactExhaustedMessages(t *testing.T) {
	const ackWait = 300 * time.Millisecond
	cfg := jetstream.ConsumerConfig{AckWait: ackWait, MaxDeliver: 2}
	t.Run("no pull", func(t *testing.T) {
		nc, js := lab(t)
		s := workQueue(t, js, nil)
		c := puller(t, s, cfg)
		sub := advisories(t, nc, exhausted)
		put(t, js, "w.a")
		next(t, c)
		next(t, c)
		if m, err := sub.NextMsg(8 * ackWait); err == nil {
			t.Fatalf("an advisory without a pull: %s", m.Data)
		}
		if n := pending(t, c); n != 1 {
			t.Errorf("%d are pending, want 1: the server has not looked", n)
		}
	})
	t.Run("a waiting pull", func(t *testing.T) {
		nc, js := lab(t)
		s := workQueue(t, js, nil)
		c := puller(t, s, cfg)
		sub := advisories(t, nc, exhausted)
		seq := put(t, js, "w.a").Sequence
		next(t, c)
		next(t, c)
		none(t, c, 4*ackWait) // the pull that waits
		arrived(t, sub)
		holds(t, "nothing is pending", func() bool { return pending(t, c) == 0 })
		raised := cfg
		raised.MaxDeliver = 10
		none(t, puller(t, s, raised), 3*ackWait)
		if n := messages(t, s); n != 1 {
			t.Fatalf("%d messages are stored, want the exhausted one", n)
		}
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil || m.Subject != "w.a" {
			t.Fatalf("message %+v: %v", m, err)
		}
		if err := s.DeleteMsg(t.Context(), seq); err != nil {
			t.Fatal(err)
		}
		if n := messages(t, s); n != 0 {
			t.Errorf("%d messages are left", n)
		}
	})
	t.Run("a single delivery", func(t *testing.T) {
		nc, js := lab(t)
		one := cfg
		one.MaxDeliver = 1
		c := puller(t, workQueue(t, js, nil), one)
		sub := advisories(t, nc, exhausted)
		put(t, js, "w.a")
		next(t, c)
		arrived(t, sub)
	})
}

// TestFactDeletedInFlight (7): deleting a message in flight frees its slot and says so in an advisory; its holder's calls still succeed.
func TestFactDeletedInFlight(t *testing.T) {
	nc, js := lab(t)
	s := workQueue(t, js, nil)
	c := puller(t, s, jetstream.ConsumerConfig{AckWait: time.Minute})
	sub := advisories(t, nc, terminated)
	seq := put(t, js, "w.a").Sequence
	m := next(t, c)
	if err := s.DeleteMsg(t.Context(), seq); err != nil {
		t.Fatal(err)
	}
	arrived(t, sub)
	holds(t, "nothing is pending", func() bool { return pending(t, c) == 0 })
	if err := m.InProgress(); err != nil {
		t.Errorf("a heartbeat for a deleted message: %v", err)
	}
	confirm(t, m)
}

// TestFactPause (16): a paused consumer delivers nothing, not even again, and still takes acks.
func TestFactPause(t *testing.T) {
	_, js := lab(t)
	s := workQueue(t, js, nil)
	c := puller(t, s, jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond})
	put(t, js, "w.a")
	put(t, js, "w.b")
	held, other := next(t, c), next(t, c)
	if _, err := s.PauseConsumer(t.Context(), "c", time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	none(t, c, time.Second)
	confirm(t, other)
	holds(t, "one message is left", func() bool { return messages(t, s) == 1 })
	if _, err := s.ResumeConsumer(t.Context(), "c"); err != nil {
		t.Fatal(err)
	}
	if again := next(t, c); again.Subject() != held.Subject() {
		t.Errorf("%s came again, want %s", again.Subject(), held.Subject())
	}
}

// TestFactNakComesFirst (18): a nak'd message is delivered before newer ones, so that a nak is no way to let others go first.
func TestFactNakComesFirst(t *testing.T) {
	nc, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{AckWait: time.Minute})
	for _, subject := range []string{"w.a", "w.b", "w.c"} {
		put(t, js, subject)
	}
	sub := advisories(t, nc, naked)
	if err := next(t, c).Nak(); err != nil {
		t.Fatal(err)
	}
	arrived(t, sub)
	for _, want := range []string{"w.a", "w.b", "w.c"} {
		if got := next(t, c).Subject(); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

// TestFactSentinel (19): a pull that waits for a backlog that never comes takes no work, and makes exhaustion show in time.
func TestFactSentinel(t *testing.T) {
	nc, js := lab(t)
	c := puller(t, workQueue(t, js, nil), jetstream.ConsumerConfig{AckWait: 300 * time.Millisecond, MaxDeliver: 2,
		PriorityPolicy: jetstream.PriorityPolicyOverflow, PriorityGroups: []string{"g"}})
	sub := advisories(t, nc, exhausted)
	put(t, js, "w.a")
	for range 2 {
		if _, err := c.Next(jetstream.FetchMaxWait(10*time.Second), jetstream.FetchPriorityGroup("g")); err != nil {
			t.Fatal(err)
		}
	}
	put(t, js, "w.b") // work that the sentinel must leave alone
	if m, err := c.Next(jetstream.FetchMaxWait(1500*time.Millisecond), jetstream.FetchPriorityGroup("g"), jetstream.FetchMinPending(1<<30)); err == nil {
		t.Fatalf("the sentinel took %s", m.Subject())
	}
	arrived(t, sub)
	holds(t, "nothing is pending", func() bool { return pending(t, c) == 0 })
}
