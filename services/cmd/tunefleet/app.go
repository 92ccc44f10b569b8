package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/config"
	"github.com/tunefleet/tunefleet/services/telemetry"
)

// app is what every command shares: streams and global flags.
type app struct {
	in       io.Reader
	out, err io.Writer

	server, token string
	// dataDir is absolute; cwd is where the process began.
	dataDir, cwd string
	tenant       string
	json         bool
	quiet        bool
	noColor      bool
	logLevel     string
}

// run executes one command line and returns the exit code.
func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer) int {
	a := &app{in: in, out: out, err: errOut}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	return a.fail(err)
}

// fail prints an error (what, where, what to do) and returns its exit code. With --json it is one JSON object, on standard error too.
func (a *app) fail(err error) int {
	var silent *silentError
	if errors.As(err, &silent) {
		return silent.code
	}
	info := bounded(schemas.AsErrorInfo(err))
	if errors.Is(err, context.Canceled) && info.Code == schemas.CodeInternal {
		info = schemas.Errorf(schemas.CodeInterrupted, "", "interrupted")
	}
	if a.json {
		data, merr := json.Marshal(schemas.APIError{Error: info})
		if merr == nil {
			fmt.Fprintln(a.err, string(data))
			return info.ExitCode()
		}
	}
	text := info.Message
	if info.Place != "" {
		text = info.Place + ": " + text
	}
	if strings.Contains(text, "\n") {
		text = "\n  " + strings.ReplaceAll(text, "\n", "\n  ")
	}
	fmt.Fprintf(a.err, "error: %s\n", text)
	if info.Hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", info.Hint)
	}
	return info.ExitCode()
}

// Bounds of what is shown of an error: a broken file of a megabyte would be shown whole.
const (
	maxErrorLines = 40
	maxErrorLine  = 1000 // bytes
)

// bounded is an error of which at most so much is shown.
func bounded(e *schemas.ErrorInfo) *schemas.ErrorInfo {
	c := *e
	lines := strings.Split(c.Message, "\n")
	if more := len(lines) - maxErrorLines; more > 0 {
		lines = append(lines[:maxErrorLines], fmt.Sprintf("and %d more", more))
	}
	for i, l := range lines {
		lines[i] = clip(l)
	}
	c.Message, c.Place, c.Hint = strings.Join(lines, "\n"), clip(c.Place), clip(c.Hint)
	return &c
}

// clip cuts a line to maxErrorLine bytes, without control characters.
func clip(s string) string {
	s = printable(s) // errors come from other machines, too
	if len(s) <= maxErrorLine {
		return s
	}
	return strings.ToValidUTF8(s[:maxErrorLine], "") + fmt.Sprintf(" ... (%d bytes)", len(s))
}

// silentError ends the process with a code after everything was said.
type silentError struct{ code int }

func (e *silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:           "tunefleet",
		Short:         "Fine-tune language models on a fleet of interchangeable workers",
		Long:          "tunefleet turns a fine-tuning configuration into jobs on a queue, and a fleet of interchangeable workers into a trainer that loses no work.",
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version(),
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownCommand(cmd, args[0])
		},
	}
	root.PersistentPreRunE = func(*cobra.Command, []string) error {
		// The embedded object store changes the process's working folder: paths are made absolute before it starts.
		var err error
		if a.cwd, err = os.Getwd(); err == nil && a.dataDir != "" {
			a.dataDir, err = filepath.Abs(a.dataDir)
		}
		return err
	}
	f := root.PersistentFlags()
	f.StringVar(&a.server, "server", os.Getenv("TUNEFLEET_SERVER"), "address of the API server (or TUNEFLEET_SERVER); default: the embedded one of --dir")
	f.StringVar(&a.dataDir, "dir", os.Getenv("TUNEFLEET_DATA_DIR"), "data directory of the embedded servers (or TUNEFLEET_DATA_DIR); default: tunefleet in the user's data folder")
	f.StringVar(&a.tenant, "tenant", nonEmpty(os.Getenv("TUNEFLEET_TENANT"), "default"), "tenant (or TUNEFLEET_TENANT)")
	f.BoolVar(&a.json, "json", false, "print JSON; one object a line when streaming")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "say nothing but results and errors")
	f.BoolVar(&a.noColor, "no-color", os.Getenv("NO_COLOR") != "", "no colours and no moving bars (or NO_COLOR)")
	f.StringVar(&a.logLevel, "log-level", "warn", "debug, info, warn or error")
	// The token is never a flag: command lines are visible to every user of the machine.
	a.token = os.Getenv("TUNEFLEET_TOKEN")
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(a.submitCommand(), a.trainCommand(), a.watchCommand(), a.logsCommand(), a.listCommand(), a.getCommand(), a.dashboardCommand(), a.outputsCommand())
	for _, e := range []schemas.RunEvent{schemas.RunCancel, schemas.RunPause, schemas.RunResume} {
		root.AddCommand(a.actCommand(e))
	}
	root.AddCommand(a.workersCommand(), a.workerCommand(), a.rankCommand(), a.upCommand(), a.serveCommand(), a.verifyCommand(), a.doctorCommand(),
		a.modelsCommand(), a.dataCommand(), a.poolCommand(), a.planCommand(), a.dlqCommand(), a.ckptCommand(), a.cacheCommand(), a.forkCommand(), a.evalCommand(), a.exportCommand(), a.chatCommand(), a.apiCommand(), a.sweepCommand(), a.simulateCommand(), a.benchCommand(), a.demoCommand(), a.chaosCommand(), a.chaosProcessCommand(), a.versionCommand())
	a.completeRuns(root)
	strictHelp(root)
	return root
}

// strictHelp makes cobra's own commands, help and completion, refuse what they do not know: they would show the commands and exit with 0.
func strictHelp(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, c := range root.Commands() {
		switch c.Name() {
		case "help":
			c.Run, c.RunE = nil, func(help *cobra.Command, args []string) error {
				topic, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return unknownCommand(topic, args[len(args)-max(1, len(rest))])
				}
				topic.InitDefaultHelpFlag()
				topic.InitDefaultVersionFlag()
				return topic.Help()
			}
		case "completion":
			c.Args, c.RunE = cobra.ArbitraryArgs, func(completion *cobra.Command, args []string) error {
				if len(args) == 0 {
					return completion.Help()
				}
				return unknownCommand(completion, args[0])
			}
		}
	}
}

// elsewhere says where what users look for under another name is.
func elsewhere(name string) string {
	return map[string]string{
		"server":  "tunefleet serve, or tunefleet up on this machine",
		"predict": "do_predict of a LLaMA-Factory configuration: tunefleet train FILE", "events": "tunefleet logs RUN", "metrics": "tunefleet logs RUN --json",
		"retry": "tunefleet dlq retry RUN", "quota": "tunefleet pool quota POOL TENANT", "cordon": "tunefleet pool cordon POOL", "drain": "tunefleet pool drain POOL",
		"pools": "tunefleet pool list", "queue": "tunefleet list --state queued", "checkpoints": "tunefleet ckpt ls RUN", "stop": "tunefleet pause RUN, or cancel RUN",
		"delete": "tunefleet cancel RUN, or dlq drop RUN", "start": "tunefleet up, or tunefleet submit FILE", "download": "tunefleet outputs RUN --to FOLDER",
		"artifacts": "tunefleet outputs RUN --to FOLDER", "preview": "tunefleet data preview FILE", "dataset": "tunefleet data preview | stats | validate FILE",
	}[name]
}

func unknownCommand(cmd *cobra.Command, name string) error {
	e := schemas.Errorf(schemas.CodeUsage, "", "unknown command %q", name)
	if where := elsewhere(name); where != "" && !cmd.HasParent() {
		return e.WithHint("%s", where)
	}
	var names []string
	for _, c := range cmd.Commands() {
		if !c.Hidden {
			names = append(names, c.Name())
		}
	}
	if near := config.Nearest(name, names, 2); len(near) > 0 {
		return e.WithHint("did you mean %s?", strings.Join(near, " or "))
	}
	return e.WithHint("%s --help lists the commands", cmd.CommandPath())
}

// flagError adds the nearest flag to cobra's complaint.
func flagError(cmd *cobra.Command, err error) error {
	e := schemas.Errorf(schemas.CodeUsage, "", "%v", err)
	name, ok := strings.CutPrefix(err.Error(), "unknown flag: --")
	if !ok {
		// pflag names the function of the standard library that could not read a number.
		if what, _, raw := strings.Cut(err.Error(), ": strconv."); raw {
			e = schemas.Errorf(schemas.CodeUsage, "", "%s: it is no number, or one out of range", what)
		}
		return e.WithHint("%s --help shows the flags", cmd.CommandPath())
	}
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	if near := config.Nearest(name, names, 1); len(near) > 0 {
		return e.WithHint("did you mean --%s?", near[0])
	}
	return e.WithHint("%s --help shows the flags", cmd.CommandPath())
}

// group makes a command that only has subcommands, with did-you-mean.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Args: cobra.ArbitraryArgs, RunE: func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return schemas.Errorf(schemas.CodeUsage, "", "%s needs a subcommand", cmd.CommandPath()).WithHint("%s --help lists them", cmd.CommandPath())
		}
		return unknownCommand(cmd, args[0])
	}}
	c.AddCommand(children...)
	return c
}

// exactArgs is cobra.ExactArgs with our error code.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(names) == 0 && len(args) > 0 {
			return schemas.Errorf(schemas.CodeUsage, "", "%s takes no arguments, got %q", cmd.CommandPath(), args[0])
		}
		if len(args) != len(names) {
			return schemas.Errorf(schemas.CodeUsage, "", "%s takes %d argument(s) (%s), got %d", cmd.CommandPath(), len(names), strings.Join(names, " "), len(args))
		}
		return nil
	}
}

// say writes a line for people to standard error, unless --quiet.
func (a *app) say(format string, args ...any) {
	if !a.quiet {
		fmt.Fprintf(a.err, format+"\n", args...)
	}
}

// sayLine says one line of a package below.
func (a *app) sayLine(line string) { a.say("%s", line) }

// print writes v as JSON to standard output.
func (a *app) print(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode the result: %w", err)
	}
	_, err = fmt.Fprintln(a.out, string(data))
	return err
}

// terminal reports whether moving bars may be drawn on standard error.
func (a *app) terminal() bool {
	f, ok := a.err.(*os.File)
	return ok && !a.json && !a.quiet && !a.noColor && os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

func (a *app) logger() (*slog.Logger, error) {
	var level slog.Level
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, strings.ToLower(a.logLevel)) || level.UnmarshalText([]byte(a.logLevel)) != nil {
		return nil, schemas.Errorf(schemas.CodeUsage, "--log-level", "%q is not debug, info, warn or error", a.logLevel)
	}
	return telemetry.NewLogger(a.err, level, a.json), nil
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{Use: "version", Short: "Print the version", Args: exactArgs(), RunE: func(*cobra.Command, []string) error {
		if a.json {
			return a.print(map[string]string{"version": version()})
		}
		_, err := fmt.Fprintln(a.out, "tunefleet", version())
		return err
	}}
}

// version is the module's version, with the revision when it was built from a checkout.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" || v == "(devel)" {
		v = "devel"
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 && !strings.Contains(v, s.Value[:12]) {
			v += " " + s.Value[:12]
		}
	}
	return v
}

func nonEmpty(a, b string) string {
	if a == "" {
		return b
	}
	return a
}
