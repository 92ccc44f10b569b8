package memstore_test

import (
	"testing"

	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/memstore"
	"github.com/tunefleet/tunefleet/services/store/storetest"
)

func TestConformance(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(*testing.T) store.Objects { return memstore.New() })
}
