package chaostest

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/tunefleet/tunefleet/schemas"
)

// Options shape a toy run. Zero leaves a stage out.
type Options struct {
	Steps, CommitEvery int64
	StepDelayMS        int
	// World is the number of seats (default 2).
	World int
	Seed  uint64
	// PrepParts is at least 1: every run needs data.
	PrepParts  int
	EvalSlices int
	Export     bool
}

// Spec is a toy run: prep, a train stage "tune", eval and export as asked for.
func Spec(o Options) *schemas.RunSpec {
	if o.World == 0 {
		o.World = 2
	}
	s := &schemas.RunSpec{Version: schemas.SpecVersion, Tenant: "default", Name: "toy", Pool: "cpu", Priority: 1, Seed: o.Seed}
	add := func(st schemas.Stage) {
		if n := len(s.Stages); n > 0 {
			st.Needs = []string{s.Stages[n-1].Name}
		}
		s.Stages = append(s.Stages, st)
	}
	file := schemas.Ref{Files: []schemas.File{{Path: "none.jsonl", SHA256: hex.EncodeToString(make([]byte, 32)), Bytes: 1}}}
	add(schemas.Stage{Name: "prep", Kind: schemas.KindPrep, Prep: &schemas.PrepStage{Parts: max(1, o.PrepParts), Data: file, Tokenizer: file,
		Outputs: []schemas.PrepOutput{{Name: "train", Form: "pt", Split: "train", CutoffLen: 16, Rows: true}}}})
	if o.Steps > 0 {
		add(schemas.Stage{Name: "tune", Kind: schemas.KindTrain, Train: &schemas.TrainStage{Objective: "pt", Data: "prep/train", Method: "full",
			Model: schemas.ModelSpec{Config: json.RawMessage(`{}`)}, MicroBatch: 1, Leaves: o.World, DType: "fp32", Sharding: "none", Reduction: "canonical",
			Optim: schemas.OptimSpec{Name: "adamw", LR: 1e-3, Schedule: "constant"},
			Steps: o.Steps, CommitEvery: o.CommitEvery, StepDelayMS: o.StepDelayMS, World: schemas.World{Min: o.World, Max: o.World}}})
	}
	if o.EvalSlices > 0 {
		add(schemas.Stage{Name: "eval", Kind: schemas.KindEval, Eval: &schemas.EvalStage{Data: "prep/train", Slices: o.EvalSlices,
			Models: []schemas.EvalModel{{Name: "tuned", From: "stage:tune"}}}})
	}
	if o.Export {
		add(schemas.Stage{Name: "export", Kind: schemas.KindExport, Export: &schemas.ExportStage{From: "stage:tune", Formats: []string{"merged"}}})
	}
	return s
}

// Expected computes the final commit's hash of the train stage without a fleet: what an undisturbed run ends with.
func Expected(spec *schemas.RunSpec) (string, error) {
	st, err := spec.StageOf("tune")
	if err != nil {
		return "", fmt.Errorf("cannot compute the toy's result: %w", err)
	}
	var state [shards][32]byte
	for s := range shards {
		state[s] = sha256.Sum256([]byte(fmt.Sprintf("seed %d shard %d", spec.Seed, s)))
	}
	for step := int64(1); step <= st.Train.Steps; step++ {
		var all []byte
		for s := range shards {
			all = append(all, state[s][:]...)
		}
		for s := range shards {
			state[s] = sha256.Sum256(append(binary.LittleEndian.AppendUint64(append([]byte(nil), state[s][:]...), uint64(step)), all...))
		}
	}
	sum := sha256.New()
	world := st.Train.World.Max
	for r := range world {
		for s := r; s < shards; s += world {
			sum.Write([]byte{byte(s)})
			sum.Write(state[s][:])
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
