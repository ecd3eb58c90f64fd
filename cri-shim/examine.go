package crishim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/podwright/podwright/cri-shim/internal/criserver"
	"github.com/podwright/podwright/cri-shim/internal/doctor"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/monitor/client"
	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// exitBlind is the doctor's code when it could not look.
const exitBlind = 2

// errBlind says that something could not be looked at.
var errBlind = errors.New("could not look")

func doctorCommand() *cobra.Command {
	var file, output string
	var patience time.Duration
	var o overrides
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look whether this host can run pods, and whether anything was left behind",
		Long: `Look whether this host can run pods, and whether anything on it belongs to no pod: namespaces, mounts, cgroups and
their processes, bundles, containers of the OCI runtime, records of cri-monitor, CNI attachments, leases and host links
of bridge-ipam, writable layers. Records whose objects are missing are named too. It changes nothing, needs root, and
works beside a running cri-shim as well as without one; what is being made or removed at the time is no finding.
It asks CNI plugins for their STATUS, as cri-shim does; bridge-ipam then brings back rules that somebody flushed.

Give it the configuration and the flags that cri-shim was started with.

Each line is ok, warn (something cannot be had here, and whoever asks for it is refused) or fail, with what to do.
Exit codes: 0 nothing failed and nothing is left or missing; 1 there are findings; 2 it could not look.`,
		Args: usage(cobra.NoArgs),
		RunE: func(c *cobra.Command, _ []string) error {
			if output != "text" && output != "json" {
				return fmt.Errorf("-o %q: want text or json: %w", output, errdefs.ErrInvalidArgument)
			}
			cfg, err := o.load(c, file)
			if err != nil {
				return err
			}
			r, err := examine(c.Context(), cfg, file, patience)
			if err != nil {
				return fmt.Errorf("%w: %w", errBlind, err)
			}
			if err := show(c, r, output); err != nil {
				return fmt.Errorf("%w: %w", errBlind, err)
			}
			if n := r.Findings(); n > 0 {
				return fmt.Errorf("doctor: %d findings", n)
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", configHelp)
	c.Flags().StringVarP(&output, "output", "o", "text", "text or json")
	c.Flags().DurationVar(&patience, "patience", 5*time.Second, "how long what belongs to no record may take to go")
	o.flags(c)
	return c
}

func show(c *cobra.Command, r doctor.Report, output string) error {
	if output == "text" {
		return r.Print(c.OutOrStdout())
	}
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(r)
}

func examine(ctx context.Context, cfg Config, file string, patience time.Duration) (doctor.Report, error) {
	if os.Geteuid() != 0 {
		return doctor.Report{}, errors.New("root is needed to see all of it")
	}
	facts, err := hostinfo.Collect()
	if err != nil {
		return doctor.Report{}, err
	}
	if _, err := os.Stat(DefaultConfigFile); file == "" && err == nil {
		file = DefaultConfigFile
	}
	layout := paths.Layout{Root: cfg.Root, State: cfg.State}
	runtimes := map[string]string{"": cfg.Runtime}
	for name, r := range cfg.Runtimes {
		runtimes[name] = r.Path
	}
	return doctor.Examine(ctx, doctor.Options{
		Layout: layout, Network: networkOptions(cfg.CNI, layout, slog.New(slog.DiscardHandler)), CgroupParent: cgroupsOf(cfg, facts).Parent,
		Runtimes: runtimes, Socket: cfg.Socket(), ConfigFile: file, Patience: patience,
		SELinux: cfg.EnableSELinux, Features: featuresInWords, Warning: runtimeWarning, Server: criserver.Ask, Monitor: client.Ask,
		MonitorBinary: func() (string, error) { return findMonitor(cfg.Monitor.Path) },
	})
}

func featuresInWords(ctx context.Context, runtime string) string {
	can := askRuntime(ctx, runtime)
	words := map[bool]string{true: "with ", false: "without "}
	return words[can.recursiveReadOnly] + "recursive read-only mounts, " + words[can.idMap] + "ID-mapped mounts"
}
