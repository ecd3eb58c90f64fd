// Command cri-monitor parents all containers of one node. cri-shim starts it when there is none.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/podwright/podwright/cri-shim/monitor"
)

var version = "devel" // set by the linker

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "cri-monitor:", err)
		os.Exit(1)
	}
}

func run() error {
	runtimes := map[string]string{}
	var level slog.Level
	state := flag.String("state", "/run/cri-shim", "state directory of cri-shim")
	systemd := flag.Bool("systemd-cgroup", false, "let the OCI runtime make cgroups through systemd")
	idle := flag.Duration("idle-exit", 0, "end after so long without a container and a client; 0: never")
	wait := flag.Bool("wait", false, "stand by while another cri-monitor serves, instead of failing")
	flag.TextVar(&level, "log-level", slog.LevelInfo, "debug, info, warn or error")
	flag.Func("runtime", "`HANDLER=PATH` of an OCI runtime, repeatable; =PATH is the default one", func(v string) error {
		name, path, ok := strings.Cut(v, "=")
		if !ok || !strings.HasPrefix(path, "/") {
			return fmt.Errorf("%q: must be HANDLER=/absolute/path", v)
		}
		runtimes[name] = path
		return nil
	})
	flag.Parse()

	// A monitor lives long and holds little: its heap stays small rather than its collector idle. The limit is for what a
	// flood leaves: below what thousands of containers take, it would keep the collector at work all the time.
	debug.SetGCPercent(20)
	debug.SetMemoryLimit(64 << 20)
	// Handlers, not SIG_IGN: what is ignored stays ignored in what we execute, and not every OCI runtime undoes that.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGHUP)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	return monitor.Run(ctx, monitor.Config{
		State: *state, Runtimes: runtimes, SystemdCgroup: *systemd,
		IdleExit: *idle, Wait: *wait, Version: version, Logger: log,
	})
}
