package openai

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/generate"
	"github.com/tunefleet/tunefleet/gpuworker/infer"
)

// Defaults of the limits.
const (
	defaultBody    = 4 << 20
	defaultAnswers = 16
	// writeWithin is how long a client may take to accept a piece of a stream.
	writeWithin = 30 * time.Second
)

// Options of a server.
type Options struct {
	// Name is what the model is called.
	Name string
	// Key, when not empty, is what clients have to give as a bearer token.
	Key string
	// MaxNewTokens, Sampling and KeepSpecial are what holds for requests that say nothing else.
	MaxNewTokens int
	Sampling     generate.Sampling
	KeepSpecial  bool
	// Seed gives the seed of a request that has none.
	Seed func() uint64
	// MaxBody bounds a request's bytes (default 4 MiB), MaxAnswers the answers that one asks for (default 16), Waiting the requests for scores that
	// wait (default 64).
	MaxBody    int64
	MaxAnswers int
	Waiting    int
	Logger     *slog.Logger
}

// Server answers requests with one model.
type Server struct {
	o       Options
	model   *infer.Model
	engine  *infer.Engine // nil: a reward model
	key     [sha256.Size]byte
	created int64
	// scoring is held while a reward model computes; turns bounds those who wait for it.
	scoring, turns chan struct{}
}

// New makes a server over a model; e is its engine, nil for a reward model.
func New(m *infer.Model, e *infer.Engine, o Options) *Server {
	if o.MaxBody == 0 {
		o.MaxBody = defaultBody
	}
	if o.MaxAnswers == 0 {
		o.MaxAnswers = defaultAnswers
	}
	if o.Waiting == 0 {
		o.Waiting = 64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, model: m, engine: e, key: sha256.Sum256([]byte(o.Key)), created: time.Now().Unix(), scoring: make(chan struct{}, 1), turns: make(chan struct{}, o.Waiting+1)}
}

// Handler serves the API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", s.health)
	for path, f := range map[string]http.HandlerFunc{
		"GET /v1/models": s.models, "GET /v1/models/{name...}": s.oneModel, "POST /v1/chat/completions": s.chat, "POST /v1/completions": s.complete,
		"POST /v1/score/evaluation": s.score,
	} {
		mux.HandleFunc(path, s.guarded(f))
	}
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, &apiError{Message: "unknown request: " + r.Method + " " + r.URL.Path, Type: badRequest, Code: optional("unknown_url"), status: http.StatusNotFound})
	})
	return mux
}

// guarded lets those in who know the key.
func (s *Server) guarded(f http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if s.o.Key != "" {
			kind, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
			sum := sha256.Sum256([]byte(strings.TrimSpace(token)))
			if !strings.EqualFold(kind, "Bearer") || subtle.ConstantTimeCompare(sum[:], s.key[:]) != 1 {
				w.Header().Set("WWW-Authenticate", "Bearer")
				writeError(w, &apiError{Message: "Incorrect API key provided.", Type: badRequest, Code: optional("invalid_api_key"), status: http.StatusUnauthorized})
				return
			}
		}
		start := time.Now()
		f(w, r)
		s.o.Logger.Info("request", "method", r.Method, "path", r.URL.Path, "seconds", time.Since(start).Seconds())
	}
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	v := map[string]any{"status": "ok", "model": s.o.Name}
	if s.engine != nil {
		v["running"], v["waiting"] = s.engine.Load()
	}
	writeJSON(w, http.StatusOK, v)
}

type modelCard struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (s *Server) card() modelCard { return modelCard{s.o.Name, "model", s.created, "owner"} }

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": []modelCard{s.card()}})
}

func (s *Server) oneModel(w http.ResponseWriter, r *http.Request) {
	if name := r.PathValue("name"); name != s.o.Name {
		writeError(w, &apiError{Message: "The model '" + name + "' does not exist", Type: badRequest, Param: optional("model"), Code: optional("model_not_found"), status: http.StatusNotFound})
		return
	}
	writeJSON(w, http.StatusOK, s.card())
}

// read decodes a request's body, of at most MaxBody bytes.
func (s *Server) read(w http.ResponseWriter, r *http.Request, v any) *apiError {
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.o.MaxBody))
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		e := bad("", "the request has more than %d bytes", s.o.MaxBody)
		e.status, e.Code = http.StatusRequestEntityTooLarge, optional("request_too_large")
		return e
	}
	if err != nil {
		return bad("", "the request could not be read")
	}
	return decode(b, v)
}

// decode reads a request. Keys that are not known are passed over, since clients send many that change nothing here.
func decode(b []byte, v any) *apiError {
	if err := json.Unmarshal(b, v); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return bad(kind.Field, "%s is a %s, expected %s", kind.Field, kind.Value, kind.Type)
		}
		var e *apiError
		if errors.As(err, &e) {
			return e
		}
		return bad("", "the body is no JSON: %v", err)
	}
	return nil
}

func newID(prefix string) string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails (crypto/rand)
	return prefix + hex.EncodeToString(b[:])
}

// scoreRequest is that of LLaMA-Factory.
type scoreRequest struct {
	Model     string   `json:"model"`
	Messages  []string `json:"messages"`
	MaxLength int      `json:"max_length"`
}

// score serves a reward model's scores.
func (s *Server) score(w http.ResponseWriter, r *http.Request) {
	if s.engine != nil {
		writeError(w, notAllowed("this model answers, and scores nothing; a reward model is served with stage=rm"))
		return
	}
	var q scoreRequest
	if e := s.read(w, r, &q); e != nil {
		writeError(w, e)
		return
	}
	switch {
	case len(q.Messages) == 0:
		writeError(w, bad("messages", "there is nothing to score"))
		return
	case len(q.Messages) > 1024:
		writeError(w, bad("messages", "%d texts are more than 1024", len(q.Messages)))
		return
	case q.MaxLength < 0:
		writeError(w, bad("max_length", "%d is negative", q.MaxLength))
		return
	}
	scores, err := s.scores(r.Context(), q)
	if err != nil {
		writeError(w, asAPIError(err, "messages"))
		return
	}
	writeJSON(w, http.StatusOK, map[string]any{"id": newID("scoreval-"), "object": "score.evaluation", "model": q.Model, "scores": scores})
}

func (s *Server) scores(ctx context.Context, q scoreRequest) ([]float64, error) {
	select {
	case s.turns <- struct{}{}:
		defer func() { <-s.turns }()
	default:
		return nil, &infer.BusyError{Waiting: s.o.Waiting, After: time.Second}
	}
	select {
	case s.scoring <- struct{}{}:
		defer func() { <-s.scoring }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.model.Scores(ctx, q.Messages, q.MaxLength)
}

func notAllowed(why string) *apiError {
	return &apiError{Message: why, Type: badRequest, Code: optional("not_allowed"), status: http.StatusMethodNotAllowed}
}
