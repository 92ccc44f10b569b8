package config

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

// Form names the kind of a configuration file.
type Form string

// Forms.
const (
	FormSpec  Form = "spec"  // a run spec: stages
	FormGuide Form = "guide" // model: / training: / data:
)

// Options are what the command line adds to a file.
type Options struct {
	// Overrides are key=value arguments, applied before anything is checked.
	Overrides []string
	// Guide holds the flags of the simpler form; ignored for a run spec.
	Guide GuideFlags
	// Remote fetches what lies on other machines; nil makes one by the environment when the first address is met. Say is told what is
	// fetched.
	Remote *remote.Fetcher
	Say    func(string)
}

// Resolved is a configuration with everything looked up.
type Resolved struct {
	Form Form
	Spec *schemas.RunSpec
	// Inputs are the local files to upload before the spec is submitted.
	Inputs []Input
	// Output and Logs are where the simpler form writes; empty for a run spec.
	Output, Logs string
	// Tokenized is the folder that tokenized data are written to when the run has succeeded, empty for none.
	Tokenized string
	// Workers is the number of worker processes that the simpler form asks for when everything runs embedded.
	Workers int
	// Device is auto, cpu or cuda: what worker processes that are started for the run compute with; empty is auto.
	Device string
	// ReportTo is none or otlp.
	ReportTo string
	// Factory says what the log files hold; nil unless the configuration is LLaMA-Factory's.
	Factory *FactoryOutput
	// Notes tell what was decided, for people.
	Notes []string
}

// Load reads a configuration file ("-" is standard input) and resolves it. Errors are ErrorInfo: CodeInvalid lists every problem.
func Load(ctx context.Context, file string, opt Options) (*Resolved, error) {
	data, err := readFile(file)
	if err != nil {
		return nil, err
	}
	return Parse(ctx, file, data, opt)
}

func readFile(file string) ([]byte, error) {
	r := io.ReadCloser(os.Stdin)
	if file != "-" {
		f, err := os.Open(file)
		if os.IsNotExist(err) {
			return nil, schemas.Errorf(schemas.CodeNotFound, file, "no such configuration file")
		}
		if err != nil {
			return nil, schemas.Errorf(schemas.CodeInvalid, file, "cannot open the configuration: %v", err)
		}
		if info, err := f.Stat(); err == nil && info.IsDir() {
			_ = f.Close() // nothing was read or written
			return nil, schemas.Errorf(schemas.CodeInvalid, file, "is a folder, not a configuration file").
				WithHint("name the file in it, such as %s", filepath.Join(file, "finetune.yaml"))
		}
		r = f
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, MaxFileBytes+1))
	if err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "cannot read the configuration: %v", err)
	}
	return data, nil
}

// Parse resolves a configuration that was already read; relative paths start at the file's folder.
func Parse(ctx context.Context, file string, data []byte, opt Options) (*Resolved, error) {
	root, err := parse(file, data)
	if err != nil {
		return nil, err
	}
	for _, o := range opt.Overrides {
		if err := override(root, o); err != nil {
			return nil, err
		}
	}
	c := newCollector(".", opt)
	if file != "-" {
		c.dir = filepath.Dir(file)
	}
	// Absolute, because the embedded object store changes the process's working folder.
	if c.dir, err = filepath.Abs(c.dir); err != nil {
		return nil, schemas.Errorf(schemas.CodeInvalid, file, "cannot find the configuration's folder: %v", err)
	}
	p := &problems{file: file}
	switch form := formOf(root); form {
	case FormSpec:
		return loadSpec(ctx, root, p, c)
	case FormGuide:
		return loadGuide(ctx, root, p, c, opt.Guide)
	case FormFactory:
		return loadFactory(ctx, root, p, c)
	default:
		return nil, unknownForm(root, p)
	}
}

func formOf(root *node) Form {
	has := func(keys ...string) bool {
		return slices.ContainsFunc(keys, func(k string) bool { return root.values[k] != nil })
	}
	switch {
	case has("stages"):
		return FormSpec
	case has("model", "training", "data"):
		return FormGuide
	case isFactory(root):
		return FormFactory
	}
	return ""
}

func unknownForm(root *node, p *problems) error {
	known := append(jsonNames(reflect.TypeFor[schemas.RunSpec]()), jsonNames(reflect.TypeFor[guideFile]())...)
	for _, k := range root.keys {
		if !slices.Contains(known, k) {
			p.add(root.values[k], "unknown key %q%s", k, didYouMean(k, known))
		}
	}
	p.add(nil, "expected stages: (a run spec), or model:, training: and data:, or LLaMA-Factory's keys (model_name_or_path:, stage:, dataset:)")
	return p.err()
}

// loadSpec reads a run spec; refs given as text are local paths or addresses.
func loadSpec(ctx context.Context, root *node, p *problems, c *collector) (*Resolved, error) {
	var hard error // a problem with a file: its own code says more than "invalid"
	d := &decoder{p: p}
	d.ref = func(n *node, path, text string, out *schemas.Ref) {
		if isURI(text) {
			out.URI = text
			return
		}
		var keep func(string) bool
		text, err := c.address(ctx, path, text)
		if err != nil {
			p.add(n, "%s: %v", path, err)
			hard = first(hard, err)
			return
		}
		if strings.HasSuffix(path, ".base") {
			keep = modelFile
			local := c.resolve(text)
			if info, err := os.Stat(local); err == nil && info.IsDir() {
				if err := checkModelFolder(local); err != nil {
					hard = first(hard, err)
					return
				}
			}
		}
		ref, err := c.ref(ctx, text, keep)
		if err != nil {
			p.add(n, "%s: %v", path, err)
			hard = first(hard, err)
			return
		}
		*out = *ref
	}
	d.rawFile = func(n *node, path, text string) json.RawMessage {
		data, err := os.ReadFile(c.resolve(text))
		switch {
		case err != nil:
			p.add(n, "%s: cannot read %s: %v", path, text, err)
		case !json.Valid(data):
			p.add(n, "%s: %s is no valid JSON", path, text)
		default:
			return data
		}
		return nil
	}
	spec := &schemas.RunSpec{}
	d.decode(root, "", reflect.ValueOf(spec).Elem())
	// One missing file alone keeps its own code (not found, bad model); together with other problems the list is the answer.
	if hard != nil && len(p.list) <= 1 {
		return nil, hard
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	if err := validate(p.file, spec); err != nil {
		return nil, err
	}
	return &Resolved{Form: FormSpec, Spec: spec, Inputs: c.inputs}, nil
}

// address gives an address in a run spec a place on this machine, by what the key holds; a path stays as it is.
func (c *collector) address(ctx context.Context, key, text string) (string, error) {
	switch {
	case !remote.IsAddress(text):
		return text, nil
	case strings.HasSuffix(key, ".base"):
		return c.fetchModel(ctx, text)
	case strings.HasSuffix(key, ".tokenizer"):
		return c.folder(ctx, text, tokenizerFile, nil)
	case strings.HasSuffix(key, ".data"):
		return c.data(ctx, text)
	}
	return c.folder(ctx, text, func(n string) bool { return adapterFile(n) || modelFile(n) }, nil)
}

func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

// validate fills defaults and reports every rule that the spec breaks.
func validate(file string, s *schemas.RunSpec) error {
	err := s.WithDefaults().Validate()
	if err == nil {
		return nil
	}
	lines := strings.Split(err.Error(), "\n")
	for i, l := range lines {
		lines[i] = file + ": " + l
	}
	return schemas.Errorf(schemas.CodeInvalid, "", "%s", strings.Join(lines, "\n"))
}
