package prep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

const (
	maxConfigBytes = 1 << 20
	// maxPlanBytes bounds a stored plan: a few hundred bytes for each part, and the bad rows.
	maxPlanBytes = 1 << 30
)

// plan is what all parts agree on, and the rows of one of them.
type plan struct {
	planHead
	tok  data.Tokenizer
	prep *schemas.PrepStage
	part int
	// own are the rows of this part by split; a split without rows here is not among them.
	own map[string]rowsFile
}

// planHead is what is stored of a plan beside the rows: they are read, cleaned and dealt out once, by the first part that comes to it.
type planHead struct {
	Version int `json:"version"`
	// Read is the number of rows of the data set, Kept what cleaning, sampling and augmentation made of them. Counters are their report.
	Read     int64            `json:"read"`
	Kept     int64            `json:"kept"`
	Counters map[string]int64 `json:"counters"`
	// Shares are the rows of every part by split.
	Shares map[string][]planShare `json:"shares"`
	// Bad are the rows that were kept aside.
	Bad []source.BadRowError `json:"bad,omitempty"`
}

// planShare is the rows of a part: those whose place among the rows of the split is the part's number modulo the number of parts.
type planShare struct {
	Rows int64 `json:"rows"`
	// Object holds them, as data.RowFile writes rows; it is empty without rows, and where there is but one part.
	Object schemas.Object `json:"object"`
}

// rowsFile is a scratch file that data.RowFile wrote.
type rowsFile interface {
	Reader() *io.SectionReader
	Close() error
}

// makePlan opens the plan that another part stored, or makes it.
func makePlan(ctx context.Context, t *consume.Task) (p *plan, err error) {
	prep := t.Stage.Prep
	tok, err := OpenTokenizer(ctx, t.Objects, t.Spec.Tenant, prep.Tokenizer)
	if err != nil {
		return nil, err
	}
	p = &plan{tok: tok, prep: prep, part: t.Message.Part, own: map[string]rowsFile{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close())
			p = nil
		}
	}()
	if err := checkVocabulary(ctx, t, tok.VocabSize()); err != nil {
		return p, err
	}
	if prep.Parts > 1 {
		if ok, err := p.fetch(ctx, t); ok || err != nil {
			return p, err
		}
	}
	m := &planner{t: t, prep: prep, bad: source.Bad{Policy: source.Policy(prep.OnBadRow)}}
	defer func() { err = errors.Join(err, m.close()) }()
	return p, m.deal(ctx, p)
}

// close removes the scratch files.
func (p *plan) close() error {
	errs := []error{p.tok.Close()}
	for _, f := range p.own {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// rows is the number of rows of a split that this part has, total that of all parts.
func (p *plan) rows(split string) (own, total int64) {
	for i, s := range p.Shares[split] {
		if i == p.part {
			own = s.Rows
		}
		total += s.Rows
	}
	return own, total
}

// each gives every row of a split that this part has.
func (p *plan) each(split string, f func(*data.Row) error) error {
	own := p.own[split]
	if own == nil {
		return nil
	}
	return data.EachStoredRow(own.Reader(), "scratch file", f)
}

// before is the number of rows that this part encodes before it comes to an output; total of all outputs.
func (p *plan) before(o *schemas.PrepOutput) int64 {
	n := int64(0)
	for i := range p.prep.Outputs {
		if p.prep.Outputs[i].Name == o.Name {
			break
		}
		own, _ := p.rows(p.prep.Outputs[i].Split)
		n += own
	}
	return n
}

func (p *plan) total() int64 {
	n := int64(0)
	for i := range p.prep.Outputs {
		own, _ := p.rows(p.prep.Outputs[i].Split)
		n += own
	}
	return n
}

// splits are those that outputs have, sorted.
func splits(prep *schemas.PrepStage) []string {
	var out []string
	for i := range prep.Outputs {
		out = append(out, prep.Outputs[i].Split)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// planKey addresses an object of a plan by everything that rows and their order depend on.
func planKey(t *consume.Task, name string) (string, error) {
	type content struct{ Path, SHA256 string }
	prep := t.Stage.Prep
	var files []content
	for _, f := range prep.Data.Files {
		files = append(files, content{f.Path, f.SHA256})
	}
	b, err := json.Marshal(map[string]any{"plan": cacheVersion, "files": files, "format": prep.Format, "columns": prep.Columns, "clean": prep.Clean, "split": prep.Split,
		"sample": prep.Sample, "augment": prep.Augment, "seed": strconv.FormatUint(t.Spec.Seed, 10), "on_bad_row": prep.OnBadRow, "parts": prep.Parts, "splits": splits(prep)})
	if err != nil {
		return "", fmt.Errorf("cannot hash the settings: %w", err)
	}
	sum := sha256.Sum256(b)
	return schemas.CacheKey(t.Spec.Tenant, hex.EncodeToString(sum[:]), name), nil
}

// fetch opens a stored plan and this part's rows; false when there is none, or its rows are gone.
func (p *plan) fetch(ctx context.Context, t *consume.Task) (bool, error) {
	key, err := planKey(t, "plan.json")
	if err != nil {
		return false, err
	}
	raw, _, err := t.Objects.Get(ctx, key, maxPlanBytes)
	if errors.Is(err, store.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the plan: %w", err)
	}
	var h planHead
	if json.Unmarshal(raw, &h) != nil || h.Version != 1 {
		return false, nil //nolint:nilerr // what cannot be read is made again
	}
	for _, split := range splits(p.prep) {
		shares := h.Shares[split]
		if len(shares) != p.prep.Parts {
			return false, nil
		}
		if shares[p.part].Rows == 0 {
			continue
		}
		f, err := download(ctx, t, shares[p.part].Object)
		if schemas.IsCode(err, schemas.CodeNotFound) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if old := p.own[split]; old != nil {
			_ = old.Close() // a scratch file: nothing is lost with it
		}
		p.own[split] = f
	}
	p.planHead = h
	return true, nil
}

// downloaded is a scratch copy of stored rows.
type downloaded struct {
	f    *os.File
	size int64
}

// Reader implements rowsFile.
func (d *downloaded) Reader() *io.SectionReader { return io.NewSectionReader(d.f, 0, d.size) }

// Close implements rowsFile.
func (d *downloaded) Close() error { return errors.Join(d.f.Close(), os.Remove(d.f.Name())) }

func download(ctx context.Context, t *consume.Task, o schemas.Object) (*downloaded, error) {
	f, err := os.CreateTemp(t.Dir, "rows-*")
	if err != nil {
		return nil, fmt.Errorf("cannot create a scratch file: %w", err)
	}
	d := &downloaded{f, o.Bytes}
	if err := data.Download(ctx, t.Objects, o, f); err != nil {
		return nil, errors.Join(err, d.Close())
	}
	return d, nil
}

// OpenTokenizer downloads and loads the tokenizer.json among the files of a Ref. Errors are CodeModel, or CodeNotFound for a missing file.
func OpenTokenizer(ctx context.Context, objects store.Objects, tenant string, ref schemas.Ref) (data.Tokenizer, error) {
	if ref.URI != "" {
		return nil, schemas.Errorf(schemas.CodeUnsupported, ref.URI, "the tokenizer of another stage cannot be read yet").WithHint("give tokenizer.json")
	}
	for _, f := range ref.Files {
		if path.Ext(f.Path) != ".json" || len(ref.Files) > 1 && path.Base(f.Path) != "tokenizer.json" {
			continue
		}
		if f.Bytes > data.MaxTokenizerBytes {
			return nil, schemas.Errorf(schemas.CodeModel, f.Path, "the tokenizer has %d bytes, the limit is %d", f.Bytes, data.MaxTokenizerBytes)
		}
		body, err := readInput(ctx, objects, tenant, f)
		if err != nil {
			return nil, err
		}
		return data.NewTokenizer(f.Path, body)
	}
	return nil, schemas.Errorf(schemas.CodeModel, "tokenizer", "there is no tokenizer.json among its %d files", len(ref.Files))
}

// checkVocabulary refuses a tokenizer whose ids the run's models do not have: training would fail on them much later.
func checkVocabulary(ctx context.Context, t *consume.Task, vocab int) error {
	for i := range t.Spec.Stages {
		s := &t.Spec.Stages[i]
		if s.Train == nil || len(s.Train.Data) <= len(t.Stage.Name) || s.Train.Data[:len(t.Stage.Name)+1] != t.Stage.Name+"/" {
			continue
		}
		raw, place := []byte(s.Train.Model.Config), "stage "+s.Name+": model.config"
		if b := s.Train.Model.Base; b != nil {
			for _, f := range b.Files {
				if f.Path == "config.json" && f.Bytes <= maxConfigBytes {
					body, err := readInput(ctx, t.Objects, t.Spec.Tenant, f)
					if err != nil {
						return err
					}
					raw, place = body, "stage "+s.Name+": "+f.Path
				}
			}
		}
		var c struct {
			Vocab int `json:"vocab_size"`
			Text  struct {
				Vocab int `json:"vocab_size"`
			} `json:"text_config"`
		}
		if len(raw) == 0 || json.Unmarshal(raw, &c) != nil {
			continue // the train stage says what is wrong with it
		}
		if n := max(c.Vocab, c.Text.Vocab, s.Train.Model.Vocab); n > 0 && vocab > n {
			return schemas.Errorf(schemas.CodeModel, place, "the model has a vocabulary of %d, the tokenizer one of %d", n, vocab).
				WithHint("take the tokenizer that belongs to the model, or grow the model's vocabulary (resize_vocab)")
		}
	}
	return nil
}

// readInput reads an uploaded file whole and verifies it.
func readInput(ctx context.Context, objects store.Objects, tenant string, f schemas.File) ([]byte, error) {
	body, err := objects.Open(ctx, schemas.InputKey(tenant, f.SHA256), 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	defer body.Close()
	b, err := io.ReadAll(io.LimitReader(body, f.Bytes+1))
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	if sum := sha256.Sum256(b); int64(len(b)) != f.Bytes || hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the %d bytes with SHA-256 %s that the spec names", f.Bytes, f.SHA256)
	}
	return b, nil
}
