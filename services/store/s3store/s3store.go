// Package s3store is the S3 adapter of the object store (minio-go): single PUTs with If-Match and If-None-Match for small objects, streamed
// uploads for parts, retries of what is safe to repeat, and errors mapped to the port's.
package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Config says which bucket of which server.
type Config struct {
	// Endpoint is host:port.
	Endpoint string `json:"endpoint"`
	Bucket   string `json:"bucket"`
	Region   string `json:"region"`
	// Secure uses TLS.
	Secure    bool             `json:"secure"`
	AccessKey string           `json:"-"`
	SecretKey telemetry.Secret `json:"-"`
	// Attempts is how often an idempotent request is tried (default 6), Timeout how long one attempt at a small object may take (default 15 s).
	Attempts int           `json:"attempts"`
	Timeout  time.Duration `json:"timeout"`
}

// WithDefaults fills region, bucket, attempts and timeout.
func (c Config) WithDefaults() Config {
	if c.Region == "" {
		c.Region = "us-east-1"
	}
	if c.Bucket == "" {
		c.Bucket = "tunefleet"
	}
	if c.Attempts == 0 {
		c.Attempts = 6
	}
	if c.Timeout == 0 {
		c.Timeout = 15 * time.Second
	}
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Endpoint == "" {
		errs = append(errs, errors.New("s3 endpoint is empty"))
	}
	if strings.Contains(c.Endpoint, "://") {
		errs = append(errs, fmt.Errorf("s3 endpoint %q must be host:port without a scheme", c.Endpoint))
	}
	if (c.AccessKey == "") != (c.SecretKey == "") {
		errs = append(errs, errors.New("s3 access key and secret key must be given together"))
	}
	if c.Attempts < 1 {
		errs = append(errs, fmt.Errorf("s3 attempts is %d, must be positive", c.Attempts))
	}
	return errors.Join(errs...)
}

// Store implements store.Objects.
type Store struct {
	c     *minio.Client
	cfg   Config
	tr    *http.Transport
	clock *clock
}

var (
	_ store.Objects = (*Store)(nil)
	_ store.Clock   = (*Store)(nil)
)

// New makes a client; it does not connect yet. Without keys it uses the environment's and the machine's credentials.
func New(cfg Config) (*Store, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the object store's configuration: %w", err)
	}
	creds := credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey.Reveal(), "")
	if cfg.AccessKey == "" {
		creds = credentials.NewChainCredentials([]credentials.Provider{&credentials.EnvAWS{}, &credentials.EnvMinio{}, &credentials.IAM{}})
	}
	tr, err := minio.DefaultTransport(cfg.Secure)
	if err != nil {
		return nil, fmt.Errorf("cannot make the object store's transport: %w", err)
	}
	tr.MaxIdleConnsPerHost = 64
	// MaxRetries 1: minio-go would repeat a conditional PUT by itself, and the repetition of one that had succeeded looks like a lost race.
	clock := newClock()
	c, err := minio.New(cfg.Endpoint, &minio.Options{Creds: creds, Secure: cfg.Secure, Region: cfg.Region, MaxRetries: 1,
		Transport: &dated{next: tr, clock: clock, creds: creds}})
	if err != nil {
		return nil, fmt.Errorf("cannot make the object store's client: %w", err)
	}
	return &Store{c: c, cfg: cfg, tr: tr, clock: clock}, nil
}

// Now implements store.Clock: the time of the server, by the Date headers of its responses, as far as the machine's clock is off.
func (s *Store) Now() time.Time { return s.clock.now() }

// Close drops idle connections.
func (s *Store) Close() { s.tr.CloseIdleConnections() }

// EnsureBucket creates the bucket when it does not exist, trying as often as Config.Attempts says.
func (s *Store) EnsureBucket(ctx context.Context) error {
	return s.retry(ctx, "create bucket", s.cfg.Bucket, func(ctx context.Context) error {
		ok, err := s.c.BucketExists(ctx, s.cfg.Bucket)
		if err != nil || ok {
			return err
		}
		err = s.c.MakeBucket(ctx, s.cfg.Bucket, minio.MakeBucketOptions{Region: s.cfg.Region})
		if code := minio.ToErrorResponse(err).Code; code == "BucketAlreadyOwnedByYou" || code == "BucketAlreadyExists" {
			return nil
		}
		return err
	})
}

// Get implements store.Objects.
func (s *Store) Get(ctx context.Context, key string, limit int64) ([]byte, store.Info, error) {
	var out []byte
	var info store.Info
	err := s.retry(ctx, "get", key, func(ctx context.Context) error {
		core := minio.Core{Client: s.c}
		body, oi, _, err := core.GetObject(ctx, s.cfg.Bucket, key, minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		defer func() { _ = body.Close() }()
		info = infoOf(oi)
		info.Key = key
		if oi.Size > limit {
			return fmt.Errorf("%d bytes, limit %d: %w", oi.Size, limit, store.ErrTooLarge)
		}
		out, err = io.ReadAll(io.LimitReader(body, limit+1))
		if err == nil && int64(len(out)) != oi.Size {
			return io.ErrUnexpectedEOF
		}
		return err
	})
	return out, info, err
}

// Put implements store.Objects. A conditional PUT is sent once: whether a failed one took effect is for the caller to find out.
func (s *Store) Put(ctx context.Context, key string, data []byte, c store.Condition) (string, error) {
	conditional := c.Absent || c.ETag != ""
	var etag string
	put := func(ctx context.Context) error {
		opts := s.putOptions()
		opts.DisableMultipart = true
		switch {
		case c.Absent:
			opts.SetMatchETagExcept("*")
		case c.ETag != "":
			opts.SetMatchETag(c.ETag)
		}
		info, err := s.c.PutObject(ctx, s.cfg.Bucket, key, bytes.NewReader(data), int64(len(data)), opts)
		etag = info.ETag
		return err
	}
	if !conditional {
		return etag2(&etag, s.retry(ctx, "put", key, put))
	}
	actx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	learned := s.learning()
	err := put(actx)
	if learned(err) { // refused before anything was done
		err = put(actx)
	}
	if err == nil {
		return etag, nil
	}
	return "", fmt.Errorf("cannot put %s: %w", key, conditionalError(s.named(err)))
}

func etag2(etag *string, err error) (string, error) { return *etag, err }

// conditionalError sorts the failures of a conditional PUT: refused for certain, or unknown.
func conditionalError(err error) error {
	r := minio.ToErrorResponse(err)
	switch {
	case r.StatusCode == http.StatusPreconditionFailed:
		return store.ErrPrecondition
	case r.StatusCode == http.StatusNotFound && r.Code == "NoSuchKey":
		return store.ErrPrecondition
	case garbled(err):
		return fmt.Errorf("%w: %w", store.ErrAmbiguous, err)
	case r.StatusCode >= 400 && r.StatusCode < 500 && r.StatusCode != http.StatusConflict && r.StatusCode != http.StatusRequestTimeout &&
		r.StatusCode != http.StatusTooManyRequests:
		return mapError(err)
	case r.StatusCode == http.StatusInsufficientStorage:
		return mapError(err)
	case isDialError(err):
		return fmt.Errorf("%w: %w", store.ErrUnavailable, err)
	}
	return fmt.Errorf("%w: %w", store.ErrAmbiguous, err)
}

// Upload implements store.Objects. A reader that can seek is sent again after a failure.
func (s *Store) Upload(ctx context.Context, key string, r io.Reader, size int64) error {
	seeker, canSeek := r.(io.Seeker)
	var start int64
	if canSeek {
		at, err := seeker.Seek(0, io.SeekCurrent)
		if err != nil {
			return fmt.Errorf("cannot upload %s: %w", key, err)
		}
		start = at
	}
	for attempt := 1; ; attempt++ {
		learned := s.learning()
		_, err := s.c.PutObject(ctx, s.cfg.Bucket, key, r, size, s.putOptions())
		if err == nil {
			return nil
		}
		if !canSeek || attempt >= s.cfg.Attempts || !learned(err) && (!transient(err) || !pause(ctx, attempt)) {
			return fmt.Errorf("cannot upload %s: %w", key, mapError(s.named(err)))
		}
		if _, err := seeker.Seek(start, io.SeekStart); err != nil {
			return fmt.Errorf("cannot upload %s again: %w", key, err)
		}
	}
}

// Open implements store.Objects.
func (s *Store) Open(ctx context.Context, key string, from, to int64) (io.ReadCloser, error) {
	opts := minio.GetObjectOptions{}
	if to == from {
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	if from > 0 || to > 0 {
		end := to - 1
		if to < 0 {
			end = 0 // minio-go reads (from, 0) as "to the end"
		}
		if err := opts.SetRange(from, end); err != nil {
			return nil, fmt.Errorf("cannot open %s: %w", key, err)
		}
	}
	var body io.ReadCloser
	err := s.retryNoTimeout(ctx, "open", key, func(ctx context.Context) error {
		var err error
		body, _, _, err = minio.Core{Client: s.c}.GetObject(ctx, s.cfg.Bucket, key, opts)
		return err
	})
	if err != nil {
		return nil, err
	}
	return body, nil
}

// Stat implements store.Objects.
func (s *Store) Stat(ctx context.Context, key string) (store.Info, error) {
	var info store.Info
	err := s.retry(ctx, "stat", key, func(ctx context.Context) error {
		oi, err := s.c.StatObject(ctx, s.cfg.Bucket, key, minio.StatObjectOptions{})
		info = infoOf(oi)
		info.Key = key
		return err
	})
	return info, err
}

// List implements store.Objects. A page that fails is asked for again, from the last key on.
func (s *Store) List(ctx context.Context, prefix string) iter.Seq2[store.Info, error] {
	return func(yield func(store.Info, error) bool) {
		last := ""
		for attempt := 1; ; attempt++ {
			learned := s.learning()
			more, err := s.listFrom(ctx, prefix, &last, yield)
			if err == nil || !more {
				return
			}
			if attempt >= s.cfg.Attempts || !learned(err) && (!transient(err) || !pause(ctx, attempt)) {
				yield(store.Info{}, fmt.Errorf("cannot list %s: %w", prefix, mapError(s.named(err))))
				return
			}
		}
	}
}

// listFrom yields what follows *last. more is false when the caller has had enough.
func (s *Store) listFrom(ctx context.Context, prefix string, last *string, yield func(store.Info, error) bool) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for oi := range s.c.ListObjectsIter(ctx, s.cfg.Bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, StartAfter: *last}) {
		if oi.Err != nil {
			return true, oi.Err
		}
		*last = oi.Key
		if !yield(infoOf(oi), nil) {
			return false, nil
		}
	}
	return true, nil
}

// Delete implements store.Objects.
func (s *Store) Delete(ctx context.Context, key string) error {
	err := s.retry(ctx, "delete", key, func(ctx context.Context) error {
		return s.c.RemoveObject(ctx, s.cfg.Bucket, key, minio.RemoveObjectOptions{})
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

func infoOf(oi minio.ObjectInfo) store.Info {
	return store.Info{Key: oi.Key, Bytes: oi.Size, ETag: strings.Trim(oi.ETag, `"`), Modified: oi.LastModified}
}

// retry repeats an idempotent request while its failure may pass.
func (s *Store) retry(ctx context.Context, verb, key string, f func(context.Context) error) error {
	return s.retryNoTimeout(ctx, verb, key, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
		defer cancel()
		return f(ctx)
	})
}

func (s *Store) retryNoTimeout(ctx context.Context, verb, key string, f func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		learned := s.learning()
		err := f(ctx)
		if err == nil {
			return nil
		}
		if attempt >= s.cfg.Attempts || !learned(err) && (!transient(err) || !pause(ctx, attempt)) {
			return fmt.Errorf("cannot %s %s: %w", verb, key, mapError(s.named(err)))
		}
	}
}

// pause waits before the next attempt (100 ms doubling to 3 s, with full jitter); false when ctx ended.
func pause(ctx context.Context, attempt int) bool {
	d := min(3*time.Second, 100*time.Millisecond<<min(attempt-1, 6))
	t := time.NewTimer(d/2 + rand.N(d/2))
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// putOptions are those of an object's content. Where requests have to be signed anew by the store's clock the content cannot be signed with
// them in pieces; an MD5 guards it then.
func (s *Store) putOptions() minio.PutObjectOptions {
	off := beyond(s.clock.offset())
	return minio.PutObjectOptions{ContentType: "application/octet-stream", DisableContentSha256: off, SendContentMd5: off}
}

// learning notes what is known of the store's clock before a request; what it returns tells whether the request was refused for its date, and
// the refusal told a better one: then the same request succeeds at once. (A HEAD request is refused without a reason.)
func (s *Store) learning() func(error) bool {
	before := s.clock.offset()
	return func(err error) bool {
		return err != nil && minio.ToErrorResponse(err).StatusCode == http.StatusForbidden && beyond(s.clock.offset()-before)
	}
}

// named says that it is the clock where a request was refused for its date.
func (s *Store) named(err error) error {
	if minio.ToErrorResponse(err).Code != minio.RequestTimeTooSkewed {
		return err
	}
	return fmt.Errorf("the clock of this machine is %s off the store's: %w", (-s.clock.offset()).Round(time.Second), err)
}
