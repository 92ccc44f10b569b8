package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
	"github.com/tunefleet/tunefleet/services/embedded"
)

// dir is the data directory of the embedded servers.
func (a *app) dir() (string, error) {
	if a.dataDir != "" {
		return filepath.Abs(a.dataDir)
	}
	base := os.Getenv("XDG_DATA_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", schemas.Errorf(schemas.CodeUsage, "--dir", "there is no home folder to put the data under").WithHint("set --dir")
		}
		base = filepath.Join(home, ".local", "share")
	}
	return filepath.Join(base, "tunefleet"), nil
}

// configured reports whether a server was named.
func (a *app) configured() bool { return a.server != "" }

// client connects to the configured server, or to the embedded one of the data directory.
func (a *app) client(ctx context.Context) (*client.Client, error) {
	if a.configured() {
		if a.token == "" {
			return nil, schemas.Errorf(schemas.CodeAuth, "TUNEFLEET_TOKEN", "the token of %s is not set", a.server)
		}
		return client.New(a.server, a.token)
	}
	dir, err := a.dir()
	if err != nil {
		return nil, err
	}
	c, err := embeddedClient(dir)
	if err != nil {
		return nil, err
	}
	if err := c.Healthy(ctx); err != nil {
		return nil, schemas.Errorf(schemas.CodeUnavailable, dir, "the embedded server of this data directory does not answer: %s", schemas.AsErrorInfo(err).Message).WithHint("start it with: tunefleet up")
	}
	return c, nil
}

// embeddedClient is a client of the API that the record of a data directory names; whether it answers is another question.
func embeddedClient(dir string) (*client.Client, error) {
	r, err := embedded.Load(dir)
	if schemas.IsCode(err, schemas.CodeNotFound) {
		return nil, schemas.Errorf(schemas.CodeUnavailable, dir, "no server is configured and none was started over this data directory").
			WithHint("start one with: tunefleet up, or name one with --server and TUNEFLEET_TOKEN")
	}
	if err != nil {
		return nil, err
	}
	return client.New(r.APIURL(), r.APIToken)
}

// findRun resolves what the user typed: an id, tenant/id, the beginning of an id, or a name that one run has.
func (a *app) findRun(ctx context.Context, c *client.Client, arg string) (tenant, run string, err error) {
	tenant, run = a.tenant, arg
	if t, r, ok := strings.Cut(arg, "/"); ok {
		tenant, run = t, r
	}
	if schemas.ValidName(run) && len(run) >= 26 {
		return tenant, run, nil
	}
	found, near, exact, err := a.matches(ctx, c, tenant, run)
	if err != nil || exact {
		return tenant, run, err
	}
	switch len(found) {
	case 0:
		if len(near) > 0 {
			return "", "", schemas.Errorf(schemas.CodeNotFound, arg, "no run of tenant %s has this id, beginning of an id, or name", tenant).
				WithHint("did you mean %s? tunefleet list --name %s shows the runs", printable(near), arg)
		}
		return "", "", schemas.Errorf(schemas.CodeNotFound, arg, "no run of tenant %s has this id, beginning of an id, or name", tenant).WithHint("tunefleet list shows the runs")
	case 1:
		return tenant, found[0], nil
	}
	some := strings.Join(found[:min(len(found), maxNamed)], ", ")
	if len(found) > maxNamed {
		some += ", ..."
	}
	return "", "", schemas.Errorf(schemas.CodeUsage, arg, "%d runs match, the newest first: %s", len(found), some).WithHint("give more of the id; tunefleet list --name %s shows them", arg)
}

// maxNamed is how many runs that match are named.
const maxNamed = 10

// namesWait is how long a server is given to read the names of runs that it has not read since it was started.
const namesWait = time.Minute

// matches lists the runs of a tenant that have a name, or whose ids begin with it, the newest first; exact says that it is the id of one, near
// is the name of the newest that holds the text.
func (a *app) matches(ctx context.Context, c *client.Client, tenant, text string) (found []string, near string, exact bool, err error) {
	deadline := time.Now().Add(namesWait)
	for told := false; ; {
		found = nil
		unread := 0
		for f := (schemas.RunFilter{Tenant: tenant, Name: text, Limit: maxListPage}); ; {
			list, err := c.List(ctx, f)
			if err != nil {
				return nil, "", false, err
			}
			for _, r := range list.Runs {
				if r.Run == text {
					return nil, "", true, nil
				}
				if r.Name == text || strings.HasPrefix(r.Run, text) {
					found = append(found, r.Run)
				} else if near == "" {
					near = r.Name
				}
			}
			unread = list.Unread
			if f.After = list.Next; f.After == "" {
				break
			}
		}
		if unread == 0 || time.Now().After(deadline) {
			return found, near, false, nil
		}
		if !told {
			told = true
			a.say("the server reads the names of %d runs; an id would do without", unread)
		}
	}
}

// completeRuns offers a shell the ids of runs, with their names and states, for the commands that take one.
func (a *app) completeRuns(root *cobra.Command) {
	for _, c := range root.Commands() {
		a.completeRuns(c)
		_, args, ok := strings.Cut(c.Use, " ")
		if !ok || !strings.HasPrefix(args, "RUN") {
			continue
		}
		directive := cobra.ShellCompDirectiveNoFileComp
		if strings.HasPrefix(args, "RUN|") { // a file is taken, too
			directive = cobra.ShellCompDirectiveDefault
		}
		c.ValidArgsFunction = func(cmd *cobra.Command, args []string, _ string) (out []string, _ cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			cl, err := a.client(cmd.Context())
			if err != nil {
				return nil, directive
			}
			defer cl.Close()
			list, err := cl.List(cmd.Context(), schemas.RunFilter{Tenant: a.tenant, Limit: 1000})
			if err != nil {
				return nil, directive
			}
			for _, r := range list.Runs {
				out = append(out, cobra.CompletionWithDesc(r.Run, printable(r.Name+" "+string(r.State))))
			}
			return out, directive
		}
	}
}
