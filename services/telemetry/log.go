package telemetry

import (
	"io"
	"log/slog"
	"regexp"
	"strings"
)

// Secret is a value that never appears in logs or JSON. Use Reveal only where the value is handed to a client library.
type Secret string

// Reveal returns the value.
func (s Secret) Reveal() string { return string(s) }

// String hides the value.
func (s Secret) String() string { return "***" }

// LogValue hides the value from slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue("***") }

// MarshalText hides the value from JSON and YAML.
func (s Secret) MarshalText() ([]byte, error) { return []byte("***"), nil }

// secretKey matches attribute keys whose values are never logged, secretValue the credentials of URLs and bearer tokens.
var (
	secretKey   = regexp.MustCompile(`(?i)(secret|password|passwd|token$|api_?key|authorization|credential)`)
	secretValue = regexp.MustCompile(`(?i)(://[^/\s:@]+:)[^@/\s]+@|(bearer\s+)[A-Za-z0-9._~+/=-]+`)
)

// NewLogger makes a logger for people (text) or machines (JSON) that hides secrets by attribute key and by shape of the value.
func NewLogger(w io.Writer, level slog.Level, json bool) *slog.Logger {
	o := &slog.HandlerOptions{Level: level, ReplaceAttr: redact}
	if json {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

func redact(_ []string, a slog.Attr) slog.Attr {
	if secretKey.MatchString(a.Key) {
		return slog.String(a.Key, "***")
	}
	switch v := a.Value.Resolve().Any().(type) {
	case string:
		return slog.String(a.Key, Redact(v))
	case error:
		return slog.String(a.Key, Redact(v.Error()))
	}
	return a
}

// Redact hides the credentials of URLs and bearer tokens in a text.
func Redact(s string) string {
	if !strings.Contains(s, "@") && !strings.Contains(strings.ToLower(s), "bearer") {
		return s
	}
	return secretValue.ReplaceAllStringFunc(s, func(m string) string {
		if i := strings.Index(m, "://"); i >= 0 {
			return m[:strings.LastIndex(m, ":")+1] + "***@"
		}
		return m[:len("bearer ")] + "***"
	})
}
