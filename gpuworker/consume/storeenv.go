package consume

import (
	"context"
	"fmt"
	"os"
	"strconv"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Environment variables that an agent opens the object store to its ranks with.
const (
	envEndpoint  = "TUNEFLEET_RANK_S3_ENDPOINT"
	envBucket    = "TUNEFLEET_RANK_S3_BUCKET"
	envRegion    = "TUNEFLEET_RANK_S3_REGION"
	envSecure    = "TUNEFLEET_RANK_S3_SECURE"
	envAccessKey = "TUNEFLEET_RANK_S3_ACCESS_KEY"
	envSecretKey = "TUNEFLEET_RANK_S3_SECRET_KEY"
)

// StoreEnv is what goes into Config.RankEnv so that OpenStore finds the agent's object store in the rank process.
func StoreEnv(c s3store.Config) []string {
	c = c.WithDefaults()
	return []string{envEndpoint + "=" + c.Endpoint, envBucket + "=" + c.Bucket, envRegion + "=" + c.Region,
		envSecure + "=" + strconv.FormatBool(c.Secure), envAccessKey + "=" + c.AccessKey, envSecretKey + "=" + c.SecretKey.Reveal()}
}

// OpenStore is the Opener of rank processes whose agent used StoreEnv.
func OpenStore(context.Context) (store.Objects, error) {
	endpoint := os.Getenv(envEndpoint)
	if endpoint == "" {
		return nil, schemas.Errorf(schemas.CodeInvalid, envEndpoint, "the rank process was given no object store")
	}
	secure, err := strconv.ParseBool(os.Getenv(envSecure))
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, envSecure, "not a boolean: %v", err)
	}
	s, err := s3store.New(s3store.Config{Endpoint: endpoint, Bucket: os.Getenv(envBucket), Region: os.Getenv(envRegion), Secure: secure,
		AccessKey: os.Getenv(envAccessKey), SecretKey: telemetry.Secret(os.Getenv(envSecretKey))})
	if err != nil {
		return nil, fmt.Errorf("cannot open the agent's object store: %w", err)
	}
	return s, nil
}
