package api

import (
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/tunefleet/tunefleet/schemas"
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
	reply := s.runs.Submit(r.Context(), body)
	switch {
	case reply.Error != nil:
		s.fail(w, r, reply.Error)
	case reply.Duplicate:
		s.reply(w, r, http.StatusOK, reply)
	default:
		w.Header().Set("Location", "/v1/runs/"+reply.Tenant+"/"+reply.Run)
		s.reply(w, r, http.StatusCreated, reply)
	}
}

func (s *Server) list(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	f := schemas.RunFilter{Tenant: q.Get("tenant"), State: schemas.RunState(q.Get("state")), After: q.Get("after"), Limit: 100}
	if f.Tenant != "" && !schemas.ValidName(f.Tenant) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "tenant", "%q is no name", f.Tenant))
		return
	}
	if f.State != "" && !slices.Contains(schemas.RunStates(), f.State) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "state", "%q is no state of a run", f.State))
		return
	}
	if l := q.Get("limit"); l != "" {
		n, err := strconv.Atoi(l)
		if err != nil || n < 1 || n > 1000 {
			s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "limit", "%q is not in 1..1000", l))
			return
		}
		f.Limit = n
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
	event := schemas.RunEvent(r.PathValue("action"))
	if !slices.Contains([]schemas.RunEvent{schemas.RunCancel, schemas.RunPause, schemas.RunResume}, event) {
		s.fail(w, r, schemas.Errorf(schemas.CodeNotFound, r.URL.Path, "no such action: expected cancel, pause or resume"))
		return
	}
	view, err := s.runs.Act(r.Context(), tenant, run, event)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, view)
}

func (s *Server) workers(w http.ResponseWriter, r *http.Request) {
	pools := s.cfg.Pools
	if p := r.URL.Query().Get("pool"); p != "" {
		if !schemas.ValidName(p) {
			s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, "pool", "%q is no name", p))
			return
		}
		pools = []string{p}
	}
	list := schemas.WorkerList{Workers: []schemas.WorkerView{}}
	for _, p := range pools {
		ws, err := s.live.Workers(r.Context(), p)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		for _, x := range ws {
			list.Workers = append(list.Workers, schemas.WorkerView{Name: x.Name, Incarnation: x.Incarnation, Pool: x.Pool, Host: x.Host, PID: x.PID,
				Devices: x.Devices, Device: x.Device, Busy: x.Busy, Draining: x.Draining, Started: x.Started})
		}
	}
	s.reply(w, r, http.StatusOK, list)
}

func (s *Server) pools(w http.ResponseWriter, r *http.Request) {
	list, err := s.runs.Pools(r.Context())
	if err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusOK, list)
}
