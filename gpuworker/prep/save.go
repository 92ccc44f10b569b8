package prep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/chat"
	"github.com/tunefleet/tunefleet/gpuworker/data/saved"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// savedSplit is the name that an output has among saved data: LLaMA-Factory's.
func savedSplit(f *schemas.FactorySpec, o *schemas.PrepOutput) string {
	k := -1
	if _, err := fmt.Sscanf(o.Split, "eval-%d", &k); err == nil && k >= 0 && k < len(f.Eval) {
		return "validation_" + f.Eval[k].Name
	}
	if o.Split == "train" {
		return "train"
	}
	return "validation"
}

// save writes this part of an output among the run's outputs, as LLaMA-Factory saves tokenized data: a data file a part. Part 0 also describes
// the split, and all of them.
func (p *part) save(ctx context.Context, o *schemas.PrepOutput, e *entry) (err error) {
	i := slices.IndexFunc(e.Objects, func(x schemas.Object) bool { return strings.HasSuffix(x.Name, data.ObjectShard) })
	if i < 0 {
		return schemas.Errorf(schemas.CodeInternal, o.Name, "has no shard")
	}
	shard, err := os.CreateTemp(p.task.Dir, "shard-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch file: %w", err)
	}
	defer func() { err = errors.Join(err, shard.Close(), os.Remove(shard.Name())) }()
	if err := data.Download(ctx, p.task.Objects, e.Objects[i], shard); err != nil {
		return err
	}
	s, err := data.OpenShard(shard, e.Objects[i].Bytes, e.Objects[i].Key)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(p.task.Dir, "arrow-*")
	if err != nil {
		return fmt.Errorf("cannot create a scratch file: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close(), os.Remove(file.Name())) }()
	layout, err := p.layout(o)
	if err != nil {
		return err
	}
	if err := saved.Write(file, layout, s); err != nil {
		return err
	}
	size, err := file.Seek(0, io.SeekCurrent)
	if err != nil {
		return fmt.Errorf("cannot read a scratch file: %w", err)
	}
	f := p.prep.Factory
	folder := schemas.RunPrefix(p.task.Spec.Tenant, p.task.Spec.ID) + "output/" + SavedFolder + "/"
	split := savedSplit(f, o)
	if err := p.task.Objects.Upload(ctx, folder+split+"/"+saved.FileName(p.index, p.prep.Parts), io.NewSectionReader(file, 0, size), size); err != nil {
		return fmt.Errorf("cannot store tokenized data: %w", err)
	}
	if p.index > 0 {
		return nil
	}
	var splits []string
	for k := range p.prep.Outputs {
		splits = append(splits, savedSplit(f, &p.prep.Outputs[k]))
	}
	dict, derr := saved.Dict(splits)
	state, serr := saved.State(split, p.prep.Parts, e.Objects[i].SHA256)
	info, ierr := saved.Info()
	if err := errors.Join(derr, serr, ierr); err != nil {
		return err
	}
	for name, b := range map[string][]byte{saved.DictName: dict, split + "/" + saved.StateName: state, split + "/" + saved.InfoName: info} {
		if _, err := p.task.Objects.Put(ctx, folder+name, b, store.Condition{}); err != nil {
			return fmt.Errorf("cannot store the description of tokenized data: %w", err)
		}
	}
	return nil
}

// layout says what an output's sequences are.
func (p *part) layout(o *schemas.PrepOutput) (saved.Layout, error) {
	l := saved.Layout{Form: o.Form}
	if !o.Packing || o.Form != "sft" {
		return l, nil
	}
	enc, err := NewChatEncoder(p.chatTok, o, p.prep.Factory)
	if err != nil {
		return l, err
	}
	if l.Packed, l.Neat, l.Pad = o.CutoffLen+1, o.Neat, enc.PadID(); l.Pad == chat.NoID {
		return l, schemas.Errorf(schemas.CodeModel, "tokenizer", "has no token to fill packed sequences with, which saved ones are")
	}
	return l, nil
}

// SavedFolder is where tokenized data are among a run's outputs.
const SavedFolder = "tokenized"
