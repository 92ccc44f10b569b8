package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store/s3store"
)

// bucket opens the S3 server. Credentials come from the variables, else from AWS's shared file; without any, requests are anonymous. Requests
// are signed by the server's clock where this machine's is wrong.
func (f *Fetcher) bucket() (*minio.Client, error) {
	c := f.cfg.S3
	host, secure := "s3.amazonaws.com", true
	if c.Endpoint != "" {
		u, err := url.Parse(c.Endpoint)
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, "AWS_ENDPOINT_URL", "is no address")
		}
		host, secure = u.Host, u.Scheme == "https"
	}
	creds := credentials.NewStaticV4(c.AccessKey, string(c.SecretKey), string(c.Token))
	if c.AccessKey == "" {
		creds = credentials.NewChainCredentials([]credentials.Provider{&credentials.FileAWSCredentials{}, &credentials.Static{}})
	}
	m, err := minio.New(host, &minio.Options{Creds: creds, Secure: secure, Region: c.Region, Transport: s3store.Dated(f.client.open, creds), MaxRetries: 1})
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, "AWS_ENDPOINT_URL", "cannot be used: %v", err)
	}
	return m, nil
}

// s3 fetches an object, everything below a prefix, or what a pattern finds; keep selects by the name below the prefix.
func (f *Fetcher) s3(ctx context.Context, a *Address, keep func([]entry) ([]entry, error)) (*Folder, error) {
	m, err := f.bucket()
	if err != nil {
		return nil, err
	}
	base, list, err := f.s3List(ctx, m, a)
	if err != nil {
		return nil, err
	}
	var entries []entry
	for _, o := range list {
		entries = append(entries, entry{path: strings.TrimPrefix(o.Key, base), size: o.Size})
	}
	if entries, err = keep(entries); err != nil {
		return nil, err
	}
	byKey := map[string]minio.ObjectInfo{}
	for _, o := range list {
		byKey[strings.TrimPrefix(o.Key, base)] = o
	}
	return f.gather(ctx, a.String(), entries, func(e entry) *wanted { return f.s3File(m, a.Repo, byKey[e.path]) })
}

// s3List lists the objects that an address may mean and the prefix that their names are told without.
func (f *Fetcher) s3List(ctx context.Context, m *minio.Client, a *Address) (base string, list []minio.ObjectInfo, err error) {
	prefix := a.Path
	if isPattern(prefix) {
		prefix = prefix[:strings.IndexAny(prefix, "*?[")]
	} else if prefix != "" && !strings.HasSuffix(prefix, "/") {
		var one minio.ObjectInfo
		err := f.client.retry(ctx, func() (bool, error) {
			var err error
			one, err = m.StatObject(ctx, a.Repo, prefix, minio.StatObjectOptions{})
			return false, s3Error(a, err)
		})
		if err == nil {
			return strings.TrimSuffix(prefix, path.Base(prefix)), []minio.ObjectInfo{one}, nil
		}
		if !schemas.IsCode(err, schemas.CodeNotFound) {
			return "", nil, err
		}
		prefix += "/"
	}
	base = prefix[:strings.LastIndexByte(prefix, '/')+1]
	err = f.client.retry(ctx, func() (bool, error) {
		list = nil
		for o := range m.ListObjects(ctx, a.Repo, minio.ListObjectsOptions{Prefix: prefix, Recursive: true}) {
			if o.Err != nil {
				return false, s3Error(a, o.Err)
			}
			if list = append(list, o); len(list) > maxEntries {
				return false, schemas.Errorf(schemas.CodeInvalid, a.String(), "more than %d objects", maxEntries)
			}
		}
		return true, nil
	})
	list = slices.DeleteFunc(list, func(o minio.ObjectInfo) bool { return strings.HasSuffix(o.Key, "/") || checkPath(o.Key) != nil })
	if err == nil && len(list) == 0 {
		err = schemas.Errorf(schemas.CodeNotFound, a.String(), "there is no such object or prefix")
	}
	return base, list, err
}

// s3File is one object, fetched only as it is in the list.
func (f *Fetcher) s3File(m *minio.Client, bucket string, o minio.ObjectInfo) *wanted {
	place := "s3://" + bucket + "/" + o.Key
	w := &wanted{key: place + "\x00" + o.ETag + "\x00" + o.LastModified.UTC().String(), place: place, size: o.Size}
	if regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(o.ETag) && o.Metadata.Get("X-Amz-Server-Side-Encryption") == "" {
		w.md5 = o.ETag
	}
	a := &Address{Scheme: "s3", Repo: bucket, Path: o.Key}
	w.open = func(ctx context.Context, offset int64) (io.ReadCloser, int64, int64, error) {
		opt := minio.GetObjectOptions{}
		if err := opt.SetMatchETag(o.ETag); err != nil {
			return nil, 0, 0, fmt.Errorf("cannot read %s: %w", place, err)
		}
		if offset > 0 {
			if err := opt.SetRange(offset, 0); err != nil {
				return nil, 0, 0, fmt.Errorf("cannot read %s: %w", place, err)
			}
		}
		core := minio.Core{Client: m}
		body, _, header, err := core.GetObject(ctx, bucket, o.Key, opt)
		if err != nil {
			return nil, 0, 0, s3Error(a, err)
		}
		if header.Get("X-Amz-Server-Side-Encryption") == "aws:kms" || header.Get("X-Amz-Server-Side-Encryption-Customer-Algorithm") != "" {
			w.md5 = "" // such an ETag is no MD5
		}
		if offset > 0 && header.Get("Content-Range") == "" {
			offset = 0
		}
		return body, offset, o.Size, nil
	}
	return w
}

// s3Error gives an error of the client its code.
func s3Error(a *Address, err error) error {
	if err == nil || errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	r := minio.ToErrorResponse(err)
	switch {
	case r.StatusCode == http.StatusNotFound || r.Code == "NoSuchKey" || r.Code == "NoSuchBucket":
		return schemas.Errorf(schemas.CodeNotFound, a.String(), "there is no such object")
	case r.StatusCode == http.StatusForbidden || r.StatusCode == http.StatusUnauthorized || r.Code == "AccessDenied":
		return schemas.Errorf(schemas.CodeAuth, a.String(), "the server refuses access: %s", clip(r.Code)).WithHint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and AWS_ENDPOINT_URL when it is not AWS")
	case r.StatusCode == http.StatusPreconditionFailed:
		return schemas.Errorf(schemas.CodeConflict, a.String(), "the object changed while it was fetched").WithHint("try again")
	case r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != http.StatusTooManyRequests && r.StatusCode != http.StatusRequestTimeout:
		return schemas.Errorf(schemas.CodeInvalid, a.String(), "the server answers %d %s", r.StatusCode, clip(r.Code))
	}
	return &retryable{err: schemas.Errorf(schemas.CodeUnavailable, a.String(), "the server does not answer: %v", err)}
}

// dataObjects selects what is data below an address that is no hub's: the file itself, what the pattern finds, or everything with a known
// ending.
func dataObjects(a *Address, base string) func([]entry) ([]entry, error) {
	return func(all []entry) ([]entry, error) {
		names := make([]string, len(all))
		for i, e := range all {
			names[i] = e.path
		}
		if isPattern(a.Path) {
			var err error
			if names, err = choose(names, strings.TrimPrefix(a.Path, base)); err != nil {
				return nil, schemas.Errorf(schemas.CodeInvalid, a.String(), "%v", err)
			}
		} else if len(names) != 1 || a.Path == "" || strings.HasSuffix(a.Path, "/") || path.Base(a.Path) != names[0] {
			names = slices.DeleteFunc(names, func(n string) bool {
				return source.FormatOf(n) == "" || path.Base(n) == source.InfoName || special(n) > 0
			})
		}
		slices.Sort(names)
		out := slices.DeleteFunc(slices.Clone(all), func(e entry) bool { _, ok := slices.BinarySearch(names, e.path); return !ok })
		slices.SortFunc(out, func(x, y entry) int { return strings.Compare(x.path, y.path) })
		if len(out) == 0 {
			return nil, schemas.Errorf(schemas.CodeNotFound, a.String(), "there is no data file").WithHint("known endings: .%s, each also with .gz or .zst", strings.Join(source.Formats(), ", ."))
		}
		return out, nil
	}
}
