package prep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/tunefleet/tunefleet/gpuworker/consume"
	"github.com/tunefleet/tunefleet/gpuworker/data"
	"github.com/tunefleet/tunefleet/gpuworker/data/source"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/store"
)

// Limits of what a part reads.
const (
	maxDataBytes   = 8 << 30
	maxConfigBytes = 1 << 20
)

// plan is what all parts agree on: the rows kept, each with its split.
type plan struct {
	kept []data.Row
	// read is the number of rows of the data set, counters say what became of them.
	read     int
	counters map[string]int64
	tok      data.Tokenizer
	prep     *schemas.PrepStage
	part     int
	bad      source.Bad
}

// makePlan reads everything and decides on every row.
func makePlan(ctx context.Context, t *consume.Task) (*plan, error) {
	prep := t.Stage.Prep
	tok, err := OpenTokenizer(ctx, t.Objects, t.Spec.Tenant, prep.Tokenizer)
	if err != nil {
		return nil, err
	}
	p := &plan{tok: tok, prep: prep, part: t.Message.Part, bad: source.Bad{Policy: source.Policy(prep.OnBadRow)}}
	if err := checkVocabulary(ctx, t, tok.VocabSize()); err != nil {
		return nil, errors.Join(err, tok.Close())
	}
	rows, err := readRows(ctx, t, prep, &p.bad)
	if err != nil {
		return nil, errors.Join(err, tok.Close())
	}
	c, err := decide(ctx, t, rows)
	if err != nil {
		return nil, errors.Join(err, tok.Close())
	}
	p.kept, p.counters, p.read = c.rows, c.counters(), c.report.Read
	if p.bad.Skipped > 0 {
		p.counters["bad_rows"] = p.bad.Skipped
	}
	return p, nil
}

// rows are those of a split that belong to a part, and the number of all rows of the split.
func (p *plan) rows(split string, part, parts int) (own []data.Row, total int) {
	for _, r := range p.kept {
		if r.Split != split {
			continue
		}
		if total%parts == part {
			own = append(own, r)
		}
		total++
	}
	return own, total
}

// before is the number of rows that this part encodes before it comes to an output; total of all outputs.
func (p *plan) before(o *schemas.PrepOutput) int {
	n := 0
	for i := range p.prep.Outputs {
		if p.prep.Outputs[i].Name == o.Name {
			break
		}
		own, _ := p.rows(p.prep.Outputs[i].Split, p.part, p.prep.Parts)
		n += len(own)
	}
	return n
}

func (p *plan) total() int {
	n := 0
	for i := range p.prep.Outputs {
		own, _ := p.rows(p.prep.Outputs[i].Split, p.part, p.prep.Parts)
		n += len(own)
	}
	return n
}

// readRows reads all data files in the order of the spec.
func readRows(ctx context.Context, t *consume.Task, prep *schemas.PrepStage, bad *source.Bad) ([]data.Row, error) {
	if prep.Data.URI != "" {
		return nil, schemas.Errorf(schemas.CodeUnsupported, prep.Data.URI, "data of another stage cannot be read yet").WithHint("give data files")
	}
	var total, done int64
	for _, f := range prep.Data.Files {
		total += f.Bytes
	}
	if total > maxDataBytes {
		return nil, schemas.Errorf(schemas.CodeData, t.Stage.Name, "the data files have %d bytes, the limit is %d", total, int64(maxDataBytes))
	}
	if len(prep.Data.Files) == 0 || total == 0 {
		return nil, schemas.Errorf(schemas.CodeData, t.Stage.Name, "the data set is empty")
	}
	var out []data.Row
	for _, f := range prep.Data.Files {
		body, err := readInput(ctx, t.Objects, t.Spec.Tenant, f, func(n int64) { t.Phase(consume.PhaseLoad, done+n, total) })
		if err != nil {
			return nil, err
		}
		done += f.Bytes
		records, err := data.ReadRecords(ctx, f.Path, prep.Format, body, bad)
		if err != nil {
			return nil, err
		}
		rows, err := data.Rows(records, prep.Columns)
		if err != nil {
			return nil, err
		}
		out = append(out, rows...)
	}
	for i := range out {
		out[i].Index = i
	}
	return out, nil
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
		body, err := readInput(ctx, objects, tenant, f, nil)
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
					body, err := readInput(ctx, t.Objects, t.Spec.Tenant, f, nil)
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
func readInput(ctx context.Context, objects store.Objects, tenant string, f schemas.File, progress func(int64)) ([]byte, error) {
	body, err := objects.Open(ctx, schemas.InputKey(tenant, f.SHA256), 0, -1)
	if errors.Is(err, store.ErrNotFound) {
		return nil, schemas.Errorf(schemas.CodeNotFound, f.Path, "the file was not uploaded")
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	defer body.Close()
	r := io.LimitReader(body, f.Bytes+1)
	if progress != nil {
		r = &counted{r: r, report: progress}
	}
	b, err := io.ReadAll(r)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", f.Path, err)
	}
	if sum := sha256.Sum256(b); int64(len(b)) != f.Bytes || hex.EncodeToString(sum[:]) != f.SHA256 {
		return nil, schemas.Errorf(schemas.CodeVerify, f.Path, "the stored file does not have the %d bytes with SHA-256 %s that the spec names", f.Bytes, f.SHA256)
	}
	return b, nil
}

// counted reports the bytes read so far.
type counted struct {
	r      io.Reader
	n      int64
	report func(int64)
}

// Read implements io.Reader.
func (c *counted) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n += int64(n)
	c.report(c.n)
	return n, err
}
