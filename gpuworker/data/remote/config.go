package remote

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Config says where things are and how much may be fetched.
type Config struct {
	// Dir is the cache (default: tunefleet/remote in the user's cache folder).
	Dir string
	// CacheBytes bounds the cache: after a fetch, entries that were used longest ago make room (default 256 GiB; below 0: no bound).
	CacheBytes int64
	// cacheText is what could not be read as CacheBytes.
	cacheText string
	// HF and MS are the hubs' addresses.
	HF, MS string
	// HFToken and MSToken are sent to these hubs and to nobody else.
	HFToken, MSToken telemetry.Secret
	// ModelScope says that names without a scheme are looked up on ModelScope.
	ModelScope bool
	// Offline uses what the cache has and connects to nothing.
	Offline bool
	// HTTPSHosts are the hosts that https:// may name: exact names (with the port when it is not 443), or *.domain.
	HTTPSHosts []string
	// S3 is where s3:// leads.
	S3 S3Config
	// MaxBytes bounds one file (default 1 TiB), MaxFiles the files of one address (default 10,000).
	MaxBytes int64
	MaxFiles int
	// Timeout bounds one file in all (default 24 h), Stall the time without a byte (default 60 s).
	Timeout, Stall time.Duration
	// Attempts is how often a request is tried without any progress (default 5), Backoff the first pause (default 1 s, doubling).
	Attempts int
	Backoff  time.Duration
	// Say, when set, is told what is being fetched.
	Say func(string)
}

// S3Config is the S3 server by the variables that AWS's tools read.
type S3Config struct {
	// Endpoint is a URL; "" is AWS.
	Endpoint, Region string
	AccessKey        string
	SecretKey, Token telemetry.Secret
}

// FromEnv reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE, MODELSCOPE_DOMAIN, MODELSCOPE_API_TOKEN, USE_MODELSCOPE_HUB, AWS_* and
// TUNEFLEET_HTTPS_HOSTS, TUNEFLEET_REMOTE_CACHE, TUNEFLEET_REMOTE_CACHE_BYTES ("none": no bound).
func FromEnv(get func(string) string) Config {
	c := Config{Dir: get("TUNEFLEET_REMOTE_CACHE"), HF: get("HF_ENDPOINT"), MS: get("MODELSCOPE_DOMAIN"), ModelScope: truth(get("USE_MODELSCOPE_HUB")),
		HFToken: telemetry.Secret(first(get("HF_TOKEN"), get("HUGGING_FACE_HUB_TOKEN"))), MSToken: telemetry.Secret(first(get("MODELSCOPE_API_TOKEN"), get("MODELSCOPE_SDK_TOKEN"))),
		Offline: truth(get("HF_HUB_OFFLINE")),
		S3: S3Config{Endpoint: first(get("AWS_ENDPOINT_URL_S3"), get("AWS_ENDPOINT_URL")), Region: first(get("AWS_REGION"), get("AWS_DEFAULT_REGION")),
			AccessKey: get("AWS_ACCESS_KEY_ID"), SecretKey: telemetry.Secret(get("AWS_SECRET_ACCESS_KEY")), Token: telemetry.Secret(get("AWS_SESSION_TOKEN"))}}
	switch text := get("TUNEFLEET_REMOTE_CACHE_BYTES"); text {
	case "":
	case "none":
		c.CacheBytes = -1
	default:
		n, err := strconv.ParseInt(text, 10, 64)
		if c.CacheBytes = n; err != nil || n <= 0 {
			c.cacheText = text
		}
	}
	for _, h := range strings.FieldsFunc(get("TUNEFLEET_HTTPS_HOSTS"), func(r rune) bool { return r == ',' || r == ' ' }) {
		c.HTTPSHosts = append(c.HTTPSHosts, strings.ToLower(h))
	}
	if c.MS != "" && !strings.Contains(c.MS, "://") {
		c.MS = "https://" + c.MS
	}
	return c
}

func first(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

func truth(s string) bool {
	switch strings.ToLower(s) {
	case "1", "true", "yes", "y", "on":
		return true
	}
	return false
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	if c.Dir == "" {
		if d, err := os.UserCacheDir(); err == nil {
			c.Dir = filepath.Join(d, "tunefleet", "remote")
		}
	}
	c.HF, c.MS = strings.TrimRight(first(c.HF, "https://huggingface.co"), "/"), strings.TrimRight(first(c.MS, "https://www.modelscope.cn"), "/")
	if c.S3.Region == "" {
		c.S3.Region = "us-east-1"
	}
	if c.CacheBytes == 0 {
		c.CacheBytes = 256 << 30
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 1 << 40
	}
	if c.MaxFiles == 0 {
		c.MaxFiles = 10_000
	}
	if c.Timeout == 0 {
		c.Timeout = 24 * time.Hour
	}
	if c.Stall == 0 {
		c.Stall = time.Minute
	}
	if c.Attempts == 0 {
		c.Attempts = 5
	}
	if c.Backoff == 0 {
		c.Backoff = time.Second
	}
	if c.Say == nil {
		c.Say = func(string) {}
	}
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.Dir == "" {
		errs = append(errs, errors.New("there is no cache folder: set TUNEFLEET_REMOTE_CACHE"))
	}
	if c.cacheText != "" {
		errs = append(errs, fmt.Errorf("TUNEFLEET_REMOTE_CACHE_BYTES: %q is no number of bytes (or none)", c.cacheText))
	}
	for name, s := range map[string]string{"HF_ENDPOINT": c.HF, "MODELSCOPE_DOMAIN": c.MS, "AWS_ENDPOINT_URL": c.S3.Endpoint} {
		if name == "AWS_ENDPOINT_URL" && s == "" {
			continue
		}
		if u, err := url.Parse(s); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			errs = append(errs, fmt.Errorf("%s: %q is no http or https address", name, s))
		}
	}
	for _, h := range c.HTTPSHosts {
		if rest := strings.TrimPrefix(h, "*."); rest == "" || strings.ContainsAny(rest, "*/") || strings.Contains(h, "*") && !strings.Contains(rest, ".") {
			errs = append(errs, fmt.Errorf("TUNEFLEET_HTTPS_HOSTS: %q must be a host, host:port or *.domain.tld", h))
		}
	}
	if c.MaxBytes < 0 || c.MaxFiles < 0 || c.Timeout < 0 || c.Stall < 0 || c.Attempts < 0 || c.Backoff < 0 {
		errs = append(errs, errors.New("limits must not be negative"))
	}
	return errors.Join(errs...)
}
