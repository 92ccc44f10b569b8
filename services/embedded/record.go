package embedded

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	mrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/tunefleet/tunefleet/schemas"
)

// recordFile is the data directory's record.
const recordFile = "embedded.json"

// Record holds the ports and credentials of a data directory.
type Record struct {
	Version   int    `json:"version"`
	NATS      int    `json:"nats_port"`
	Monitor   int    `json:"nats_monitor_port"`
	Redis     int    `json:"redis_port"`
	S3        int    `json:"s3_port"`
	API       int    `json:"api_port"`
	Token     string `json:"nats_token"`
	Password  string `json:"redis_password"`
	AccessKey string `json:"s3_access_key"`
	SecretKey string `json:"s3_secret_key"`
	APIToken  string `json:"api_token"`
	Bucket    string `json:"bucket"`
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// NATSURL is the broker's URL with its token.
func (r Record) NATSURL() string { return "nats://" + r.Token + "@" + loopback(r.NATS) }

// MonitorURL is the broker's monitoring endpoint.
func (r Record) MonitorURL() string { return "http://" + loopback(r.Monitor) }

// RedisURL is the lease server's URL with its password.
func (r Record) RedisURL() string { return "redis://:" + r.Password + "@" + loopback(r.Redis) }

// S3Endpoint is host:port of the object store.
func (r Record) S3Endpoint() string { return loopback(r.S3) }

// APIAddr is host:port of the HTTP API, APIURL its base URL.
func (r Record) APIAddr() string { return loopback(r.API) }

// Addresses are host:port of the three servers that everything else needs: broker, lease server, object store.
func (r Record) Addresses() []string {
	return []string{loopback(r.NATS), loopback(r.Redis), loopback(r.S3)}
}

// APIURL is the base URL of the HTTP API.
func (r Record) APIURL() string { return "http://" + r.APIAddr() }

// Load reads the record of a data directory: a typed CodeNotFound error when nothing was ever started there.
func Load(dir string) (Record, error) {
	var r Record
	b, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return r, schemas.Errorf(schemas.CodeNotFound, dir, "no embedded servers were ever started over this data directory").
			WithHint("start them with: tunefleet up --dir %s", dir)
	}
	if err != nil {
		return r, fmt.Errorf("cannot read the record of %s: %w", dir, err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("cannot read the record of %s: %w", dir, err)
	}
	return r, nil
}

// Prepare reads the record of a data directory, or makes it with free ports and fresh credentials, without starting a server.
func Prepare(dir string) (Record, error) { return ensure(dir) }

// ensure reads the record or makes it, one process at a time.
func ensure(dir string) (Record, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return Record{}, unusable(dir, err)
	}
	unlock, err := lock(filepath.Join(dir, "record.lock"), true)
	if err != nil {
		return Record{}, err
	}
	defer unlock()
	if r, err := Load(dir); err == nil || !schemas.IsCode(err, schemas.CodeNotFound) {
		return r, err
	}
	ports, err := freePorts(5)
	if err != nil {
		return Record{}, err
	}
	secret := func() string { return strings.ToLower(rand.Text()) }
	r := Record{Version: 1, NATS: ports[0], Monitor: ports[1], Redis: ports[2], S3: ports[3], API: ports[4], Token: secret(), Password: secret(),
		AccessKey: "tunefleet", SecretKey: secret(), APIToken: secret(), Bucket: "tunefleet"}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return r, err
	}
	tmp := filepath.Join(dir, recordFile+".tmp")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return r, unusable(dir, err)
	}
	if err := os.Rename(tmp, filepath.Join(dir, recordFile)); err != nil {
		return r, unusable(dir, err)
	}
	return r, nil
}

// unusable is the error of a data directory that cannot be made or written to.
func unusable(dir string, err error) error {
	code := schemas.CodeInvalid
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		code = schemas.CodeDiskFull
	}
	return schemas.Errorf(code, dir, "cannot write to the data directory: %v", schemas.Reason(err)).
		WithHint("name one that this user can write to with --dir or TUNEFLEET_DATA_DIR")
}

// Ports are taken from below the range that systems give to outgoing connections (32768 on by default on Linux): while a server is down,
// nobody gets its port by chance.
const (
	lowestPort = 16384
	portsFrom  = 32768 - lowestPort
	portTries  = 64
)

// freePorts finds n free loopback ports, all different.
func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := freePort()
		if err != nil {
			return nil, fmt.Errorf("cannot find a free port: %w", err)
		}
		defer func() { _ = l.Close() }() // held until all are found
		addr, ok := l.Addr().(*net.TCPAddr)
		if !ok {
			return nil, fmt.Errorf("cannot find a free port: the listener has address %s", l.Addr())
		}
		out = append(out, addr.Port)
	}
	return out, nil
}

// freePort listens on a free port of the range, or on any where the range is full.
func freePort() (*net.TCPListener, error) {
	for range portTries {
		port := lowestPort + mrand.IntN(portsFrom) //nolint:gosec // any port will do
		if l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port}); err == nil {
			return l, nil
		}
	}
	return net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
}

// lock takes an advisory lock that ends with the process, however it ends. With wait it blocks, else CodeConflict tells that it is taken.
func lock(path string, wait bool) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, unusable(filepath.Dir(path), err)
	}
	how := unix.LOCK_EX
	if !wait {
		how |= unix.LOCK_NB
	}
	for err = unix.EINTR; errors.Is(err, unix.EINTR); {
		err = unix.Flock(int(f.Fd()), how)
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, schemas.Errorf(schemas.CodeConflict, path, "another process runs this part over the same data directory").
				WithHint("stop it, or give another --dir")
		}
		return nil, fmt.Errorf("cannot lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}
