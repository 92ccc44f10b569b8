package remote_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// TestS3 reads objects, prefixes, patterns and model folders of a real S3 server; a connection that breaks off is resumed.
func TestS3(t *testing.T) {
	ctx := context.Background()
	servers, err := embedded.Start(ctx, embedded.Options{Dir: t.TempDir(), Parts: []embedded.Part{embedded.S3}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(servers.Close)
	rec := servers.Record
	m, err := minio.New(rec.S3Endpoint(), &minio.Options{Creds: credentials.NewStaticV4(rec.AccessKey, rec.SecretKey, "")})
	if err != nil {
		t.Fatal(err)
	}
	if err := m.MakeBucket(ctx, "rows", minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	big := strings.Repeat(`{"instruction":"a","output":"b"}`+"\n", 50_000)
	for key, text := range map[string]string{"set/a.jsonl": big, "set/b.jsonl": "{}", "set/sub/c.jsonl": "{}", "set/notes.md": "x", "set/.hidden.jsonl": "x", "one.csv": "a,b\n1,2\n", "m/config.json": "{}", "m/model.safetensors": "w"} {
		if _, err := m.PutObject(ctx, "rows", key, strings.NewReader(text), int64(len(text)), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// A proxy in front breaks connections off.
	target, err := url.Parse("http://" + rec.S3Endpoint())
	if err != nil {
		t.Fatal(err)
	}
	var cuts, ranges atomic.Int64
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // it is signed
	}}
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Range") != "" {
			ranges.Add(1)
		}
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "a.jsonl") && cuts.Add(-1) >= 0 {
			proxy.ServeHTTP(&cutWriter{ResponseWriter: w, left: 200_000}, r)
			panic(http.ErrAbortHandler)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	f, err := remote.New(remote.Config{Dir: t.TempDir(), Backoff: time.Millisecond, S3: remote.S3Config{Endpoint: front.URL, AccessKey: rec.AccessKey, SecretKey: telemetry.Secret(rec.SecretKey)}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	cuts.Store(2)
	for address, want := range map[string]string{"s3://rows/set/": "a.jsonl b.jsonl sub/c.jsonl", "s3://rows/set": "a.jsonl b.jsonl sub/c.jsonl", "s3://rows/set/*.jsonl": "a.jsonl b.jsonl",
		"s3://rows/one.csv": "one.csv", "s3://rows/set/**/c.*": "sub/c.jsonl", "s3://rows/set/[b-z].jsonl": "b.jsonl"} {
		got, err := f.Data(ctx, remote.DataQuery{Address: address})
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		var names []string
		for _, x := range got.Files {
			names = append(names, x.Path)
			b, err := os.ReadFile(filepath.Join(got.Dir, x.Path))
			if err != nil || x.Path == "a.jsonl" && !bytes.Equal(b, []byte(big)) {
				t.Errorf("%s: %s is not what was stored (%v)", address, x.Path, err)
			}
		}
		if strings.Join(names, " ") != want {
			t.Errorf("%s is %q, expected %s", address, names, want)
		}
	}
	if cuts.Load() > -1 || ranges.Load() < 2 {
		t.Errorf("%d connections were to be broken off still, %d requests were resumed", cuts.Load(), ranges.Load())
	}
	got, err := f.Model(ctx, "s3://rows/m", func(string) bool { return true }, nil)
	if err != nil || len(got.Files) != 2 || got.Files[0].Path != "config.json" {
		t.Errorf("%v: model %+v", err, got)
	}
	for address, code := range map[string]schemas.Code{"s3://rows/none/": schemas.CodeNotFound, "s3://rows/none.jsonl": schemas.CodeNotFound, "s3://nobucket/x.jsonl": schemas.CodeNotFound,
		"s3://rows/../x": schemas.CodeInvalid, "s3://rows/set/*.parquet": schemas.CodeNotFound} {
		if _, err := f.Data(ctx, remote.DataQuery{Address: address}); !schemas.IsCode(err, code) {
			t.Errorf("%s: %v, expected %s", address, err, code)
		}
	}
	wrong, err := remote.New(remote.Config{Dir: t.TempDir(), Attempts: 1, S3: remote.S3Config{Endpoint: front.URL, AccessKey: rec.AccessKey, SecretKey: "wrong"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wrong.Data(ctx, remote.DataQuery{Address: "s3://rows/one.csv"}); !schemas.IsCode(err, schemas.CodeAuth) {
		t.Errorf("a wrong key: %v", err)
	}
}

// cutWriter passes so many bytes on.
type cutWriter struct {
	http.ResponseWriter
	left int
}

// Write implements io.Writer.
func (c *cutWriter) Write(p []byte) (int, error) {
	n := min(len(p), c.left)
	c.left -= n
	if n < len(p) {
		if _, err := c.ResponseWriter.Write(p[:n]); err != nil {
			return n, err
		}
		c.ResponseWriter.(http.Flusher).Flush() //nolint:forcetypeassert // the server's own
		panic(http.ErrAbortHandler)
	}
	return c.ResponseWriter.Write(p)
}
