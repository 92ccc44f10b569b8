package train

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"syscall"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// maxConfigBytes bounds config.json.
const maxConfigBytes = 1 << 20

// fetchFiles downloads uploaded files below dir and verifies them.
func fetchFiles(ctx context.Context, objects store.Objects, tenant string, files []schemas.File, dir string, progress func(done, total int64)) (root *os.Root, err error) {
	scratch, err := os.MkdirTemp(dir, "files-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch folder: %w", err)
	}
	root, err = os.OpenRoot(scratch)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(scratch))
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, root.Close(), os.RemoveAll(scratch))
			root = nil
		}
	}()
	var total, done int64
	for _, f := range files {
		total += f.Bytes
	}
	for _, f := range files {
		if err := fetchFile(ctx, objects, tenant, f, root, func(n int64) {
			if progress != nil {
				progress(done+n, total)
			}
		}); err != nil {
			return root, err
		}
		done += f.Bytes
	}
	return root, nil
}

// InputFile reads a small uploaded file whole and verifies it.
func InputFile(ctx context.Context, objects store.Objects, tenant string, f schemas.File, limit int64) ([]byte, error) {
	raw, _, err := objects.Get(ctx, schemas.InputKey(tenant, f.SHA256), limit)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	if sum := sha256.Sum256(raw); hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the SHA-256 %s that the spec names", f.SHA256)
	}
	return raw, nil
}

func fetchFile(ctx context.Context, objects store.Objects, tenant string, f schemas.File, root *os.Root, progress func(int64)) (err error) {
	if d := path.Dir(f.Path); d != "." {
		if err := root.MkdirAll(d, 0o755); err != nil {
			return fmt.Errorf("cannot create folder %s: %w", d, err)
		}
	}
	body, err := objects.Open(ctx, schemas.InputKey(tenant, f.SHA256), 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	defer body.Close()
	out, err := root.Create(f.Path)
	if err != nil {
		return fmt.Errorf("cannot create %s: %w", f.Path, err)
	}
	sum := sha256.New()
	n, err := io.Copy(io.MultiWriter(out, sum, counter(progress)), io.LimitReader(body, f.Bytes+1))
	err = errors.Join(err, out.Close())
	if errors.Is(err, syscall.ENOSPC) {
		return schemas.Errorf(schemas.CodeDiskFull, f.Path, "no space left on the scratch disk")
	}
	if err != nil {
		return fmt.Errorf("cannot read input file %s: %w", f.Path, err)
	}
	if hex.EncodeToString(sum.Sum(nil)) != f.SHA256 || n != f.Bytes {
		return schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the %d bytes with SHA-256 %s that the spec names", f.Bytes, f.SHA256)
	}
	return nil
}

// counter is a writer that reports the bytes written so far.
func counter(report func(int64)) io.Writer { return &counting{report: report} }

type counting struct {
	n      int64
	report func(int64)
}

func (c *counting) Write(b []byte) (int, error) {
	c.n += int64(len(b))
	c.report(c.n)
	return len(b), nil
}
