package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/cgroupfs"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/podnet"
	"github.com/podwright/podwright/cri-shim/internal/podns"
	"github.com/podwright/podwright/cri-shim/internal/thread"
	"github.com/podwright/podwright/pkg/netutil"
)

// host looks at what the host can do.
type host struct {
	Options
	network  podnet.Inspection
	cgroups  cgroupfs.Mounts
	serving  bool // a cri-shim answers
	findings []Finding
}

func (h *host) say(l Level, check, text, advice string) {
	if l == OK {
		advice = ""
	}
	h.findings = append(h.findings, Finding{l, check, text, advice})
}

func (h *host) examine(ctx context.Context) []Finding {
	if h.ConfigFile != "" {
		h.say(OK, "configuration", h.ConfigFile, "")
	} else {
		h.say(OK, "configuration", "the defaults", "")
	}
	facts, err := hostinfo.Collect()
	if err != nil {
		h.say(Fail, "kernel", err.Error(), "Mount /proc and /sys")
		return h.findings
	}
	h.kernel(facts)
	h.controllers(facts)
	h.security(facts)
	h.userNamespaces()
	h.networking()
	h.sysctls()
	h.runtimes(ctx)
	h.pods()
	for _, dir := range []string{h.Layout.Root, h.Layout.State} {
		h.disk(dir)
	}
	h.server(ctx)
	h.monitor(ctx)
	return h.findings
}

func (h *host) kernel(f hostinfo.Facts) {
	text := fmt.Sprintf("Linux %d.%d", f.KernelMajor, f.KernelMinor)
	level := OK
	if !f.KernelAtLeast(5, 10) {
		level = Warn
	}
	h.say(level, "kernel", text, "cri-shim is written for Linux 5.10 and newer")
	if has, err := os.ReadFile("/proc/filesystems"); err != nil || !strings.Contains(string(has), "\toverlay\n") {
		h.say(Fail, "overlayfs", "not there", "modprobe overlay")
	} else {
		h.say(OK, "overlayfs", "there", "")
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		h.say(Fail, "pidfd", err.Error(), "Use Linux 5.10 or newer")
		return
	}
	defer func() { _ = unix.Close(fd) }()
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || !f.KernelAtLeast(6, 15) {
		h.say(Warn, "pidfd", "tells no exit codes", "What ends while no cri-monitor runs is reported as 255 MonitorLost; Linux 6.15 and newer tell how it ended")
		return
	}
	h.say(OK, "pidfd", "tells exit codes", "")
}

// controllers are those that limits of pods need.
func (h *host) controllers(f hostinfo.Facts) {
	version := "v1"
	if f.CgroupV2 {
		version = "v2"
	} else if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.controllers"); err == nil {
		version = "hybrid"
	}
	var lacks []string
	for _, c := range []string{"cpu", "cpuset", "memory", "pids"} {
		if !f.Controllers[c] {
			lacks = append(lacks, c)
		}
	}
	if len(lacks) > 0 {
		h.say(Warn, "cgroups", version+", without "+strings.Join(lacks, ", "), "Limits by these controllers have no effect; a kernel's command line may turn them off")
		return
	}
	h.say(OK, "cgroups", version+" with cpu, cpuset, memory, pids", "")
}

func (h *host) security(f hostinfo.Facts) {
	if actions, err := os.ReadFile("/proc/sys/kernel/seccomp/actions_avail"); err != nil || !strings.Contains(string(actions), "errno") {
		h.say(Warn, "seccomp", "the kernel has no filters", "Pods run without a seccomp profile; those that name one are refused")
	} else {
		h.say(OK, "seccomp", "there", "")
	}
	if f.AppArmor {
		h.say(OK, "AppArmor", "on", "")
	} else {
		h.say(OK, "AppArmor", "off: pods that name a profile are refused", "")
	}
	switch {
	case f.SELinux && h.SELinux:
		h.say(OK, "SELinux", "on, and pods are labelled", "")
	case f.SELinux:
		h.say(Warn, "SELinux", "on, and pods are not labelled", "Set enable_selinux: until then pods that ask for a label are refused")
	default:
		h.say(OK, "SELinux", "off", "")
	}
	if f.CanLowerOOM {
		h.say(OK, "CAP_SYS_RESOURCE", "there", "")
	} else {
		h.say(Warn, "CAP_SYS_RESOURCE", "missing", fmt.Sprintf("OOM scores below %d and higher limits of open files are clamped", f.OOMScoreAdj))
	}
	for _, c := range []string{"CAP_SYS_ADMIN", "CAP_NET_ADMIN"} {
		if !slices.Contains(f.Caps, c) {
			h.say(Fail, c, "missing", "Run cri-shim where it may have it")
		}
	}
}

func (h *host) userNamespaces() {
	dir := existing(h.Layout.Images())
	if err := podns.SupportsIDMap(dir); err != nil {
		h.say(Warn, "user namespaces", err.Error(), "Pods with hostUsers: false are refused")
		return
	}
	h.say(OK, "user namespaces", "with ID-mapped mounts", "")
}

// existing is a path, or the next above it that exists.
func existing(path string) string {
	for {
		if _, err := os.Stat(path); err == nil || path == "/" {
			return path
		}
		path = filepath.Dir(path)
	}
}

// networking makes links in a namespace that ends with the question.
func (h *host) networking() {
	for _, q := range []struct {
		check, advice string
		do            func() error
	}{
		{"veth", "modprobe veth", func() error {
			return withHandle(func(h *netutil.Handle) error { return h.AddVeth(netutil.Veth{Name: "a", Peer: "b"}) })
		}},
		{"bridge", "modprobe bridge", func() error {
			return withHandle(func(h *netutil.Handle) error { return h.AddBridge("c", net.HardwareAddr{2, 0, 0, 0, 0, 1}, 0) })
		}},
		{"nftables", "modprobe nf_tables; bridge-ipam needs it for masquerade, host ports and spoof checks", func() error {
			nft, err := netutil.OpenNft("cri-shim-doctor")
			if err != nil {
				return err
			}
			nft.AddTable()
			return errors.Join(nft.Commit(), nft.Close())
		}},
	} {
		err := thread.Scratch(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			return q.do()
		})
		if err != nil {
			h.say(Fail, q.check, err.Error(), q.advice)
			continue
		}
		h.say(OK, q.check, "there", "")
	}
}

func withHandle(f func(*netutil.Handle) error) error {
	h, err := netutil.Host() // of the thread's namespace
	if err != nil {
		return err
	}
	defer h.Close()
	return f(h)
}

func (h *host) sysctls() {
	if v := sysctl("net/ipv4/ip_forward"); v == "1" {
		h.say(OK, "net.ipv4.ip_forward", "1", "")
	} else {
		h.say(OK, "net.ipv4.ip_forward", v+": bridge-ipam turns it on for its first pod", "")
	}
	const name = "net.bridge.bridge-nf-call-ip"
	if v := sysctl("net/bridge/bridge-nf-call-iptables"); v == "" {
		h.say(OK, name+"tables", "br_netfilter is not loaded: bridged packets pass no iptables rule", "")
	} else {
		h.say(OK, name+"tables", v, "")
	}
	if sysctl("net/bridge/bridge-nf-call-ip6tables") == "1" {
		h.say(Warn, name+"6tables", "1", "::1 of the node does not reach host ports: sysctl "+name+"6tables=0, where nothing needs it")
	}
}

func sysctl(name string) string {
	v, _ := os.ReadFile("/proc/sys/" + name) // "" where it is not
	return strings.TrimSpace(string(v))
}

// pods is whether a pod can be attached.
func (h *host) pods() {
	if h.network.Fault != nil {
		h.say(Fail, "CNI", h.network.Fault.Error(), "No pod can be attached until then; conf/cni has samples, and bridge-ipam check-config names every fault of one")
		return
	}
	var found []string
	for _, t := range slices.Sorted(maps.Keys(h.network.Plugins)) {
		if file := h.network.Plugins[t]; file != "" {
			found = append(found, file)
			continue
		}
		h.say(Fail, "CNI", fmt.Sprintf("plugin %q, by which pods are attached, is in none of %s", t, strings.Join(h.Network.BinDirs, ", ")), "Install it: pods cannot be given back without it")
	}
	h.say(OK, "CNI", "network "+h.network.Network+" by "+strings.Join(found, ", "), "")
}

// Below these parts of its size, and this size, a file system is short of space.
const (
	low, out = 10, 1 // percent
	little   = 1 << 30
)

func (h *host) disk(dir string) {
	at := existing(dir)
	var st unix.Statfs_t
	if err := unix.Statfs(at, &st); err != nil {
		h.say(Fail, dir, err.Error(), "Make it readable")
		return
	}
	free := st.Bavail * uint64(st.Bsize)
	level, text := space(free, st.Blocks*uint64(st.Bsize), st.Ffree, st.Files)
	h.say(level, dir, text, "Remove images (crictl rmi --prune) or pods, or give it more space")
}

// space judges what is free. A file system without a fixed number of inodes has 0 of 0.
func space(free, size, inodesFree, inodes uint64) (Level, string) {
	level := OK
	text := fmt.Sprintf("%d MiB of %d free", free>>20, size>>20)
	if inodes > 0 {
		text += fmt.Sprintf(", %d of %d inodes", inodesFree, inodes)
	}
	switch {
	case free*100 < size*out || inodesFree*100 < inodes*out:
		level = Fail
	case free*100 < size*low && free < little || inodesFree*100 < inodes*low:
		level = Warn
	}
	return level, text
}

func (h *host) server(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if _, err := os.Stat(h.Socket); errors.Is(err, fs.ErrNotExist) {
		h.say(OK, "socket", h.Socket+" is not there: cri-shim does not run", "")
		return
	}
	if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", h.Socket); err != nil {
		if errors.Is(err, unix.ECONNREFUSED) {
			h.say(OK, "socket", "nobody answers on "+h.Socket+": cri-shim does not run", "")
			return
		}
		h.say(Fail, "socket", err.Error(), "See that it is a socket, and yours")
		return
	} else if err := conn.Close(); err != nil {
		h.say(Fail, "socket", err.Error(), "")
		return
	}
	name, version, err := h.Server(ctx, h.Socket)
	switch {
	case err != nil:
		h.say(Fail, "socket", err.Error(), "Look into its log: it hangs, or has not read its records yet")
	case name != "cri-shim":
		h.say(Fail, "socket", name+" "+version+" answers on "+h.Socket, "Give cri-shim another socket: listen in its configuration")
	default:
		h.serving = true
		h.say(OK, "socket", name+" "+version+" answers on "+h.Socket, "")
	}
}

func (h *host) monitor(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	binary, err := h.MonitorBinary()
	if err != nil {
		h.say(Fail, "cri-monitor", err.Error(), "Install it beside cri-shim")
		return
	}
	version, pid, err := h.Monitor(ctx, h.Layout)
	records, _ := os.ReadDir(filepath.Join(h.Layout.Monitor(), "containers")) // nothing, before the first
	switch {
	case err == nil:
		h.say(OK, "cri-monitor", fmt.Sprintf("%s, process %d, with %d containers", version, pid, len(records)), "")
	case h.serving:
		h.say(Warn, "cri-monitor", err.Error(), "cri-shim starts one for the next call that needs it: "+binary)
	case len(records) > 0:
		h.say(Warn, "cri-monitor", fmt.Sprintf("%d containers have none", len(records)), "They run on, and their output waits. Start cri-shim, which starts "+binary)
	default:
		h.say(OK, "cri-monitor", "does not run, and has no container", "")
	}
}

// records are faults of what was read.
func (h *host) records(l look) []Finding {
	h.findings = nil
	for _, err := range l.bad {
		h.say(Fail, "record", err.Error(), "Restart cri-shim, which sets it aside, and look at its pod")
	}
	for _, dir := range []string{h.Layout.Quarantine(), filepath.Join(h.Layout.Monitor(), "quarantine")} {
		if entries, _ := os.ReadDir(dir); len(entries) > 0 {
			h.say(Warn, "quarantine", fmt.Sprintf("%d records were set aside in %s", len(entries), dir), "Look at them, and remove them")
		}
	}
	return h.findings
}
