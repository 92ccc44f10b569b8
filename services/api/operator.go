package api

import (
	"cmp"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxPolicyBody bounds a policy sent to the API.
const maxPolicyBody = 16 << 20

// policy answers with a pool's policy; the ETag is the version that a PUT replaces.
func (s *Server) policy(w http.ResponseWriter, r *http.Request) {
	p, version, err := s.operate.Policy(r.Context(), r.PathValue("pool"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", strconv.Quote(version))
	s.reply(w, r, http.StatusOK, p)
}

// demand answers autoscalers: KEDA's metrics-api scaler reads workers_demanded, and what scales in takes only workers that are removable.
func (s *Server) demand(w http.ResponseWriter, r *http.Request) {
	pool := r.PathValue("pool")
	if !schemas.ValidName(pool) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "pool", "%q is no name", pool))
		return
	}
	pools, err := s.fleet.Pools(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	at := slices.IndexFunc(pools.Pools, func(v schemas.PoolView) bool { return v.Pool == pool })
	if at < 0 {
		s.fail(w, r, schemas.Errorf(schemas.CodeNotFound, pool, "no control schedules a pool of that name"))
		return
	}
	workers, err := s.fleet.Workers(r.Context(), pool)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, demandOf(pools.Pools[at], workers.Workers))
}

func demandOf(v schemas.PoolView, workers []schemas.WorkerView) schemas.PoolDemand {
	out := schemas.PoolDemand{Pool: v.Pool, WorkersDemanded: v.WorkersDemanded, Workers: len(workers), Surplus: max(0, len(workers)-v.WorkersDemanded), Removable: []string{}}
	slices.SortStableFunc(workers, func(a, b schemas.WorkerView) int {
		drains := func(w schemas.WorkerView) int {
			if w.Draining {
				return 0
			}
			return 1
		}
		return cmp.Or(cmp.Compare(drains(a), drains(b)), cmp.Compare(a.Name, b.Name))
	})
	for _, w := range workers {
		if w.Busy == "" {
			out.Removable = append(out.Removable, w.Name)
		}
	}
	return out
}

// setPolicy replaces a pool's policy. With If-Match it replaces that version only, without it whatever there is.
func (s *Server) setPolicy(w http.ResponseWriter, r *http.Request) {
	var p schemas.Policy
	dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxPolicyBody))
	dec.DisallowUnknownFields()
	err := dec.Decode(&p)
	if _, more := dec.Token(); err == nil && !errors.Is(more, io.EOF) {
		err = errors.New("there is more after the policy")
	}
	if err != nil {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "policy", "cannot decode: %v", err))
		return
	}
	p.Pool = r.PathValue("pool")
	version := strings.Trim(r.Header.Get("If-Match"), `"`)
	if r.Header.Get("If-Match") == "" {
		if _, version, err = s.operate.Policy(r.Context(), p.Pool); err != nil {
			s.fail(w, r, err)
			return
		}
	}
	next, version, err := s.operate.SetPolicy(r.Context(), &p, version)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("ETag", strconv.Quote(version))
	s.reply(w, r, http.StatusOK, next)
}

func (s *Server) deadLetters(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	limit := 0
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 {
			s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "limit", "%q is no positive number", l))
			return
		}
		limit = n
	}
	list, err := s.operate.DeadLetters(r.Context(), q.Get("tenant"), q.Get("after"), limit)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, list)
}

func (s *Server) retryDeadLetter(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	reply, err := s.operate.RetryDeadLetter(r.Context(), tenant, run)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusCreated, reply)
}

func (s *Server) dropDeadLetter(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err == nil {
		err = s.operate.DropDeadLetter(r.Context(), tenant, run)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) checkpoints(w http.ResponseWriter, r *http.Request) { s.listCheckpoints(w, r, false) }

func (s *Server) listCheckpoints(w http.ResponseWriter, r *http.Request, verify bool) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list, err := s.ckpt.Checkpoints(r.Context(), tenant, run, verify)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, list)
}

// checkpointAction verifies or collects; ?dry=true only counts what a collection would delete.
func (s *Server) checkpointAction(w http.ResponseWriter, r *http.Request) {
	switch r.PathValue("action") {
	case "verify":
		s.listCheckpoints(w, r, true)
	case "gc":
		tenant, run, err := pathNames(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		dry, err := strconv.ParseBool(cmp.Or(r.URL.Query().Get("dry"), "false"))
		if err != nil {
			s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "dry", "%q is not true or false", r.URL.Query().Get("dry")))
			return
		}
		list, err := s.ckpt.CollectCheckpoints(r.Context(), tenant, run, dry)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		s.reply(w, r, http.StatusOK, list)
	default:
		s.fail(w, r, schemas.Errorf(schemas.CodeNotFound, r.URL.Path, "no such action: checkpoints can be verified (verify) and collected (gc)"))
	}
}

func (s *Server) pin(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err == nil {
		err = s.ckpt.PinCheckpoint(r.Context(), tenant, run, r.PathValue("name"), r.Method == http.MethodPut)
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
