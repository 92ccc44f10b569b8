package spot

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"
)

// cloud is a metadata service: quiet until taken is set. It counts requests without the header that keeps strangers out.
type cloud struct {
	taken   atomic.Bool
	broken  atomic.Bool
	strange atomic.Int64
	tokens  atomic.Int64
	// at is when the machine goes, by the service's clock, which is ahead of this machine's by ahead; undated answers do not tell the time.
	at      time.Time
	ahead   time.Duration
	undated bool
}

func (c *cloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	say := func(status int, body string) {
		w.Header().Set("Date", time.Now().Add(c.ahead).UTC().Format(http.TimeFormat))
		if c.undated {
			w.Header()["Date"] = nil
		}
		w.WriteHeader(status)
		_, _ = w.Write([]byte(body))
	}
	if c.broken.Load() {
		say(http.StatusInternalServerError, "")
		return
	}
	switch r.Method + " " + r.URL.Path {
	case "PUT /latest/api/token":
		if r.Header.Get("X-aws-ec2-metadata-token-ttl-seconds") == "" {
			c.strange.Add(1)
		}
		c.tokens.Add(1)
		say(http.StatusOK, "secret")
	case "GET /latest/meta-data/spot/instance-action":
		switch {
		case r.Header.Get("X-aws-ec2-metadata-token") != "secret":
			c.strange.Add(1)
			say(http.StatusUnauthorized, "")
		case c.taken.Load():
			say(http.StatusOK, `{"action": "terminate", "time": "`+c.at.Format(time.RFC3339)+`"}`)
		default:
			say(http.StatusNotFound, "")
		}
	case "GET /latest/meta-data/events/recommendations/rebalance":
		say(http.StatusNotFound, "")
	case "GET /computeMetadata/v1/instance/preempted":
		if r.Header.Get("Metadata-Flavor") != "Google" {
			c.strange.Add(1)
		}
		say(http.StatusOK, map[bool]string{true: "TRUE", false: "FALSE"}[c.taken.Load()])
	case "GET /metadata/scheduledevents":
		if r.Header.Get("Metadata") != "true" || r.URL.Query().Get("api-version") == "" {
			c.strange.Add(1)
		}
		if c.taken.Load() {
			say(http.StatusOK, `{"DocumentIncarnation": 2, "Events": [{"EventType": "Freeze", "NotBefore": ""}, {"EventType": "Preempt", "NotBefore": "`+c.at.Format(http.TimeFormat)+`"}]}`)
		} else {
			say(http.StatusOK, `{"DocumentIncarnation": 1, "Events": [{"EventType": "Reboot", "NotBefore": ""}]}`)
		}
	default:
		say(http.StatusTeapot, r.URL.Path)
	}
}

// TestNotices: each cloud is asked as its service wants it, silence and errors are waited out, and the notice says when.
func TestNotices(t *testing.T) {
	for _, name := range []string{AWS, GCP, Azure} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := &cloud{at: time.Now().Add(2 * time.Minute).UTC().Truncate(time.Second)}
			srv := httptest.NewServer(c)
			defer srv.Close()
			w, err := New(Config{Cloud: name, Endpoint: srv.URL, Poll: 2 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			quiet, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			if n, err := w.Wait(quiet); !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("notice %+v, error %v of a quiet cloud", n, err)
			}
			c.broken.Store(true)
			time.AfterFunc(20*time.Millisecond, func() { c.taken.Store(true); c.broken.Store(false) })
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			n, err := w.Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			left := time.Until(n.At)
			if n.Cloud != name || n.What == "" || left < 20*time.Second || name != GCP && n.At.After(c.at) || name == GCP && left > gcpNotice {
				t.Errorf("notice %+v", n)
			}
			if c.strange.Load() != 0 || c.tokens.Load() > 1 {
				t.Errorf("%d requests without the header, %d tokens", c.strange.Load(), c.tokens.Load())
			}
		})
	}
}

// TestNoticesWhenAClockIsWrong: what a notice leaves is counted by the clock of the service that gave it, so that this machine's may be an hour
// off either way; it is never more than there is, and, where the service tells its time, at most some seconds less.
func TestNoticesWhenAClockIsWrong(t *testing.T) {
	for _, name := range []string{AWS, Azure} {
		for what, c := range map[string]*cloud{"right": {}, "behind": {ahead: time.Hour}, "ahead": {ahead: -time.Hour},
			"behind, undated": {ahead: time.Hour, undated: true}, "ahead, undated": {ahead: -time.Hour, undated: true}} {
			t.Run(name+" "+what, func(t *testing.T) {
				srv := httptest.NewServer(c)
				defer srv.Close()
				w, err := New(Config{Cloud: name, Endpoint: srv.URL, Poll: 2 * time.Millisecond})
				if err != nil {
					t.Fatal(err)
				}
				const notice = 2 * time.Minute
				ends := time.Now().Add(notice)
				c.at = ends.Add(c.ahead).UTC().Truncate(time.Second)
				c.taken.Store(true)
				n, err := w.Wait(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				// Azure gives up to 15 minutes: an undated answer to a clock that is behind cannot be told from those.
				if most := ends.Add(map[bool]time.Duration{true: azureNotice - notice}[name == Azure && c.undated && c.ahead > 0]); n.At.After(most) {
					t.Errorf("the notice promises %s, there are %s", time.Until(n.At), time.Until(most))
				}
				if least := ends.Add(-15 * time.Second); !c.undated && n.At.Before(least) {
					t.Errorf("the notice leaves %s of %s", time.Until(n.At), time.Until(ends))
				}
			})
		}
	}
}

// TestNoticeOfGoogleCountsFromTheLastQuietAnswer: the 30 s began at some time after it, not when somebody looked.
func TestNoticeOfGoogleCountsFromTheLastQuietAnswer(t *testing.T) {
	c := &cloud{}
	srv := httptest.NewServer(c)
	defer srv.Close()
	w, err := New(Config{Cloud: GCP, Endpoint: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	w.quiet = time.Now().Add(-20 * time.Second)
	c.taken.Store(true)
	n, err := w.Wait(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if want := w.quiet.Add(gcpNotice); !n.At.Equal(want) {
		t.Errorf("the notice ends at %s, expected %s", n.At, want)
	}
}

func TestRefusedTokenIsRenewed(t *testing.T) {
	c := &cloud{at: time.Now().Add(time.Minute).UTC().Truncate(time.Second)}
	c.taken.Store(true)
	srv := httptest.NewServer(c)
	defer srv.Close()
	w, err := New(Config{Cloud: AWS, Endpoint: srv.URL, Poll: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	w.token, w.renewAt = "old", time.Now().Add(time.Hour)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if n, err := w.Wait(ctx); err != nil || n.What != "terminate" || c.tokens.Load() != 1 {
		t.Fatalf("notice %+v, %d tokens: %v", n, c.tokens.Load(), err)
	}
}

func TestConfig(t *testing.T) {
	if _, err := New(Config{Cloud: "moon", Endpoint: "ftp://x"}); err == nil {
		t.Fatal("accepted")
	}
	w, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := w.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v", err)
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"action": "stop", "time": "2026-01-01T00:00:00Z"}`))
	f.Add([]byte(`{"Events": [{"EventType": "Preempt", "NotBefore": "Mon, 19 Sep 2026 18:29:47 GMT"}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, parse := range []func([]byte) (Notice, bool, error){parseAWS, parseAzure} {
			if n, found, err := parse(data); found && (err != nil || n.What == "" || n.Cloud == "") {
				t.Fatalf("notice %+v with error %v", n, err)
			}
		}
	})
}
