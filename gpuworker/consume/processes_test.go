package consume

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/tunefleet/tunefleet/schemas"
)

// TestPreparedRankTakesTheWork: a process started in advance gets the next work, logs where that work logs, and ends as any; the work after
// it gets a new one, and so does work whose prepared process has died.
func TestPreparedRankTakesTheWork(t *testing.T) {
	p, err := newProcesses(testRankConfig())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.dismiss)
	quiet := slog.New(slog.DiscardHandler)
	run := func(log *slog.Logger) {
		t.Helper()
		c, err := startChild(p, log, testStart("exits"), func(schemas.Event) {})
		if err != nil {
			t.Fatal(err)
		}
		d := await(t, "report", c.done)
		if d.Outcome != outcomeCrashed || d.Error == nil || !strings.Contains(d.Error.Error(), "last words") {
			t.Errorf("got %+v", d)
		}
		c.stop(0)
	}
	for range 2 {
		if err := p.prepare(quiet); err != nil {
			t.Fatal(err)
		}
	}
	first := p.spare
	if first == nil {
		t.Fatal("nothing was prepared")
	}
	var out strings.Builder
	run(slog.New(slog.NewTextHandler(&out, nil)))
	if p.spare != nil || !strings.Contains(out.String(), "last words") {
		t.Errorf("the prepared process was not used: its work logged %q", out.String())
	}
	run(quiet)

	if err := p.prepare(quiet); err != nil {
		t.Fatal(err)
	}
	p.spare.proc.kill()
	dead := await(t, "end of the prepared process", p.spare.ended)
	p.spare.ended <- dead
	run(quiet)
	for range 2 {
		if err := p.prepare(quiet); err != nil {
			t.Fatal(err)
		}
		p.dismiss()
		if p.spare != nil {
			t.Error("a dismissed process is kept")
		}
	}
}
