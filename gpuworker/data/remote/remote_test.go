package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote/remotetest"
	"github.com/tunefleet/tunefleet/schemas"
)

func fetcher(t *testing.T, h *remotetest.Server, change func(*Config)) *Fetcher {
	t.Helper()
	c := Config{Dir: t.TempDir(), HF: h.URL, MS: h.URL, Backoff: time.Millisecond, Attempts: 3, Stall: 5 * time.Second}
	if change != nil {
		change(&c)
	}
	f, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func contents(t *testing.T, f *Folder) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, x := range f.Files {
		b, err := os.ReadFile(filepath.Join(f.Dir, filepath.FromSlash(x.Path)))
		if err != nil {
			t.Fatal(err)
		}
		if int64(len(b)) != x.Bytes {
			t.Errorf("%s has %d bytes, the folder says %d", x.Path, len(b), x.Bytes)
		}
		out[x.Path] = string(b)
	}
	return out
}

func rows(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "{\"instruction\":\"question %d\",\"output\":\"answer\"}\n", i)
	}
	return b.String()
}

func TestDataOfBothHubs(t *testing.T) {
	h := remotetest.New(t)
	train, held := rows(100), rows(7)
	files := map[string]string{"README.md": "# rows\n", "data/train-00000-of-00001.jsonl": train, "data/test-00000-of-00001.jsonl": held, ".gitattributes": "x"}
	h.LFS["data/train-00000-of-00001.jsonl"] = true
	commit := h.Repo("datasets", "acme/rows", "main", files)
	h.Repo("datasets", "acme/rows", "master", files)
	h.Page = 1 // the list comes in pages
	for _, scheme := range []string{"hf", "ms"} {
		f := fetcher(t, h, nil)
		got, err := f.Data(context.Background(), DataQuery{Address: scheme + "://acme/rows", Split: "test"})
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		if c := contents(t, got); len(c) != 1 || c["data/test-00000-of-00001.jsonl"] != held {
			t.Errorf("%s: the split test is %v", scheme, got.Files)
		}
		if !strings.HasPrefix(got.Origin, scheme+"://acme/rows@") || scheme == "hf" && !strings.HasSuffix(got.Origin, commit) {
			t.Errorf("%s: origin %s, the commit is %s", scheme, got.Origin, commit)
		}
		one, err := f.Data(context.Background(), DataQuery{Address: scheme + "://acme/rows/data/train-*.jsonl@" + strings.TrimPrefix(got.Origin, scheme+"://acme/rows@")})
		if err != nil {
			t.Fatalf("%s: %v", scheme, err)
		}
		if c := contents(t, one); c["data/train-00000-of-00001.jsonl"] != train {
			t.Errorf("%s: the pattern finds %v", scheme, one.Files)
		}
		for _, bad := range []struct {
			q    DataQuery
			code schemas.Code
			text string
		}{
			{DataQuery{Address: scheme + "://acme/rows", Split: "dev"}, schemas.CodeInvalid, "train, test"},
			{DataQuery{Address: scheme + "://acme/rows", Subset: "other"}, schemas.CodeInvalid, "only one"},
			{DataQuery{Address: scheme + "://acme/rows/data/trian-00000-of-00001.jsonl"}, schemas.CodeNotFound, "did you mean"},
			{DataQuery{Address: scheme + "://acme/nothing"}, schemas.CodeNotFound, "acme/nothing"},
			{DataQuery{Address: scheme + "://acme/rows", Split: "train[:10]"}, schemas.CodeUnsupported, "slices"},
			{DataQuery{Address: scheme + "://acme/rows/../x"}, schemas.CodeInvalid, "out of its folder"},
		} {
			if _, err := f.Data(context.Background(), bad.q); !schemas.IsCode(err, bad.code) || !strings.Contains(err.Error(), bad.text) {
				t.Errorf("%+v: %v, expected %s with %q", bad.q, err, bad.code, bad.text)
			}
		}
	}
}

func TestBrokenConnectionResumes(t *testing.T) {
	h := remotetest.New(t)
	text := rows(20_000)
	h.Repo("datasets", "acme/rows", "main", map[string]string{"train.jsonl": text})
	h.Cut, h.Cuts = 300_000, 2
	f := fetcher(t, h, nil)
	got, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"})
	if err != nil {
		t.Fatal(err)
	}
	if contents(t, got)["train.jsonl"] != text {
		t.Error("the file that was resumed is another one")
	}
	if n, m := h.Requests("bytes=300000-"), h.Requests("bytes=600000-"); n != 1 || m != 1 {
		t.Errorf("%d and %d requests went on behind what had come: %v", n, m, h.Seen)
	}
	before := len(h.Seen)
	if _, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"}); err != nil || h.Requests("/resolve/") != 3 {
		t.Errorf("%v; what is in the cache was fetched again: %v", err, h.Seen[before:])
	}
}

// TestResumedInAnotherProcess: what an earlier process left unfinished is gone on with; when it is of another file, it is thrown away.
func TestResumedInAnotherProcess(t *testing.T) {
	h := remotetest.New(t)
	text := rows(20_000)
	h.Repo("datasets", "acme/rows", "main", map[string]string{"train.jsonl": text})
	for name, left := range map[string]string{"its beginning": text[:200_000], "another file": strings.Repeat("x", 200_000), "more than there is": text + "more"} {
		f := fetcher(t, h, nil)
		h.Cut, h.Cuts = 100, 1000 // leaves a piece
		if _, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"}); err == nil {
			t.Fatalf("%s: a server that breaks off every time gives a file", name)
		}
		h.Cuts = 0
		parts, err := filepath.Glob(filepath.Join(f.cfg.Dir, "partial", "*.incomplete"))
		if err != nil || len(parts) != 1 {
			t.Fatalf("%s: unfinished files %v, %v", name, parts, err)
		}
		if err := os.WriteFile(parts[0], []byte(left), 0o644); err != nil {
			t.Fatal(err)
		}
		got, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"})
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if contents(t, got)["train.jsonl"] != text {
			t.Errorf("%s: the file is not the server's", name)
		}
	}
}

func TestFaultsOfAHub(t *testing.T) {
	h := remotetest.New(t)
	h.Repo("datasets", "acme/rows", "main", map[string]string{"train.jsonl": rows(100)})
	isFile := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/resolve/") }
	var calls atomic.Int64
	waited := time.Duration(0)
	for _, c := range []struct {
		name  string
		fault func(w http.ResponseWriter, r *http.Request) bool
		code  schemas.Code
		text  string
	}{
		{"gated", func(w http.ResponseWriter, r *http.Request) bool {
			w.Header().Set("X-Error-Code", "GatedRepo")
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}, schemas.CodeAuth, "gated: accept its terms"},
		{"wrong token", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, schemas.CodeAuth, "HF_TOKEN"},
		{"file is gone", func(w http.ResponseWriter, r *http.Request) bool {
			if isFile(r) {
				http.NotFound(w, r)
			}
			return isFile(r)
		}, schemas.CodeNotFound, "train.jsonl"},
		{"wrong checksum", func(w http.ResponseWriter, r *http.Request) bool {
			if isFile(r) {
				fmt.Fprint(w, strings.Replace(rows(100), "question 7", "question 8", 1))
			}
			return isFile(r)
		}, schemas.CodeVerify, "SHA-1"},
		{"announces another", func(w http.ResponseWriter, r *http.Request) bool {
			if isFile(r) {
				w.Header().Set("ETag", `"`+remotetest.GitSum("another")+`"`)
				fmt.Fprint(w, rows(100))
			}
			return isFile(r)
		}, schemas.CodeVerify, "announces"},
		{"longer than its list", func(w http.ResponseWriter, r *http.Request) bool {
			if isFile(r) {
				w.(http.Flusher).Flush()
				fmt.Fprint(w, rows(101))
			}
			return isFile(r)
		}, schemas.CodeVerify, "longer"},
		{"no hub", func(w http.ResponseWriter, r *http.Request) bool {
			fmt.Fprint(w, "<html>welcome</html>")
			return true
		}, schemas.CodeUnavailable, "does not answer as a hub"},
		{"down", func(w http.ResponseWriter, r *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}, schemas.CodeUnavailable, "502"},
		{"wait", func(w http.ResponseWriter, r *http.Request) bool {
			if isFile(r) && calls.Add(1) < 3 {
				w.Header().Set("Retry-After", "0.2")
				w.WriteHeader(http.StatusTooManyRequests)
				return true
			}
			return false
		}, "", ""},
		{"a page elsewhere", func(w http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, "/tree/") {
				w.Header().Set("Link", `<http://169.254.169.254/latest>; rel="next"`)
				fmt.Fprint(w, "[]")
				return true
			}
			return false
		}, schemas.CodeInvalid, "elsewhere"},
	} {
		h.Fault = c.fault
		f := fetcher(t, h, func(c *Config) { c.HFToken = "hf_secret" })
		start := time.Now()
		_, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"})
		waited = time.Since(start)
		if c.code == "" && err != nil || c.code != "" && (!schemas.IsCode(err, c.code) || !strings.Contains(err.Error(), c.text)) {
			t.Errorf("%s: %v, expected %s with %q", c.name, err, c.code, c.text)
		}
		if err != nil && strings.Contains(err.Error(), "hf_secret") {
			t.Errorf("%s: the error tells the token", c.name)
		}
		if c.name == "wait" && waited < 400*time.Millisecond {
			t.Errorf("the server asked for two pauses of 0.2 s, it was asked again after %v in all", waited)
		}
	}
}

// TestRedirects: the token stays with the hub; a redirect into a private network is refused, and so is one to a host that is not allowed.
func TestRedirects(t *testing.T) {
	h := remotetest.New(t)
	var tokens atomic.Value
	tokens.Store("nobody asked")
	h.CDN = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tokens.Store(r.Header.Get("Authorization") + r.Header.Get("Cookie"))
		fmt.Fprint(w, rows(3))
	}))
	t.Cleanup(h.CDN.Close)
	h.LFS["train.jsonl"] = true
	h.Repo("datasets", "acme/rows", "main", map[string]string{"train.jsonl": rows(3)})
	f := fetcher(t, h, func(c *Config) { c.HFToken = "hf_secret" })
	_, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"})
	if !schemas.IsCode(err, schemas.CodeInvalid) || !strings.Contains(err.Error(), "private network") || strings.Contains(err.Error(), "Signature") {
		t.Errorf("a redirect to 127.0.0.1: %v", err)
	}
	if tokens.Load() != "nobody asked" {
		t.Error("the private address was connected to")
	}
	f.client.strict = f.client.open // now the other host is taken for a public one
	cdn := strings.TrimPrefix(h.CDN.URL, "http://")
	h.CDN.URL = "http://localhost" + cdn[strings.LastIndexByte(cdn, ':'):]
	got, err := f.Data(context.Background(), DataQuery{Address: "hf://acme/rows"})
	if err != nil {
		t.Fatal(err)
	}
	if contents(t, got)["train.jsonl"] != rows(3) || tokens.Load() != "" {
		t.Errorf("%v; the other host was sent %q", got.Files, tokens.Load())
	}
	if h.Tokens[strings.TrimPrefix(h.URL, "http://")] != "Bearer hf_secret" {
		t.Error("the hub was not sent the token")
	}
}

func TestHTTPS(t *testing.T) {
	text, etag := rows(50), `"v1"`
	var served, cuts atomic.Int64
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/away":
			http.Redirect(w, r, "https://169.254.169.254/rows.jsonl", http.StatusFound)
		case "/down":
			http.Redirect(w, r, "http://"+r.Host+"/rows.jsonl", http.StatusFound)
		case "/endless.jsonl":
			for {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		case "/slow.jsonl":
			w.Header().Set("Content-Length", "100")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			served.Add(1)
			w.Header().Set("ETag", etag)
			if cuts.Add(-1) >= 0 {
				w.Header().Set("Content-Length", fmt.Sprint(len(text)))
				fmt.Fprint(w, text[:1000])
				panic(http.ErrAbortHandler)
			}
			http.ServeContent(w, r, "", time.Time{}, strings.NewReader(text))
		}
	}))
	t.Cleanup(s.Close)
	host := strings.TrimPrefix(s.URL, "https://")
	make := func(hosts ...string) *Fetcher {
		f := fetcher(t, &remotetest.Server{URL: "https://localhost"}, func(c *Config) {
			c.HTTPSHosts, c.MaxBytes, c.Stall = hosts, 1<<20, 300*time.Millisecond
		})
		tr, ok := s.Client().Transport.(*http.Transport)
		if !ok {
			t.Fatal("the server's client has another transport")
		}
		f.client.open.TLSClientConfig = tr.TLSClientConfig
		return f
	}
	ctx := context.Background()
	if _, err := make().Data(ctx, DataQuery{Address: s.URL + "/rows.jsonl"}); !schemas.IsCode(err, schemas.CodeInvalid) || !strings.Contains(err.Error(), "TUNEFLEET_HTTPS_HOSTS") {
		t.Errorf("a host that nobody allowed: %v", err)
	}
	f := make(host, "169.254.169.254")
	cuts.Store(2) // the first answer is only looked at
	got, err := f.Data(ctx, DataQuery{Address: s.URL + "/rows.jsonl?key=secret"})
	if err != nil {
		t.Fatal(err)
	}
	if contents(t, got)["rows.jsonl"] != text || got.Origin != s.URL+"/rows.jsonl" {
		t.Errorf("fetched %v from %s", got.Files, got.Origin)
	}
	n := served.Load()
	if _, err := f.Data(ctx, DataQuery{Address: s.URL + "/rows.jsonl?key=secret"}); err != nil || served.Load() != n+1 {
		t.Errorf("%v; a file that is unchanged took %d requests", err, served.Load()-n)
	}
	text, etag = rows(51), `"v2"`
	if got, err = f.Data(ctx, DataQuery{Address: s.URL + "/rows.jsonl?key=secret"}); err != nil || contents(t, got)["rows.jsonl"] != text {
		t.Errorf("%v; a file that changed is served as it was", err)
	}
	for path, want := range map[string]string{"/away": "private network", "/down": "from https to http", "/endless.jsonl": "limit is 1048576", "/slow.jsonl": "no byte came for"} {
		if _, err := f.Data(ctx, DataQuery{Address: s.URL + path}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, expected %q", path, err, want)
		}
	}
	if _, err := f.Data(ctx, DataQuery{Address: "http://" + host + "/rows.jsonl"}); !schemas.IsCode(err, schemas.CodeInvalid) {
		t.Errorf("plain http: %v", err)
	}
}

func TestModel(t *testing.T) {
	h := remotetest.New(t)
	files := map[string]string{"config.json": "{}", "model.safetensors": "weights", "consolidated.safetensors": "again", "pytorch_model.bin": "pickle", "tokenizer.json": "{}", "README.md": "x", "onnx/model.onnx": "x"}
	commit := h.Repo("models", "acme/tiny", "main", files)
	h.Repo("models", "acme/tiny", "master", files)
	h.LFS["model.safetensors"] = true
	keep := func(n string) bool { return strings.HasSuffix(n, ".json") || strings.HasSuffix(n, ".safetensors") }
	for _, scheme := range []string{"hf", "ms"} {
		f := fetcher(t, h, nil)
		got, err := f.Model(context.Background(), scheme+"://acme/tiny", keep, nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, x := range got.Files {
			names = append(names, x.Path)
		}
		slices.Sort(names)
		if want := "config.json model.safetensors tokenizer.json"; strings.Join(names, " ") != want || contents(t, got)["model.safetensors"] != "weights" {
			t.Errorf("%s: fetched %v, expected %s", scheme, names, want)
		}
		if want := scheme + "://acme/tiny@" + commit; scheme == "hf" && got.Origin != want {
			t.Errorf("origin %s, expected %s", got.Origin, want)
		}
		refused := errors.New("no")
		if _, err := f.Model(context.Background(), scheme+"://acme/tiny", keep, func([]string) error { return refused }); !errors.Is(err, refused) {
			t.Errorf("a model that is refused: %v", err)
		}
		// The branch moves on; the pinned commit stays what it was, without a request for content.
		h.Repo("models", "acme/tiny", "main", map[string]string{"config.json": "{}", "model.safetensors": "new weights"})
		old := h.Requests("resolve")
		if again, err := f.Model(context.Background(), got.Origin, keep, nil); err != nil || contents(t, again)["model.safetensors"] != "weights" || h.Requests("resolve") != old {
			t.Errorf("%s: %v; the pinned model was not found in the cache", scheme, err)
		}
		// Without a connection the last known commit is taken, and offline too.
		h.Fault = func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		said := ""
		f.cfg.Say = func(s string) { said += s }
		if again, err := f.Model(context.Background(), scheme+"://acme/tiny", keep, nil); err != nil || again.Dir != got.Dir || !strings.Contains(said, "going on with") {
			t.Errorf("%s: without a connection: %v, said %q", scheme, err, said)
		}
		f.cfg.Offline = true
		if again, err := f.Model(context.Background(), got.Origin, keep, nil); scheme == "hf" && (err != nil || again.Dir != got.Dir) {
			t.Errorf("offline: %v", err)
		}
		h.Fault = nil
		h.Repo("models", "acme/tiny", "main", files)
	}
}
