package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/gpuworker/data/remote"
	"github.com/tunefleet/tunefleet/schemas"
)

func (a *app) cacheCommand() *cobra.Command {
	return group("cache", "What was fetched from hubs and other servers: list it, make room", a.cacheListCommand(), a.cachePruneCommand())
}

func fetchCache() (*remote.Fetcher, error) { return remote.New(remote.FromEnv(os.Getenv)) }

func (a *app) cacheListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "ls", Short: "List the models, adapters and data sets that were fetched, the last used first", Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			f, err := fetchCache()
			if err != nil {
				return err
			}
			u, err := f.Use()
			if err != nil {
				return err
			}
			if a.json {
				return a.print(u)
			}
			t := newTable("WHAT", "FILES", "BYTES", "USED", "KEY")
			for _, e := range u.Entries {
				t.row(nonEmpty(e.Origin, "-"), strconv.Itoa(e.Files), strconv.FormatInt(e.Bytes, 10), ago(e.Used), e.Key[:min(12, len(e.Key))])
			}
			if err := t.write(a.out); err != nil {
				return err
			}
			a.say("%s: %d entries, %d bytes (files that entries share count once); %d of unfinished downloads, %d that belong to no entry", u.Dir, len(u.Entries), u.Bytes, u.Partial, u.Loose)
			return nil
		},
	}
}

func (a *app) cachePruneCommand() *cobra.Command {
	var bytes int64
	var keep time.Duration
	c := &cobra.Command{
		Use: "prune", Short: "Remove what was used longest ago until the rest fits",
		Long: "Prune removes files that belong to no entry, downloads that nobody has gone on with for a week, and then the entries that were used longest\n" +
			"ago until at most --max-bytes are left. Runs that were submitted need nothing of the cache: their files were uploaded. After each fetch the\n" +
			"same is done by itself with TUNEFLEET_REMOTE_CACHE_BYTES (default 256 GiB, none: no bound).",
		Args: exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			if bytes < 0 || keep < 0 {
				return schemas.Errorf(schemas.CodeUsage, "max-bytes, keep", "must not be negative")
			}
			f, err := fetchCache()
			if err != nil {
				return err
			}
			p, err := f.Prune(bytes, keep)
			if err != nil {
				return err
			}
			if a.json {
				return a.print(p)
			}
			for _, e := range p.Entries {
				a.say("removed %s (%d bytes, used %s)", nonEmpty(e.Origin, e.Key), e.Bytes, ago(e.Used))
			}
			_, err = fmt.Fprintf(a.out, "%d\n", p.Bytes)
			return err
		},
	}
	c.Flags().Int64Var(&bytes, "max-bytes", 0, "bytes that may stay (default: none)")
	c.Flags().DurationVar(&keep, "keep", time.Hour, "keep what was used within that time")
	return c
}
