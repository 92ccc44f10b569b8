package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/tunefleet/tunefleet/schemas"
	"github.com/tunefleet/tunefleet/services/api/client"
)

func (a *app) ckptCommand() *cobra.Command {
	return group("ckpt", "A run's checkpoints: list, verify, collect, pin", a.ckptListCommand("ls", "List a run's checkpoints", false),
		a.ckptListCommand("verify", "Read every part of a run's checkpoints and compare it with its manifest", true), a.ckptGCCommand(),
		a.ckptPinCommand("pin", "Keep a checkpoint for good", true), a.ckptPinCommand("unpin", "Keep a checkpoint no longer than it is needed", false))
}

func (a *app) ckptListCommand(use, short string, verify bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " RUN", Short: short, Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				list, err := cl.Checkpoints(cmd.Context(), tenant, run, verify)
				if err != nil {
					return err
				}
				bad := 0
				t := newTable("CHECKPOINT", "STAGE", "WORLD", "PARTS", "BYTES", "KEPT AS", "MADE", "VERIFIED")
				for _, c := range list.Checkpoints {
					if c.Verified != "" && c.Verified != "ok" {
						bad++
					}
					if a.json {
						if err := a.print(c); err != nil {
							return err
						}
						continue
					}
					role := c.Role
					if c.Pruned {
						role = "pruned"
					}
					t.row(c.Name, c.Stage, strconv.Itoa(c.World), strconv.Itoa(c.Parts), strconv.FormatInt(c.Bytes, 10), nonEmpty(role, "-"), ago(c.Created), nonEmpty(c.Verified, "-"))
				}
				if !a.json && len(list.Checkpoints) == 0 {
					a.say("no checkpoints: train stages commit them as they go")
				} else if !a.json {
					if err := t.write(a.out); err != nil {
						return err
					}
				}
				if bad > 0 {
					return schemas.Errorf(schemas.CodeVerify, run, "%d of %d checkpoints are corrupt", bad, len(list.Checkpoints)).
						WithHint("a gang that meets one goes back to its parent by itself; to keep a good one: tunefleet ckpt pin %s NAME", run)
				}
				return nil
			})
		},
	}
}

func (a *app) ckptGCCommand() *cobra.Command {
	var dry bool
	c := &cobra.Command{
		Use: "gc RUN", Short: "Delete parts of checkpoints that nothing needs (control does so by itself)", Args: exactArgs("RUN"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				list, err := cl.CollectCheckpoints(cmd.Context(), tenant, run, dry)
				if err != nil {
					return err
				}
				if a.json {
					return a.print(list)
				}
				verb := "deleted"
				if dry {
					verb = "would delete"
				}
				_, err = fmt.Fprintf(a.out, "%s %d parts, %d bytes\n", verb, list.Dropped, list.DroppedBytes)
				return err
			})
		},
	}
	c.Flags().BoolVar(&dry, "dry-run", false, "only count")
	return c
}

func (a *app) ckptPinCommand(use, short string, pin bool) *cobra.Command {
	return &cobra.Command{
		Use: use + " RUN CHECKPOINT", Short: short, Args: exactArgs("RUN", "CHECKPOINT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withRun(cmd.Context(), args[0], func(cl *client.Client, tenant, run string) error {
				if err := cl.PinCheckpoint(cmd.Context(), tenant, run, args[1], pin); err != nil {
					return err
				}
				a.say("%s: %s %sned", run, args[1], use)
				return nil
			})
		},
	}
}
