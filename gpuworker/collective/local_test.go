package collective_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/gpuworker/collective/collectivetest"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLocal(t *testing.T) {
	collectivetest.Run(t, func(_ *testing.T, world int) []consume.Collective {
		var out []consume.Collective
		for _, l := range collective.NewLocal(world) {
			out = append(out, l)
		}
		return out
	})
}
