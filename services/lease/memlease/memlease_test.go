package memlease_test

import (
	"errors"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/lease/leasetest"
	"github.com/tunefleet/tunefleet/services/lease/memlease"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	leasetest.Run(t, func(*testing.T) lease.Store { return memlease.New() })
}

func TestDownAndWipe(t *testing.T) {
	t.Parallel()
	s := memlease.New()
	before, err := s.Boot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.SetDown(true)
	if _, err := s.Renew(t.Context(), "k", lease.Owner{}, time.Second); !errors.Is(err, lease.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	s.SetDown(false)
	s.Wipe()
	if after, err := s.Boot(t.Context()); err != nil || after == before {
		t.Errorf("the boot id survived the loss: %q, %v", after, err)
	}
}
