package schemas

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Code is the stable name of a class of errors, the same in the API, the CLI, HEAD and the docs.
type Code string

// Codes. Each has a row in ExitCodes.
const (
	CodeInternal     Code = "internal"       // a bug of ours
	CodeUsage        Code = "usage"          // wrong flags or arguments
	CodeInvalid      Code = "invalid_config" // spec or configuration is wrong
	CodeData         Code = "bad_data"       // a data file or row is wrong
	CodeModel        Code = "bad_model"      // weights, tokenizer or architecture are wrong or unsafe
	CodeNotFound     Code = "not_found"
	CodeConflict     Code = "conflict" // the object is in another state than the request needs
	CodeAuth         Code = "unauthorized"
	CodeRunFailed    Code = "run_failed"
	CodeRunCancelled Code = "run_cancelled"
	CodeTimeout      Code = "timeout"
	CodeUnavailable  Code = "unavailable"  // broker, store, lease server or API cannot be reached
	CodeStoreUnsafe  Code = "store_unsafe" // the object store has no correct conditional writes
	CodeNumeric      Code = "numeric"      // NaN or infinite loss
	CodeDiskFull     Code = "disk_full"
	CodeMemory       Code = "out_of_memory"
	CodeFenced       Code = "fenced"        // a newer generation exists; stop for good
	CodeInterrupted  Code = "interrupted"   // asked to stop; not a failure
	CodeVerify       Code = "verify_failed" // results differ from the reference
	CodeUnsupported  Code = "unsupported"   // known, but not built (yet)
)

// ExitCodes maps every code to the process exit code that the CLI uses and documents.
func ExitCodes() map[Code]int {
	return map[Code]int{
		CodeInternal: 1, CodeVerify: 1, CodeUsage: 2, CodeInvalid: 2, CodeUnsupported: 2, CodeNotFound: 3, CodeAuth: 4, CodeRunFailed: 5,
		CodeRunCancelled: 5, CodeTimeout: 6, CodeUnavailable: 7, CodeData: 8, CodeModel: 9, CodeNumeric: 10, CodeDiskFull: 11,
		CodeMemory: 12, CodeStoreUnsafe: 13, CodeConflict: 14, CodeFenced: 75, CodeInterrupted: 130,
	}
}

// ErrorInfo is an error as it travels: what happened, where, and what to do.
type ErrorInfo struct { //nolint:errname // it is a wire object first
	Code Code `json:"code"`
	// Message says what and why.
	Message string `json:"message"`
	// Place is the file, row, key or tensor: "clauses.jsonl:17", "training.learning_rate".
	Place string `json:"place,omitempty"`
	// Hint says what to do.
	Hint string `json:"hint,omitempty"`
	// Permanent errors are not retried: the same input fails again.
	Permanent bool `json:"permanent,omitempty"`
}

// Error implements error: "place: message (hint)".
func (e *ErrorInfo) Error() string {
	s := e.placed()
	if e.Hint != "" {
		s += " (" + e.Hint + ")"
	}
	return s
}

func (e *ErrorInfo) placed() string {
	if e.Place == "" {
		return e.Message
	}
	return e.Place + ": " + e.Message
}

// ExitCode is the process exit code of the error's class.
func (e *ErrorInfo) ExitCode() int {
	if c, ok := ExitCodes()[e.Code]; ok {
		return c
	}
	return 1
}

// Errorf makes an ErrorInfo. Bad input (invalid, data, model, usage, unsupported, numeric, store unsafe) is permanent.
func Errorf(code Code, place, format string, args ...any) *ErrorInfo {
	return &ErrorInfo{Code: code, Place: place, Message: fmt.Sprintf(format, args...), Permanent: permanent(code)}
}

// WithHint returns the error with a hint what to do.
func (e *ErrorInfo) WithHint(format string, args ...any) *ErrorInfo {
	c := *e
	c.Hint = fmt.Sprintf(format, args...)
	return &c
}

// AsErrorInfo finds the ErrorInfo in a chain, or wraps the error as internal. nil stays nil.
func AsErrorInfo(err error) *ErrorInfo {
	if err == nil {
		return nil
	}
	var e *ErrorInfo
	if errors.As(err, &e) {
		whole, own := err.Error(), e.Error()
		if whole == own {
			return e
		}
		c := *e
		c.Place = ""
		if before, ok := strings.CutSuffix(whole, own); ok {
			c.Message = before + e.placed() // what to do stays apart from what was being done
		} else {
			c.Message, c.Hint = whole, ""
		}
		return &c
	}
	return &ErrorInfo{Code: CodeInternal, Message: err.Error()}
}

// Reason is a failure of the file system without the operation and the path that os puts before it: messages tell those in their place.
func Reason(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	return err
}

// IsCode reports whether the chain holds an ErrorInfo of that code.
func IsCode(err error, code Code) bool {
	var e *ErrorInfo
	return errors.As(err, &e) && e.Code == code
}

func permanent(c Code) bool {
	switch c {
	case CodeUsage, CodeInvalid, CodeData, CodeModel, CodeNumeric, CodeStoreUnsafe, CodeUnsupported:
		return true
	}
	return false
}
