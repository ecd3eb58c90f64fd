package crishim

import (
	"fmt"
	"log/slog"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/cdi"
	"github.com/podwright/podwright/cri-shim/internal/hostinfo"
	"github.com/podwright/podwright/cri-shim/internal/nri"
	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/rootfs"
)

// NRIConfig is about plugins of the Node Resource Interface. The keys are containerd's.
type NRIConfig struct {
	Disable                   bool          `toml:"disable" json:"disable"`
	SocketPath                string        `toml:"socket_path" json:"socketPath"`
	PluginPath                string        `toml:"plugin_path" json:"pluginPath"`
	PluginConfigPath          string        `toml:"plugin_config_path" json:"pluginConfigPath"`
	PluginRegistrationTimeout Duration      `toml:"plugin_registration_timeout" json:"pluginRegistrationTimeout"`
	PluginRequestTimeout      Duration      `toml:"plugin_request_timeout" json:"pluginRequestTimeout"`
	DisableConnections        bool          `toml:"disable_connections" json:"disableConnections"`
	DefaultValidator          nri.Validator `toml:"default_validator" json:"defaultValidator"`
}

func defaultNRI() NRIConfig {
	return NRIConfig{
		SocketPath: "/var/run/nri/nri.sock", PluginPath: "/opt/nri/plugins", PluginConfigPath: "/etc/nri/conf.d",
		PluginRegistrationTimeout: Duration(5 * time.Second), PluginRequestTimeout: Duration(2 * time.Second),
		DefaultValidator: nri.Validator{RequiredPlugins: []string{}},
	}
}

func (c NRIConfig) validate(v *validator) {
	if c.Disable {
		return
	}
	v.absolute("nri.socket_path", c.SocketPath)
	if len(c.SocketPath) > maxSocketPath {
		v.bad("nri.socket_path", c.SocketPath, fmt.Sprintf("a path of at most %d bytes", maxSocketPath))
	}
	v.absolute("nri.plugin_path", c.PluginPath)
	v.absolute("nri.plugin_config_path", c.PluginConfigPath)
	for key, d := range map[string]Duration{
		"nri.plugin_registration_timeout": c.PluginRegistrationTimeout,
		"nri.plugin_request_timeout":      c.PluginRequestTimeout,
	} {
		// Pods wait for as long as a plugin that hangs.
		if t := time.Duration(d); t < 10*time.Millisecond || t > time.Minute {
			v.bad(key, t.String(), "10ms to 1m")
		}
	}
}

// newNRI returns nil where it is disabled.
func newNRI(cfg Config, version string, f hostinfo.Facts, cg bundle.Cgroups, maker *rootfs.Maker, layout paths.Layout, logger *slog.Logger) (*nri.Plugins, error) {
	if cfg.NRI.Disable {
		return nil, nil
	}
	return nri.New(nri.Options{
		SocketPath: cfg.NRI.SocketPath, PluginPath: cfg.NRI.PluginPath, PluginConfigPath: cfg.NRI.PluginConfigPath,
		RegistrationTimeout: time.Duration(cfg.NRI.PluginRegistrationTimeout), RequestTimeout: time.Duration(cfg.NRI.PluginRequestTimeout),
		DisableConnections: cfg.NRI.DisableConnections, Validator: cfg.NRI.DefaultValidator,
		Version: version, Logger: logger,
		Host: nri.Host{
			Controllers: f.Controllers, CgroupV2: f.CgroupV2, Systemd: cg.Systemd,
			InjectCDI: cdi.Dirs(cfg.CDISpecDirs).Inject, Spec: maker.Spec, NamespaceDir: layout.Namespaces,
		},
	})
}
