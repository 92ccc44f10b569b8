package remote

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// hub is a server of repositories.
type hub interface {
	// server is where requests go.
	server() *site
	// commit finds the commit that a revision ("": the default branch) names now.
	commit(ctx context.Context, kind Kind, repo, revision string) (string, error)
	// list names all files at a commit.
	list(ctx context.Context, kind Kind, repo, commit string) ([]entry, error)
	// address is where a file's content is.
	address(kind Kind, repo, commit, path string) string
}

// entry is a file of a repository.
type entry struct {
	path string
	size int64
	// sha256 of large files, git the blob SHA-1 of small ones; what the hub does not tell is empty.
	sha256, git string
}

// escape keeps slashes.
func escape(p string) string {
	parts := strings.Split(p, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return strings.Join(parts, "/")
}

// huggingFace speaks the protocol of huggingface_hub.
type huggingFace struct {
	c *client
	s *site
}

func newHuggingFace(c *client) *huggingFace {
	s := &site{name: "the Hugging Face hub", base: c.cfg.HF, login: "set HF_TOKEN"}
	if c.cfg.HF != "https://huggingface.co" {
		s.name = "the hub at " + c.cfg.HF
	}
	if t := string(c.cfg.HFToken); t != "" {
		s.login = "HF_TOKEN is set; does it belong to an account with access?"
		s.auth = func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+t) }
	}
	return &huggingFace{c, s}
}

func (h *huggingFace) server() *site { return h.s }

func (h *huggingFace) commit(ctx context.Context, kind Kind, repo, revision string) (string, error) {
	var info struct {
		SHA string `json:"sha"`
	}
	what := "hf://" + repo
	if revision != "" {
		what += "@" + revision
	}
	address := fmt.Sprintf("%s/api/%s/%s/revision/%s", h.s.base, kind, repo, url.PathEscape(first(revision, "main")))
	if _, err := h.c.json(ctx, h.s, what, address, &info); err != nil {
		return "", err
	}
	if !isHex(info.SHA) {
		return "", schemas.Errorf(schemas.CodeUnavailable, what, "%s names no commit", h.s.name)
	}
	return info.SHA, nil
}

func isHex(s string) bool {
	return len(s) >= 7 && len(s) <= 64 && strings.Trim(s, "0123456789abcdef") == ""
}

func (h *huggingFace) list(ctx context.Context, kind Kind, repo, commit string) ([]entry, error) {
	what := "hf://" + repo + "@" + commit
	var out []entry
	next := fmt.Sprintf("%s/api/%s/%s/tree/%s?recursive=true&expand=false", h.s.base, kind, repo, url.PathEscape(commit))
	for next != "" {
		var page []struct {
			Type string `json:"type"`
			OID  string `json:"oid"`
			Size int64  `json:"size"`
			Path string `json:"path"`
			LFS  *struct {
				OID  string `json:"oid"`
				Size int64  `json:"size"`
			} `json:"lfs"`
		}
		header, err := h.c.json(ctx, h.s, what, next, &page)
		if err != nil {
			return nil, err
		}
		for _, f := range page {
			if f.Type != "file" {
				continue
			}
			e := entry{path: f.Path, size: f.Size, git: f.OID}
			if f.LFS != nil {
				e.size, e.git, e.sha256 = f.LFS.Size, "", strings.TrimPrefix(f.LFS.OID, "sha256:")
			}
			out = append(out, e)
		}
		if len(out) > maxEntries {
			return nil, schemas.Errorf(schemas.CodeInvalid, what, "the repository has more than %d files", maxEntries)
		}
		if next, err = nextPage(h.s, header.Get("Link")); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// maxEntries bounds a repository's files.
const maxEntries = 1_000_000

// nextPage reads the address of the next page from a Link header; it must be the same server's.
func nextPage(s *site, link string) (string, error) {
	for _, l := range strings.Split(link, ",") {
		target, rel, ok := strings.Cut(l, ";")
		if !ok || !strings.Contains(rel, `rel="next"`) {
			continue
		}
		u, err := url.Parse(strings.Trim(strings.TrimSpace(target), "<>"))
		base, berr := url.Parse(s.base)
		if err != nil || berr != nil || u.Host != base.Host || u.Scheme != base.Scheme {
			return "", schemas.Errorf(schemas.CodeInvalid, s.name, "the next page of its list lies elsewhere")
		}
		return u.String(), nil
	}
	return "", nil
}

func (h *huggingFace) address(kind Kind, repo, commit, path string) string {
	prefix := ""
	if kind == KindData {
		prefix = "datasets/"
	}
	return fmt.Sprintf("%s/%s%s/resolve/%s/%s", h.s.base, prefix, repo, url.PathEscape(commit), escape(path))
}

// modelScope speaks the protocol of the modelscope package.
type modelScope struct {
	c *client
	s *site
}

func newModelScope(c *client) *modelScope {
	s := &site{name: "ModelScope", base: c.cfg.MS, login: "set MODELSCOPE_API_TOKEN"}
	if t := string(c.cfg.MSToken); t != "" {
		s.login = "MODELSCOPE_API_TOKEN is set; does it belong to an account with access?"
		s.auth = func(r *http.Request) {
			r.Header.Set("Authorization", "Bearer "+t)
			r.AddCookie(&http.Cookie{Name: "m_session_id", Value: t})
		}
	}
	return &modelScope{c, s}
}

func (m *modelScope) server() *site { return m.s }

// msAnswer is what every call answers with.
type msAnswer struct {
	Code    int             `json:"Code"`
	Message string          `json:"Message"`
	Data    json.RawMessage `json:"Data"`
}

func (m *modelScope) call(ctx context.Context, what, address string, out any) error {
	var a msAnswer
	if _, err := m.c.json(ctx, m.s, what, address, &a); err != nil {
		return err
	}
	switch {
	case a.Code == http.StatusNotFound || a.Code == 10010205001:
		return schemas.Errorf(schemas.CodeNotFound, what, "ModelScope has no such thing: %s", clip(a.Message))
	case a.Code == http.StatusUnauthorized || a.Code == http.StatusForbidden:
		return schemas.Errorf(schemas.CodeAuth, what, "ModelScope refuses access: %s", clip(a.Message)).WithHint("%s", m.s.login)
	case a.Code != 0 && a.Code != http.StatusOK:
		return schemas.Errorf(schemas.CodeUnavailable, what, "ModelScope answers %d: %s", a.Code, clip(a.Message))
	}
	if err := json.Unmarshal(a.Data, out); err != nil {
		return schemas.Errorf(schemas.CodeUnavailable, what, "ModelScope's answer cannot be read: %v", err)
	}
	return nil
}

// msFile is a file or folder of a list.
type msFile struct {
	Path     string `json:"Path"`
	Type     string `json:"Type"`
	Size     int64  `json:"Size"`
	SHA256   string `json:"Sha256"`
	Revision string `json:"Revision"`
}

// msList is a list with the commit it is of.
type msList struct {
	Files           []msFile `json:"Files"`
	LatestCommitter *struct {
		ID string `json:"Id"`
	} `json:"LatestCommitter"`
}

// commit: ModelScope's API does not resolve a branch by itself, its lists name the commit. Where they do not, the revision stays as it is
// given, and what is fetched is still pinned by its checksums.
func (m *modelScope) commit(ctx context.Context, kind Kind, repo, revision string) (string, error) {
	revision = first(revision, "master")
	l, err := m.page(ctx, kind, repo, revision, 1)
	if err != nil {
		return "", err
	}
	if l.LatestCommitter != nil && isHex(l.LatestCommitter.ID) {
		return l.LatestCommitter.ID, nil
	}
	return revision, nil
}

// msPage is how many files of a data set one request lists.
const msPage = 200

func (m *modelScope) page(ctx context.Context, kind Kind, repo, revision string, number int) (*msList, error) {
	q := url.Values{"Revision": {revision}, "Recursive": {"true"}, "Root": {""}}
	what := "ms://" + repo + "@" + revision
	address := fmt.Sprintf("%s/api/v1/models/%s/repo/files", m.s.base, repo)
	if kind == KindData {
		id, err := m.dataID(ctx, repo)
		if err != nil {
			return nil, err
		}
		address = fmt.Sprintf("%s/api/v1/datasets/%s/repo/tree", m.s.base, id)
		q.Set("PageNumber", fmt.Sprint(number))
		q.Set("PageSize", fmt.Sprint(msPage))
	}
	var l msList
	return &l, m.call(ctx, what, address+"?"+q.Encode(), &l)
}

// dataID is the number under which a data set's files are listed.
func (m *modelScope) dataID(ctx context.Context, repo string) (string, error) {
	var d struct {
		ID json.Number `json:"Id"`
	}
	if err := m.call(ctx, "ms://"+repo, m.s.base+"/api/v1/datasets/"+repo, &d); err != nil {
		return "", err
	}
	return url.PathEscape(first(d.ID.String(), repo)), nil
}

func (m *modelScope) list(ctx context.Context, kind Kind, repo, commit string) ([]entry, error) {
	var out []entry
	for number := 1; ; number++ {
		l, err := m.page(ctx, kind, repo, commit, number)
		if err != nil {
			return nil, err
		}
		for _, f := range l.Files {
			if f.Type != "tree" {
				out = append(out, entry{path: f.Path, size: f.Size, sha256: strings.ToLower(f.SHA256)})
			}
		}
		if kind == KindModel || len(l.Files) < msPage {
			return out, nil
		}
		if len(out) > maxEntries {
			return nil, schemas.Errorf(schemas.CodeInvalid, "ms://"+repo, "the repository has more than %d files", maxEntries)
		}
	}
}

func (m *modelScope) address(kind Kind, repo, commit, path string) string {
	q := url.Values{"Revision": {commit}, "FilePath": {path}}
	return fmt.Sprintf("%s/api/v1/%s/%s/repo?%s", m.s.base, kind, repo, q.Encode())
}
