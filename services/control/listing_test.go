package control

import (
	"testing"
	"time"
)

// TestAnOutageDoesNotSlowListingDown: new runs are looked for at 20 times the cost of a listing, and the time that the store was away is not
// its cost.
func TestAnOutageDoesNotSlowListingDown(t *testing.T) {
	if got := listingCost(10*time.Second, 5); got > 60*time.Millisecond {
		t.Errorf("a listing of 5 runs that waited 10 s for the store counts for %s", got)
	}
	if got := listingCost(4*time.Second, 100_000); got != 4*time.Second {
		t.Errorf("a listing of 100,000 runs in 4 s counts for %s", got)
	}
	if got := listingCost(3*time.Millisecond, 5); got != 3*time.Millisecond {
		t.Errorf("a listing of 3ms counts for %s", got)
	}
}
