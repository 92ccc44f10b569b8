package remote

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"

	"encoding/json"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
)

// Folder is what an address was found to be, on this machine.
type Folder struct {
	// Dir holds the files under their names. It belongs to the cache: read it, do not change it.
	Dir   string
	Files []File
	// Origin is the address with the revision that it named at the time: a commit of a hub.
	Origin string
}

// Fetcher fetches. It is safe for concurrent use, by several processes over one cache, too.
type Fetcher struct {
	cfg    Config
	cache  cache
	client *client
	hubs   map[string]hub
}

// New makes a fetcher. The configuration's problems are one CodeInvalid.
func New(cfg Config) (*Fetcher, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, "environment", "%v", err)
	}
	c := newClient(cfg)
	return &Fetcher{cfg: cfg, cache: cache{cfg.Dir}, client: c, hubs: map[string]hub{"hf": newHuggingFace(c), "ms": newModelScope(c)}}, nil
}

// Close drops idle connections.
func (f *Fetcher) Close() { f.client.close() }

// Default is the hub that names without a scheme are looked up on: hf or ms.
func (f *Fetcher) Default() string {
	if f.cfg.ModelScope {
		return "ms"
	}
	return "hf"
}

// DataQuery says which data are wanted.
type DataQuery struct {
	// Address is one of Parse.
	Address string
	// Subset, Split (default train) and Folder choose within a repository as LLaMA-Factory's subset, split and folder do. They are for
	// repositories without a path only.
	Subset, Split, Folder string
}

// Data fetches the files of a data set. Errors are ErrorInfo: CodeInvalid for what is asked, CodeNotFound, CodeAuth, CodeUnavailable,
// CodeVerify for a wrong checksum, CodeData for a repository without usable data.
func (f *Fetcher) Data(ctx context.Context, q DataQuery) (*Folder, error) {
	a, err := Parse(q.Address, KindData)
	if err != nil {
		return nil, err
	}
	if a.Scheme != "hf" && a.Scheme != "ms" || a.Path != "" {
		if q.Subset != "" || q.Folder != "" || q.Split != "" && q.Split != "train" {
			return nil, schemas.Errorf(schemas.CodeInvalid, a.String(), "subset, split and folder choose within a repository of a hub; this address already names files")
		}
	}
	switch a.Scheme {
	case "https":
		return f.https(ctx, a)
	case "s3":
		base := a.Path
		if i := strings.IndexAny(base, "*?["); i >= 0 {
			base = base[:i]
		}
		base = base[:strings.LastIndexByte(base, '/')+1]
		return f.s3(ctx, a, dataObjects(a, base))
	}
	return f.repository(ctx, a, KindData, func(ctx context.Context, r *repo) ([]entry, error) {
		if a.Path != "" {
			return r.below(a)
		}
		return f.splitEntries(ctx, a, r, choice{q.Subset, q.Split, q.Folder})
	})
}

// Model fetches a model folder of a hub or of S3: the files that keep selects by their names, told without a.Path. check sees all names
// before anything is fetched.
func (f *Fetcher) Model(ctx context.Context, address string, keep func(name string) bool, check func(names []string) error) (*Folder, error) {
	a, err := Parse(address, KindModel)
	if err != nil {
		return nil, err
	}
	pick := func(all []entry) ([]entry, error) {
		var names []string
		for _, e := range all {
			names = append(names, e.path)
		}
		if check != nil {
			if err := check(names); err != nil {
				return nil, err
			}
		}
		return oneCopy(slices.DeleteFunc(all, func(e entry) bool { return !keep(e.path) })), nil
	}
	switch a.Scheme {
	case "https":
		return nil, schemas.Errorf(schemas.CodeInvalid, a.String(), "a model is a folder of files, this is one file").WithHint("hf://owner/name, ms://owner/name or s3://bucket/folder")
	case "s3":
		if a.Path != "" && !strings.HasSuffix(a.Path, "/") {
			a.Path += "/"
		}
		return f.s3(ctx, a, pick)
	}
	return f.repository(ctx, a, KindModel, func(_ context.Context, r *repo) ([]entry, error) {
		all := slices.Clone(r.files)
		if a.Path != "" {
			dir := strings.TrimSuffix(a.Path, "/") + "/"
			all = slices.DeleteFunc(all, func(e entry) bool { return !strings.HasPrefix(e.path, dir) })
			for i := range all {
				all[i].path = strings.TrimPrefix(all[i].path, dir)
			}
			r.prefix = dir
		}
		return pick(all)
	})
}

// oneCopy leaves out weights that are there twice: where transformers' files are, those of other programs are not fetched.
func oneCopy(all []entry) []entry {
	ours := regexp.MustCompile(`^(model|pytorch_model)(-[0-9]+-of-[0-9]+)?\.safetensors$`)
	if !slices.ContainsFunc(all, func(e entry) bool { return ours.MatchString(e.path) }) {
		return all
	}
	return slices.DeleteFunc(all, func(e entry) bool {
		return strings.HasSuffix(e.path, ".safetensors") && !ours.MatchString(e.path) && e.path != "value_head.safetensors"
	})
}

// repo is a repository at a commit.
type repo struct {
	hub    hub
	kind   Kind
	name   string
	commit string
	files  []entry
	// prefix is put before names to find the file in the repository.
	prefix string
}

// repository lists a repository at the commit that its revision names, lets pick choose, and fetches.
func (f *Fetcher) repository(ctx context.Context, a *Address, kind Kind, pick func(context.Context, *repo) ([]entry, error)) (*Folder, error) {
	r, err := f.open(ctx, a, kind, a.Revision)
	if err != nil {
		return nil, err
	}
	entries, err := pick(ctx, r)
	if err != nil {
		return nil, err
	}
	pinned := *a
	pinned.Revision = r.commit
	return f.gather(ctx, pinned.String(), entries, func(e entry) *wanted { return f.repoFile(a.Scheme, r, e) })
}

// open resolves a revision and lists the files. What was listed is remembered, so that a commit is listed once and a hub that cannot be
// reached is no obstacle for what is in the cache.
func (f *Fetcher) open(ctx context.Context, a *Address, kind Kind, revision string) (*repo, error) {
	h := f.hubs[a.Scheme]
	r := &repo{hub: h, kind: kind, name: a.Repo}
	ref := keyOf("ref", h.server().base, string(kind), a.Repo, revision)
	var err error
	if f.cfg.Offline {
		err = schemas.Errorf(schemas.CodeUnavailable, a.String(), "no connection is made: HF_HUB_OFFLINE is set")
	} else {
		f.cfg.Say(fmt.Sprintf("looking up %s at %s", a, h.server().base)) // one that does not answer is tried for a while
		if r.commit, err = h.commit(ctx, kind, a.Repo, revision); err == nil {
			err = f.cache.remember(ref, known{Commit: r.commit})
		}
	}
	if schemas.IsCode(err, schemas.CodeUnavailable) {
		if k, ok := f.cache.recall(ref); ok && k.Commit != "" {
			if !f.cfg.Offline {
				f.cfg.Say(fmt.Sprintf("%v; going on with commit %s, which it was at the last time", err, k.Commit))
			}
			r.commit, err = k.Commit, nil
		} else if f.cfg.Offline {
			err = schemas.Errorf(schemas.CodeNotFound, a.String(), "is not in the cache, and HF_HUB_OFFLINE is set")
		}
	}
	if err != nil {
		return nil, err
	}
	return r, f.listing(ctx, a, r)
}

// listing fills the files of a commit, by the cache when it is a commit and not a branch.
func (f *Fetcher) listing(ctx context.Context, a *Address, r *repo) error {
	name := "known/" + keyOf("list", r.hub.server().base, string(r.kind), r.name, r.commit) + ".list.json"
	type stored struct {
		Path, SHA256, Git string
		Size              int64
	}
	var list []stored
	if isHex(r.commit) || f.cfg.Offline {
		if raw, err := readFile(f.cache.dir, name); err == nil && json.Unmarshal(raw, &list) == nil {
			for _, s := range list {
				r.files = append(r.files, entry{s.Path, s.Size, s.SHA256, s.Git})
			}
			return nil
		}
	}
	if f.cfg.Offline {
		return schemas.Errorf(schemas.CodeNotFound, a.String(), "is not in the cache, and HF_HUB_OFFLINE is set")
	}
	files, err := r.hub.list(ctx, r.kind, r.name, r.commit)
	if err != nil {
		return err
	}
	r.files = slices.DeleteFunc(files, func(e entry) bool { return checkPath(e.path) != nil || e.path == "" || e.size < 0 })
	for _, e := range r.files {
		list = append(list, stored{e.path, e.sha256, e.git, e.size})
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return fmt.Errorf("cannot encode: %w", err)
	}
	return f.cache.write(name, raw)
}

// repoFile is one file of a repository.
func (f *Fetcher) repoFile(scheme string, r *repo, e entry) *wanted {
	full := r.prefix + e.path
	place := scheme + "://" + r.name + "/" + full
	w := wanted{key: strings.Join([]string{r.hub.server().base, string(r.kind), r.name, r.commit, full, e.sha256, e.git}, "\x00"), place: place, size: e.size, sha256: e.sha256, git: e.git}
	return f.httpFile(r.hub.server(), w, r.hub.address(r.kind, r.name, r.commit, full), "")
}

// below finds what a path within a repository means: a file, a pattern, or all data files of a folder.
func (r *repo) below(a *Address) ([]entry, error) {
	clean := strings.TrimSuffix(a.Path, "/")
	for _, e := range r.files {
		if e.path == clean {
			return []entry{e}, nil
		}
	}
	b := *a
	if !isPattern(clean) {
		b.Path = clean + "/**"
	}
	var names []string
	for _, e := range r.files {
		names = append(names, e.path)
	}
	found, err := choose(names, b.Path)
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, a.String(), "%v", err)
	}
	if !isPattern(clean) {
		found = slices.DeleteFunc(found, func(n string) bool { return source.FormatOf(n) == "" })
	}
	if len(found) == 0 {
		e := schemas.Errorf(schemas.CodeNotFound, a.String(), "the repository has no such file or folder")
		if near := schemas.Nearest(clean, names); near != "" {
			return nil, e.WithHint("did you mean %q?", near)
		}
		return nil, e
	}
	return r.named(found), nil
}

// named are the entries of names, in their order.
func (r *repo) named(names []string) []entry {
	at := map[string]entry{}
	for _, e := range r.files {
		at[e.path] = e
	}
	out := make([]entry, len(names))
	for i, n := range names {
		out[i] = at[n]
	}
	return out
}

// maxReadme bounds the README whose head names the subsets.
const maxReadme = 16 << 20

// splitEntries finds the files of a split. A repository whose data come out of a script has them as Parquet on a branch of the hub's own.
func (f *Fetcher) splitEntries(ctx context.Context, a *Address, r *repo, want choice) ([]entry, error) {
	place := a.String()
	var names []string
	for _, e := range r.files {
		names = append(names, e.path)
	}
	script := slices.Contains(names, path.Base(r.name)+".py")
	var configs []dataConfig
	if i := slices.Index(names, "README.md"); i >= 0 && !script {
		if r.files[i].size > maxReadme {
			return nil, schemas.Errorf(schemas.CodeData, place+"/README.md", "has %d bytes, the limit is %d", r.files[i].size, maxReadme)
		}
		k, err := f.fetch(ctx, f.repoFile(a.Scheme, r, r.files[i]))
		if err != nil {
			return nil, err
		}
		raw, err := readFile(f.cache.dir, "blobs/"+k.SHA256)
		if err != nil {
			return nil, f.cache.failed(err)
		}
		if configs, err = readConfigs(place+"/README.md", raw); err != nil {
			return nil, err
		}
	}
	if !script {
		found, err := splitFiles(place, names, configs, want)
		if err == nil {
			return r.named(found), nil
		}
		if !schemas.IsCode(err, schemas.CodeData) || a.Scheme != "hf" || a.Revision != "" {
			return nil, err
		}
		if entries, perr := f.converted(ctx, a, r, want); perr == nil {
			return entries, nil
		}
		return nil, err
	}
	if a.Scheme != "hf" || a.Revision != "" {
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "its data come out of a script (%s.py), which is never run here", path.Base(r.name))
	}
	entries, err := f.converted(ctx, a, r, want)
	if schemas.IsCode(err, schemas.CodeNotFound) {
		return nil, schemas.Errorf(schemas.CodeUnsupported, place, "its data come out of a script (%s.py), which is never run here, and the hub has no Parquet files of them", path.Base(r.name))
	}
	return entries, err
}

// converted finds a split on refs/convert/parquet: <subset>/<split>/0000.parquet, in the past <subset>/<name>-<split>.parquet.
func (f *Fetcher) converted(ctx context.Context, a *Address, r *repo, want choice) ([]entry, error) {
	p, err := f.open(ctx, a, r.kind, "refs/convert/parquet")
	if err != nil {
		return nil, err
	}
	place := a.String() + " (refs/convert/parquet)"
	re := regexp.MustCompile(`^([^/]+)/(?:([^/]+)/[0-9]+\.parquet|(?:[^/]*-)?([a-z0-9_]+)(?:-[0-9]{5}-of-[0-9]{5})?\.parquet)$`)
	var configs []dataConfig
	var names []string
	for _, e := range p.files {
		m := re.FindStringSubmatch(e.path)
		if m == nil {
			continue
		}
		names = append(names, e.path)
		split := strings.TrimPrefix(first(m[2], m[3]), "partial-")
		i := slices.IndexFunc(configs, func(c dataConfig) bool { return c.name == m[1] })
		if i < 0 {
			configs = append(configs, dataConfig{name: m[1]})
			i = len(configs) - 1
		}
		c := &configs[i]
		k := slices.IndexFunc(c.splits, func(s dataSplit) bool { return s.name == split })
		if k < 0 {
			c.splits = append(c.splits, dataSplit{name: split})
			k = len(c.splits) - 1
		}
		c.splits[k].patterns = append(c.splits[k].patterns, e.path)
	}
	if len(configs) == 0 {
		return nil, schemas.Errorf(schemas.CodeNotFound, place, "there are no Parquet files")
	}
	want.folder = ""
	found, err := splitFiles(place, names, configs, want)
	if err != nil {
		return nil, err
	}
	*r = *p
	return r.named(found), nil
}

// gather fetches files and shows them as a folder.
func (f *Fetcher) gather(ctx context.Context, origin string, entries []entry, file func(entry) *wanted) (*Folder, error) {
	if len(entries) == 0 {
		return nil, schemas.Errorf(schemas.CodeNotFound, origin, "there is no file that can be used")
	}
	if len(entries) > f.cfg.MaxFiles {
		return nil, schemas.Errorf(schemas.CodeInvalid, origin, "has %d files, the limit is %d", len(entries), f.cfg.MaxFiles)
	}
	unlock, err := f.cache.lock(syscall.LOCK_SH)
	if err != nil {
		return nil, err
	}
	out, err := f.gatherLocked(ctx, origin, entries, file)
	unlock()
	if err == nil {
		f.bound()
	}
	return out, err
}

func (f *Fetcher) gatherLocked(ctx context.Context, origin string, entries []entry, file func(entry) *wanted) (*Folder, error) {
	out := &Folder{Origin: origin}
	var total int64
	for _, e := range entries {
		total += max(0, e.size)
	}
	said := false
	id := []string{"view"}
	for _, e := range entries {
		w := file(e)
		if !said && !f.ready(w) {
			f.cfg.Say(fmt.Sprintf("fetching %s: %d file(s), %.1f MB", origin, len(entries), float64(total)/1e6))
			said = true
		}
		k, err := f.fetch(ctx, w)
		if err != nil {
			return nil, err
		}
		out.Files = append(out.Files, File{Path: e.path, SHA256: k.SHA256, Bytes: k.Bytes})
		id = append(id, e.path, k.SHA256)
	}
	var err error
	if out.Dir, err = f.cache.view(keyOf(id...), out.Files); err == nil {
		err = f.cache.note(keyOf(id...), origin)
	}
	return out, err
}

// ready reports whether a file is in the cache.
func (f *Fetcher) ready(w *wanted) bool {
	if w.sha256 != "" && f.cache.has(w.sha256, w.size) {
		return true
	}
	k, ok := f.cache.recall(keyOf(w.key))
	return ok && f.cache.has(k.SHA256, k.Bytes)
}

// https fetches one file. Its ETag or time of change says whether it is still the one in the cache; a server that tells neither is asked for
// everything every time.
func (f *Fetcher) https(ctx context.Context, a *Address) (*Folder, error) {
	place, host := a.String(), a.URL.Host
	if !f.cfg.allowed(host) {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "the host %s is not allowed", host).
			WithHint("the operator lists hosts in TUNEFLEET_HTTPS_HOSTS, with commas between them; now: %s", first(strings.Join(f.cfg.HTTPSHosts, ", "), "none"))
	}
	if f.cfg.Offline {
		return nil, schemas.Errorf(schemas.CodeUnavailable, place, "is not fetched: HF_HUB_OFFLINE is set")
	}
	s := &site{name: host, hosts: f.cfg.allowed}
	var seen http.Header
	size := int64(-1)
	err := f.client.retry(ctx, func() (bool, error) {
		ask, cancel := context.WithTimeout(ctx, f.cfg.Stall)
		defer cancel()
		resp, err := f.client.get(ask, s, a.URL.String(), nil)
		if err != nil {
			if ctx.Err() == nil && errors.Is(err, context.DeadlineExceeded) {
				err = &retryable{err: schemas.Errorf(schemas.CodeUnavailable, place, "%s does not answer", host)}
			}
			return false, err
		}
		defer resp.Body.Close()
		seen, size = resp.Header, resp.ContentLength
		return false, status(s, place, resp)
	})
	if err != nil {
		return nil, err
	}
	version := first(seen.Get("ETag"), seen.Get("Last-Modified"))
	etag := seen.Get("ETag")
	if strings.HasPrefix(etag, "W/") {
		etag = ""
	}
	key := strings.Join([]string{"https", a.URL.String(), version, fmt.Sprint(size)}, "\x00")
	if version == "" {
		key += "\x00" + time.Now().String()
	}
	name := a.Path
	if checkPath(name) != nil || name == "" || name == "." || name == "/" {
		return nil, schemas.Errorf(schemas.CodeInvalid, place, "names no file")
	}
	return f.gather(ctx, place, []entry{{path: name, size: size}}, func(entry) *wanted {
		return f.httpFile(s, wanted{key: key, place: place, size: size}, a.URL.String(), first(etag, seen.Get("Last-Modified")))
	})
}
