package consume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/gpuworker/collective"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

func TestClassify(t *testing.T) {
	lost := fmt.Errorf("step 3: %w", errors.Join(collective.ErrPeerLost, io.EOF))
	for _, c := range []struct {
		name    string
		err     error
		stopped bool
		want    outcome
		cause   schemas.Cause
	}{
		{"done", nil, false, outcomeDone, schemas.CauseInfrastructure},
		{"peer lost", lost, false, outcomePeerLost, schemas.CauseInfrastructure},
		{"mismatch is a bug", fmt.Errorf("%w: %w", collective.ErrPeerLost, collective.ErrMismatch), false, outcomeFailed, schemas.CauseApplication},
		{"fenced", fmt.Errorf("commit: %w", schemas.Errorf(schemas.CodeFenced, "HEAD", "newer")), false, outcomeFenced, schemas.CauseInfrastructure},
		{"control word", schemas.Errorf(schemas.CodeInterrupted, "", "paused"), false, outcomeInterrupted, schemas.CausePreempted},
		{"told to stop", context.Canceled, true, outcomeInterrupted, schemas.CausePreempted},
		{"bad data", schemas.Errorf(schemas.CodeData, "a.jsonl:3", "broken"), false, outcomeFailed, schemas.CauseApplication},
		{"store away", fmt.Errorf("load: %w", store.ErrUnavailable), false, outcomeFailed, schemas.CauseInfrastructure},
		{"store full", fmt.Errorf("save: %w", store.ErrFull), false, outcomeFailed, schemas.CauseApplication},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := classify(c.err, c.stopped)
			if d.Outcome != c.want {
				t.Fatalf("outcome %q, want %q", d.Outcome, c.want)
			}
			if got := causeOf(d); got != c.cause {
				t.Errorf("cause %q, want %q", got, c.cause)
			}
			if (d.Error == nil) != (c.err == nil) {
				t.Errorf("error %v for %v", d.Error, c.err)
			}
		})
	}
	if d := classify(fmt.Errorf("save: %w", store.ErrFull), false); d.Error.Code != schemas.CodeDiskFull {
		t.Errorf("a full store is reported as %q", d.Error.Code)
	}
}

func TestLinesRoundTrip(t *testing.T) {
	word := schemas.ControlPreempt
	sent := []order{
		{Start: &startOrder{Message: schemas.Message{Kind: schemas.KindTrain, Run: "r"}, Spec: &schemas.RunSpec{Version: 1, ID: "r"}, Threads: 2}},
		{Form: &formOrder{Rank: 1, Head: &schemas.Head{Generation: 4, Members: []schemas.Member{{Rank: 0}, {Rank: 1}}}, Secret: []byte{1, 2}}},
		{Control: &word}, {Stop: true},
	}
	var buf bytes.Buffer
	l := &lines{w: &buf}
	for _, o := range sent {
		if err := l.write(o); err != nil {
			t.Fatal(err)
		}
	}
	var got []order
	if err := readLines(&buf, func(o order) error { got = append(got, o); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, sent) {
		t.Fatalf("got %+v, sent %+v", got, sent)
	}
}

func TestLineLimits(t *testing.T) {
	if err := (&lines{w: io.Discard}).write(order{Form: &formOrder{Secret: make([]byte, maxLine)}}); err == nil {
		t.Error("a line over the limit was sent")
	}
	if err := readLines(strings.NewReader(`{"unknown":1}`+"\n"), func(order) error { return nil }); err == nil {
		t.Error("an unknown field was accepted")
	}
}

func FuzzDecodeNotice(f *testing.F) {
	f.Add([]byte(`{"ready":{"addr":"127.0.0.1:1"}}`))
	f.Add([]byte(`{"done":{"outcome":"failed","error":{"code":"bad_data","message":"m"}}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		n, err := decodeLine[notice](raw)
		if err != nil {
			return
		}
		var buf bytes.Buffer
		if err := (&lines{w: &buf}).write(n); err != nil {
			t.Fatalf("cannot encode what was decoded: %v", err)
		}
	})
}

func TestRankEnvIsBuiltFromScratch(t *testing.T) {
	env := rankEnv([]string{"PATH=/bin", "AWS_SECRET_ACCESS_KEY=s", "NATS_PASSWORD=p", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c"}, []string{"A=b"})
	if want := []string{"PATH=/bin", "OTEL_EXPORTER_OTLP_ENDPOINT=http://c", "A=b"}; !reflect.DeepEqual(env, want) {
		t.Fatalf("got %q, want %q", env, want)
	}
}

func TestConfigNamesAllProblems(t *testing.T) {
	c := Config{Pool: "Not A Name", Bind: "nowhere", LeaseTTL: -1}.WithDefaults()
	err := c.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, part := range []string{"pool", "bind address", "lease TTL", "advertised"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%q does not mention %q", err, part)
		}
	}
	if err := (Config{Pool: "cpu"}).WithDefaults().Validate(); err != nil {
		t.Errorf("defaults are invalid: %v", err)
	}
}
