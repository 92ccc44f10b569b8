package chaos_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/check"
	"github.com/tunefleet/tunefleet/gpuworker/chaos/clockfault"
	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/gpuworker/train"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/plantedbug"
)

// TestMain lets this binary play every process of the fleet.
func TestMain(m *testing.M) {
	if os.Getenv(chaos.EnvRole) == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if err := chaos.RunProcess(ctx, map[schemas.StageKind]consume.Handler{schemas.KindPrep: prep.Handle, schemas.KindTrain: train.Handle}); err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func options(t *testing.T, d time.Duration, rows ...int) chaos.Options {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return chaos.Options{Seed: 5, Duration: d, Rows: rows, Out: t.TempDir(), Command: []string{exe}, Store: chaos.StoreVersity, Broker: chaos.BrokerSingle,
		Say: func(format string, args ...any) { t.Logf(format, args...) }}
}

// TestAFleetUnderFire is the suite in small: kills, kills within the commit, notices, lost answers, a flushed lease server.
func TestAFleetUnderFire(t *testing.T) {
	o := options(t, 14*time.Second, 1, 2, 4, 18)
	res, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	text := res.Text()
	if !res.OK {
		t.Fatalf("%s", text)
	}
	e := res.Episodes[0]
	for _, n := range []string{"I1", "I2", "I3", "I4", "I5", "I8", "I9", "I12", "R4"} {
		if e.Report.Checked[n] == 0 {
			t.Errorf("%s was not judged:\n%s", n, text)
		}
	}
	if res.Kills == 0 || e.Report.Runs == 0 || e.Report.Hashes == 0 || len(e.Outcomes) < 3 {
		t.Errorf("too little happened:\n%s", text)
	}
	f, err := os.Open(filepath.Join(o.Out, e.History))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	events, err := check.Read(f)
	if err != nil || len(events) < e.Events {
		t.Errorf("%d of %d events can be read again: %v", len(events), e.Events, err)
	}
}

// TestTrainersAutoscalersStreams runs the rows whose subject is no toy: each once, in whatever order.
func TestTrainersAutoscalersStreams(t *testing.T) {
	o := options(t, 45*time.Second, 22, 23, 26)
	res, err := chaos.Run(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"R8", "R9", "R10"} {
		if !res.OK || res.Episodes[0].Report.Checked[n] == 0 {
			t.Fatalf("%s was not judged, or something did not hold:\n%s", n, res.Text())
		}
	}
}

func TestOptions(t *testing.T) {
	_, err := chaos.Run(t.Context(), chaos.Options{Rows: []int{27, 99}, Store: "nfs", Duration: time.Second, Workers: 1, Command: []string{"x"}})
	if err == nil {
		t.Fatal("bad options are taken")
	}
	for _, want := range []string{"row 27", "no row 99", `"nfs"`, "too short", "1 workers"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is missing in: %v", want, err)
		}
	}
	if rows, err := chaos.ParseRows("1, 3,10-12"); err != nil || !slices.Equal(rows, []int{1, 3, 10, 11, 12}) {
		t.Errorf("%v, %v", rows, err)
	}
	for _, bad := range []string{"x", "3-1", "1-1000", "-4"} {
		if _, err := chaos.ParseRows(bad); err == nil {
			t.Errorf("%q is taken for rows", bad)
		}
	}
}

// TestAutoscalersEachFault runs row 23 until two autoscalers, one of which is killed, have met each of the cloud's faults: throttled, silent,
// full, and instances that never join.
func TestAutoscalersEachFault(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") != "1" {
		t.Skip("takes a minute; set TUNEFLEET_TEST_FULL=1 (go tool task test:full)")
	}
	res, err := chaos.Run(t.Context(), options(t, 60*time.Second, 23))
	if err != nil {
		t.Fatal(err)
	}
	if e := res.Episodes[0]; !res.OK || e.Report.Checked["R9"] == 0 {
		t.Fatalf("R9 was not judged, or something did not hold:\n%s", res.Text())
	}
	for _, fault := range []string{"answers 429", "does not answer", "has no capacity", "never join"} {
		if !slices.ContainsFunc(res.Episodes[0].Outcomes, func(o chaos.Outcome) bool { return o.Result == "done" && strings.Contains(o.What, fault) }) {
			t.Errorf("no autoscaler has met a cloud that %s:\n%s", fault, res.Text())
		}
	}
}

// TestClocksJump is row 7 alone: no gang loses its generation over wall clocks that are an hour off, and the store takes what is signed by them.
func TestClocksJump(t *testing.T) {
	if why := clockfault.Unsupported(); why != "" {
		t.Skip("not possible here: " + why)
	}
	res, err := chaos.Run(t.Context(), options(t, 25*time.Second, 7))
	if err != nil {
		t.Fatal(err)
	}
	e := res.Episodes[0]
	if !res.OK || e.Report.Checked["R11"] == 0 || !slices.ContainsFunc(e.Outcomes, func(o chaos.Outcome) bool { return o.Result == "done" }) {
		t.Errorf("R11 was not judged, or something did not hold:\n%s", res.Text())
	}
}

// planted says, for each bug, which invariants give it away and which rows provoke it.
var planted = map[string]struct {
	want []string
	rows []int
}{
	plantedbug.AckBeforeWork:       {[]string{"R4"}, []int{1, 2}},
	plantedbug.AckSeatAtOnce:       {[]string{"R4"}, []int{1, 2}},
	plantedbug.NoFencing:           {[]string{"I3"}, []int{3}},
	plantedbug.UnverifiedParts:     {[]string{"I4"}, []int{19}},
	plantedbug.StepTwice:           {[]string{"I4"}, []int{1, 4}},
	plantedbug.CommitOutsideHead:   {[]string{"I4"}, []int{1, 4}},
	plantedbug.PreemptionIsFailure: {[]string{"R6"}, []int{4}},
	plantedbug.LeaseIsPermission:   {[]string{"R7"}, []int{16}},
	plantedbug.LoseOpenObject:      {[]string{"I1"}, []int{1, 21}},
	plantedbug.GenerationReused:    {[]string{"I3"}, []int{1, 4}},
	plantedbug.CancelIsNotFinal:    {[]string{"I10", "I2"}, []int{1, 2, 25}},
	plantedbug.AcknowledgeUnstored: {[]string{"I1"}, []int{8, 17}},
	plantedbug.PruneNeeded:         {[]string{"I5"}, []int{1, 4}},
	plantedbug.SwapBlindly:         {[]string{"I3"}, []int{1, 2}},
}

// TestPlantedBugs builds the product with each bug and lets the suite find it. It takes minutes.
func TestPlantedBugs(t *testing.T) {
	if os.Getenv("TUNEFLEET_TEST_FULL") != "1" {
		t.Skip("takes many minutes; set TUNEFLEET_TEST_FULL=1 (go tool task test:full)")
	}
	bin := filepath.Join(t.TempDir(), "tunefleet")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "plantedbug", "-o", bin, "../../services/cmd/tunefleet")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("cannot build with planted bugs: %v\n%s", err, out)
	}
	for _, name := range plantedbug.Names() {
		p, ok := planted[name]
		if !ok {
			t.Errorf("nothing is known of bug %q", name)
			continue
		}
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			o := options(t, 25*time.Second, p.rows...)
			o.Command, o.Env, o.Patience = []string{bin, "chaos-process"}, []string{plantedbug.Variable + "=" + name}, 15*time.Second
			for o.Seed = 1; time.Since(began) < 150*time.Second; o.Seed++ {
				o.Out = t.TempDir()
				res, err := chaos.Run(t.Context(), o)
				if err != nil {
					t.Fatal(err)
				}
				os.RemoveAll(res.Episodes[0].Folder)
				for _, v := range res.Episodes[0].Report.Violations {
					if slices.Contains(p.want, v.Invariant) {
						t.Logf("found after %s with seed %d: %s, %s", time.Since(began).Round(time.Second), o.Seed, v.Invariant, v.Text)
						return
					}
				}
				t.Logf("seed %d: not found; %d other violations", o.Seed, len(res.Episodes[0].Report.Violations))
			}
			t.Errorf("the bug was not found within 3 minutes")
		})
	}
}
