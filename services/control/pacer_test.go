package control

import (
	"sort"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestPacerHoldsInEveryWindow: whatever asks, no window of 1 s or 5 s sees more GETs than 500 a second, and neither kind starves the other.
func TestPacerHoldsInEveryWindow(t *testing.T) {
	seeded(t)
	rapid.Check(t, func(t *rapid.T) {
		now := time.Duration(0)
		p := &pacer{clock: func() time.Duration { return now }}
		var all, fresh, known []time.Duration
		wantFresh, wantKnown := rapid.SampledFrom([]int{0, 1, 40, 1000}).Draw(t, "fresh"), rapid.SampledFrom([]int{0, 1, 40, 1000}).Draw(t, "known")
		for now < 20*time.Second {
			// A tick comes after a rest of any length, asks in chunks, and its GETs take time.
			now += time.Duration(rapid.IntRange(1, 400).Draw(t, "rest")) * time.Millisecond
			ask := func(n int, isFresh bool, out *[]time.Duration) {
				for i := range n {
					if i%32 == 31 {
						now += 2 * time.Millisecond
					}
					if p.take(1, isFresh) {
						all, *out = append(all, now), append(*out, now)
					}
				}
			}
			ask(wantKnown, false, &known)
			ask(wantFresh, true, &fresh)
		}
		for _, w := range []time.Duration{time.Second, 5 * time.Second} {
			most := 0
			for i, at := range all {
				j := sort.Search(len(all), func(j int) bool { return all[j] >= at+w })
				most = max(most, j-i)
			}
			if limit := int(500 * w.Seconds()); most > limit {
				t.Fatalf("%d GETs within %s", most, w)
			}
		}
		if wantFresh == 1000 && float64(len(fresh)) < 0.6*freshRate*20 {
			t.Fatalf("only %d fresh ones in 20 s beside %d known ones", len(fresh), len(known))
		}
		if wantKnown == 1000 && len(known) < (getRate-freshRate)*12 {
			t.Fatalf("only %d known ones in 20 s beside %d fresh ones", len(known), len(fresh))
		}
	})
}

// TestPacerReachesItsRate: a rebuild of 100,000 runs that ticks as control does when it is behind ends in under 5 minutes.
func TestPacerReachesItsRate(t *testing.T) {
	now := time.Duration(0)
	p := &pacer{clock: func() time.Duration { return now }}
	read := 0
	for read < 100_000 {
		for range maxReads {
			if p.take(1, true) {
				read++
			}
		}
		now += 75 * time.Millisecond // a tick takes time
		now += max(10*time.Millisecond, p.wait(maxReads/8))
	}
	if now > 218*time.Second {
		t.Fatalf("100,000 runs are read in %s", now)
	}
	for range 3 * getRate { // what is made anyhow holds the others back
		p.spend()
	}
	if p.take(1, true) || p.take(1, false) {
		t.Fatal("the window is full and more is allowed")
	}
	now += paceWindow
	if !p.take(1, true) || !p.take(1, false) {
		t.Fatal("the window is empty and nothing is allowed")
	}
}
