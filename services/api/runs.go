package api

import (
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// pathNames reads tenant and id of the path and refuses what is no name: such strings become object keys.
func pathNames(r *http.Request) (tenant, run string, err error) {
	tenant, run = r.PathValue("tenant"), r.PathValue("id")
	if !schemas.ValidName(tenant) {
		return "", "", schemas.Errorf(schemas.CodeInvalid, "tenant", "%q is no name", tenant)
	}
	if !schemas.ValidName(run) {
		return "", "", schemas.Errorf(schemas.CodeInvalid, "id", "%q is no run id", run)
	}
	return tenant, run, nil
}

func (s *Server) submit(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, schemas.MaxSpecBytes))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	spec, err := schemas.DecodeSpec(body)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	ctx := telemetry.Extract(r.Context(), map[string]string{"traceparent": r.Header.Get("Traceparent")})
	reply, err := s.runs.Submit(ctx, spec)
	switch {
	case err != nil:
		s.fail(w, r, err)
	case reply.Duplicate:
		s.reply(w, r, http.StatusOK, reply)
	default:
		w.Header().Set("Location", "/v1/runs/"+reply.Tenant+"/"+reply.Run)
		s.reply(w, r, http.StatusCreated, reply)
	}
}

// listQuery are the parameters of a list of runs.
var listQuery = []string{"tenant", "state", "pool", "name", "since", "until", "counts", "limit", "after"}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	f, err := runFilter(r.URL.Query())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list, err := s.runs.List(r.Context(), f)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if list.Runs == nil {
		list.Runs = []schemas.RunView{}
	}
	s.reply(w, r, http.StatusOK, list)
}

// runFilter reads the query of a list of runs; parameters that it does not know are refused, since a filter that is ignored shows too much.
func runFilter(q url.Values) (schemas.RunFilter, error) {
	f := schemas.RunFilter{Tenant: q.Get("tenant"), Pool: q.Get("pool"), Name: q.Get("name"), After: q.Get("after"), Limit: 100}
	for k := range q {
		if !slices.Contains(listQuery, k) {
			return f, schemas.Errorf(schemas.CodeInvalid, k, "no such parameter; expected %s", strings.Join(listQuery, ", "))
		}
	}
	for place, n := range map[string]string{"tenant": f.Tenant, "pool": f.Pool} {
		if n != "" && !schemas.ValidName(n) {
			return f, schemas.Errorf(schemas.CodeInvalid, place, "%q is no name", n)
		}
	}
	for _, v := range q["state"] {
		for st := range strings.SplitSeq(v, ",") {
			if st == "" {
				continue
			}
			if !slices.Contains(schemas.RunStates(), schemas.RunState(st)) {
				return f, schemas.Errorf(schemas.CodeInvalid, "state", "%q is no state of a run; states are %v", st, schemas.RunStates())
			}
			f.States = append(f.States, schemas.RunState(st))
		}
	}
	for place, to := range map[string]*time.Time{"since": &f.Since, "until": &f.Until} {
		if v := q.Get(place); v != "" {
			at, err := time.Parse(time.RFC3339, v)
			if err != nil {
				return f, schemas.Errorf(schemas.CodeInvalid, place, "%q is no time in the form of RFC 3339, such as 2026-11-27T09:00:00Z", v)
			}
			*to = at
		}
	}
	if v := q.Get("counts"); v != "" {
		counts, err := strconv.ParseBool(v)
		if err != nil {
			return f, schemas.Errorf(schemas.CodeInvalid, "counts", "%q is not true or false", v)
		}
		f.Counts = counts
	}
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > 1000 {
			return f, schemas.Errorf(schemas.CodeInvalid, "limit", "%q is not in 1..1000", l)
		}
		f.Limit = n
	}
	return f, nil
}

func (s *Server) get(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	view, err := s.runs.Get(r.Context(), tenant, run)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, view)
}

func (s *Server) act(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	var view *schemas.RunView
	switch schemas.RunEvent(r.PathValue("action")) {
	case schemas.RunCancel:
		view, err = s.runs.Cancel(r.Context(), tenant, run, "cancelled by its owner")
	case schemas.RunPause:
		view, err = s.runs.Pause(r.Context(), tenant, run)
	case schemas.RunResume:
		view, err = s.runs.Resume(r.Context(), tenant, run)
	default:
		err = schemas.Errorf(schemas.CodeNotFound, r.URL.Path, "no such action: expected cancel, pause or resume")
	}
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, view)
}

// maxResult bounds a stage's result object.
const maxResult = 64 << 20

// stage shows a stage with what it has made.
func (s *Server) stage(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	view, err := s.runs.Get(r.Context(), tenant, run)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	at := slices.IndexFunc(view.Stages, func(x schemas.StageState) bool { return x.Name == r.PathValue("stage") })
	if at < 0 {
		s.fail(w, r, schemas.Errorf(schemas.CodeNotFound, r.PathValue("stage"), "the run has no such stage, or has not begun"))
		return
	}
	out := schemas.StageView{Stage: view.Stages[at]}
	manifest := out.Stage.Manifest
	if manifest == nil && view.Stage == out.Stage.Name {
		manifest = view.Manifest
	}
	if manifest != nil {
		if out.Manifest, err = checkpoint.ReadManifest(r.Context(), s.objects, *manifest); err != nil {
			s.fail(w, r, err)
			return
		}
		for i := range out.Manifest.Parts {
			out.Manifest.Parts[i].Ranges = nil
		}
	}
	if out.Stage.Result != "" {
		data, _, err := s.objects.Get(r.Context(), out.Stage.Result, maxResult)
		if err == nil {
			out.Result = &schemas.StageResult{}
			err = json.Unmarshal(data, out.Result)
		}
		if err != nil {
			s.fail(w, r, err)
			return
		}
	}
	s.reply(w, r, http.StatusOK, out)
}

func (s *Server) workers(w http.ResponseWriter, r *http.Request) {
	pool := r.URL.Query().Get("pool")
	if pool != "" && !schemas.ValidName(pool) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "pool", "%q is no name", pool))
		return
	}
	list, err := s.fleet.Workers(r.Context(), pool)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if list.Workers == nil {
		list.Workers = []schemas.WorkerView{}
	}
	s.reply(w, r, http.StatusOK, list)
}

func (s *Server) pools(w http.ResponseWriter, r *http.Request) {
	list, err := s.fleet.Pools(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, list)
}
