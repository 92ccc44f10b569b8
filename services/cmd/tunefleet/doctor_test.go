package main

import (
	"net"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// TestDoctorOnStoppedServers: servers that a train started and stopped are no failure; one of three that answers is.
func TestDoctorOnStoppedServers(t *testing.T) {
	dir := t.TempDir()
	r, err := embedded.Prepare(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := cli(t, nil, "doctor", "--dir", dir)
	got.want(t, 0, "are not running", "tunefleet up --dir "+dir)
	if strings.Contains(got.out, "refused") {
		t.Errorf("doctor shows the system's words: %s", got.out)
	}
	l, err := net.Listen("tcp", r.Addresses()[1])
	if err != nil {
		t.Skipf("the port was taken meanwhile: %v", err)
	}
	defer l.Close()
	cli(t, nil, "doctor", "--dir", dir).want(t, schemas.ExitCodes()[schemas.CodeUnavailable], "fail  servers")
}
