package main

import (
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/control/simulate"
)

// TestOperatorsCommands: checkpoints, dead letters, pools and quotas from the command line, against everything on one machine.
func TestOperatorsCommands(t *testing.T) {
	dir := up(t, nil, "--workers", "1")
	do := func(args ...string) result { return cli(t, nil, append(args, "--dir", dir)...) }
	submit := func(p string, more ...string) result {
		return do(append([]string{"submit", filepath.Join(p, "run.yaml"), "--follow", "--no-color"}, more...)...)
	}
	p := project(t)
	r := submit(p, "stages.base.train.commit_every=2")
	r.want(t, 0, "run succeeded")
	good := runID(t, r.err)

	t.Run("ckpt", func(t *testing.T) {
		r := do("ckpt", "ls", good, "--json")
		r.want(t, 0)
		var kept []schemas.CheckpointView
		for l := range strings.Lines(r.out) {
			var c schemas.CheckpointView
			if err := json.Unmarshal([]byte(l), &c); err != nil {
				t.Fatalf("%q: %v", l, err)
			}
			if !c.Pruned {
				kept = append(kept, c)
			}
		}
		if len(kept) == 0 {
			t.Fatalf("no checkpoint in %s", r.out)
		}
		name := kept[0].Name
		do("ckpt", "ls", good).want(t, 0, name, "base")
		do("ckpt", "verify", good).want(t, 0, name, "ok")
		do("ckpt", "pin", good, name).want(t, 0, "pinned")
		do("ckpt", "gc", good, "--dry-run").want(t, 0, "would delete")
		do("ckpt", "gc", good).want(t, 0, "deleted")
		do("ckpt", "verify", good).want(t, 0, name, "ok")
		do("ckpt", "unpin", good, name).want(t, 0, "unpinned")
		do("ckpt", "pin", good, "nothing").want(t, schemas.ExitCodes()[schemas.CodeInvalid], "no name of a checkpoint")
	})
	t.Run("dlq", func(t *testing.T) {
		do("dlq", "list").want(t, 0, "no failed runs")
		r := submit(p, "stages.base.train.optim.lr=1e38")
		r.want(t, schemas.ExitCodes()[schemas.CodeNumeric])
		bad := runID(t, r.err)
		do("dlq", "list").want(t, 0, bad, "base", string(schemas.CodeNumeric))
		again := do("dlq", "retry", bad[:20]) // the beginning of an id will do
		again.want(t, 0)
		id := strings.TrimSpace(again.out)
		if id == bad || id == "" {
			t.Fatalf("retried as %q", id)
		}
		do("dlq", "retry", bad).want(t, schemas.ExitCodes()[schemas.CodeNotFound])
		do("watch", id).want(t, schemas.ExitCodes()[schemas.CodeNumeric])
		do("dlq", "list").want(t, 0, id)
		do("dlq", "drop", id).want(t, 0, "dropped")
		if r := do("dlq", "list"); strings.Contains(r.out, id) || strings.Contains(r.out, bad) {
			t.Errorf("left: %s", r.out)
		}
		do("get", bad).want(t, 0, "failed")
	})
	t.Run("pool", func(t *testing.T) {
		do("pool", "list").want(t, 0, "cpu")
		do("pool", "quota", "cpu", "default", "queued=1", "share=2").want(t, 0, "1")
		for _, wrong := range []string{"queued=1.5", "devices=NaN", "running=1e300", "running=-1", "shares=2"} {
			do("pool", "quota", "cpu", "default", wrong).want(t, schemas.ExitCodes()[schemas.CodeUsage])
		}
		do("pool", "cordon", "cqu").want(t, 0, "no control schedules a pool \"cqu\" yet")
		do("pool", "cordon", "cpu").want(t, 0, "cordoned true")
		do("pool", "list").want(t, 0, "cordoned")
		// Control reads a policy every 2 s, a front goes by one of 5 s ago at most.
		// A run that started before may be open still, refuse the next by the quota, and come to wait itself for its next stage.
		id := ""
		for deadline := time.Now().Add(time.Minute); ; {
			r := do("submit", filepath.Join(p, "run.yaml"), "seed=9")
			if r.code == 0 {
				id = strings.TrimSpace(r.out)
			}
			state := do("get", id)
			if strings.Contains(state.out, "is cordoned") {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("nothing waits for the cordoned pool: %+v; the last run: %+v", r, state)
			}
		}
		for deadline := time.Now().Add(time.Minute); ; {
			r := do("submit", filepath.Join(p, "run.yaml"), "seed=10")
			if r.code != 0 || time.Now().After(deadline) {
				r.want(t, schemas.ExitCodes()[schemas.CodeConflict], "the most that it may", "tunefleet pool quota")
				break
			}
			do("cancel", strings.TrimSpace(r.out)).want(t, 0)
		}
		do("pause", id).want(t, 0)
		do("get", id).want(t, 0, "paused")
		do("resume", id).want(t, 0)
		do("pool", "uncordon", "cpu").want(t, 0, "cordoned false")
		do("watch", id).want(t, 0)
		do("pool", "drain", "cpu", "--worker", "worker-1").want(t, 0, "drained workers: worker-1", "drained false")
		last := do("submit", filepath.Join(p, "run.yaml"), "seed=11")
		last.want(t, 0)
		do("cancel", strings.TrimSpace(last.out)).want(t, 0)
		do("watch", strings.TrimSpace(last.out)).want(t, schemas.ExitCodes()[schemas.CodeRunCancelled])
		do("pool", "uncordon", "cpu", "--worker", "worker-1").want(t, 0, "drained workers: none")
		do("pool", "drain", "cpu").want(t, 0, "drained true")
	})
}

// TestSimulateCommand: the simulated day prints what an operator looks for, and the hash that tells two days apart.
func TestSimulateCommand(t *testing.T) {
	args := []string{"simulate", "--workers", "50", "--tenants", "5", "--runs", "200", "--duration", "4h"}
	r := cli(t, nil, args...)
	r.want(t, 0, "utilization", "fairness", "MEDIAN WAIT", "p0", "p3", "seed 1", "sha256")
	var days []simulate.Report
	for _, seed := range []string{"1", "1", "2"} {
		r := cli(t, nil, append(args, "--seed", seed, "--json")...)
		r.want(t, 0)
		var day simulate.Report
		if err := json.Unmarshal([]byte(r.out), &day); err != nil {
			t.Fatal(err)
		}
		days = append(days, day)
	}
	if days[0].Hash == "" || days[0].Hash != days[1].Hash || days[0].Hash == days[2].Hash || !strings.Contains(r.out, days[0].Hash) {
		t.Errorf("hashes %q, %q, %q; printed %s", days[0].Hash, days[1].Hash, days[2].Hash, r.out)
	}
}
