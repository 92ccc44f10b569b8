package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/evaluate"
	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/config"
)

// What the demo demands of its result (shares of 1).
const (
	demoAccuracy     = 0.80
	demoOverBase     = 0.15
	demoOverMajority = 0.30
	demoBagLow       = 0.60
	demoBagHigh      = 0.95
)

func (a *app) demoCommand() *cobra.Command {
	var file, output string
	c := &cobra.Command{
		Use: "demo", Short: "Run the whole path on this machine, kill a worker midway, and compare",
		Long: "Demo starts the embedded servers and two workers, submits a run (prepare, pretrain, LoRA, evaluate, export), kills one worker with SIGKILL in\n" +
			"the middle of the LoRA stage and starts another, repeats that stage undisturbed, and shows that the model got better and that both ended with\n" +
			"the same weights, bit for bit.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := os.Stat(file); err != nil {
				return schemas.Errorf(schemas.CodeNotFound, file, "the demo's run is not there").WithHint("run it from the repository, or name a run with --run")
			}
			return a.demo(cmd.Context(), file, output)
		},
	}
	c.Flags().StringVar(&file, "run", filepath.Join("producer", "examples", "contract-review", "run.yaml"), "the run to submit")
	c.Flags().StringVar(&output, "output_dir", filepath.Join("output", "demo"), "folder for data and results; each demo makes a folder in it")
	return c
}

// demonstration is one demo under way.
type demonstration struct {
	*app
	folder string
	cl     *client.Client
	fleet  *fleet
	spec   *schemas.RunSpec
	tuned  *schemas.Stage
	eval   string
	export *schemas.Stage

	// kill is what happened to the killed worker.
	killed   string
	killStep int64
	killErr  error
	lost     int64
}

func (a *app) demo(ctx context.Context, file, output string) error {
	began := time.Now()
	r, err := config.Load(ctx, file, config.Options{})
	if err != nil {
		return err
	}
	d := &demonstration{app: a, spec: r.Spec}
	if err := d.stages(); err != nil {
		return err
	}
	if d.folder, err = filepath.Abs(filepath.Join(output, began.Format("20060102-150405"))); err != nil {
		return diskError(output, err)
	}
	server := filepath.Join(d.folder, "server")
	if err := os.MkdirAll(server, 0o700); err != nil {
		return diskError(server, err)
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	s, err := startStack(ctx, server, upParts, []string{r.Spec.Pool}, log)
	if err != nil {
		return err
	}
	defer s.close()
	a.say("embedded servers, control and API are up: %s/#code=%s", s.record.APIURL(), s.server.SignInCode())
	d.fleet = newFleet(server, a.logLevel)
	defer d.fleet.stop(15 * time.Second)
	for range 2 {
		if _, err := d.fleet.startIn(r.Spec.Pool, threadsFor(2)); err != nil {
			return err
		}
	}
	a.say("two workers of pool %s are up, logs in %s", r.Spec.Pool, d.fleet.logs)
	if d.cl, err = client.New(s.record.APIURL(), s.record.APIToken); err != nil {
		return err
	}
	defer d.cl.Close()

	first, err := a.submit(ctx, d.cl, r)
	if err != nil {
		return err
	}
	if err := d.follow(ctx, first, true); err != nil {
		return err
	}
	if d.killErr != nil {
		return d.killErr
	}
	if d.killed == "" {
		return schemas.Errorf(schemas.CodeInternal, d.tuned.Name, "the stage ended before a worker could be killed")
	}
	a.say("the same LoRA stage again, undisturbed (its data comes from the cache)")
	second, err := a.submit(ctx, d.cl, d.undisturbed(r, first.Run))
	if err != nil {
		return err
	}
	if err := d.follow(ctx, second, false); err != nil {
		return err
	}
	sum, err := d.summary(ctx, first, second, began)
	if err != nil {
		return err
	}
	if err := d.show(sum); err != nil {
		return err
	}
	if len(sum.Missed) > 0 {
		return schemas.Errorf(schemas.CodeVerify, "demo", "%s", strings.Join(sum.Missed, "; "))
	}
	return nil
}

// stages finds the stages that the demo works on: the LoRA stage, the evaluation and the export.
func (d *demonstration) stages() error {
	for i := range d.spec.Stages {
		st := &d.spec.Stages[i]
		switch {
		case st.Train != nil && st.Train.Method == "lora":
			d.tuned = st
		case st.Eval != nil:
			d.eval = st.Name
		case st.Export != nil:
			d.export = st
		}
	}
	if d.tuned == nil || d.eval == "" || d.export == nil {
		return schemas.Errorf(schemas.CodeInvalid, "stages", "the demo needs a LoRA, an evaluation and an export stage")
	}
	return nil
}

// undisturbed is the run that repeats only the LoRA stage, from the first run's base model.
func (d *demonstration) undisturbed(r *config.Resolved, run string) *config.Resolved {
	spec := *r.Spec
	spec.Name += "-undisturbed"
	spec.TraceParent = ""
	spec.Stages = nil
	train := *d.tuned.Train
	from := strings.TrimPrefix(train.Model.From, "stage:")
	train.Model.From = "run:" + spec.Tenant + "/" + run + "/" + from
	stage := schemas.Stage{Name: d.tuned.Name, Kind: schemas.KindTrain, Train: &train}
	for _, st := range r.Spec.Stages {
		if st.Prep != nil {
			spec.Stages = append(spec.Stages, st)
			stage.Needs = append(stage.Needs, st.Name)
		}
	}
	spec.Stages = append(spec.Stages, stage)
	return &config.Resolved{Form: r.Form, Spec: &spec}
}

// follow shows a run to its end and, when asked, kills the worker of rank 0 in the middle of the LoRA stage.
func (d *demonstration) follow(ctx context.Context, run *schemas.SubmitReply, kill bool) error {
	var show *progress
	if !d.json && !d.quiet {
		show = newProgress(d.err, d.terminal())
	}
	log, err := newTrainerLog(d.folder, d.folder, d.tuned, nil)
	if err != nil {
		return err
	}
	if !kill {
		log = nil
	}
	var final schemas.Event
	var newest int64
	var generation uint64
	err = d.cl.Follow(ctx, run.Tenant, run.Run, "", func(id string, e schemas.Event) error {
		if id == "" && e.Type == schemas.EventState {
			final = e
			return nil
		}
		if d.json {
			if err := d.print(e); err != nil {
				return err
			}
		} else if show != nil {
			show.event(e)
		}
		if log != nil {
			if err := log.event(e); err != nil {
				return err
			}
		}
		if !kill || e.Type != schemas.EventStep || e.Stage != d.tuned.Name {
			return nil
		}
		if generation != 0 && e.Generation > generation && e.Step <= newest {
			d.lost += newest - e.Step + 1
		}
		newest, generation = e.Step, max(generation, e.Generation)
		if d.killed == "" && d.moment(e) {
			if show != nil {
				show.line("demo: kill -9 %s at step %d", e.Worker, e.Step)
			}
			d.killed, d.killStep = e.Worker, e.Step
			d.killErr = d.replace(e.Worker)
		}
		return d.killErr
	})
	if show != nil {
		show.close()
	}
	if log != nil {
		err = errors.Join(err, log.close(err == nil))
	}
	if err != nil {
		return err
	}
	return ended(run.Run, final)
}

// moment is in the middle of the stage and of a segment, so that the kill costs something.
func (d *demonstration) moment(e schemas.Event) bool {
	total, every := int64(e.Values["total"]), d.tuned.Train.CommitEvery
	return total > 0 && e.Step >= total/2 && e.Step < total-every && e.Step%every >= every/2
}

// replace kills a worker with SIGKILL and starts another.
func (d *demonstration) replace(name string) error {
	alive := d.fleet.alive()
	i := slices.IndexFunc(alive, func(p *workerProcess) bool { return p.name == name })
	if i < 0 {
		return schemas.Errorf(schemas.CodeInternal, name, "no worker of the demo has this name")
	}
	if err := alive[i].kill(); err != nil {
		return fmt.Errorf("cannot kill %s: %w", name, err)
	}
	p, err := d.fleet.startIn(d.spec.Pool, threadsFor(2))
	if err != nil {
		return err
	}
	d.say("demo: started %s in its place", p.name)
	return nil
}

// demoSummary is the demo's result, also as JSON.
type demoSummary struct {
	Run         string           `json:"run"`
	Undisturbed string           `json:"undisturbed_run"`
	Report      *evaluate.Report `json:"report"`
	Killed      string           `json:"killed_worker"`
	KillStep    int64            `json:"killed_at_step"`
	Lost        int64            `json:"steps_lost"`
	Hash        string           `json:"state_sha256"`
	HashAlone   string           `json:"state_sha256_undisturbed"`
	Output      string           `json:"output"`
	Seconds     float64          `json:"seconds"`
	// Missed lists the criteria that were not met.
	Missed []string `json:"missed,omitempty"`
}

func (d *demonstration) summary(ctx context.Context, first, second *schemas.SubmitReply, began time.Time) (*demoSummary, error) {
	s := &demoSummary{Run: first.Run, Undisturbed: second.Run, Killed: d.killed, KillStep: d.killStep, Lost: d.lost, Output: d.folder}
	for run, hash := range map[*schemas.SubmitReply]*string{first: &s.Hash, second: &s.HashAlone} {
		v, err := d.cl.Stage(ctx, run.Tenant, run.Run, d.tuned.Name)
		if err != nil {
			return nil, err
		}
		if v.Manifest == nil || !v.Manifest.Final || v.Manifest.StateHash == "" {
			return nil, schemas.Errorf(schemas.CodeInternal, run.Run, "stage %s has no final commit", d.tuned.Name)
		}
		*hash = v.Manifest.StateHash
	}
	v, err := d.cl.Stage(ctx, first.Tenant, first.Run, d.eval)
	if err != nil {
		return nil, err
	}
	if v.Result == nil {
		return nil, schemas.Errorf(schemas.CodeInternal, first.Run, "stage %s has no result", d.eval)
	}
	// The report travels as a JSON value within the result.
	data, err := json.Marshal(v.Result.Values["report"])
	if err == nil {
		err = json.Unmarshal(data, &s.Report)
	}
	if err != nil || s.Report == nil || len(s.Report.Models) < 2 {
		return nil, schemas.Errorf(schemas.CodeInternal, first.Run, "stage %s has no report of two models", d.eval)
	}
	if err := writeJSON(filepath.Join(d.folder, "report.json"), s.Report); err != nil {
		return nil, err
	}
	if err := d.fetchOutputs(ctx, d.cl, first.Tenant, first.Run, d.export.Name+"/", d.folder); err != nil {
		return nil, err
	}
	s.judge()
	s.Seconds = round(time.Since(began).Seconds(), 1)
	return s, nil
}

// judge lists the criteria that were missed.
func (s *demoSummary) judge() {
	base, tuned := s.Report.Models[0], s.Report.Models[len(s.Report.Models)-1]
	miss := func(bad bool, format string, args ...any) {
		if bad {
			s.Missed = append(s.Missed, fmt.Sprintf(format, args...))
		}
	}
	miss(tuned.Accuracy < demoAccuracy, "tuned accuracy %.3f is under %.2f", tuned.Accuracy, demoAccuracy)
	miss(tuned.Accuracy < base.Accuracy+demoOverBase, "tuned accuracy %.3f is not %.0f points over base %.3f", tuned.Accuracy, 100*demoOverBase, base.Accuracy)
	miss(tuned.Accuracy < s.Report.MajorityShare+demoOverMajority, "tuned accuracy %.3f is not %.0f points over the majority class %.3f", tuned.Accuracy, 100*demoOverMajority, s.Report.MajorityShare)
	if b := s.Report.BagOfWords; b == nil {
		miss(true, "the report has no bag-of-words baseline")
	} else {
		miss(b.Accuracy < demoBagLow || b.Accuracy > demoBagHigh, "bag-of-words accuracy %.3f lies outside %.2f-%.2f", b.Accuracy, demoBagLow, demoBagHigh)
	}
	miss(s.Hash != s.HashAlone, "the weights differ from those of the undisturbed run")
}

// show prints the table and what to do next.
func (d *demonstration) show(s *demoSummary) error {
	if d.json {
		return d.print(s)
	}
	t := newTable("HELD-OUT SPLIT", "ACCURACY", "MACRO-F1", "BLEU-4", "ROUGE-1", "ROUGE-2", "ROUGE-L", "PERPLEXITY", "TOKENS/S")
	for _, m := range s.Report.Models {
		t.row(m.Name, fmt.Sprintf("%.3f", m.Accuracy), fmt.Sprintf("%.3f", m.MacroF1), fmt.Sprintf("%.3f", m.BLEU4), fmt.Sprintf("%.3f", m.ROUGE1),
			fmt.Sprintf("%.3f", m.ROUGE2), fmt.Sprintf("%.3f", m.ROUGEL), fmt.Sprintf("%.2f", m.Perplexity), fmt.Sprintf("%.0f", m.TokensPerSecond))
	}
	if b := s.Report.BagOfWords; b != nil {
		t.row("bag of words (logistic regression)", fmt.Sprintf("%.3f", b.Accuracy), fmt.Sprintf("%.3f", b.MacroF1))
	}
	t.row(fmt.Sprintf("majority class (%s)", s.Report.Majority), fmt.Sprintf("%.3f", s.Report.MajorityShare))
	fmt.Fprintln(d.out)
	if err := t.write(d.out); err != nil {
		return err
	}
	word := "equal"
	if s.Hash != s.HashAlone {
		word = "DIFFERENT"
	}
	relative := s.Output
	if r, err := filepath.Rel(d.cwd, s.Output); err == nil && !strings.HasPrefix(r, "..") {
		relative = r
	}
	_, err := fmt.Fprintf(d.out, `
%d held-out clauses, in wordings that training never saw
%s was killed with SIGKILL at step %d of %s; %d step(s) were lost and done again
final weights  %s
undisturbed    %s  %s

outputs in %s
  peft/     the adapter, for PEFT        merged/       the merged model, for transformers
  report.json                            trainer_log.jsonl, trainer_state.json, all_results.json
took %s
`, s.Report.Rows, s.Killed, s.KillStep, d.tuned.Name, s.Lost, s.Hash, s.HashAlone, word, relative, time.Duration(s.Seconds*float64(time.Second)).Round(time.Second))
	if err != nil {
		return err
	}
	d.say("\nnext:\n  bin/tunefleet up --dir %s/server --workers 2     look around: dashboard, list, get %s", relative, s.Run)
	d.say("  bin/tunefleet train --config finetune.yaml          your own model and data, see README.md")
	return nil
}
