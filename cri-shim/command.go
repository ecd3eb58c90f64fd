package crishim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"
	"github.com/spf13/cobra"

	"github.com/podwright/podwright/conf"
)

// The exit codes of the program.
const (
	exitFailed = 1 // it could not start, or could not go on
	exitUsage  = 2 // wrong arguments, or a configuration that is refused
)

const exitHelp = `
Exit codes: 0 ended as asked; 1 could not start or could not go on (another instance, a missing
program, a directory that cannot be written); 2 wrong arguments or a refused configuration.`

// ExitCode is what the program ends with for an error of its command.
func ExitCode(err error) int {
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errBlind):
		return exitBlind
	case errdefs.IsInvalidArgument(err):
		return exitUsage
	}
	return exitFailed
}

// Command is the program's command line. version is shown, and told to the kubelet.
func Command(version string) *cobra.Command {
	root := &cobra.Command{
		Use:           "cri-shim",
		Short:         "A Kubernetes container runtime",
		Long:          "cri-shim is a Kubernetes container runtime: it serves the CRI on a unix socket." + exitHelp,
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          usage(cobra.NoArgs),
		RunE:          func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help: %w", err, c.CommandPath(), errdefs.ErrInvalidArgument)
	})
	root.AddCommand(serveCommand(version), importCommand(), configCommand(), doctorCommand(), &cobra.Command{
		Use: "version", Short: "Print the version", Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(c.OutOrStdout(), "cri-shim", version)
			return err
		},
	})
	return root
}

// usage gives wrong arguments their class.
func usage(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return fmt.Errorf("%w; see %s --help: %w", err, c.CommandPath(), errdefs.ErrInvalidArgument)
		}
		return nil
	}
}

func serveCommand(version string) *cobra.Command {
	var file string
	var o overrides
	c := &cobra.Command{
		Use:   "serve",
		Short: "Serve the CRI until SIGTERM",
		Long: `Serve the CRI on a unix socket, until SIGTERM or SIGINT. Containers run on when it ends, however it ends,
and the next start finds them again. It is ready when the socket answers Version; systemd is told so.` + "\n" + exitHelp,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := o.load(c, file)
			if err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(c.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			return Run(ctx, cfg, Options{Logger: logger(cfg.Log), Version: version, Ready: tellSystemd})
		},
	}
	c.Flags().StringVar(&file, "config", "", configHelp)
	o.flags(c)
	return c
}

func configCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "config", Short: "Show and check configurations", Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(&cobra.Command{
		Use: "default", Short: "Print the default configuration, with every key explained", Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			_, err := fmt.Fprint(c.OutOrStdout(), conf.CRIShim)
			return err
		},
	}, &cobra.Command{
		Use: "check FILE", Short: "Check a configuration file, and what is read over it, without starting", Args: usage(cobra.ExactArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			_, files, err := Load(args[0])
			if err != nil {
				return err
			}
			for _, f := range files {
				if _, err := fmt.Fprintln(c.OutOrStdout(), f+": ok"); err != nil {
					return err
				}
			}
			return nil
		},
	}, showCommand())
	return c
}

func showCommand() *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "show", Short: "Print the configuration that holds: the file, what is read over it, and defaults", Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, files, err := Load(file)
			if err != nil {
				return err
			}
			for _, f := range files {
				if _, err := fmt.Fprintln(c.OutOrStdout(), "# "+f); err != nil {
					return err
				}
			}
			return toml.NewEncoder(c.OutOrStdout()).Encode(cfg)
		},
	}
	c.Flags().StringVar(&file, "config", "", configHelp)
	return c
}

func logger(c LogConfig) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(c.Level)) // Validate knows the levels
	o := &slog.HandlerOptions{Level: level}
	if c.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, o))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, o))
}

// Main runs the command line and says on standard error why it failed. It returns the exit code.
func Main(ctx context.Context, version string, args []string) int {
	c := Command(version)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, context.Canceled) {
		fmt.Fprintln(os.Stderr, "cri-shim:", err)
	}
	return ExitCode(err)
}
