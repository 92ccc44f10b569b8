package remote_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
)

// TestS3ByTheServersClock: a server whose clock is hours away from this machine's, and that refuses dates that are 15 minutes off its own, is
// read after one refusal of each fetch.
func TestS3ByTheServersClock(t *testing.T) {
	const rows = "a,b\n1,2\n"
	for _, off := range []time.Duration{time.Hour, -30 * time.Hour} {
		var refused, served atomic.Int64
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			now := time.Now().Add(off).UTC()
			w.Header().Set("Date", now.Format(http.TimeFormat))
			at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
			if err != nil || now.Sub(at).Abs() > 15*time.Minute || !strings.Contains(r.Header.Get("Authorization"), at.Format("/20060102/")) {
				refused.Add(1)
				w.WriteHeader(http.StatusForbidden)
				return
			}
			served.Add(1)
			w.Header().Set("ETag", `"e"`)
			w.Header().Set("Last-Modified", now.Add(-time.Hour).Format(http.TimeFormat))
			w.Header().Set("Content-Length", fmt.Sprint(len(rows)))
			if r.Method == http.MethodGet {
				_, _ = w.Write([]byte(rows))
			}
		}))
		f, err := remote.New(remote.Config{Dir: t.TempDir(), Attempts: 1, S3: remote.S3Config{Endpoint: srv.URL, AccessKey: "k", SecretKey: "s", Region: "us-east-1"}})
		if err != nil {
			t.Fatal(err)
		}
		got, err := f.Data(t.Context(), remote.DataQuery{Address: "s3://rows/one.csv"})
		if err != nil {
			t.Fatalf("%s: %v", off, err)
		}
		if data, err := os.ReadFile(filepath.Join(got.Dir, "one.csv")); err != nil || string(data) != rows {
			t.Errorf("%s: read %q: %v", off, data, err)
		}
		if refused.Load() != 1 || served.Load() < 2 {
			t.Errorf("%s: %d requests were refused and %d served", off, refused.Load(), served.Load())
		}
		f.Close()
		srv.Close()
	}
}
