package crishim

import (
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/moby/sys/mountinfo"
)

// tune sets what holds for the whole process. It is called once, by Run.
func tune() {
	// Nobody else may write to what is made without an explicit mode.
	syscall.Umask(0o022)
	// A handler, not SIG_IGN: what is ignored stays ignored in the programs we start.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	// Many nodes are small and most of the time idle: a heap that is collected at half its growth
	// costs little CPU, and as much memory as matters.
	debug.SetGCPercent(50)
}

// tellSystemd says that the service is up. Without systemd it does nothing. The variable is unset, so
// that plugins and runtimes cannot speak in our name.
func tellSystemd() {
	_, _ = daemon.SdNotify(true, daemon.SdNotifyReady) // it cannot be told more than once
}

// removeCgroup removes the cgroup that our own pods went into, in every hierarchy where nothing is in
// it any more. The kernel refuses the others.
func removeCgroup(parent string) {
	if parent == "" || strings.HasSuffix(parent, ".slice") {
		return // systemd removes its own
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup", "cgroup2"))
	if err != nil {
		return
	}
	for _, m := range mounts {
		_ = syscall.Rmdir(filepath.Join(m.Mountpoint, parent))
	}
}
