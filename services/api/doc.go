// Package api serves tunefleet over HTTP: runs, events (SSE), inputs, outputs, workers, an OpenAPI description and the dashboard. The
// JSON views and routes are those of schemas/api.go.
//
// Everything under /v1 needs the bearer token; bodies are bounded and decoded strictly; browsers are kept out by cross-origin
// protection and a content security policy that allows nothing from elsewhere.
package api
