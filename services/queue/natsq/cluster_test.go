package natsq_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/queue/natsq"
	"github.com/tunefleet/tunefleet/services/queue/queuetest"
)

// cluster runs three real servers in this process with an account for each of n fixtures: streams have fixed names.
func cluster(t *testing.T, n int) []*server.Server {
	t.Helper()
	var ports []string
	for range 3 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ports = append(ports, l.Addr().String())
		defer l.Close()
	}
	accounts := "SYS { users: [{user: sys, password: pass}] }\n"
	for i := range n {
		accounts += fmt.Sprintf("A%d { jetstream: enabled, users: [{user: u%d, password: pass}] }\n", i, i)
	}
	var out []*server.Server
	for i, port := range ports {
		file := filepath.Join(t.TempDir(), "nats.conf")
		conf := fmt.Sprintf("server_name: n%d\nlisten: \"127.0.0.1:-1\"\njetstream { store_dir: %q }\nsystem_account: SYS\naccounts {\n%s}\ncluster { name: c, listen: %q, routes: [nats://%s] }\n",
			i, t.TempDir(), accounts, port, strings.Join(ports, ", nats://"))
		if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
			t.Fatal(err)
		}
		opts, err := server.ProcessConfigFile(file)
		if err != nil {
			t.Fatal(err)
		}
		opts.NoLog, opts.NoSigs = true, true
		s, err := server.NewServer(opts)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, s)
	}
	return out
}

// TestConformanceOnThreeServers runs the port's suite, with the facts about acks, naks and wipes in it, against streams with three replicas.
func TestConformanceOnThreeServers(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") == "" {
		t.Skip("takes a minute; set TUNEFLEET_TEST_FULL=1")
	}
	const most = 40
	servers := cluster(t, most)
	var urls []string
	for _, s := range servers {
		s.Start()
		t.Cleanup(func() { stop(s) })
	}
	for _, s := range servers {
		if !s.ReadyForConnections(20 * time.Second) {
			t.Fatal("a server is not ready")
		}
		urls = append(urls, s.ClientURL())
	}
	holds(t, "the cluster has a leader", func() bool { return slices.ContainsFunc(servers, (*server.Server).JetStreamIsLeader) })
	var mu sync.Mutex
	next := 0
	queuetest.Run(t, func(t *testing.T) queuetest.Fixture {
		mu.Lock()
		user := fmt.Sprint("u", next)
		next++
		mu.Unlock()
		nc, err := nats.Connect(strings.Join(urls, ","), nats.UserInfo(user, "pass"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(nc.Close)
		js, err := jetstream.New(nc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, _ = js.DeleteStream(ctx, schemas.WorkStream), js.DeleteStream(ctx, schemas.IntakeStream) // the next ones have the cluster to themselves
		})
		q := open(t, natsq.Config{URL: strings.Join(urls, ","), User: user, Password: "pass", Replicas: 3, AckWait: queuetest.AckWait})
		return queuetest.Fixture{Queue: q, Wipe: func(t *testing.T) {
			for _, name := range []string{schemas.WorkStream, schemas.IntakeStream} {
				if err := js.DeleteStream(t.Context(), name); err != nil {
					t.Fatal(err)
				}
			}
		}}
	})
}
