package embedded

import (
	"github.com/tunefleet/tunefleet/services/connect"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/store/s3store"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Connect is the configuration of clients of this data directory's servers.
func (r Record) Connect() connect.Config {
	return connect.Config{
		NATS:  natsq.Config{URL: "nats://" + loopback(r.NATS), Token: telemetry.Secret(r.Token), Monitor: r.MonitorURL()},
		Redis: telemetry.Secret(r.RedisURL()),
		S3: s3store.Config{Endpoint: r.S3Endpoint(), Bucket: r.Bucket, AccessKey: r.AccessKey,
			SecretKey: telemetry.Secret(r.SecretKey)},
	}
}
