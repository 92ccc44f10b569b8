package main

import (
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
)

func TestPastTime(t *testing.T) {
	now := time.Date(2026, 11, 27, 12, 0, 0, 0, time.Local)
	for v, want := range map[string]time.Time{
		"":                     {},
		"90m":                  now.Add(-90 * time.Minute),
		"7d":                   now.AddDate(0, 0, -7),
		"2w":                   now.AddDate(0, 0, -14),
		"2026-11-20":           time.Date(2026, 11, 20, 0, 0, 0, 0, time.Local),
		"2026-11-20 08:30":     time.Date(2026, 11, 20, 8, 30, 0, 0, time.Local),
		"2026-11-20T08:30:05Z": time.Date(2026, 11, 20, 8, 30, 5, 0, time.UTC),
	} {
		if got, err := pastTime("--since", v, now); err != nil || !got.Equal(want) {
			t.Errorf("%q is %s, want %s: %v", v, got, want, err)
		}
	}
	for _, v := range []string{"yesterday", "-5m", "7", "7y", "2026-13-01", "99999999d"} {
		if _, err := pastTime("--since", v, now); !schemas.IsCode(err, schemas.CodeUsage) {
			t.Errorf("%q: %v", v, err)
		}
	}
}

func TestShort(t *testing.T) {
	if got := short("sweep-with-a-long-name-lr-1e-3", 15); got != "sweep-w…lr-1e-3" {
		t.Errorf("%q", got)
	}
	if got := short("Überschrift", 11); got != "Überschrift" {
		t.Errorf("%q", got)
	}
}
