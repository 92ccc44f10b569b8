package main

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/tunefleet/tunefleet/schemas"
)

// stageLine is what is known of one stage's progress.
type stageLine struct {
	name       string
	unit       string
	done       int64
	total      int64
	loss       float64
	tokensPerS float64
	// started is when the events say that it began, at when the newest of them was: events of the past come all at once.
	started, at time.Time
	phase       schemas.StagePhase
	// parts holds rows or tokens per part of a stage that works in parts.
	parts map[string][2]int64
	bar   *mpb.Bar
	// shown is what the bar's decorator prints; the drawing goroutine reads it.
	shown atomic.Pointer[string]
	said  time.Time
	// saidDone is the count of the last plain line.
	saidDone int64
}

// progress shows a run's stages from its events: one bar a stage on a terminal, plain lines otherwise.
type progress struct {
	out    io.Writer
	bars   *mpb.Progress
	stages map[string]*stageLine
	now    func() time.Time
	// every is the least pause between two plain lines of a stage.
	every time.Duration
}

func newProgress(out io.Writer, terminal bool) *progress {
	p := &progress{out: out, stages: map[string]*stageLine{}, now: time.Now, every: 3 * time.Second}
	if terminal {
		p.bars = mpb.New(mpb.WithOutput(out), mpb.WithAutoRefresh(), mpb.WithWidth(40), mpb.WithRefreshRate(150*time.Millisecond))
	}
	return p
}

// close ends the bars and leaves the last state on the screen.
func (p *progress) close() {
	if p.bars == nil {
		p.flush()
		return
	}
	for _, s := range p.stages {
		if s.bar != nil && !s.bar.Completed() {
			s.bar.Abort(false)
		}
	}
	p.bars.Wait()
}

// flush says where stages are whose last figures came too soon after others to be said.
func (p *progress) flush() {
	for _, name := range slices.Sorted(maps.Keys(p.stages)) {
		if s := p.stages[name]; s.done != s.saidDone {
			p.sayFigures(s)
		}
	}
}

// line prints a line above the bars.
func (p *progress) line(format string, args ...any) {
	lines := strings.Split(fmt.Sprintf(format, args...), "\n")
	for i, l := range lines {
		lines[i] = printable(l) // they hold words of other machines
	}
	text := strings.Join(lines, "\n  ") + "\n"
	if p.bars != nil {
		if _, err := p.bars.Write([]byte(text)); err == nil {
			return
		}
	}
	fmt.Fprint(p.out, text)
}

// event takes one event of the run.
func (p *progress) event(e schemas.Event) {
	switch e.Type {
	case schemas.EventStep, schemas.EventProgress:
		p.figures(e)
	case schemas.EventStage:
		p.stageState(e)
	case schemas.EventState:
		if p.bars == nil && schemas.RunState(e.Message).Terminal() {
			p.flush()
		}
		p.line("run %s", e.Message) // why is what the command ends with
	case schemas.EventCommit:
		if p.bars == nil {
			return // said by the step lines; on a terminal nobody wants a line a segment
		}
	case schemas.EventGeneration:
		p.line("%s: generation %d, %s", e.Stage, e.Generation, nonEmpty(e.Message, fmt.Sprintf("%.0f worker(s)", e.Values["world"])))
	case schemas.EventMemberLost:
		if e.Worker == "" {
			p.line("%s", e.Message) // control's own words, which name the stage
			return
		}
		if e.Step == 0 { // before its first step in this generation
			p.line("%s: %s lost its gang", e.Stage, e.Worker)
			return
		}
		p.line("%s: %s lost its gang after step %d", e.Stage, e.Worker, e.Step)
	case schemas.EventNote:
		p.line("%s: %s", nonEmpty(e.Stage, "run"), e.Message)
	case schemas.EventFallback:
		p.line("%s: %s (%v)", nonEmpty(e.Stage, "run"), e.Message, e.Error)
	case schemas.EventPreempt, schemas.EventWarning:
		text := e.Message
		if e.Error != nil {
			text = e.Error.Error()
		}
		p.line("%s: %s %s", nonEmpty(e.Stage, "run"), e.Type, text)
	}
}

func (p *progress) stage(name string) *stageLine {
	s := p.stages[name]
	if s == nil {
		s = &stageLine{name: name, unit: "rows", parts: map[string][2]int64{}, loss: math.NaN()}
		p.stages[name] = s
	}
	return s
}

func (p *progress) stageState(e schemas.Event) {
	if e.Stage == "" {
		return
	}
	s := p.stage(e.Stage)
	phase := schemas.StagePhase(e.Message)
	if s.phase == phase {
		return
	}
	s.phase = phase
	if p.bars == nil && phase != schemas.StageRunning && s.done != s.saidDone {
		p.sayFigures(s) // what came all at once was not said step by step
	}
	switch phase {
	case schemas.StageRunning:
		s.started = e.At
		if p.bars == nil {
			p.line("%s: started", s.name)
		} else {
			p.addBar(s)
		}
	case schemas.StageSucceeded:
		if s.bar != nil {
			if s.total <= 0 && s.done <= 0 {
				s.bar.SetCurrent(1) // a stage that counted nothing is done all the same
			}
			s.bar.SetTotal(-1, true)
		}
		if p.bars == nil {
			p.line("%s: done in %s", s.name, e.At.Sub(s.started).Round(100*time.Millisecond))
		}
	case schemas.StageFailed, schemas.StageSkipped:
		text := string(phase)
		if e.Error != nil {
			text += ": " + e.Error.Error()
		}
		if s.bar != nil {
			s.bar.Abort(false)
		}
		p.line("%s: %s", s.name, text)
	}
}

// figures reads the values of a step or progress event: steps or total, rows or done, loss, tokens_per_second.
func (p *progress) figures(e schemas.Event) {
	if e.Stage == "" {
		return
	}
	s := p.stage(e.Stage)
	s.at = e.At
	if s.started.IsZero() {
		s.started = e.At
	}
	v := func(names ...string) (float64, bool) {
		for _, n := range names {
			if x, ok := e.Values[n]; ok {
				return x, true
			}
		}
		return 0, false
	}
	if e.Type == schemas.EventStep {
		s.unit = "steps"
		// A step done again after a loss shows the truth: the bar goes back.
		s.done = e.Step
		if t, ok := v("steps", "total"); ok {
			s.total = int64(t)
		}
	} else {
		done, okDone := v("done", "rows")
		total, okTotal := v("total")
		key := e.Worker
		if part, ok := v("part"); ok {
			key = fmt.Sprint(part)
		}
		if okDone && okTotal {
			s.parts[key] = [2]int64{int64(done), int64(total)}
			s.done, s.total = 0, 0
			for _, x := range s.parts {
				s.done += x[0]
				s.total += x[1]
			}
		} else if okDone {
			s.done = int64(done)
		}
		if e.Message != "" {
			s.unit = e.Message
		}
	}
	if x, ok := v("loss"); ok {
		s.loss = x
	}
	if x, ok := v("tokens_per_second"); ok {
		s.tokensPerS = x
	}
	p.draw(s)
}

func (p *progress) draw(s *stageLine) {
	if p.bars != nil {
		if s.bar == nil {
			p.addBar(s)
		}
		text := "  " + s.figures()
		s.shown.Store(&text)
		if s.total > 0 {
			s.bar.SetTotal(s.total, false)
		}
		s.bar.SetCurrent(s.done)
		return
	}
	now := p.now()
	if now.Sub(s.said) < p.every && (s.total == 0 || s.done < s.total) {
		return
	}
	if s.total > 0 && s.done >= s.total && !s.said.IsZero() && s.saidDone == s.done {
		return // the last one is said, and once
	}
	s.said = now
	p.sayFigures(s)
}

// sayFigures says where a stage is.
func (p *progress) sayFigures(s *stageLine) {
	s.saidDone = s.done
	p.line("%s", s.text())
}

// text is the stage's figures on one line.
func (s *stageLine) text() string {
	line := fmt.Sprintf("%s: %d", s.name, s.done)
	if s.total > 0 {
		line += fmt.Sprintf("/%d", s.total)
	}
	line += " " + s.unit
	if extra := s.figures(); extra != "" {
		line += "  " + extra
	}
	return line
}

func (s *stageLine) figures() string {
	text := ""
	if !math.IsNaN(s.loss) {
		text += fmt.Sprintf("loss %.4f  ", s.loss)
	}
	if s.tokensPerS > 0 {
		text += fmt.Sprintf("%.0f tokens/s  ", s.tokensPerS)
	}
	if eta := s.eta(); eta > 0 {
		text += "ETA " + eta.String()
	}
	return text
}

func (s *stageLine) eta() time.Duration {
	if s.total <= 0 || s.done <= 0 || s.done >= s.total {
		return 0
	}
	per := s.at.Sub(s.started) / time.Duration(s.done)
	return (per * time.Duration(s.total-s.done)).Round(time.Second)
}

func (p *progress) addBar(s *stageLine) {
	if s.bar != nil {
		return
	}
	s.bar = p.bars.AddBar(max(s.total, 0),
		mpb.PrependDecorators(decor.Name(s.name, decor.WC{W: 12, C: decor.DindentRight}), decor.CountersNoUnit("%d / %d", decor.WCSyncWidth)),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string {
			if text := s.shown.Load(); text != nil {
				return *text
			}
			return ""
		})))
}
