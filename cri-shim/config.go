package crishim

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/pelletier/go-toml/v2"

	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// DefaultConfigFile is read when it exists and no other file is named.
const DefaultConfigFile = "/etc/cri-shim/config.toml"

// Config is everything that can be set. It is read once, at the start. conf/cri-shim.toml documents
// every key beside its default.
type Config struct {
	Root   string `toml:"root" json:"root"`
	State  string `toml:"state" json:"state"`
	Listen string `toml:"listen" json:"listen"` // "" is cri-shim.sock under State

	CgroupDriver string `toml:"cgroup_driver" json:"cgroupDriver"`
	CgroupParent string `toml:"cgroup_parent" json:"cgroupParent"` // "" is one of our own

	Runtime  string             `toml:"runtime" json:"runtime"` // of the handler ""
	Runtimes map[string]Runtime `toml:"runtimes" json:"runtimes,omitempty"`

	CreateMissingMountSources bool `toml:"create_missing_mount_sources" json:"createMissingMountSources"`

	CDISpecDirs []string `toml:"cdi_spec_dirs" json:"cdiSpecDirs"`

	EnableSELinux bool `toml:"enable_selinux" json:"enableSELinux"`

	Log     LogConfig     `toml:"log" json:"log"`
	CNI     CNIConfig     `toml:"cni" json:"cni"`
	Image   ImageConfig   `toml:"image" json:"image"`
	Stats   StatsConfig   `toml:"stats" json:"stats"`
	Monitor MonitorConfig `toml:"monitor" json:"monitor"`
	NRI     NRIConfig     `toml:"nri" json:"nri"`

	Streaming StreamingConfig `toml:"streaming" json:"streaming"`
	Metrics   MetricsConfig   `toml:"metrics" json:"metrics"`
}

// Runtime is a further OCI runtime, which pods ask for by the name of its handler.
type Runtime struct {
	Path string `toml:"path" json:"path"`

	// What is below is called as it is by containerd.
	PrivilegedWithoutHostDevices                  bool     `toml:"privileged_without_host_devices" json:"privilegedWithoutHostDevices,omitempty"`
	PrivilegedWithoutHostDevicesAllDevicesAllowed bool     `toml:"privileged_without_host_devices_all_devices_allowed" json:"privilegedWithoutHostDevicesAllDevicesAllowed,omitempty"`
	CgroupWritable                                bool     `toml:"cgroup_writable" json:"cgroupWritable,omitempty"`
	PodAnnotations                                []string `toml:"pod_annotations" json:"podAnnotations,omitempty"`
	ContainerAnnotations                          []string `toml:"container_annotations" json:"containerAnnotations,omitempty"`
}

func (r Runtime) validate(v *validator, key string) {
	v.program(key+".path", r.Path)
	if r.PrivilegedWithoutHostDevicesAllDevicesAllowed && !r.PrivilegedWithoutHostDevices {
		v.bad(key+".privileged_without_host_devices_all_devices_allowed", "true", "it only together with privileged_without_host_devices")
	}
	for name, patterns := range map[string][]string{"pod_annotations": r.PodAnnotations, "container_annotations": r.ContainerAnnotations} {
		for _, pattern := range patterns {
			if _, err := path.Match(pattern, ""); err != nil || pattern == "" {
				v.bad(key+"."+name, pattern, `keys of annotations, or patterns of them like "run.oci.*"`)
			}
		}
	}
}

// LogConfig is the form of our own log, on standard error.
type LogConfig struct {
	Level  string `toml:"level" json:"level"`
	Format string `toml:"format" json:"format"`
}

// CNIConfig says where networks come from.
type CNIConfig struct {
	ConfDir      string   `toml:"conf_dir" json:"confDir"`
	BinDirs      []string `toml:"bin_dirs" json:"binDirs"`
	ConfTemplate string   `toml:"conf_template" json:"confTemplate,omitempty"`
	IPPref       string   `toml:"ip_pref" json:"ipPref"`
	GC           bool     `toml:"gc" json:"gc"`

	CheckInterval Duration `toml:"check_interval" json:"checkInterval"` // 0: never
}

// ImageConfig says how images are pulled.
type ImageConfig struct {
	RegistryConfigDir    string   `toml:"registry_config_dir" json:"registryConfigDir"`
	MaxParallelDownloads int      `toml:"max_parallel_downloads" json:"maxParallelDownloads"`
	ProgressTimeout      Duration `toml:"progress_timeout" json:"progressTimeout"`
	VerifierDir          string   `toml:"verifier_dir" json:"verifierDir,omitempty"` // "": images are not verified
	VerifierTimeout      Duration `toml:"verifier_timeout" json:"verifierTimeout"`
	Pinned               []string `toml:"pinned" json:"pinned,omitempty"` // full names, with * for any text
}

// StatsConfig says how what containers use is measured.
type StatsConfig struct {
	Interval Duration `toml:"interval" json:"interval"`
}

// MonitorConfig says where cri-monitor is.
type MonitorConfig struct {
	Path string `toml:"path" json:"path,omitempty"` // "": beside our own binary, then in PATH
}

// Duration is written like "5m" or "1.5s".
type Duration time.Duration

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%q: want a duration like \"30s\" or \"5m\"", b)
	}
	*d = Duration(v)
	return nil
}

// MarshalText writes the same form.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Default is what holds for every key that nobody sets.
func Default() Config {
	return Config{
		Root:         "/var/lib/cri-shim",
		State:        "/run/cri-shim",
		CgroupDriver: "auto",
		Runtime:      "runc",
		CDISpecDirs:  []string{"/etc/cdi", "/var/run/cdi"},
		Log:          LogConfig{Level: "info", Format: "text"},
		CNI: CNIConfig{
			ConfDir: "/etc/cni/net.d", BinDirs: []string{"/opt/cni/bin", "/usr/lib/cni"}, IPPref: "ipv4", GC: true,
			CheckInterval: Duration(time.Minute),
		},
		Streaming: StreamingConfig{Address: "127.0.0.1", IdleTimeout: Duration(4 * time.Hour)},
		Image: ImageConfig{
			RegistryConfigDir: "/etc/cri-shim/certs.d", MaxParallelDownloads: 3, ProgressTimeout: Duration(5 * time.Minute),
			VerifierTimeout: Duration(10 * time.Second), Pinned: []string{},
		},
		Stats: StatsConfig{Interval: Duration(10 * time.Second)},
		NRI:   defaultNRI(),
	}
}

// Parse reads TOML over the defaults. A key that is not known is an error with its place.
func Parse(b []byte) (Config, error) {
	c := Default()
	if err := c.read(b); err != nil {
		return c, err
	}
	return c, c.Validate()
}

// read reads TOML over c: keys of tables are set one by one, lists as a whole.
func (c *Config) read(b []byte) error {
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	err := d.Decode(c)
	var unknown *toml.StrictMissingError
	var bad *toml.DecodeError
	switch {
	case errors.As(err, &unknown):
		return fmt.Errorf("unknown key:\n%s: %w", unknown.String(), errdefs.ErrInvalidArgument)
	case errors.As(err, &bad):
		row, column := bad.Position()
		return fmt.Errorf("line %d, column %d: %w\n%s: %w", row, column, bad, bad.String(), errdefs.ErrInvalidArgument)
	case err != nil:
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Load reads a file, and then over it, in the order of their names, the *.toml files of the directory beside it that is
// called like it with .d for .toml: there others add what is theirs, an installer its runtime handler. With an empty name
// the file is DefaultConfigFile, which may be missing. It returns what it has read.
func Load(file string) (Config, []string, error) {
	named := file != ""
	if !named {
		file = DefaultConfigFile
	}
	more, err := readOver(file)
	if err != nil {
		return Config{}, nil, fmt.Errorf("read configuration: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	c := Default()
	var files []string
	for _, f := range append([]string{file}, more...) {
		b, err := os.ReadFile(f)
		if errors.Is(err, os.ErrNotExist) && !named && f == file {
			continue
		}
		if err != nil {
			return Config{}, nil, fmt.Errorf("read configuration: %w: %w", err, errdefs.ErrInvalidArgument)
		}
		if err := c.read(b); err != nil {
			return c, nil, fmt.Errorf("configuration %s: %w", f, err)
		}
		files = append(files, f)
	}
	if err := c.Validate(); err != nil {
		return c, files, fmt.Errorf("configuration %s: %w", strings.Join(files, " with "), err)
	}
	return c, files, nil
}

// readOver are the files that are read over one. Hidden ones are an editor's.
func readOver(file string) ([]string, error) {
	dir := strings.TrimSuffix(file, ".toml") + ".d"
	entries, err := os.ReadDir(dir) // by name
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if strings.HasSuffix(e.Name(), ".toml") && !strings.HasPrefix(e.Name(), ".") {
			out = append(out, filepath.Join(dir, e.Name()))
		}
	}
	return out, nil
}

// Socket is the path that the CRI is served on.
func (c Config) Socket() string {
	if c.Listen == "" {
		return paths.Layout{Root: c.Root, State: c.State}.Socket()
	}
	return strings.TrimPrefix(c.Listen, "unix://")
}

// maxSocketPath is what fits into sockaddr_un, without the NUL at its end (unix(7)), and maxState leaves room for the
// longest name of a socket of cri-monitor, that of a terminal.
const (
	maxSocketPath = 107
	maxState      = maxSocketPath - len("/monitor/c0123456789abcdef")
)

var handlerForm = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$`)

// Validate returns all faults joined.
func (c Config) Validate() error {
	v := validator{}
	v.absolute("root", c.Root)
	v.absolute("state", c.State)
	if filepath.Clean(c.Root) == filepath.Clean(c.State) {
		v.bad("state", c.State, "another directory than root: one survives a reboot, the other must not")
	}
	if n := len(filepath.Clean(c.State)); n > maxState {
		v.bad("state", c.State, fmt.Sprintf("a path of at most %d bytes: sockets are below it", maxState))
	}
	v.absolute("listen", c.Socket())
	if len(c.Socket()) > maxSocketPath {
		v.bad("listen", c.Socket(), fmt.Sprintf("a path of at most %d bytes", maxSocketPath))
	}
	v.oneOf("cgroup_driver", c.CgroupDriver, "auto", "cgroupfs", "systemd")
	if strings.Contains(c.CgroupParent, "..") {
		v.bad("cgroup_parent", c.CgroupParent, `a cgroup without ".."`)
	}
	v.program("runtime", c.Runtime)
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		if !handlerForm.MatchString(name) {
			v.bad("runtimes", name, "a handler's name: small letters, digits, '-' and '.'")
		}
		c.Runtimes[name].validate(&v, "runtimes."+name)
	}
	for _, dir := range c.CDISpecDirs {
		v.absolute("cdi_spec_dirs", dir)
	}
	v.oneOf("log.level", c.Log.Level, "debug", "info", "warn", "error")
	v.oneOf("log.format", c.Log.Format, "text", "json")
	v.absolute("cni.conf_dir", c.CNI.ConfDir)
	if len(c.CNI.BinDirs) == 0 {
		v.bad("cni.bin_dirs", "", "at least one directory")
	}
	for _, dir := range c.CNI.BinDirs {
		v.absolute("cni.bin_dirs", dir)
	}
	v.absoluteOrEmpty("cni.conf_template", c.CNI.ConfTemplate)
	v.oneOf("cni.ip_pref", c.CNI.IPPref, "ipv4", "ipv6")
	if i := time.Duration(c.CNI.CheckInterval); i != 0 && (i < time.Second || i > 24*time.Hour) {
		v.bad("cni.check_interval", i.String(), "1s to 24h, or 0s for never")
	}
	v.absoluteOrEmpty("image.registry_config_dir", c.Image.RegistryConfigDir)
	if n := c.Image.MaxParallelDownloads; n < 1 || n > 64 {
		v.bad("image.max_parallel_downloads", fmt.Sprint(n), "a number from 1 to 64")
	}
	if c.Image.ProgressTimeout < 0 {
		v.bad("image.progress_timeout", time.Duration(c.Image.ProgressTimeout).String(), "0 (none) or more")
	}
	v.absoluteOrEmpty("image.verifier_dir", c.Image.VerifierDir)
	if i := time.Duration(c.Image.VerifierTimeout); i < time.Second || i > time.Hour {
		v.bad("image.verifier_timeout", i.String(), "1s to 1h")
	}
	for _, pattern := range c.Image.Pinned {
		if registry, _, found := strings.Cut(pattern, "/"); !found || registry == "" || strings.ContainsAny(pattern, " \t\n") {
			v.bad("image.pinned", pattern, "a full name like docker.io/library/busybox:*")
		}
	}
	if i := time.Duration(c.Stats.Interval); i < time.Second || i > time.Hour {
		v.bad("stats.interval", i.String(), "1s to 1h")
	}
	v.absoluteOrEmpty("monitor.path", c.Monitor.Path)
	c.NRI.validate(&v)
	c.Streaming.validate(&v)
	c.Metrics.validate(&v)
	return errors.Join(v.faults...)
}

type validator struct{ faults []error }

func (v *validator) bad(key, value, want string) {
	v.faults = append(v.faults, fmt.Errorf("%s = %q: want %s: %w", key, value, want, errdefs.ErrInvalidArgument))
}

func (v *validator) absolute(key, p string) {
	if !filepath.IsAbs(p) || strings.ContainsRune(p, 0) {
		v.bad(key, p, "an absolute path")
	}
}

func (v *validator) absoluteOrEmpty(key, p string) {
	if p != "" {
		v.absolute(key, p)
	}
}

// program accepts a path, or a name to look for in PATH.
func (v *validator) program(key, p string) {
	if p == "" || strings.Contains(p, "/") && !filepath.IsAbs(p) {
		v.bad(key, p, "an absolute path or the name of a program in PATH")
	}
}

func (v *validator) oneOf(key, value string, allowed ...string) {
	if !slices.Contains(allowed, value) {
		v.bad(key, value, "one of "+strings.Join(allowed, ", "))
	}
}
