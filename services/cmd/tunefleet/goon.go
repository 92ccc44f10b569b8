package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"time"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

const (
	// unfinishedName is the file in output_dir that names the run whose result goes there, for as long as it has not ended.
	unfinishedName = ".tunefleet-run.json"
	// pauseWithin is how long an interrupted train waits for the last checkpoint.
	pauseWithin = time.Minute
)

// unfinished is a run that train has handed in and not seen the end of.
type unfinished struct {
	Tenant string `json:"tenant"`
	Run    string `json:"run"`
	// Spec is the hash of the spec: with another one a new run begins.
	Spec string `json:"spec_sha256"`
}

// specSum is the hash of what a spec makes: not of who asks, and when.
func specSum(s *schemas.RunSpec) (string, error) {
	same := *s
	same.ID, same.Key, same.TraceParent = "", "", ""
	data, err := json.Marshal(&same)
	if err != nil {
		return "", fmt.Errorf("cannot encode the spec: %w", err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:]), nil
}

// begin hands the run in, or goes on with the one that the same command was interrupted in.
func (a *app) begin(ctx context.Context, cl *client.Client, r *config.Resolved) (tenant, run string, err error) {
	sum, err := specSum(r.Spec)
	if err != nil {
		return "", "", err
	}
	mark := filepath.Join(r.Output, unfinishedName)
	if u := readUnfinished(mark); u != nil {
		going, err := a.goOn(ctx, cl, u, sum)
		if err != nil {
			return "", "", err
		}
		if going {
			return u.Tenant, u.Run, nil
		}
	}
	reply, err := a.submit(ctx, cl, r)
	if err != nil {
		return "", "", err
	}
	data, err := json.Marshal(&unfinished{Tenant: reply.Tenant, Run: reply.Run, Spec: sum})
	if err == nil {
		err = os.WriteFile(mark, data, 0o600)
	}
	if err != nil {
		a.say("an interruption could not be taken up again: %v", diskError(mark, err))
	}
	return reply.Tenant, reply.Run, nil
}

// readUnfinished is nil when there is none, or what there is says nothing.
func readUnfinished(mark string) *unfinished {
	data, err := os.ReadFile(mark)
	if err != nil || len(data) > 4096 {
		return nil
	}
	var u unfinished
	if json.Unmarshal(data, &u) != nil || u.Run == "" || u.Tenant == "" {
		return nil
	}
	return &u
}

// goOn takes an unfinished run up again, if it is one of this spec and of this server.
func (a *app) goOn(ctx context.Context, cl *client.Client, u *unfinished, sum string) (bool, error) {
	v, err := cl.Get(ctx, u.Tenant, u.Run)
	if schemas.IsCode(err, schemas.CodeNotFound) || err == nil && v.State.Terminal() && (v.State != schemas.RunSucceeded || u.Spec != sum) {
		return false, nil // of another data directory, or over
	}
	if err != nil {
		return false, err
	}
	if v.State == schemas.RunSucceeded {
		a.say("run %s has succeeded; its result, which could not be fetched before, is fetched", u.Run)
		return true, nil
	}
	if u.Spec != sum {
		a.say("run %s of another configuration has not ended (%s); this is a new one. Cancel it with: tunefleet cancel %s", u.Run, v.State, u.Run)
		return false, nil
	}
	if v.State == schemas.RunPaused {
		if _, err := cl.Act(ctx, u.Tenant, u.Run, schemas.RunResume); err != nil {
			return false, err
		}
	}
	a.say("going on with run %s, which was interrupted (step %d is committed). For a new run: tunefleet cancel %s", u.Run, v.Step, u.Run)
	return true, nil
}

// pauseRun pauses a run whose train was interrupted, and waits until it has committed.
func (a *app) pauseRun(ctx context.Context, cl *client.Client, tenant, run string) error {
	signal.Reset(os.Interrupt) // a second Ctrl-C ends this process as any other
	a.say("interrupted: run %s commits what it has and is paused; Ctrl-C again leaves at once", run)
	ctx, cancel := context.WithTimeout(ctx, pauseWithin)
	defer cancel()
	_, err := cl.Act(ctx, tenant, run, schemas.RunPause)
	for err == nil {
		var v *schemas.RunView
		if v, err = cl.Get(ctx, tenant, run); err != nil {
			break
		}
		if v.State.Terminal() || v.State == schemas.RunPaused && len(v.Members) == 0 {
			return schemas.Errorf(schemas.CodeInterrupted, run, "interrupted at step %d; the run is %s", v.Step, v.State).
				WithHint("the same command goes on with it; tunefleet cancel %s ends it", run)
		}
		select {
		case <-ctx.Done():
			err = fmt.Errorf("it was not paused in %s: %w", pauseWithin, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
	return schemas.Errorf(schemas.CodeInterrupted, run, "interrupted, and the run could not be paused: %v", err).
		WithHint("the same command goes on from its last checkpoint; tunefleet cancel %s ends it", run)
}

// finished forgets the run of an output folder.
func finished(output string) error {
	if err := os.Remove(filepath.Join(output, unfinishedName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return diskError(output, err)
	}
	return nil
}
