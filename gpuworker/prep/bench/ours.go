package main

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/prep"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/embedded"
	"github.com/tunefleet/tunefleet/services/store"
	"github.com/tunefleet/tunefleet/services/store/s3store"
)

// run prepares the data of a configuration with the handler that workers run, part after part, in this process. The object store is a server
// in another process, as it is in production.
func (c *child) run(ctx context.Context) (err error) {
	begin := time.Now()
	rec, err := embedded.Load(c.servers)
	if err != nil {
		return err
	}
	objects, err := s3store.New(rec.Connect().S3)
	if err != nil {
		return err
	}
	if err := objects.EnsureBucket(ctx); err != nil {
		return err
	}
	spec, inputs, err := c.load(ctx)
	if err != nil {
		return err
	}
	for _, in := range inputs {
		if err := upload(ctx, objects, spec.Tenant, in); err != nil {
			return err
		}
	}
	uploaded := time.Since(begin)
	st, err := spec.StageOf("prep")
	if err != nil {
		return err
	}
	start := time.Now()
	var first time.Duration
	var results []schemas.StageResult
	for part := range st.Prep.Parts {
		dir, err := os.MkdirTemp(c.scratch, "task-*")
		if err != nil {
			return fmt.Errorf("cannot create a scratch folder: %w", err)
		}
		t := &consume.Task{Message: schemas.Message{Version: 1, Kind: st.Kind, Pool: spec.Pool, Tenant: spec.Tenant, Run: spec.ID, Stage: st.Name, Part: part, Parts: st.Prep.Parts},
			Spec: spec, Stage: st, Objects: objects, Logger: slog.New(slog.DiscardHandler), Worker: "bench", Dir: dir, Threads: c.threads,
			Phase: func(string, int64, int64) {}, Report: func(schemas.Event) {}}
		err = prep.Handle(ctx, t)
		if err = errors.Join(err, os.RemoveAll(dir)); err != nil {
			return err
		}
		raw, _, err := objects.Get(ctx, schemas.ResultKey(spec.Tenant, spec.ID, st.Name, part), 16<<20)
		var r schemas.StageResult
		if err == nil {
			err = json.Unmarshal(raw, &r)
		}
		if err != nil {
			return fmt.Errorf("cannot read the result of part %d: %w", part, err)
		}
		results = append(results, r)
		if part == 0 {
			first = time.Since(start)
		}
	}
	out := measured{Version: "tunefleet", Seconds: time.Since(start).Seconds(), UploadS: uploaded.Seconds(), FirstPartS: first.Seconds(), Parts: st.Prep.Parts}
	for _, r := range results {
		out.Rows += r.Counters["rows"]
		out.Sequences += r.Counters["sequences"]
		out.Tokens += r.Counters["tokens"]
	}
	if c.digest {
		if out.Digest, err = digest(ctx, objects, results, c.scratch); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

func (c *child) load(ctx context.Context) (*schemas.RunSpec, []config.Input, error) {
	r, err := config.Load(ctx, c.yaml, config.Options{})
	if err != nil {
		return nil, nil, err
	}
	r.Spec.ID = "bench-" + filepath.Base(c.scratch)
	return r.Spec, r.Inputs, nil
}

func upload(ctx context.Context, objects store.Objects, tenant string, in config.Input) error {
	key := schemas.InputKey(tenant, in.File.SHA256)
	if _, err := objects.Stat(ctx, key); err == nil {
		return nil
	}
	f, err := os.Open(in.Local)
	if err != nil {
		return fmt.Errorf("cannot open an input: %w", err)
	}
	defer f.Close()
	return objects.Upload(ctx, key, f, in.File.Bytes)
}

// digest is a SHA-256 over ids and labels of all sequences in their order.
func digest(ctx context.Context, objects store.Objects, results []schemas.StageResult, dir string) (string, error) {
	sum := sha256.New()
	var buf []byte
	one := func(o schemas.Object) (err error) {
		f, err := os.CreateTemp(dir, "shard-*")
		if err != nil {
			return fmt.Errorf("cannot create a scratch file: %w", err)
		}
		defer func() { err = errors.Join(err, f.Close(), os.Remove(f.Name())) }()
		if err := data.Download(ctx, objects, o, f); err != nil {
			return err
		}
		s, err := data.OpenShard(io.NewSectionReader(f, 0, o.Bytes), o.Bytes, o.Key)
		if err != nil {
			return err
		}
		for i := range s.Len() {
			seq, err := s.Sequence(i)
			if err != nil {
				return err
			}
			for _, v := range [][]int32{seq.IDs, seq.Labels} {
				buf = buf[:0]
				for _, x := range v {
					buf = binary.LittleEndian.AppendUint32(buf, uint32(x))
				}
				sum.Write(buf)
			}
		}
		return nil
	}
	for _, r := range results {
		for _, o := range r.Objects {
			if o.Name != "train/"+data.ObjectShard {
				continue
			}
			if err := one(o); err != nil {
				return "", err
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
