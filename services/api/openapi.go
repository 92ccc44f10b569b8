package api

import (
	"net/http"
	"strings"

	"github.com/invopop/jsonschema"

	"github.com/tunefleet/tunefleet/schemas"
)

// route is a row of the OpenAPI description.
type route struct {
	method, path, summary string
	query                 []string
	// request and response name schemas; file is one of bytes, and an answer without a name has no body.
	request, response string
}

// file is the request or response of a route that carries a file's bytes.
const file = "file"

func routes() []route {
	return []route{
		{"post", "/v1/runs", "Submit a run; the answer is the acknowledgement", nil, "RunSpec", "SubmitReply"},
		{"get", "/v1/runs", "List runs, the newest first", listQuery, "", "RunList"},
		{"get", "/v1/runs/{tenant}/{id}", "One run", nil, "", "RunView"},
		{"post", "/v1/runs/{tenant}/{id}/cancel", "Cancel; final at once", nil, "", "RunView"},
		{"post", "/v1/runs/{tenant}/{id}/pause", "Pause at the next boundary", nil, "", "RunView"},
		{"post", "/v1/runs/{tenant}/{id}/resume", "Resume a paused run", nil, "", "RunView"},
		{"get", "/v1/runs/{tenant}/{id}/events", "Live events (SSE); Last-Event-ID resumes", []string{"after"}, "", "Event"},
		{"get", "/v1/runs/{tenant}/{id}/stages/{stage}", "One stage with its result or newest commit", nil, "", "StageView"},
		{"get", "/v1/runs/{tenant}/{id}/outputs", "Files of the run's outputs", nil, "", "OutputList"},
		{"get", "/v1/runs/{tenant}/{id}/outputs/{path}", "One output file", nil, "", file},
		{"get", "/v1/runs/{tenant}/{id}/checkpoints", "The run's checkpoints, oldest first", nil, "", "CheckpointList"},
		{"post", "/v1/runs/{tenant}/{id}/checkpoints/verify", "Read every part and compare it with its manifest", nil, "", "CheckpointList"},
		{"post", "/v1/runs/{tenant}/{id}/checkpoints/gc", "Delete parts that nothing needs; dry=true counts them", []string{"dry"}, "", "CheckpointList"},
		{"put", "/v1/runs/{tenant}/{id}/checkpoints/{name}/pin", "Keep a checkpoint for good", nil, "", ""},
		{"delete", "/v1/runs/{tenant}/{id}/checkpoints/{name}/pin", "Keep it no longer", nil, "", ""},
		{"put", "/v1/inputs/{tenant}/{sha256}", "Upload an input file under its SHA-256", nil, file, "File"},
		{"get", "/v1/workers", "Live workers", []string{"pool"}, "", "WorkerList"},
		{"get", "/v1/pools", "What control decided last for each pool", nil, "", "PoolList"},
		{"get", "/v1/pools/{pool}/demand", "Workers that the pool could use now, and which may be taken away", nil, "", "PoolDemand"},
		{"get", "/v1/pools/{pool}/policy", "The operator's word on a pool; ETag is its version", nil, "", "Policy"},
		{"put", "/v1/pools/{pool}/policy", "Replace it; If-Match names the version to replace", nil, "Policy", "Policy"},
		{"get", "/v1/dlq", "Failed runs that nobody has retried or dropped", []string{"tenant", "limit", "after"}, "", "DeadLetterList"},
		{"post", "/v1/dlq/{tenant}/{id}/retry", "Submit a failed run again as a new one", nil, "", "SubmitReply"},
		{"delete", "/v1/dlq/{tenant}/{id}", "Drop a dead letter", nil, "", ""},
		{"post", "/v1/session", "Sign a browser in with the token or a code; sets a cookie", nil, "SignIn", "Session"},
		{"get", "/v1/session", "The browser's session, renewed", nil, "", "Session"},
		{"delete", "/v1/session", "Sign the browser out", nil, "", ""},
		{"post", "/v1/session/codes", "A code that signs a browser in once, within an hour", nil, "", "SignIn"},
	}
}

// Description is the OpenAPI 3.1 description of the API.
func Description(version string) map[string]any {
	reflector := jsonschema.Reflector{Anonymous: true, ExpandedStruct: false}
	defs := map[string]any{}
	for _, v := range []any{&schemas.RunSpec{}, &schemas.SubmitReply{}, &schemas.RunView{}, &schemas.RunList{}, &schemas.Event{}, &schemas.OutputList{}, &schemas.StageView{},
		&schemas.File{}, &schemas.WorkerList{}, &schemas.PoolList{}, &schemas.PoolDemand{}, &schemas.APIError{}, &schemas.Policy{}, &schemas.DeadLetterList{}, &schemas.CheckpointList{}, &schemas.SignIn{}, &schemas.Session{}} {
		for name, d := range reflector.Reflect(v).Definitions {
			defs[name] = d
		}
	}
	paths := map[string]any{}
	for _, rt := range routes() {
		var params []any
		for _, part := range strings.Split(rt.path, "/") {
			if strings.HasPrefix(part, "{") {
				params = append(params, map[string]any{"name": strings.Trim(part, "{}"), "in": "path", "required": true, "schema": map[string]string{"type": "string"}})
			}
		}
		for _, q := range rt.query {
			params = append(params, map[string]any{"name": q, "in": "query", "schema": map[string]string{"type": "string"}})
		}
		done := map[string]any{"description": "done"}
		if rt.response != "" {
			done["content"] = content(rt.response, strings.HasSuffix(rt.path, "/events"))
		}
		op := map[string]any{"summary": rt.summary, "responses": map[string]any{
			"2XX": done,
			"4XX": map[string]any{"description": "refused", "content": content("APIError", false)},
			"5XX": map[string]any{"description": "failed", "content": content("APIError", false)},
		}}
		if params != nil {
			op["parameters"] = params
		}
		if rt.request != "" {
			op["requestBody"] = map[string]any{"required": true, "content": content(rt.request, false)}
		}
		entry, ok := paths[rt.path].(map[string]any)
		if !ok {
			entry = map[string]any{}
			paths[rt.path] = entry
		}
		entry[rt.method] = op
	}
	return map[string]any{
		"openapi": "3.1.0",
		"info":    map[string]any{"title": "tunefleet", "version": version, "license": map[string]string{"name": "Apache-2.0"}},
		"paths":   paths,
		"components": map[string]any{"schemas": defs,
			"securitySchemes": map[string]any{"token": map[string]string{"type": "http", "scheme": "bearer"}}},
		"security": []any{map[string]any{"token": []string{}}},
		"$defs":    defs,
	}
}

func content(name string, stream bool) map[string]any {
	if name == file {
		return map[string]any{"application/octet-stream": map[string]any{}}
	}
	kind := "application/json"
	if stream {
		kind = "text/event-stream"
	}
	return map[string]any{kind: map[string]any{"schema": map[string]string{"$ref": "#/components/schemas/" + name}}}
}

func (s *Server) openapi(w http.ResponseWriter, r *http.Request) {
	s.reply(w, r, http.StatusOK, Description(s.cfg.Version))
}
