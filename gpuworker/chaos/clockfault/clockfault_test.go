package clockfault_test

import (
	"bufio"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/chaos/clockfault"
)

const (
	envPlay   = "CLOCKFAULT_TEST_PLAY"
	envSocket = "CLOCKFAULT_TEST_SOCKET"
)

// reading is what a victim says of its clocks.
type reading struct {
	PID  int
	Wall time.Time
	// Elapsed is the monotonic time since its start.
	Elapsed time.Duration
}

// TestMain lets this binary play the supervisor, a process that enters, and the victim that it becomes.
func TestMain(m *testing.M) {
	switch os.Getenv(envPlay) {
	case "supervisor":
		if err := clockfault.Serve(context.Background(), os.Getenv(envSocket)); err != nil {
			panic(err)
		}
	case "enter":
		exe, err := os.Executable()
		if err == nil {
			err = os.Setenv(envPlay, "parent")
		}
		if err == nil {
			err = clockfault.Enter(os.Getenv(envSocket), "victim", exe, os.Args, os.Environ())
		}
		panic(err)
	case "parent": // as an agent and its rank: the same clock for both
		exe, err := os.Executable()
		if err != nil {
			panic(err)
		}
		cmd := exec.Command(exe)
		cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = append(os.Environ(), envPlay+"=child"), os.Stdin, os.Stdout, os.Stderr
		say(time.Now())
		if err := cmd.Run(); err != nil {
			panic(err)
		}
	case "child":
		began := time.Now()
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			say(began)
		}
	default:
		os.Exit(m.Run())
	}
}

func say(began time.Time) {
	now := time.Now()
	if err := json.NewEncoder(os.Stdout).Encode(reading{os.Getpid(), now.Round(0), now.Sub(began)}); err != nil {
		panic(err)
	}
}

// TestTheWallClockJumps: the victim and its child see the wall clock jump forward and back whenever the supervisor is told, and the
// monotonic clock go on; this process sees neither.
func TestTheWallClockJumps(t *testing.T) {
	if why := clockfault.Unsupported(); why != "" {
		t.Skip("not possible here: " + why)
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(t.TempDir(), "clock")
	play := func(what string) *exec.Cmd {
		cmd := exec.CommandContext(t.Context(), exe)
		cmd.Env, cmd.Stderr = append(os.Environ(), envPlay+"="+what, envSocket+"="+socket), os.Stderr
		return cmd
	}
	supervisor := play("supervisor")
	if err := supervisor.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = supervisor.Process.Kill(); _ = supervisor.Wait() })
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if _, err = clockfault.Get(ctx, socket, "victim"); err == nil {
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the supervisor does not answer: %v", err)
		case <-time.After(10 * time.Millisecond):
		}
	}
	if _, err := clockfault.Set(ctx, socket, "victim", 24*time.Hour); err != nil { // before it begins
		t.Fatal(err)
	}
	victim := play("enter")
	in, err := victim.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := victim.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := victim.Start(); err != nil {
		t.Fatal(err)
	}
	answers := json.NewDecoder(out)
	read := func(offset time.Duration) reading {
		t.Helper()
		var r reading
		if err := answers.Decode(&r); err != nil {
			st, serr := clockfault.Get(ctx, socket, "victim")
			t.Fatalf("the victim says nothing: %v (supervisor: %+v, %v)", err, st, serr)
		}
		if d := r.Wall.Sub(time.Now().Add(offset)).Abs(); d > 10*time.Second {
			t.Errorf("the wall clock of process %d is %s off, it should be %s off", r.PID, time.Until(r.Wall).Round(time.Second), offset)
		}
		return r
	}
	if parent := read(24 * time.Hour); parent.PID != victim.Process.Pid {
		t.Errorf("process %d speaks, it should be %d", parent.PID, victim.Process.Pid)
	}
	began, last := time.Now(), time.Duration(0)
	for _, offset := range []time.Duration{24 * time.Hour, time.Hour, -time.Hour, 0, -50 * time.Millisecond, 0} {
		if _, err := clockfault.Set(ctx, socket, "victim", offset); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Write([]byte("\n")); err != nil {
			t.Fatal(err)
		}
		r := read(offset)
		if r.Elapsed < last || r.Elapsed > time.Since(began)+5*time.Second {
			t.Errorf("the monotonic clock went from %s to %s when the wall clock was set %s off", last, r.Elapsed, offset)
		}
		last = r.Elapsed
	}
	st, err := clockfault.Get(ctx, socket, "victim")
	if err != nil || st.Problem != "" || st.Hidden < 2 || st.Answered < 5 || st.Processes != 1 {
		t.Errorf("the supervisor says %+v, %v", st, err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := victim.Wait(); err != nil {
		t.Errorf("the victim did not end well: %v", err)
	}
	for st.Processes != 0 {
		if st, err = clockfault.Get(ctx, socket, "victim"); err != nil {
			t.Fatalf("the supervisor has not noticed that the victim has ended: %v", err)
		}
	}
}

// TestStrangers: the supervisor takes nobody who brings no listener.
func TestStrangers(t *testing.T) {
	if why := clockfault.Unsupported(); why != "" {
		t.Skip("not possible here: " + why)
	}
	socket := filepath.Join(t.TempDir(), "clock")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- clockfault.Serve(ctx, socket) }()
	var err error
	for range 500 {
		if _, err = clockfault.Get(ctx, socket, "x"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	if st, err := clockfault.Set(ctx, socket, "x", time.Hour); err != nil || st != (clockfault.Status{}) {
		t.Errorf("%+v, %v", st, err)
	}
	err = clockfault.Enter(filepath.Join(t.TempDir(), "nobody"), "x", "/bin/true", nil, nil)
	if err == nil || !strings.Contains(err.Error(), "cannot reach") {
		t.Errorf("entering where nobody listens: %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := clockfault.Get(t.Context(), socket, "x"); err == nil {
		t.Error("the supervisor answers after its end")
	}
}
