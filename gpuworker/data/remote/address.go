package remote

import (
	"net/url"
	"path"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// Kind says what a repository of a hub holds.
type Kind string

// Kinds.
const (
	KindData  Kind = "datasets"
	KindModel Kind = "models"
)

// schemes are the beginnings of an address.
func schemes() []string { return []string{"https", "s3", "hf", "ms"} }

// IsAddress reports whether a text is an address of this package rather than a path. http:// and gs:// are addresses, too, which Parse
// refuses by name.
func IsAddress(s string) bool {
	scheme, _, ok := strings.Cut(s, "://")
	return ok && (scheme == "http" || scheme == "gs" || scheme == "gcs" || contains(schemes(), scheme))
}

// IsHub reports whether an address, or the origin of what was fetched, is a hub's.
func IsHub(s string) bool {
	return strings.HasPrefix(s, "hf://") || strings.HasPrefix(s, "ms://")
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// Address is a parsed address.
type Address struct {
	// Scheme is https, s3, hf or ms.
	Scheme string
	// URL is set for https.
	URL *url.URL
	// Repo is "owner/name" of a hub (a few old data sets of Hugging Face have no owner), or the bucket.
	Repo string
	// Path is the file, folder or pattern within; "" is everything.
	Path string
	// Revision is a branch, tag or commit of a hub; "" is the default branch.
	Revision string
}

// Parse reads an address: https://host/file, s3://bucket/key (or prefix/ or pattern), hf://[datasets/]owner/name[/path][@revision] and ms://
// in the same form; the revision may also stand behind the name. Errors are CodeInvalid.
func Parse(s string, kind Kind) (*Address, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	bad := func(format string, args ...any) error {
		return schemas.Errorf(schemas.CodeInvalid, s, format, args...)
	}
	switch scheme {
	case "https":
		u, err := url.Parse(s)
		if err != nil || u.Host == "" {
			return nil, schemas.Errorf(schemas.CodeInvalid, hideQuery(s), "is no address of a file")
		}
		if u.User != nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, u.Redacted(), "names and passwords do not belong into an address")
		}
		u.Fragment = ""
		return &Address{Scheme: scheme, URL: u, Path: path.Base(u.Path)}, nil
	case "s3":
		bucket, key, _ := strings.Cut(rest, "/")
		if bucket == "" {
			return nil, bad("names no bucket")
		}
		if err := checkPath(key); err != nil {
			return nil, bad("%v", err)
		}
		return &Address{Scheme: scheme, Repo: bucket, Path: key}, nil
	case "hf", "ms":
		return parseRepo(s, scheme, rest, kind)
	case "http":
		return nil, schemas.Errorf(schemas.CodeInvalid, hideQuery(s), "plain http is refused: anyone on the way could change the data").WithHint("use https://")
	case "gs", "gcs":
		return nil, schemas.Errorf(schemas.CodeUnsupported, s, "Google's storage is not read").WithHint("its S3 interface is: s3://..., AWS_ENDPOINT_URL=https://storage.googleapis.com")
	}
	return nil, bad("is no address; known are %s", strings.Join(schemes(), "://, ")+"://")
}

// hideQuery drops what may hold a signature.
func hideQuery(s string) string {
	before, _, _ := strings.Cut(s, "?")
	return before
}

func parseRepo(s, scheme, rest string, kind Kind) (*Address, error) {
	a := &Address{Scheme: scheme}
	if r, ok := strings.CutPrefix(rest, string(kind)+"/"); ok && strings.Contains(rest, "/") {
		rest = r
	}
	parts := strings.SplitN(strings.Trim(rest, "/"), "/", 3)
	at := len(parts) - 1
	for i := range min(2, len(parts)) {
		if strings.Contains(parts[i], "@") {
			at = i
			break
		}
	}
	if i := strings.LastIndexByte(parts[at], '@'); i >= 0 {
		rev, err := url.PathUnescape(parts[at][i+1:])
		if err != nil || rev == "" {
			return nil, schemas.Errorf(schemas.CodeInvalid, s, "names no revision behind @")
		}
		a.Revision, parts[at] = rev, parts[at][:i]
		if at == 0 && len(parts) > 1 { // a name without owner: the rest is the path
			parts = []string{"", parts[0], strings.Join(parts[1:], "/")}
		}
	}
	switch len(parts) {
	case 3:
		a.Repo, a.Path = strings.TrimPrefix(parts[0]+"/"+parts[1], "/"), parts[2]
	default:
		a.Repo = strings.Join(parts, "/")
	}
	if !repoName(a.Repo, scheme) {
		return nil, schemas.Errorf(schemas.CodeInvalid, s, "%q is no repository", a.Repo).WithHint("%s://owner/name, with /path and @revision as needed", scheme)
	}
	if err := checkPath(a.Path); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, s, "%v", err)
	}
	return a, nil
}

// RepoID reports whether a text has the form of a repository's name on a hub, owner/name.
func RepoID(s string) bool { return strings.Count(s, "/") == 1 && repoName(s, "ms") }

// repoName follows huggingface_hub's validate_repo_id: letters, digits, "-", "_" and ".", none of the latter at the ends.
func repoName(s, scheme string) bool {
	parts := strings.Split(s, "/")
	if len(parts) > 2 || len(parts) < 2 && scheme != "hf" || len(s) > 192 {
		return false
	}
	for _, p := range parts {
		const letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
		if p == "" || strings.Trim(p, letters) != "" {
			return false
		}
		if strings.ContainsAny(p[:1]+p[len(p)-1:], "-.") || strings.Contains(p, "..") || strings.Contains(p, "--") {
			return false
		}
	}
	return true
}

// String is the address with its revision behind the path.
func (a *Address) String() string {
	if a.URL != nil {
		u := *a.URL
		u.RawQuery = "" // may hold a signature
		return u.String()
	}
	s := a.Scheme + "://" + a.Repo
	if a.Path != "" {
		s += "/" + a.Path
	}
	if a.Revision != "" {
		s += "@" + a.Revision
	}
	return s
}
