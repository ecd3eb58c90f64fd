package crishim

import (
	"github.com/spf13/cobra"
)

const configHelp = "configuration `FILE` of cri-shim, over which the *.toml files of FILE's own directory, .d for .toml, are read (default " +
	DefaultConfigFile + ", if it exists)"

// overrides are the flags that stand above the configuration file.
type overrides struct {
	root, state, listen, runtime, logLevel string
	cniConfDir, registryConfigDir          string
	cniBinDirs                             []string
}

func (o *overrides) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.root, "root", "", "`DIR` for images and records")
	f.StringVar(&o.state, "state", "", "`DIR` for what lives until the next reboot")
	f.StringVar(&o.listen, "listen", "", "`SOCKET` to serve on, a path or unix:///path (default cri-shim.sock in the state directory)")
	f.StringVar(&o.runtime, "runtime", "", "OCI runtime of the default handler, a `PATH` or a name")
	f.StringVar(&o.logLevel, "log-level", "", "debug, info, warn or error")
	f.StringVar(&o.cniConfDir, "cni-conf-dir", "", "`DIR` with the CNI configuration")
	f.StringSliceVar(&o.cniBinDirs, "cni-bin-dir", nil, "`DIR` with CNI plugins, repeatable")
	f.StringVar(&o.registryConfigDir, "registry-config-dir", "", "`DIR` with a hosts.toml per registry")
}

// load reads the configuration of a file, "" for the default one, with what was given by flags.
func (o *overrides) load(c *cobra.Command, file string) (Config, error) {
	cfg, _, err := Load(file)
	if err != nil {
		return Config{}, err
	}
	o.apply(c, &cfg)
	return cfg, cfg.Validate()
}

// apply takes over what was given, also when it is empty.
func (o *overrides) apply(c *cobra.Command, cfg *Config) {
	for name, t := range map[string]struct{ from, to *string }{
		"root":                {&o.root, &cfg.Root},
		"state":               {&o.state, &cfg.State},
		"listen":              {&o.listen, &cfg.Listen},
		"runtime":             {&o.runtime, &cfg.Runtime},
		"log-level":           {&o.logLevel, &cfg.Log.Level},
		"cni-conf-dir":        {&o.cniConfDir, &cfg.CNI.ConfDir},
		"registry-config-dir": {&o.registryConfigDir, &cfg.Image.RegistryConfigDir},
	} {
		if c.Flags().Changed(name) {
			*t.to = *t.from
		}
	}
	if c.Flags().Changed("cni-bin-dir") {
		cfg.CNI.BinDirs = o.cniBinDirs
	}
}
