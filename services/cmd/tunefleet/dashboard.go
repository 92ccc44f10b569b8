package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func (a *app) dashboardCommand() *cobra.Command {
	return &cobra.Command{
		Use: "dashboard", Short: "Print an address that opens the dashboard and signs a browser in",
		Long: "Dashboard prints an address of the API server that signs a browser in, once, within an hour. It holds a code and not the token: who finds it\n" +
			"later, in a history or a log, can do nothing with it.",
		Args: exactArgs(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			defer cl.Close()
			in, err := cl.SignInCode(cmd.Context())
			if err != nil {
				return err
			}
			address := cl.Base() + "/#code=" + in.Code
			if a.json {
				return a.print(map[string]any{"url": address, "expires": in.Expires})
			}
			_, err = fmt.Fprintln(a.out, address)
			return err
		},
	}
}
