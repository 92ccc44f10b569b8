package train

import (
	"context"

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
