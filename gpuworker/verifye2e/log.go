package verifye2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/schemas"
)

// maxLogLine bounds a line of a log or of batches.
const maxLogLine = 64 << 20

// line is one call of the trainer's log.
type line map[string]float64

// computed is what a run logged.
type computed struct {
	lines []line
	steps map[int64]line
	evals map[int64]line
	last  int64
	mean  float64
}

// readEvents collects steps and evaluations.
func readEvents(events []schemas.Event) *computed {
	c := &computed{steps: map[int64]line{}, evals: map[int64]line{}}
	sum := 0.0
	for _, e := range events {
		l := line{"step": float64(e.Step)}
		if e.Type == schemas.EventStep {
			for k, v := range e.Values {
				switch k {
				case "step", "total", "tokens_per_second", "tokens", "padded_tokens", "flos", "leaves":
				default:
					l[k] = v
				}
			}
			l["loss_exact"], l["loss"] = e.Values["loss"], round4(e.Values["loss"])
			c.steps[e.Step], c.last = l, e.Step
			c.lines = append(c.lines, l)
			sum += e.Values["loss"]
			continue
		}
		found := false
		for k, v := range e.Values {
			if strings.HasPrefix(k, "eval_") && k != "eval_tokens" {
				l[k], found = v, true
			}
		}
		if !found {
			continue
		}
		if s := c.steps[e.Step]; s != nil {
			l["epoch"] = s["epoch"]
		}
		if old := c.evals[e.Step]; old != nil {
			for k, v := range l {
				old[k] = v
			}
			continue
		}
		c.evals[e.Step] = l
		c.lines = append(c.lines, l)
	}
	if n := len(c.steps); n > 0 {
		c.mean = sum / float64(n)
	}
	return c
}

func round4(x float64) float64 { return math.Round(x*1e4) / 1e4 }

// emitLog writes full_log.jsonl in the order of upstream: the training's summary before the last evaluation.
func (v *verification) emitLog(c *computed) error {
	if v.o.Emit == "" {
		return nil
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	put := func(l line) error {
		if err := e.Encode(l); err != nil {
			return fmt.Errorf("cannot encode the log: %w", err)
		}
		return nil
	}
	summary := line{"step": float64(c.last), "train_loss": c.mean}
	if s := c.steps[c.last]; s != nil {
		summary["epoch"] = s["epoch"]
	}
	for _, l := range c.lines {
		_, isStep := l["loss_exact"]
		if !isStep && int64(l["step"]) == c.last && summary != nil {
			if err := put(summary); err != nil {
				return err
			}
			summary = nil
		}
		if err := put(l); err != nil {
			return err
		}
	}
	if summary != nil {
		if err := put(summary); err != nil {
			return err
		}
	}
	return v.emit("full_log.jsonl", b.Bytes())
}

// emit writes one file of results.
func (v *verification) emit(name string, b []byte) error {
	if err := os.MkdirAll(v.o.Emit, 0o755); err != nil {
		return schemas.Errorf(schemas.CodeUsage, v.o.Emit, "cannot create the folder: %v", err)
	}
	if err := os.WriteFile(filepath.Join(v.o.Emit, name), b, 0o644); err != nil {
		return schemas.Errorf(schemas.CodeUsage, v.o.Emit, "cannot write: %v", err)
	}
	v.rep.Emitted = append(v.rep.Emitted, name)
	return nil
}

// readLines calls f with every line of a file; false when the file does not exist.
func readLines(path string, f func(n int, raw []byte) error) (bool, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, schemas.Errorf(schemas.CodeData, path, "cannot open: %v", err)
	}
	defer file.Close()
	s := bufio.NewScanner(io.LimitReader(file, 8<<30))
	s.Buffer(nil, maxLogLine)
	n := 0
	for s.Scan() {
		n++
		if len(bytes.TrimSpace(s.Bytes())) == 0 {
			continue
		}
		if err := f(n, s.Bytes()); err != nil {
			return true, err
		}
	}
	if err := s.Err(); err != nil {
		return true, schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", path, n+1), "cannot read: %v", err)
	}
	return true, nil
}

// compareLog compares with full_log.jsonl. Where the run draws random numbers (drawn says for what) only the steps are counted.
func (v *verification) compareLog(c *computed, drawn string) error {
	const name = "full_log.jsonl"
	steps := 0
	found, err := readLines(filepath.Join(v.dir, name), func(n int, raw []byte) error {
		var want map[string]any
		if err := json.Unmarshal(raw, &want); err != nil {
			return schemas.Errorf(schemas.CodeData, fmt.Sprintf("%s:%d", name, n), "cannot parse JSON: %v", err)
		}
		step, _ := want["step"].(float64)
		place := fmt.Sprintf("%s:step %d", name, int64(step))
		if drawn != "" {
			if _, ok := want["loss_exact"].(float64); ok {
				steps++
			}
			return nil
		}
		if l, ok := want["loss_exact"].(float64); ok {
			steps++
			v.compare(place+" loss", c.steps[int64(step)], "loss_exact", l, stepRel)
			return nil
		}
		if l, ok := want["train_loss"].(float64); ok {
			v.compare(place+" train_loss", line{"train_loss": c.mean}, "train_loss", l, finalRel)
			return nil
		}
		for _, k := range sortedKeys(want) {
			_, computed := c.evals[int64(step)][k]
			if w, ok := want[k].(float64); ok && (compared(k) || scored(k) && (computed || v.generates)) {
				v.compare(place+" "+k, c.evals[int64(step)], k, w, finalRel)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	switch {
	case !found && v.o.Emit != "":
		v.rep.Absent = append(v.rep.Absent, name)
	case !found || steps == 0 && len(c.evals) == 0:
		v.rep.Fail(name, "the reference is missing")
	case steps != len(c.steps):
		v.rep.Fail(name, fmt.Sprintf("the run took %d steps, the reference %d", len(c.steps), steps))
	case drawn != "":
		v.rep.Note(name, "losses are not compared: they depend on random numbers for "+drawn)
	}
	return nil
}

// compared reports whether a value of an evaluation is compared: losses and accuracies, not times.
func compared(key string) bool {
	return strings.HasPrefix(key, "eval_") && !strings.HasSuffix(key, "_runtime") && !strings.HasSuffix(key, "_per_second") && !strings.HasSuffix(key, "_preparation_time") &&
		(strings.HasSuffix(key, "_loss") || strings.HasSuffix(key, "_accuracy"))
}

// scored reports whether a value is a score of what was generated.
func scored(key string) bool {
	return strings.HasPrefix(key, "eval_rouge-") || strings.HasPrefix(key, "eval_bleu-")
}

// compare adds a row: |got - want| <= rel |want|.
func (v *verification) compare(place string, got line, key string, want, rel float64) {
	g, ok := got[key]
	if !ok {
		v.rep.Fail(place, "was not computed")
		return
	}
	v.rep.Relative(place, g, want, rel)
}

func sortedKeys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
