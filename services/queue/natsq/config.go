package natsq

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/services/queue"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// Config says which servers, and how their streams are made.
type Config struct {
	// URL is one or more servers, separated by commas: "nats://host:4222", "tls://host:4222".
	URL string `json:"url"`
	// User and Password, or Token, or a file of credentials (JWT and NKey); all may be empty.
	User     string           `json:"user,omitempty"`
	Password telemetry.Secret `json:"-"`
	Token    telemetry.Secret `json:"-"`
	Creds    string           `json:"creds,omitempty"`
	// Monitor is the base URL of the servers' monitoring ports, separated by commas ("http://host:8222"): SyncAlways reads it.
	Monitor string `json:"monitor,omitempty"`
	// Name is shown in the server's list of connections.
	Name string `json:"name,omitempty"`
	// Replicas of the streams and consumers that Ensure creates (default 1; 3 on a cluster).
	Replicas int `json:"replicas"`
	// AckWait is how long a delivery stays with its puller (default queue.AckWait).
	AckWait time.Duration `json:"ack_wait"`
	// Timeout bounds one request to the server (default 5 s).
	Timeout time.Duration `json:"timeout"`
	// Logger gets connection trouble (default: nothing).
	Logger *slog.Logger `json:"-"`
}

// WithDefaults fills name, replicas, durations and the logger.
func (c Config) WithDefaults() Config {
	if c.Name == "" {
		c.Name = "tunefleet"
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.AckWait == 0 {
		c.AckWait = queue.AckWait
	}
	if c.Timeout == 0 {
		c.Timeout = 5 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate reports every problem at once.
func (c Config) Validate() error {
	var errs []error
	if c.URL == "" {
		errs = append(errs, errors.New("nats url is empty"))
	}
	for u := range strings.SplitSeq(c.URL, ",") {
		// The reason of url.Parse quotes the URL with its password.
		if p, err := url.Parse(strings.TrimSpace(u)); err != nil || c.URL != "" && (p.Host == "" || p.Scheme != "nats" && p.Scheme != "tls" && p.Scheme != "ws" && p.Scheme != "wss") {
			errs = append(errs, fmt.Errorf("nats url %q must be nats://host:port or tls://host:port", telemetry.Redact(u)))
		}
	}
	for u := range strings.SplitSeq(c.Monitor, ",") {
		if p, err := url.Parse(strings.TrimSpace(u)); c.Monitor != "" && (err != nil || p.Host == "" || p.Scheme != "http" && p.Scheme != "https") {
			errs = append(errs, fmt.Errorf("nats monitor %q must be http://host:port", telemetry.Redact(u)))
		}
	}
	if (c.User == "") != (c.Password == "") {
		errs = append(errs, errors.New("nats user and password must be given together"))
	}
	if c.Replicas < 1 || c.Replicas > 5 {
		errs = append(errs, fmt.Errorf("nats replicas is %d, must be 1 to 5", c.Replicas))
	}
	if c.AckWait <= 0 {
		errs = append(errs, fmt.Errorf("nats ack wait is %s, must be positive", c.AckWait))
	}
	if c.Timeout <= 0 {
		errs = append(errs, fmt.Errorf("nats timeout is %s, must be positive", c.Timeout))
	}
	return errors.Join(errs...)
}
