package faultproxy_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/faultproxy"
)

// The S3 server's clock and pool cleaner have no end.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.updateServerDate.func1"),
		goleak.IgnoreAnyFunction("github.com/valyala/fasthttp.(*workerPool).Start.func2"))
}

// echo answers what it reads until the client closes.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); io.Copy(c, c) }()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, addr string) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// ask sends a word and reads the answer within limit.
func ask(c net.Conn, word string, limit time.Duration) (string, error) {
	c.SetDeadline(time.Now().Add(limit))
	if _, err := io.WriteString(c, word); err != nil {
		return "", err
	}
	buf := make([]byte, len(word))
	_, err := io.ReadFull(c, buf)
	return string(buf), err
}

func link(t *testing.T, tap func() faultproxy.Tap) *faultproxy.Link {
	t.Helper()
	k, err := faultproxy.Listen(echo(t), tap)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	return k
}

func TestLinkHoldsAndDelivers(t *testing.T) {
	for _, f := range []faultproxy.Fault{{HoldUp: true}, {HoldDown: true}, {HoldUp: true, HoldDown: true}} {
		t.Run(f.String(), func(t *testing.T) {
			k := link(t, nil)
			c := dial(t, k.Addr())
			if got, err := ask(c, "before", 5*time.Second); got != "before" || err != nil {
				t.Fatalf("%q, %v", got, err)
			}
			k.Set(f)
			var timeout net.Error
			if got, err := ask(c, "during", 100*time.Millisecond); !errors.As(err, &timeout) || !timeout.Timeout() {
				t.Fatalf("an answer through a partition: %q, %v", got, err)
			}
			k.Set(faultproxy.Fault{})
			// What was held arrives, in order: TCP repeats it.
			c.SetDeadline(time.Now().Add(5 * time.Second))
			buf := make([]byte, 6)
			if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "during" {
				t.Fatalf("%q, %v", buf, err)
			}
		})
	}
}

func TestLinkResetsAndRefuses(t *testing.T) {
	k := link(t, nil)
	c := dial(t, k.Addr())
	if _, err := ask(c, "x", 5*time.Second); err != nil {
		t.Fatal(err)
	}
	if n := k.Reset(); n != 1 {
		t.Errorf("%d connections reset, want 1", n)
	}
	if _, err := ask(c, "y", 5*time.Second); err == nil {
		t.Error("a reset connection answers")
	}
	k.Set(faultproxy.Fault{Refuse: true})
	if n, err := net.Dial("tcp", k.Addr()); err == nil {
		if _, err := ask(n, "z", 5*time.Second); err == nil {
			t.Error("a refusing link answers")
		}
		n.Close()
	}
	k.Set(faultproxy.Fault{})
	if got, err := ask(dial(t, k.Addr()), "again", 5*time.Second); got != "again" || err != nil {
		t.Errorf("after healing: %q, %v", got, err)
	}
}

func TestLinkSlows(t *testing.T) {
	k := link(t, nil)
	c := dial(t, k.Addr())
	k.Set(faultproxy.Fault{Delay: 60 * time.Millisecond, Jitter: time.Millisecond})
	began := time.Now()
	if _, err := ask(c, "late", 5*time.Second); err != nil || time.Since(began) < 120*time.Millisecond {
		t.Errorf("answered after %s (%v), want two delays of 60ms", time.Since(began), err)
	}
	k.Set(faultproxy.Fault{Rate: 10_000})
	word := strings.Repeat("a", 2_000)
	began = time.Now()
	if got, err := ask(c, word, 5*time.Second); got != word || err != nil || time.Since(began) < 200*time.Millisecond {
		t.Errorf("2,000 bytes at 10,000 bytes/s took %s (%v)", time.Since(began), err)
	}
	k.Set(faultproxy.Fault{Slice: 3})
	if got, err := ask(c, "sliced to pieces", 5*time.Second); got != "sliced to pieces" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNATSTap(t *testing.T) {
	const ack = "$JS.ACK.TF_WORK.tf_train_cpu.1.1790000000000007.3.1790000000000000000.0"
	down := "INFO {\"x\":1}\r\nPING\r\nMSG tf.work.a 1 " + ack + " 4\r\nbody\r\nHMSG tf.work.b 1 " + ack + " 12 14\r\nNATS/1.0\r\n\r\nhi\r\nMSG _INBOX.x 2 3\r\nno!\r\n"
	up := "CONNECT {}\r\nPUB " + ack + " _INBOX.y 4\r\n+ACK\r\nPUB tf.other 9\r\nPUB $JS.A\r\nPUB " + ack + " 0\r\n\r\nHPUB " + ack + " 12 19\r\nNATS/1.0\r\n\r\n-NAK {}\r\nPUB " + ack + " 4\r\n+WPI\r\n"
	for chunk := 1; chunk < 40; chunk++ {
		var got []string
		tap := faultproxy.NewNATSTap(func(d faultproxy.Delivery) { got = append(got, fmt.Sprintf("deliver %s %d", d.Subject, d.Sequence)) },
			func(s, verb string) { got = append(got, verb+" "+fmt.Sprint(s == ack)) })
		for b := []byte(down); len(b) > 0; b = b[min(chunk, len(b)):] {
			tap.Down(bytes.Clone(b[:min(chunk, len(b))]))
		}
		for b := []byte(up); len(b) > 0; b = b[min(chunk, len(b)):] {
			tap.Up(bytes.Clone(b[:min(chunk, len(b))]))
		}
		want := "deliver tf.work.a 1790000000000007|deliver tf.work.b 1790000000000007|+ACK true|+ACK true|NATS/1.0\r\n\r\n-NAK true|+WPI true"
		if s := strings.Join(got, "|"); s != want {
			t.Fatalf("chunks of %d: %q", chunk, s)
		}
	}
	if n := faultproxy.AckSequence("$JS.ACK._.HASH.TF_WORK.c.1.42.3.4.0.tok"); n != 42 {
		t.Errorf("sequence %d of the long layout", n)
	}
}
