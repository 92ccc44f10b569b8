package train

import (
	"context"
	"net"
	"slices"

	"github.com/tunefleet/tunefleet/gpuworker/exchange"
	"github.com/tunefleet/tunefleet/gpuworker/zero"
)

// openExchange connects the ranks' devices, where they have memory that the host does not reach at once.
func (s *session) openExchange(ctx context.Context) error {
	g, spec := s.t.Gang, s.t.Spec
	x, why, err := exchange.Open(ctx, s.dev, g.Collective, exchange.Config{Run: spec.Tenant + "/" + spec.ID + "/" + s.t.Message.Stage, Generation: g.Generation,
		FormTimeout: g.FormTimeout, OpTimeout: g.OpTimeout, Kill: s.t.Kill})
	if err != nil {
		return err
	}
	s.exchange = x
	if x == nil {
		s.t.Logger.Info("ranks exchange through the host", "why", why)
		return nil
	}
	s.t.Logger.Info("ranks exchange between their devices", "by", x.String())
	return nil
}

// devices is what shards travel through; nil is the host.
func (s *session) devices() zero.Devices {
	if s.exchange == nil {
		return nil
	}
	return s.exchange
}

// hosts numbers the hosts of the ranks, by the addresses at which they meet, for hybrid sharding; nil, which is one group of all ranks, where they
// have different numbers of ranks, as after a loss.
func (s *session) hosts() []int {
	g := s.t.Gang
	if len(g.Members) != g.World {
		return nil
	}
	out, known := make([]int, g.World), map[string]int{}
	for _, m := range g.Members {
		name, _, err := net.SplitHostPort(m.Addr)
		if err != nil || name == "" {
			name = m.Worker
		}
		if _, ok := known[name]; !ok {
			known[name] = len(known)
		}
		if m.Rank >= 0 && m.Rank < len(out) {
			out[m.Rank] = known[name]
		}
	}
	counts := make([]int, len(known))
	for _, h := range out {
		counts[h]++
	}
	if s.stage.Sharding == zero.Hybrid && slices.Min(counts) != slices.Max(counts) {
		s.t.Logger.Warn("hosts have different numbers of ranks: parameters are shared over all of them, as with zero3", "ranks", counts)
		return nil
	}
	return out
}
