package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/infer"
	"github.com/tunefleet/tunefleet/schemas"
)

// apiError is an error in OpenAI's form.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`

	status int
	after  int // seconds, of Retry-After
}

// Error implements error.
func (e *apiError) Error() string { return e.Message }

// Types of errors.
const (
	badRequest  = "invalid_request_error"
	serverError = "server_error"
)

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// bad is an error of the request; param is the key that is wrong.
func bad(param, format string, args ...any) *apiError {
	return &apiError{Message: fmt.Sprintf(format, args...), Type: badRequest, Param: optional(param), Code: optional("invalid_value"), status: http.StatusBadRequest}
}

// asAPIError gives an error of the engine its status. param is the key that holds the prompt.
func asAPIError(err error, param string) *apiError {
	var e *apiError
	var busy *infer.BusyError
	var long *infer.TooLongError
	var info *schemas.ErrorInfo
	switch {
	case errors.As(err, &e):
		return e
	case errors.As(err, &busy):
		return &apiError{Message: "the server is busy: " + busy.Error(), Type: "rate_limit_error", Code: optional("queue_full"), status: http.StatusTooManyRequests,
			after: int(math.Ceil(busy.After.Seconds()))}
	case errors.As(err, &long):
		return &apiError{Message: fmt.Sprintf("This model's maximum context length is %d tokens. However, your messages resulted in %d tokens. Please reduce the length of the messages.",
			long.Context, long.Prompt), Type: badRequest, Param: optional(param), Code: optional("context_length_exceeded"), status: http.StatusBadRequest}
	case errors.As(err, &info):
		switch info.Code {
		case schemas.CodeData, schemas.CodeInvalid:
			return bad(param, "%s", info.Error())
		case schemas.CodeUnavailable, schemas.CodeInterrupted:
			return &apiError{Message: info.Error(), Type: serverError, Code: optional("unavailable"), status: http.StatusServiceUnavailable, after: 5}
		}
	}
	return &apiError{Message: "the answer could not be computed", Type: serverError, status: http.StatusInternalServerError}
}

func writeError(w http.ResponseWriter, e *apiError) {
	if e.after > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(e.after))
	}
	writeJSON(w, e.status, map[string]*apiError{"error": e})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"message":"the answer could not be encoded","type":"server_error","param":null,"code":null}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(b, '\n')) // a client that has left reads nothing
}
