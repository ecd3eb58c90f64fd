package crishim

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/podwright/podwright/conf"
)

func execute(t *testing.T, args ...string) (string, error) {
	t.Helper()
	c := Command("1.2.3")
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetArgs(args)
	err := c.ExecuteContext(t.Context())
	return out.String(), err
}

func TestConfigCommands(t *testing.T) {
	out, err := execute(t, "config", "default")
	if err != nil || out != conf.CRIShim {
		t.Errorf("got %q, %v", out, err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, []byte(out), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := execute(t, "config", "check", file); err != nil || out != file+": ok\n" {
		t.Errorf("got %q, %v", out, err)
	}
	if err := os.WriteFile(file, []byte("rot = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := execute(t, "config", "check", file); ExitCode(err) != 2 || !strings.Contains(err.Error(), "rot") {
		t.Errorf("got %v", err)
	}
	if out, err := execute(t, "version"); err != nil || out != "cri-shim 1.2.3\n" {
		t.Errorf("got %q, %v", out, err)
	}
}

func TestWrongUse(t *testing.T) {
	for _, args := range [][]string{
		{"nonsense"}, {"serve", "--nope"}, {"serve", "x"}, {"config", "check"}, {"config", "nope"}, {"serve", "--config", "/does/not/exist"},
		{"serve", "--root", "relative"}, {"serve", "--log-level", "loud"}, {"serve", "--runtime", ""},
	} {
		if _, err := execute(t, args...); ExitCode(err) != 2 || !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestFlagsStandAboveTheFile(t *testing.T) {
	cfg := Default()
	cfg.Root, cfg.Listen = "/file", "/file.sock"
	var o overrides
	c := &cobra.Command{Use: "x"}
	o.flags(c)
	err := c.ParseFlags([]string{
		"--root=/r", "--state", "/s", "--listen", "", "--cni-conf-dir", "/c", "--cni-bin-dir", "/b1", "--cni-bin-dir", "/b2",
		"--registry-config-dir", "/g", "--runtime", "crun", "--log-level", "debug",
	})
	if err != nil {
		t.Fatal(err)
	}
	o.apply(c, &cfg)
	if cfg.Root != "/r" || cfg.State != "/s" || cfg.Socket() != "/s/cri-shim.sock" || cfg.CNI.ConfDir != "/c" || strings.Join(cfg.CNI.BinDirs, ",") != "/b1,/b2" ||
		cfg.Image.RegistryConfigDir != "/g" || cfg.Runtime != "crun" || cfg.Log.Level != "debug" {
		t.Errorf("got %+v", cfg)
	}
}

func TestHelpNamesTheExitCodes(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"serve", "--help"}} {
		if out, err := execute(t, args...); err != nil || !strings.Contains(out, "Exit codes: 0") {
			t.Errorf("%q: %q, %v", args, out, err)
		}
	}
}
