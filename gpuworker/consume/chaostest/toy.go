// Package chaostest proves the commit protocol: a toy training stage whose result shows every lost, doubled or reordered step, and the
// check of its lineage.
package chaostest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/checkpoint"
	"github.com/tunefleet/tunefleet/services/plantedbug"
	"github.com/tunefleet/tunefleet/services/store"
)

// shards is the number of states that the toy keeps, dealt over the ranks: any world size computes the same.
const shards = 4

const describeBytes = 4096

// Names of runs that are wrong in themselves: at the third step their rank panics, or ends without a word.
const (
	PoisonPanic = "poison-panic"
	PoisonExit  = "poison-exit"
	poisonStep  = 3
)

// Toy is a train handler without arithmetic: each shard is a hash chain, state = SHA256(state, step, all shards' states). Every step needs
// every rank, as real training does, and the final states tell whether each step happened once and in order.
func Toy(ctx context.Context, t *consume.Task) error {
	w := &toy{t: t, g: t.Gang, state: map[int][32]byte{}, time: consume.NewStopwatch(schemas.TimeLoad)}
	if err := w.load(ctx); err != nil {
		return err
	}
	train := t.Stage.Train
	for w.step < train.Steps {
		w.time.To(schemas.TimeStep)
		word, err := w.advance(ctx)
		if err != nil {
			return err
		}
		if w.step == poisonStep {
			switch t.Spec.Name {
			case PoisonPanic:
				panic("this run is poisoned")
			case PoisonExit:
				os.Exit(137)
			}
		}
		stop := word != schemas.ControlNone
		if w.step == train.Steps || stop || w.step%max(1, train.CommitEvery) == 0 {
			w.time.To(schemas.TimeCheckpoint)
			if err := w.commit(ctx, w.step == train.Steps, stop); err != nil {
				return err
			}
			t.Phase(consume.PhaseStep, w.step, train.Steps) // a hang from here on is one of a step
		}
		if stop && w.step < train.Steps {
			return &schemas.ErrorInfo{Code: schemas.CodeInterrupted, Message: fmt.Sprintf("stopped at step %d by %q", w.step, word)}
		}
	}
	return nil
}

type toy struct {
	t     *consume.Task
	g     *consume.Gang
	state map[int][32]byte
	step  int64
	log   bytes.Buffer
	time  *consume.Stopwatch
}

func (w *toy) mine(shard int) bool { return shard%w.g.World == w.g.Rank }

// load starts from the commit that HEAD names, or from the seed.
func (w *toy) load(ctx context.Context) error {
	for s := range shards {
		w.state[s] = sha256.Sum256([]byte(fmt.Sprintf("seed %d shard %d", w.t.Spec.Seed, s)))
	}
	ref := w.g.Head.Manifest
	if ref == nil || ref.Stage != w.t.Stage.Name {
		return nil
	}
	m, err := checkpoint.ReadManifest(ctx, w.t.Objects, *ref)
	if err != nil {
		return err
	}
	w.step = m.Step
	if plantedbug.Is(plantedbug.StepTwice) {
		w.step--
	}
	for _, p := range m.Parts {
		data, err := readPart(ctx, w.t.Objects, p)
		if bad := (*checkpoint.CorruptError)(nil); errors.As(err, &bad) {
			bad.Manifest = *ref
		} else if errors.Is(err, store.ErrNotFound) {
			err = &checkpoint.CorruptError{Manifest: *ref, Key: p.Key, Reason: "the part is missing"}
		}
		if err != nil {
			return err
		}
		w.t.Phase(consume.PhaseLoad, int64(len(data)), p.Bytes)
		for len(data) >= 33 {
			w.state[int(data[0])] = [32]byte(data[1:33])
			data = data[33:]
		}
	}
	return nil
}

// readPart reads and verifies a part: a *checkpoint.CorruptError without its manifest when its content is wrong.
func readPart(ctx context.Context, objects store.Objects, p schemas.Part) ([]byte, error) {
	r, err := objects.Open(ctx, p.Key, 0, -1)
	if err != nil {
		return nil, fmt.Errorf("cannot open part %s: %w", p.Key, err)
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, p.Bytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read part %s: %w", p.Key, errors.Join(err, store.ErrUnavailable))
	}
	if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != p.SHA256 && !plantedbug.Is(plantedbug.UnverifiedParts) {
		return nil, &checkpoint.CorruptError{Key: p.Key, Reason: "the part does not match its SHA-256"}
	}
	return data, nil
}

// advance does one step and returns the control word that all ranks agree on.
func (w *toy) advance(ctx context.Context) (schemas.Control, error) {
	if d := w.t.Stage.Train.StepDelayMS; d > 0 {
		select {
		case <-time.After(time.Duration(d) * time.Millisecond):
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
	// One slot a rank: the control word, then its shards' states.
	const slot = 16 + shards*32
	send := make([]byte, slot)
	copy(send[:16], w.g.Control())
	for s := range shards {
		if w.mine(s) {
			st := w.state[s]
			copy(send[16+32*s:], st[:])
		}
	}
	recv := make([][]byte, w.g.World)
	for r := range recv {
		recv[r] = make([]byte, slot)
	}
	if err := w.g.Collective.AllGather(ctx, send, recv); err != nil {
		return "", err
	}
	w.step++
	var all []byte
	for s := range shards {
		all = append(all, recv[s%w.g.World][16+32*s:][:32]...)
	}
	for s := range shards {
		if w.mine(s) {
			st := w.state[s]
			w.state[s] = sha256.Sum256(append(binary.LittleEndian.AppendUint64(st[:], uint64(w.step)), all...))
		}
	}
	var word schemas.Control
	for r := range recv {
		if c := schemas.Control(bytes.TrimRight(recv[r][:16], "\x00")); word == "" {
			word = c
		}
	}
	w.t.Phase(consume.PhaseStep, w.step, w.t.Stage.Train.Steps)
	if w.g.Rank == 0 {
		e := schemas.Event{Type: schemas.EventStep, Step: w.step, Generation: w.g.Generation, Values: map[string]float64{"loss": 1 / float64(w.step)}}
		w.t.Report(e)
		line, err := json.Marshal(e)
		if err != nil {
			return "", fmt.Errorf("cannot encode an event: %w", err)
		}
		w.log.Write(append(line, '\n'))
	}
	return word, nil
}

// commit stores this rank's part, tells all ranks about it, and lets rank 0 swap HEAD.
func (w *toy) commit(ctx context.Context, final, closing bool) error {
	var data []byte
	for s := range shards {
		if w.mine(s) {
			st := w.state[s]
			data = append(append(data, byte(s)), st[:]...)
		}
	}
	m := w.t.Message
	key := checkpoint.PartKey(m.Tenant, m.Run, w.step, w.g.Generation, w.g.Rank, 0)
	part, err := checkpoint.UploadBytes(ctx, w.t.Objects, key, data)
	if err != nil {
		return err
	}
	part.Rank = w.g.Rank
	raw, err := json.Marshal(part)
	if err != nil || len(raw) > describeBytes {
		return fmt.Errorf("cannot describe part %s: %w", key, err)
	}
	recv := make([][]byte, w.g.World)
	for r := range recv {
		recv[r] = make([]byte, describeBytes)
	}
	if err := w.g.Collective.AllGather(ctx, append(raw, bytes.Repeat([]byte{' '}, describeBytes-len(raw))...), recv); err != nil {
		return err
	}
	w.t.Phase(consume.PhaseCommit, w.step, w.step)
	if w.g.Rank != 0 {
		return nil
	}
	spent, taken := w.time.Take()
	manifest := &schemas.Manifest{Tenant: m.Tenant, Run: m.Run, Stage: m.Stage, Step: w.step, Generation: w.g.Generation, World: w.g.World, Final: final,
		Closing: closing, Spent: spent, Taken: taken}
	for r := range recv {
		var p schemas.Part
		if err := json.Unmarshal(recv[r], &p); err != nil {
			return fmt.Errorf("cannot decode the part of rank %d: %w", r, err)
		}
		manifest.Parts = append(manifest.Parts, p)
	}
	manifest.Log, err = checkpoint.UploadBytes(ctx, w.t.Objects, schemas.LogKey(m.Tenant, m.Run, w.step, w.g.Generation), w.log.Bytes())
	if err != nil {
		return err
	}
	if err := w.g.Commit(ctx, manifest); err != nil {
		return err
	}
	w.t.Report(schemas.Event{Type: schemas.EventCommit, Step: w.step})
	w.log.Reset()
	return nil
}

// Part is a prep, eval or export handler without work: it waits StepDelayMS of the first train stage and stores its result.
func Part(ctx context.Context, t *consume.Task) error {
	m := t.Message
	delay := time.Duration(0)
	for _, st := range t.Spec.Stages {
		if st.Train != nil {
			delay = time.Duration(st.Train.StepDelayMS) * time.Millisecond
		}
	}
	for i := range int64(5) {
		t.Phase(string(m.Kind), i+1, 5)
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	res := schemas.StageResult{Version: 1, Run: m.Run, Tenant: m.Tenant, Stage: m.Stage, Kind: m.Kind, Part: m.Part, Parts: m.Parts, Worker: t.Worker,
		Counters: map[string]int64{"rows": int64(m.Part) + 1}, At: time.Now().UTC()}
	raw, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("cannot encode the result: %w", err)
	}
	key := schemas.ResultKey(m.Tenant, m.Run, m.Stage, m.Part)
	for {
		_, err = t.Objects.Put(ctx, key, raw, store.Condition{Absent: true})
		switch {
		case err == nil, errors.Is(err, store.ErrPrecondition):
			return nil
		case errors.Is(err, store.ErrUnavailable), errors.Is(err, store.ErrAmbiguous):
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
				return ctx.Err()
			}
		default:
			return fmt.Errorf("cannot store result %s: %w", key, err)
		}
	}
}

// Handlers are the toy's handlers for every kind of stage.
func Handlers() map[schemas.StageKind]consume.Handler {
	return map[schemas.StageKind]consume.Handler{schemas.KindTrain: Toy, schemas.KindPrep: Part, schemas.KindEval: Part, schemas.KindExport: Part}
}
