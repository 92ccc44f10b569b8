package memq_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/services/queue/memq"
	"github.com/tunefleet/tunefleet/services/queue/queuetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestConformance(t *testing.T) {
	t.Parallel()
	queuetest.Run(t, func(*testing.T) queuetest.Fixture {
		q := memq.New(queuetest.AckWait)
		return queuetest.Fixture{Queue: q, Wipe: func(*testing.T) { q.Wipe() }}
	})
}
