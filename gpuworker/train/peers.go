package train

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// peerPatience is how long a peer may be silent before the store is asked instead.
const peerPatience = 5 * time.Second

// offer is what a rank tells the others of the parts that its machine has kept. The token opens them to members of this generation only:
// it travels over their authenticated mesh.
type offer struct {
	Address string   `json:"address,omitempty"`
	Token   string   `json:"token,omitempty"`
	Parts   []string `json:"parts,omitempty"` // SHA-256
}

// sharing is the exchange of kept parts while a generation resumes.
type sharing struct {
	server *http.Server
	client *http.Client
	served chan struct{}
}

// share offers the parts of a checkpoint that this machine kept to the other members, and prefers theirs and its own for r. All ranks call
// it at the same place. Whoever cannot listen offers nothing.
func (s *session) share(ctx context.Context, r *checkpoint.Reader) (*sharing, error) {
	g, kept, x := s.t.Gang, checkpoint.OpenKept(s.t.Keep), &sharing{}
	var mine offer
	for _, p := range r.Manifest().Parts {
		if kept.Has(p) {
			mine.Parts = append(mine.Parts, p.SHA256)
		}
	}
	if kept != nil {
		r.Prefer(kept)
	}
	if g.World == 1 || g.Listen == nil { // every rank of the gang sees the same
		return x, nil
	}
	if len(mine.Parts) > 0 {
		ln, addr, err := g.Listen(ctx)
		if err != nil {
			s.t.Logger.Warn("kept parts are not offered to the other ranks", "error", err)
			mine.Parts = nil
		} else {
			mine.Address, mine.Token = addr, rand.Text()
			x.serve(ln, kept, mine)
		}
	}
	all, err := gatherJSON(ctx, g.Collective, mine)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot learn what the other ranks kept: %w", err), x.close())
	}
	x.client = &http.Client{Transport: &http.Transport{DialContext: dialPeer, ResponseHeaderTimeout: peerPatience, Proxy: nil}}
	for rank, raw := range all {
		var o offer
		if err := json.Unmarshal(raw, &o); err != nil {
			return nil, errors.Join(fmt.Errorf("cannot read what rank %d kept: %w", rank, err), x.close())
		}
		if rank != g.Rank && len(o.Parts) > 0 {
			r.Prefer(&peerParts{offer: o, client: x.client})
		}
	}
	return x, nil
}

// shared waits until every rank has read what it needs, and says where the bytes came from. All ranks call it at the same place.
func (s *session) shared(ctx context.Context, x *sharing, r *checkpoint.Reader) (err error) {
	defer func() { err = errors.Join(err, x.close()) }()
	from := r.From()
	for name, n := range from {
		s.metrics.RestoreBytes.Add(ctx, n, metric.WithAttributes(attribute.String(telemetry.AttrSource, name)))
	}
	g := s.t.Gang
	total := from
	if g.World > 1 && g.Listen != nil {
		all, err := gatherJSON(ctx, g.Collective, from)
		if err != nil {
			return fmt.Errorf("cannot wait for the other ranks to resume: %w", err)
		}
		total = map[string]int64{}
		for rank, raw := range all {
			var of map[string]int64
			if err := json.Unmarshal(raw, &of); err != nil {
				return fmt.Errorf("cannot read what rank %d resumed from: %w", rank, err)
			}
			for k, n := range of {
				total[k] += n
			}
		}
	}
	if g.Rank == 0 && len(total) > 0 {
		s.t.Report(schemas.Event{Type: schemas.EventNote, Step: r.Manifest().Step, Message: fmt.Sprintf("resumed at step %d: %s from the workers' own disks, %s from peers, %s from the store",
			r.Manifest().Step, mebibytes(total[checkpoint.Local]), mebibytes(total[peerName]), mebibytes(total[checkpoint.FromStore]))})
	}
	return nil
}

func mebibytes(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }

// serve offers kept parts until close.
func (x *sharing) serve(ln net.Listener, kept *checkpoint.Kept, o offer) {
	want := []byte("Bearer " + o.Token)
	x.server = &http.Server{ReadHeaderTimeout: peerPatience, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if subtle.ConstantTimeCompare([]byte(r.Header.Get("Authorization")), want) != 1 {
			http.Error(w, "not a member of this generation", http.StatusForbidden)
			return
		}
		q := r.URL.Query()
		p := schemas.Part{SHA256: q.Get("part")}
		from, ferr := strconv.ParseInt(q.Get("from"), 10, 64)
		to, terr := strconv.ParseInt(q.Get("to"), 10, 64)
		if ferr != nil || terr != nil || from < 0 || to < from || !slices.Contains(o.Parts, p.SHA256) {
			http.Error(w, "no such part here", http.StatusNotFound)
			return
		}
		body, err := kept.Open(r.Context(), p, from, to)
		if err != nil {
			http.Error(w, "the part is gone", http.StatusNotFound)
			return
		}
		defer body.Close()
		_, _ = io.Copy(w, body) // a reader that left asks elsewhere
	})}
	x.served = make(chan struct{})
	go func() {
		defer close(x.served)
		_ = x.server.Serve(ln) // ends with close
	}()
}

func (x *sharing) close() error {
	if x.client != nil {
		x.client.CloseIdleConnections()
	}
	if x.server == nil {
		return nil
	}
	err := x.server.Close()
	<-x.served
	if err != nil {
		return fmt.Errorf("cannot stop offering parts: %w", err)
	}
	return nil
}

// peerName is what peers are called where bytes are counted by source.
const peerName = "peer"

// peerParts are the parts that another member's machine kept.
type peerParts struct {
	offer  offer
	client *http.Client
}

// Name is peerName.
func (*peerParts) Name() string { return peerName }

// Has reports whether the peer offered the part.
func (p *peerParts) Has(part schemas.Part) bool { return slices.Contains(p.offer.Parts, part.SHA256) }

// Open asks the peer for bytes of a part.
func (p *peerParts) Open(ctx context.Context, part schemas.Part, from, to int64) (io.ReadCloser, error) {
	if to < 0 {
		to = part.Bytes
	}
	url := fmt.Sprintf("http://%s/?part=%s&from=%d&to=%d", p.offer.Address, part.SHA256, from, to)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, fmt.Errorf("cannot ask a peer: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+p.offer.Token)
	resp, err := p.client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot ask a peer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return nil, errors.Join(fmt.Errorf("cannot read from a peer: %s", resp.Status), resp.Body.Close())
	}
	return resp.Body, nil
}

// dialPeer connects to a peer; a read that waits longer than peerPatience fails.
func dialPeer(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: peerPatience}).DialContext(ctx, network, address)
	if err != nil {
		return nil, fmt.Errorf("cannot reach a peer: %w", err)
	}
	return &patientConn{conn}, nil
}

type patientConn struct{ net.Conn }

func (c *patientConn) Read(p []byte) (int, error) {
	if err := c.SetReadDeadline(time.Now().Add(peerPatience)); err != nil {
		return 0, fmt.Errorf("cannot set a deadline: %w", err)
	}
	return c.Conn.Read(p)
}
