package api

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path"
	"strconv"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// putInput stores a file under its SHA-256. It is spooled and checked first: a wrong file never stands under a right name.
func (s *Server) putInput(w http.ResponseWriter, r *http.Request) {
	tenant, sum := r.PathValue("tenant"), r.PathValue("sha256")
	if !schemas.ValidName(tenant) || !schemas.ValidSHA256(sum) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, r.URL.Path, "expected /v1/inputs/TENANT/SHA256"))
		return
	}
	key := schemas.InputKey(tenant, sum)
	if info, err := s.objects.Stat(r.Context(), key); err == nil && (r.ContentLength < 0 || info.Bytes == r.ContentLength) {
		s.reply(w, r, http.StatusOK, schemas.File{SHA256: sum, Bytes: info.Bytes})
		return
	}
	spool, err := os.CreateTemp(s.cfg.Spool, "input-*")
	if err != nil {
		s.fail(w, r, fmt.Errorf("cannot create a spool file: %w", err))
		return
	}
	defer func() { err = errors.Join(spool.Close(), os.Remove(spool.Name())) }()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(spool, h), http.MaxBytesReader(w, r.Body, s.cfg.MaxInputBytes))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, sum, "the body's SHA-256 is %s (%d bytes)", got, n))
		return
	}
	if _, err := spool.Seek(0, io.SeekStart); err != nil {
		s.fail(w, r, err)
		return
	}
	if err := s.objects.Upload(r.Context(), key, spool, n); err != nil {
		s.fail(w, r, err)
		return
	}
	s.reply(w, r, http.StatusCreated, schemas.File{SHA256: sum, Bytes: n})
}

func (s *Server) outputs(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	list, err := s.runs.Outputs(r.Context(), tenant, run)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	if list.Outputs == nil {
		list.Outputs = []schemas.Object{}
	}
	s.reply(w, r, http.StatusOK, list)
}

func (s *Server) output(w http.ResponseWriter, r *http.Request) {
	tenant, run, err := pathNames(r)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	name := r.PathValue("path")
	if !schemas.ValidPath(name) {
		s.fail(w, r, schemas.Errorf(schemas.CodeInvalid, name, "is no path of an output"))
		return
	}
	key := schemas.RunPrefix(tenant, run) + "output/" + name
	info, err := s.objects.Stat(r.Context(), key)
	if err != nil {
		if errors.Is(err, store.ErrNotFound) {
			err = schemas.Errorf(schemas.CodeNotFound, name, "the run has no such output")
		}
		s.fail(w, r, err)
		return
	}
	body, err := s.objects.Open(r.Context(), key, 0, -1)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer body.Close()
	h := w.Header()
	// Outputs are users' data: never shown as a page of ours.
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Content-Disposition", "attachment; filename="+strconv.Quote(path.Base(name)))
	h.Set("Content-Length", strconv.FormatInt(info.Bytes, 10))
	w.WriteHeader(http.StatusOK)
	if _, err := io.Copy(w, body); err != nil {
		s.log.DebugContext(r.Context(), "output was not sent whole", "path", name, "error", err)
	}
}
