package consume

import "time"

// Stopwatch divides a rank's time between causes (schemas.Time*). It is used by one goroutine, the one that trains.
type Stopwatch struct {
	cause string
	since time.Time
	spent map[string]float64
}

// NewStopwatch starts with a cause.
func NewStopwatch(cause string) *Stopwatch {
	return &Stopwatch{cause: cause, since: time.Now(), spent: map[string]float64{}}
}

// To lets the time from now on count for another cause and returns the one before, to go back to.
func (w *Stopwatch) To(cause string) (before string) {
	now := time.Now()
	w.spent[w.cause] += now.Sub(w.since).Seconds()
	before, w.cause, w.since = w.cause, cause, now
	return before
}

// Move counts seconds of what was or is being spent for one cause for another.
func (w *Stopwatch) Move(from, to string, seconds float64) {
	w.spent[from] -= seconds
	w.spent[to] += seconds
}

// Take returns the seconds by cause since the last Take and the time of this one: what a commit's manifest says of its segment.
func (w *Stopwatch) Take() (spent map[string]float64, at time.Time) {
	w.To(w.cause)
	spent, w.spent = w.spent, map[string]float64{}
	return spent, w.since
}
