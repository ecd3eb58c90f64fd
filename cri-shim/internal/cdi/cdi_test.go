package cdi

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const vendor = `{"cdiVersion": "0.6.0", "kind": "podwright.test/null", "devices": [
 {"name": "one", "containerEdits": {"env": ["ONE=1"], "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null"}],
  "mounts": [{"hostPath": "/etc", "containerPath": "/vendor", "options": ["ro", "bind"]}]}},
 {"name": "two", "containerEdits": {"env": ["TWO=2"]}}]}`

func dirs(t *testing.T) Dirs {
	t.Helper()
	d := Dirs{filepath.Join(t.TempDir(), "none"), t.TempDir()}
	for name, text := range map[string]string{"vendor.json": vendor, "broken.json": `{"kind": `} {
		if err := os.WriteFile(filepath.Join(d[1], name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return d
}

func TestInject(t *testing.T) {
	s := &specs.Spec{Process: &specs.Process{Env: []string{"ONE=0"}}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	if err := dirs(t).Inject(s, []string{"podwright.test/null=one", "podwright.test/null=two"}); err != nil {
		t.Fatal(err)
	}
	if got := s.Process.Env; !slices.Contains(got, "ONE=1") || !slices.Contains(got, "TWO=2") {
		t.Errorf("env %v", got)
	}
	if d := s.Linux.Devices; len(d) != 1 || d[0].Path != "/dev/one" || d[0].Major != 1 || d[0].Minor != 3 {
		t.Errorf("devices %+v", d)
	}
	if r := s.Linux.Resources.Devices; len(r) != 1 || !r[0].Allow || *r[0].Major != 1 || *r[0].Minor != 3 {
		t.Errorf("rules %+v", r)
	}
	if m := s.Mounts; len(m) != 1 || m[0].Destination != "/vendor" {
		t.Errorf("mounts %+v", m)
	}
}

func TestUnknownDevicesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		d     Dirs
		names []string
		want  string
	}{
		"no such device": {dirs(t), []string{"podwright.test/null=one", "podwright.test/null=three"}, "broken.json"}, // it may have had it
		"no such vendor": {dirs(t), []string{"other.test/null=one"}, "other.test/null=one"},
		"no name":        {dirs(t), []string{"../../etc/passwd"}, "../../etc/passwd"},
		"no directory":   {nil, []string{"podwright.test/null=one"}, "is configured"},
	} {
		s := &specs.Spec{}
		if err := c.d.Inject(s, c.names); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if s.Process != nil || s.Linux != nil {
			t.Errorf("%s: the configuration was changed", name)
		}
	}
	if err := (Dirs{}).Inject(&specs.Spec{}, nil); err != nil {
		t.Errorf("nothing asked: %v", err)
	}
}

// TestFilesAreReadAnew: a vendor's file counts from the next container on, without a restart.
func TestFilesAreReadAnew(t *testing.T) {
	d := Dirs{t.TempDir()}
	names := []string{"podwright.test/null=two"}
	if err := d.Inject(&specs.Spec{}, names); err == nil {
		t.Fatal("an unknown device was accepted")
	}
	if err := os.WriteFile(filepath.Join(d[0], "late.json"), []byte(vendor), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := d.Inject(&specs.Spec{}, names); err != nil {
		t.Error(err)
	}
}

// TestOnlyTheAdministratorDescribesDevices: a device may bring a hook, which runs as root on the host.
func TestOnlyTheAdministratorDescribesDevices(t *testing.T) {
	d := dirs(t)
	spec := func() *specs.Spec {
		return &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{Resources: &specs.LinuxResources{}}}
	}
	names := []string{"podwright.test/null=one"}
	for mode, refused := range map[os.FileMode]bool{0o755: false, 0o700: false, 0o757: true, 0o777: true, 0o777 | os.ModeSticky: true} {
		if err := os.Chmod(d[1], mode); err != nil {
			t.Fatal(err)
		}
		if err := d.Inject(spec(), names); errors.Is(err, errdefs.ErrFailedPrecondition) != refused || (err == nil) == refused {
			t.Errorf("%s: %v", mode, err)
		}
	}
	if os.Geteuid() != 0 {
		return // a user cannot give a directory away
	}
	for _, c := range []struct {
		uid, gid int
		mode     os.FileMode
		refused  bool
	}{{65534, 0, 0o755, true}, {0, 65534, 0o755, false}, {0, 65534, 0o775, true}, {0, 0, 0o775, false}} {
		if err := errors.Join(os.Chmod(d[1], c.mode), os.Chown(d[1], c.uid, c.gid)); err != nil {
			t.Fatal(err)
		}
		if err := d.Inject(spec(), names); errors.Is(err, errdefs.ErrFailedPrecondition) != c.refused || (err == nil) == c.refused {
			t.Errorf("%+v: %v", c, err)
		}
	}
}
