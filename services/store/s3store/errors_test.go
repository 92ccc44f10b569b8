package s3store

import (
	"errors"
	"net/http"
	"testing"

	"github.com/minio/minio-go/v7"

	"github.com/tunefleet/tunefleet/services/store"
)

// TestGarbledConnection: a request that never arrived as one is tried again, and of a conditional one nobody knows what became of it; a
// request that the server understood and refused is neither.
func TestGarbledConnection(t *testing.T) {
	lost := minio.ErrorResponse{StatusCode: http.StatusBadRequest, Code: "BadRequest"}
	if !transient(lost) || !errors.Is(mapError(lost), store.ErrUnavailable) || !errors.Is(conditionalError(lost), store.ErrAmbiguous) {
		t.Errorf("%v: transient %t, mapped %v, conditional %v", lost, transient(lost), mapError(lost), conditionalError(lost))
	}
	refused := minio.ErrorResponse{StatusCode: http.StatusBadRequest, Code: "InvalidArgument"}
	if transient(refused) || errors.Is(conditionalError(refused), store.ErrAmbiguous) {
		t.Errorf("%v is taken for a lost request", refused)
	}
}
