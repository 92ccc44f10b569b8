// Package connect opens the three services that every tunefleet process speaks to: the broker, the lease server and the object store, from
// one configuration that comes from the environment or from an embedded data directory's record.
package connect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strconv"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease/redislease"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Environment variables of FromEnv and Env.
const (
	EnvNATSURL     = "TUNEFLEET_NATS_URL"
	EnvNATSToken   = "TUNEFLEET_NATS_TOKEN" //nolint:gosec // the name of a variable, not a credential
	EnvNATSCreds   = "TUNEFLEET_NATS_CREDS"
	EnvNATSMonitor = "TUNEFLEET_NATS_MONITOR"
	EnvReplicas    = "TUNEFLEET_NATS_REPLICAS"
	EnvRedisURL    = "TUNEFLEET_REDIS_URL"
	EnvS3Endpoint  = "TUNEFLEET_S3_ENDPOINT"
	EnvS3Bucket    = "TUNEFLEET_S3_BUCKET"
	EnvS3Region    = "TUNEFLEET_S3_REGION"
	EnvS3Secure    = "TUNEFLEET_S3_SECURE"
	EnvS3AccessKey = "TUNEFLEET_S3_ACCESS_KEY" //nolint:gosec // the name of a variable, not a credential
	EnvS3SecretKey = "TUNEFLEET_S3_SECRET_KEY" //nolint:gosec // the name of a variable, not a credential
)

// Config says where the services are.
type Config struct {
	NATS  natsq.Config
	Redis telemetry.Secret
	S3    s3store.Config
}

// FromEnv reads the TUNEFLEET_* variables. ok is false when none of the three services is configured.
func FromEnv() (c Config, ok bool, err error) {
	c.NATS.URL, c.NATS.Token = os.Getenv(EnvNATSURL), telemetry.Secret(os.Getenv(EnvNATSToken))
	c.NATS.Creds, c.NATS.Monitor = os.Getenv(EnvNATSCreds), os.Getenv(EnvNATSMonitor)
	c.Redis = telemetry.Secret(os.Getenv(EnvRedisURL))
	c.S3 = s3store.Config{Endpoint: os.Getenv(EnvS3Endpoint), Bucket: os.Getenv(EnvS3Bucket), Region: os.Getenv(EnvS3Region),
		AccessKey: os.Getenv(EnvS3AccessKey), SecretKey: telemetry.Secret(os.Getenv(EnvS3SecretKey))}
	var errs []error
	if v := os.Getenv(EnvReplicas); v != "" {
		if c.NATS.Replicas, err = strconv.Atoi(v); err != nil {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, EnvReplicas, "%q is not a number", v))
		}
	}
	if v := os.Getenv(EnvS3Secure); v != "" {
		if c.S3.Secure, err = strconv.ParseBool(v); err != nil {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, EnvS3Secure, "%q is not true or false", v))
		}
	}
	if c.NATS.URL == "" && c.Redis == "" && c.S3.Endpoint == "" {
		return c, false, errors.Join(errs...)
	}
	for name, v := range map[string]string{EnvNATSURL: c.NATS.URL, EnvRedisURL: c.Redis.Reveal(), EnvS3Endpoint: c.S3.Endpoint} {
		if v == "" {
			errs = append(errs, schemas.Errorf(schemas.CodeInvalid, name, "is not set, but other services are").
				WithHint("set %s, %s and %s together", EnvNATSURL, EnvRedisURL, EnvS3Endpoint))
		}
	}
	return c, true, errors.Join(errs...)
}

// Env is the configuration as environment variables, for a child process.
func (c Config) Env() []string {
	replicas := ""
	if c.NATS.Replicas > 0 {
		replicas = strconv.Itoa(c.NATS.Replicas)
	}
	return []string{
		EnvNATSURL + "=" + c.NATS.URL, EnvNATSToken + "=" + c.NATS.Token.Reveal(), EnvNATSCreds + "=" + c.NATS.Creds,
		EnvNATSMonitor + "=" + c.NATS.Monitor, EnvReplicas + "=" + replicas, EnvRedisURL + "=" + c.Redis.Reveal(), EnvS3Endpoint + "=" + c.S3.Endpoint,
		EnvS3Bucket + "=" + c.S3.Bucket, EnvS3Region + "=" + c.S3.Region, EnvS3Secure + "=" + strconv.FormatBool(c.S3.Secure),
		EnvS3AccessKey + "=" + c.S3.AccessKey, EnvS3SecretKey + "=" + c.S3.SecretKey.Reveal(),
	}
}

// Services are open clients. Queue is work, admin and intake in one.
type Services struct {
	Config  Config
	Queue   *natsq.Queue
	Leases  *redislease.Store
	Objects *s3store.Store
}

// Open connects to all three. A broker or object store that cannot be reached within ctx is an error with CodeUnavailable; a lease server
// that is away is only logged, because work goes on without it, but one that may evict leases is refused.
func Open(ctx context.Context, c Config, logger *slog.Logger) (*Services, error) {
	objects, err := s3store.New(c.S3)
	if err != nil {
		return nil, err
	}
	s := &Services{Config: c, Objects: objects}
	if err := objects.EnsureBucket(ctx); err != nil {
		s.Close()
		return nil, unavailable("object store", c.S3.Endpoint, EnvS3Endpoint, err)
	}
	if s.Leases, err = redislease.New(c.Redis.Reveal()); err != nil {
		s.Close()
		return nil, err
	}
	if err := s.Leases.Check(ctx); schemas.IsCode(err, schemas.CodeInvalid) {
		s.Close()
		return nil, err
	} else if err != nil {
		logger.Warn("the lease server is away; going on without it", "error", err)
	}
	c.NATS.Logger = logger
	if s.Queue, err = natsq.Open(ctx, c.NATS); err != nil {
		s.Close()
		return nil, unavailable("message broker", telemetry.Redact(c.NATS.URL), EnvNATSURL, err)
	}
	return s, nil
}

func unavailable(what, where, variable string, err error) error {
	if ctx := schemas.AsErrorInfo(err); ctx.Code != schemas.CodeInternal {
		return err
	}
	return schemas.Errorf(schemas.CodeUnavailable, where, "cannot reach the %s: %v", what, err).
		WithHint("is it running? %s says where it is; `tunefleet up` starts one on this machine", variable)
}

// Close ends all connections.
func (s *Services) Close() {
	if s.Queue != nil {
		s.Queue.Close()
	}
	if s.Leases != nil {
		_ = s.Leases.Close()
	}
	if s.Objects != nil {
		s.Objects.Close()
	}
}

// Probe checks what DESIGN demands of the servers: conditional writes of the store (ErrUnsafe otherwise) and synced writes of the broker.
func (s *Services) Probe(ctx context.Context) error {
	if err := store.Probe(ctx, s.Objects); err != nil {
		if errors.Is(err, store.ErrUnsafe) {
			return schemas.Errorf(schemas.CodeStoreUnsafe, s.Config.S3.Endpoint, "%v", err).
				WithHint("use a store with correct If-Match and If-None-Match on PUT: AWS S3, MinIO, versitygw")
		}
		return unavailable("object store", s.Config.S3.Endpoint, EnvS3Endpoint, err)
	}
	always, err := s.Queue.SyncAlways(ctx)
	if err != nil {
		return fmt.Errorf("cannot check the broker: %w", err)
	}
	if !always {
		return schemas.Errorf(schemas.CodeInvalid, "jetstream.sync_interval", "the broker acknowledges writes before they are on disk").
			WithHint("set sync_interval: always in the nats-server's jetstream section")
	}
	return nil
}
