package faultproxy

import (
	"bytes"
	"strconv"
	"strings"
)

// Delivery is a JetStream message on its way to a consumer.
type Delivery struct {
	// Subject is the message's, AckSubject where its acks go.
	Subject, AckSubject string
	// Stream sequence of the message.
	Sequence uint64
}

// NATSTap reads deliveries and acks from the NATS client protocol of one connection. What it cannot read it passes over: it only watches.
type NATSTap struct {
	delivered func(Delivery)
	acked     func(ackSubject, verb string)
	up, down  parser
}

// NewNATSTap makes a tap; acked gets the verb ("+ACK", "-NAK", "+WPI", "+TERM"; an empty payload is an ack).
func NewNATSTap(delivered func(Delivery), acked func(ackSubject, verb string)) *NATSTap {
	t := &NATSTap{delivered: delivered, acked: acked}
	t.up.frame, t.down.frame = t.published, t.message
	return t
}

// Up implements Tap.
func (t *NATSTap) Up(data []byte) { t.up.feed(data) }

// Down implements Tap.
func (t *NATSTap) Down(data []byte) { t.down.feed(data) }

const ackPrefix = "$JS.ACK."

func (t *NATSTap) published(verb string, args []string, payload []byte) {
	if verb != "PUB" && verb != "HPUB" || len(args) == 0 || !strings.HasPrefix(args[0], ackPrefix) {
		return
	}
	what, _, _ := strings.Cut(string(payload), " ")
	if what == "" {
		what = "+ACK"
	}
	t.acked(args[0], what)
}

// message reads "MSG subject sid [reply] size" and "HMSG subject sid [reply] header size".
func (t *NATSTap) message(verb string, args []string, _ []byte) {
	with := map[string]int{"MSG": 4, "HMSG": 5}[verb]
	if with == 0 || len(args) != with || !strings.HasPrefix(args[2], ackPrefix) {
		return
	}
	t.delivered(Delivery{Subject: args[0], AckSubject: args[2], Sequence: AckSequence(args[2])})
}

// AckSequence is the stream sequence in an ack subject (both of JetStream's layouts), 0 when there is none.
func AckSequence(subject string) uint64 {
	// $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>, or with <domain>.<account hash> before the stream.
	f := strings.Split(subject, ".")
	at := 5
	if len(f) >= 11 {
		at = 7
	}
	if len(f) <= at {
		return 0
	}
	n, err := strconv.ParseUint(f[at], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// maxControlLine is more than any server allows.
const maxControlLine = 64 << 10

// parser cuts one direction of the NATS protocol into frames.
type parser struct {
	frame func(verb string, args []string, payload []byte)
	buf   []byte
	// verb and args of a frame whose payload of need bytes (with CRLF) is still to come.
	verb string
	args []string
	need int
	// lost: the stream is not what was expected (TLS, for instance); nothing more is read.
	lost bool
}

func (p *parser) feed(data []byte) {
	if p.lost {
		return
	}
	p.buf = append(p.buf, data...)
	for {
		if p.need > 0 {
			if len(p.buf) < p.need {
				return
			}
			p.frame(p.verb, p.args, p.buf[:p.need-2])
			p.buf, p.need = p.buf[p.need:], 0
			continue
		}
		line, rest, ok := bytes.Cut(p.buf, []byte("\r\n"))
		if !ok {
			p.lost = len(p.buf) > maxControlLine
			return
		}
		p.buf = rest
		f := strings.Fields(string(line))
		if len(f) == 0 {
			continue
		}
		verb := strings.ToUpper(f[0])
		switch verb {
		case "PUB", "HPUB", "MSG", "HMSG":
			n, err := strconv.Atoi(f[len(f)-1])
			if err != nil || n < 0 || n > 64<<20 {
				p.lost = true
				return
			}
			p.verb, p.args, p.need = verb, f[1:], n+2
		}
	}
}
