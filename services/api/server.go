package api

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/lease"
	"github.com/tunefleet/tunefleet/services/store"
)

//go:embed web
var webFiles embed.FS

// Runs is what the API does with runs; control.Service implements it.
type Runs interface {
	// Submit accepts a spec; the reply is the acknowledgement.
	Submit(ctx context.Context, spec *schemas.RunSpec) (*schemas.SubmitReply, error)
	Get(ctx context.Context, tenant, run string) (*schemas.RunView, error)
	List(ctx context.Context, f schemas.RunFilter) (*schemas.RunList, error)
	Cancel(ctx context.Context, tenant, run, reason string) (*schemas.RunView, error)
	Pause(ctx context.Context, tenant, run string) (*schemas.RunView, error)
	Resume(ctx context.Context, tenant, run string) (*schemas.RunView, error)
	Outputs(ctx context.Context, tenant, run string) (*schemas.OutputList, error)
}

// Fleet is what the API knows of workers and pools; control.Service implements it.
type Fleet interface {
	// Workers lists the live workers of a pool, of every pool when it is empty.
	Workers(ctx context.Context, pool string) (*schemas.WorkerList, error)
	// Pools says what control decided last for each pool.
	Pools(ctx context.Context) (*schemas.PoolList, error)
}

// Operator is what operators of pools do; control.Service implements it.
type Operator interface {
	// Policy returns a pool's policy and its version; SetPolicy replaces that version ("" = none yet).
	Policy(ctx context.Context, pool string) (p *schemas.Policy, version string, err error)
	SetPolicy(ctx context.Context, p *schemas.Policy, version string) (next *schemas.Policy, nextVersion string, err error)
	// DeadLetters lists failed runs that nobody has retried or dropped.
	DeadLetters(ctx context.Context, tenant, after string, limit int) (*schemas.DeadLetterList, error)
	RetryDeadLetter(ctx context.Context, tenant, run string) (*schemas.SubmitReply, error)
	DropDeadLetter(ctx context.Context, tenant, run string) error
}

// Checkpoints is what the API does with a run's checkpoints; control.Service implements it.
type Checkpoints interface {
	// Checkpoints lists them, oldest first; with verify their parts are read and compared.
	Checkpoints(ctx context.Context, tenant, run string, verify bool) (*schemas.CheckpointList, error)
	// CollectCheckpoints deletes parts that nothing needs; with dry it counts them.
	CollectCheckpoints(ctx context.Context, tenant, run string, dry bool) (*schemas.CheckpointList, error)
	// PinCheckpoint keeps one for good, or no longer.
	PinCheckpoint(ctx context.Context, tenant, run, name string, pin bool) error
}

// Services are the parts behind the API.
type Services struct {
	Runs     Runs
	Fleet    Fleet
	Operator Operator
	// Checkpoints may be nil: the routes are then missing, as those of Operator.
	Checkpoints Checkpoints
	Objects     store.Objects
	// Live is the tail of events.
	Live   lease.Progress
	Logger *slog.Logger
}

// Config describes the server.
type Config struct {
	// Token is the bearer token that every /v1 request must carry. It must not be empty.
	Token string
	// MaxInputBytes bounds an uploaded file (default 64 GiB).
	MaxInputBytes int64
	// Spool is the folder that uploads are checked in before they are stored; default os.TempDir().
	Spool string
	// Heartbeat is the pace of SSE comments (default 15 s); Poll the longest wait for live events (default 1 s).
	Heartbeat, Poll time.Duration
	// WriteLimit is how long a client may take no byte of its event stream before it is ended (default 1 minute); it resumes by Last-Event-ID.
	WriteLimit time.Duration
	// Grace is how long the last events of a run that is over are waited for (default 2 s).
	Grace time.Duration
	// Version is shown in /healthz and the OpenAPI description.
	Version string
}

// WithDefaults fills what is zero.
func (c Config) WithDefaults() Config {
	if c.MaxInputBytes == 0 {
		c.MaxInputBytes = 64 << 30
	}
	if c.Spool == "" {
		c.Spool = os.TempDir()
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = 15 * time.Second
	}
	if c.Poll == 0 {
		c.Poll = time.Second
	}
	if c.WriteLimit == 0 {
		c.WriteLimit = time.Minute
	}
	if c.Grace == 0 {
		c.Grace = 2 * time.Second
	}
	return c
}

// Validate reports every problem.
func (c Config) Validate() error {
	var errs []error
	if len(c.Token) < 16 {
		errs = append(errs, errors.New("the API token must have at least 16 characters"))
	}
	if c.MaxInputBytes < 1 || c.Heartbeat <= 0 || c.Poll <= 0 || c.WriteLimit <= 0 {
		errs = append(errs, errors.New("the API's limits must be positive"))
	}
	return errors.Join(errs...)
}

// Server is the HTTP API. Make it with New and serve it with Serve, or mount Handler.
type Server struct {
	cfg     Config
	runs    Runs
	fleet   Fleet
	operate Operator
	ckpt    Checkpoints
	objects store.Objects
	live    lease.Progress
	hub     *hub
	log     *slog.Logger
	token   [32]byte
	// sessions are those of browsers.
	sessions *sessions
	handler  http.Handler
}

// New makes a server. Errors: the configuration's.
func New(cfg Config, sv Services) (*Server, error) {
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	if sv.Logger == nil {
		sv.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, runs: sv.Runs, fleet: sv.Fleet, operate: sv.Operator, ckpt: sv.Checkpoints, objects: sv.Objects, live: sv.Live, hub: newHub(sv.Live, sv.Runs, cfg.Poll), log: sv.Logger, token: sha256.Sum256([]byte(cfg.Token)), sessions: newSessions(cfg.Token)}
	web, err := fs.Sub(webFiles, "web")
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	mux.HandleFunc("GET /openapi.json", s.openapi)
	mux.Handle("/", http.FileServerFS(web))
	v1 := http.NewServeMux()
	v1.HandleFunc("POST /v1/runs", s.submit)
	v1.HandleFunc("GET /v1/runs", s.list)
	v1.HandleFunc("GET /v1/runs/{tenant}/{id}", s.get)
	v1.HandleFunc("POST /v1/runs/{tenant}/{id}/{action}", s.act)
	v1.HandleFunc("GET /v1/runs/{tenant}/{id}/events", s.events)
	v1.HandleFunc("GET /v1/runs/{tenant}/{id}/stages/{stage}", s.stage)
	v1.HandleFunc("GET /v1/runs/{tenant}/{id}/outputs", s.outputs)
	v1.HandleFunc("GET /v1/runs/{tenant}/{id}/outputs/{path...}", s.output)
	v1.HandleFunc("PUT /v1/inputs/{tenant}/{sha256}", s.putInput)
	v1.HandleFunc("POST /v1/session/codes", s.newCode)
	v1.HandleFunc("GET /v1/workers", s.workers)
	v1.HandleFunc("GET /v1/pools", s.pools)
	v1.HandleFunc("GET /v1/pools/{pool}/demand", s.demand)
	if s.operate != nil {
		v1.HandleFunc("GET /v1/pools/{pool}/policy", s.policy)
		v1.HandleFunc("PUT /v1/pools/{pool}/policy", s.setPolicy)
		v1.HandleFunc("GET /v1/dlq", s.deadLetters)
		v1.HandleFunc("POST /v1/dlq/{tenant}/{id}/retry", s.retryDeadLetter)
		v1.HandleFunc("DELETE /v1/dlq/{tenant}/{id}", s.dropDeadLetter)
	}
	if s.ckpt != nil {
		v1.HandleFunc("GET /v1/runs/{tenant}/{id}/checkpoints", s.checkpoints)
		v1.HandleFunc("POST /v1/runs/{tenant}/{id}/checkpoints/{action}", s.checkpointAction)
		v1.HandleFunc("PUT /v1/runs/{tenant}/{id}/checkpoints/{name}/pin", s.pin)
		v1.HandleFunc("DELETE /v1/runs/{tenant}/{id}/checkpoints/{name}/pin", s.pin)
	}
	v1.HandleFunc("/v1/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, schemas.Errorf(schemas.CodeNotFound, r.URL.Path, "no such route: %s %s", r.Method, r.URL.Path))
	})
	mux.HandleFunc("GET /v1/session", s.session)
	mux.HandleFunc("POST /v1/session", s.signIn)
	mux.HandleFunc("DELETE /v1/session", s.signOut)
	mux.Handle("/v1/", s.authorized(v1))
	s.handler = headers(http.NewCrossOriginProtection().Handler(mux))
	return s, nil
}

// Handler is the whole API.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers on the listener until ctx ends, then lets requests finish for up to 5 seconds.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	srv := &http.Server{
		Handler: s.handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 64 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
		// Streams end with the server: a request's context is the server's.
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(l) }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := srv.Shutdown(stop)
	if err != nil {
		err = srv.Close()
	}
	if serr := <-done; !errors.Is(serr, http.ErrServerClosed) {
		err = errors.Join(err, serr)
	}
	return err
}

func (s *Server) authorized(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !s.signedIn(r) {
			s.unauthorized(w, r, "the request has no valid bearer token")
			return
		}
		next.ServeHTTP(w, r)
	})
}

func (s *Server) unauthorized(w http.ResponseWriter, r *http.Request, why string) {
	w.Header().Set("WWW-Authenticate", `Bearer realm="tunefleet"`)
	s.fail(w, r, schemas.Errorf(schemas.CodeAuth, "", "%s", why).WithHint("the token of tunefleet up is api_token in embedded.json of its data directory; tunefleet dashboard prints an address that signs a browser in"))
}

// headers keeps browsers strict: nothing is loaded from elsewhere, framed, sniffed or cached.
func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Referrer-Policy", "no-referrer")
		h.Set("Cross-Origin-Opener-Policy", "same-origin")
		h.Set("Cross-Origin-Resource-Policy", "same-origin")
		h.Set("Cache-Control", "no-store")
		next.ServeHTTP(w, r)
	})
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	s.reply(w, r, http.StatusOK, map[string]string{"status": "ok", "version": s.cfg.Version})
}

func (s *Server) reply(w http.ResponseWriter, r *http.Request, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if _, err := w.Write(append(data, '\n')); err != nil {
		s.log.DebugContext(r.Context(), "cannot send the reply", "error", err)
	}
}

// fail answers with the error's code and status. Internal errors are logged, not shown: they may name what users must not see.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := errorInfo(err)
	status := schemas.HTTPStatus(e.Code)
	if status == http.StatusInternalServerError {
		s.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		if e.Code == schemas.CodeInternal {
			e = schemas.Errorf(schemas.CodeInternal, "", "internal error, see the server's log")
		}
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(schemas.APIError{Error: e}); err != nil {
		s.log.DebugContext(r.Context(), "cannot send the error", "error", err)
	}
}

func errorInfo(err error) *schemas.ErrorInfo {
	switch {
	case errors.Is(err, store.ErrNotFound):
		return schemas.Errorf(schemas.CodeNotFound, "", "no such object")
	case errors.Is(err, store.ErrUnavailable), errors.Is(err, lease.ErrUnavailable):
		return schemas.Errorf(schemas.CodeUnavailable, "", "%v", err)
	case errors.Is(err, store.ErrFull):
		return schemas.Errorf(schemas.CodeDiskFull, "", "%v", err)
	case errors.Is(err, context.DeadlineExceeded):
		return schemas.Errorf(schemas.CodeTimeout, "", "%v", err)
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return schemas.Errorf(schemas.CodeInvalid, "", "the body is larger than %d bytes", tooLarge.Limit)
	}
	return schemas.AsErrorInfo(err)
}
