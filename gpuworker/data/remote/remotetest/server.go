// Package remotetest is a server of repositories for tests: it speaks the protocols of the Hugging Face hub and of ModelScope, with faults that a
// test sets.
package remotetest

import (
	"cmp"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server answers /api/{datasets,models}/... and /resolve/ as the Hugging Face hub, /api/v1/... as ModelScope. Set its fields before the requests
// that they are for.
type Server struct {
	// URL is the address for HF_ENDPOINT and MODELSCOPE_DOMAIN.
	URL string
	mu  sync.Mutex
	// repos holds the files by "kind/owner/name@commit"; branches the commit of "kind/owner/name@branch".
	repos    map[string]map[string]string
	branches map[string]string
	// LFS marks files whose checksum is a SHA-256 and whose content comes from another host.
	LFS map[string]bool
	// Cut breaks the connection after so many bytes of a file, as many times as it says.
	Cut, Cuts int
	// Fault, when set, may answer a request itself.
	Fault func(w http.ResponseWriter, r *http.Request) bool
	// Seen lists "path?query range" of every request, Tokens the Authorization by host.
	Seen   []string
	Tokens map[string]string
	// CDN, when set, is where the content of LFS files is redirected to. Page is how many files one page of a list has.
	CDN  *httptest.Server
	Page int
}

func commitOf(s string) string {
	sum := sha1.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// New starts a server, which ends with the test.
func New(t *testing.T) *Server {
	h := &Server{repos: map[string]map[string]string{}, branches: map[string]string{}, LFS: map[string]bool{}, Tokens: map[string]string{}, Page: 1000}
	s := httptest.NewServer(http.HandlerFunc(h.serve))
	t.Cleanup(s.Close)
	h.URL = s.URL
	return h
}

// Repo adds a repository whose branch points at a commit with these files.
func (h *Server) Repo(kind string, name, branch string, files map[string]string) string {
	c := commitOf(name + branch + fmt.Sprint(files))
	h.mu.Lock()
	defer h.mu.Unlock()
	h.repos[kind+"/"+name+"@"+c] = files
	h.branches[kind+"/"+name+"@"+branch] = c
	return c
}

func (h *Server) find(kind, name, revision string) (files map[string]string, commit string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.branches[kind+"/"+name+"@"+revision]; ok {
		revision = c
	}
	return h.repos[kind+"/"+name+"@"+revision], revision
}

func (h *Server) serve(w http.ResponseWriter, r *http.Request) {
	h.mu.Lock()
	h.Seen = append(h.Seen, strings.TrimSpace(r.URL.String()+" "+r.Header.Get("Range")))
	h.Tokens[r.Host] = r.Header.Get("Authorization")
	fault := h.Fault
	h.mu.Unlock()
	if fault != nil && fault(w, r) {
		return
	}
	p := strings.Split(strings.TrimPrefix(r.URL.Path, "/"), "/")
	switch {
	case len(p) > 3 && p[0] == "api" && p[1] == "v1":
		h.modelScope(w, r, p[2], strings.Join(p[3:], "/"))
	case len(p) >= 6 && p[0] == "api":
		raw := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
		revision := unescape(raw[5])
		files, commit := h.find(p[1], p[2]+"/"+p[3], revision)
		if files == nil {
			http.Error(w, `{"error":"Revision not found"}`, http.StatusNotFound)
			return
		}
		if p[4] == "revision" {
			reply(w, map[string]any{"id": p[2] + "/" + p[3], "sha": commit})
			return
		}
		h.tree(w, r, files)
	default:
		kind := "models"
		if p[0] == "datasets" {
			kind, p = "datasets", p[1:]
		}
		if len(p) < 5 || p[2] != "resolve" {
			http.NotFound(w, r)
			return
		}
		files, commit := h.find(kind, p[0]+"/"+p[1], p[3])
		name := strings.Join(p[4:], "/")
		content, ok := files[name]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("X-Repo-Commit", commit)
		if h.LFS[name] && h.CDN != nil {
			sum := sha256.Sum256([]byte(content))
			w.Header().Set("X-Linked-Etag", `"`+hex.EncodeToString(sum[:])+`"`)
			http.Redirect(w, r, h.CDN.URL+"/"+kind+"/"+p[0]+"/"+p[1]+"/"+commit+"/"+name+"?Signature=secret", http.StatusFound)
			return
		}
		h.content(w, r, content)
	}
}

func unescape(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "%2F", "/"), "%2f", "/")
}

// tree lists files with a Link to the next page.
func (h *Server) tree(w http.ResponseWriter, r *http.Request, files map[string]string) {
	names := sortedNames(files)
	from, _ := strconv.Atoi(r.URL.Query().Get("cursor"))
	to := min(len(names), from+h.Page)
	var out []map[string]any
	for _, n := range names[from:to] {
		content := files[n]
		e := map[string]any{"type": "file", "path": n, "size": len(content), "oid": GitSum(content)}
		if h.LFS[n] {
			sum := sha256.Sum256([]byte(content))
			e["oid"], e["lfs"] = GitSum("pointer of "+n), map[string]any{"oid": hex.EncodeToString(sum[:]), "size": len(content), "pointerSize": 134}
		}
		out = append(out, e)
	}
	out = append(out, map[string]any{"type": "directory", "path": "data", "oid": GitSum("dir"), "size": 0})
	if to < len(names) {
		q := r.URL.Query()
		q.Set("cursor", fmt.Sprint(to))
		w.Header().Set("Link", fmt.Sprintf("<http://%s%s?%s>; rel=\"next\"", r.Host, r.URL.EscapedPath(), q.Encode()))
	}
	reply(w, out)
}

// idOf is a repository's number, by which ModelScope's data sets are listed.
func idOf(name string) uint32 { return crc32.ChecksumIEEE([]byte(name)) }

// named finds a repository by its number, "" for none.
func (h *Server) named(kind string, id uint32) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for branch := range h.branches {
		name, _, _ := strings.Cut(strings.TrimPrefix(branch, kind+"/"), "@")
		if strings.HasPrefix(branch, kind+"/") && idOf(name) == id {
			return name
		}
	}
	return ""
}

func (h *Server) modelScope(w http.ResponseWriter, r *http.Request, kind, rest string) {
	data := func(v any) { reply(w, map[string]any{"Code": 200, "Data": v, "Success": true}) }
	name := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(rest, "/repo/files"), "/repo/tree"), "/repo")
	if n, err := strconv.ParseUint(name, 10, 32); err == nil {
		name = h.named(kind, uint32(n))
	}
	files, commit := h.find(kind, name, cmp.Or(r.URL.Query().Get("Revision"), "master"))
	if files == nil {
		w.WriteHeader(http.StatusNotFound)
		reply(w, map[string]any{"Code": 10010205001, "Message": "not found"})
		return
	}
	switch {
	case strings.HasSuffix(rest, "/repo/files"), strings.HasSuffix(rest, "/repo/tree"):
		var list []map[string]any
		for _, n := range sortedNames(files) {
			sum := sha256.Sum256([]byte(files[n]))
			list = append(list, map[string]any{"Path": n, "Name": n, "Type": "blob", "Size": len(files[n]), "Sha256": hex.EncodeToString(sum[:]), "Revision": commit})
		}
		data(map[string]any{"Files": list, "LatestCommitter": map[string]any{"Id": commit}})
	case strings.HasSuffix(rest, "/repo"):
		content, ok := files[r.URL.Query().Get("FilePath")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		h.content(w, r, content)
	default:
		data(map[string]any{"Id": idOf(name), "Name": name})
	}
}

// content serves a file with ranges, broken off where the test says.
func (h *Server) content(w http.ResponseWriter, r *http.Request, content string) {
	h.mu.Lock()
	cut := 0
	if h.Cuts > 0 {
		h.Cuts--
		cut = h.Cut
	}
	h.mu.Unlock()
	if cut == 0 {
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(content))
		return
	}
	from, err := strconv.Atoi(strings.Trim(r.Header.Get("Range"), "bytes=-"))
	if err != nil {
		from = 0
	}
	w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
	if from > 0 {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
		w.WriteHeader(http.StatusPartialContent)
	}
	fmt.Fprint(w, content[from:min(len(content), from+cut)])
	panic(http.ErrAbortHandler)
}

// Requests counts those whose address or range holds part.
func (h *Server) Requests(part string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, s := range h.Seen {
		if strings.Contains(s, part) {
			n++
		}
	}
	return n
}

func reply(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// GitSum is git's name of a file's content.
func GitSum(s string) string {
	sum := sha1.Sum([]byte(fmt.Sprintf("blob %d\x00%s", len(s), s)))
	return hex.EncodeToString(sum[:])
}

func sortedNames(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
