package rootfs

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// policy is a host's SELinux that writes down what it is asked for.
type policy struct {
	given              int
	released, reserved []string
	labelled           map[string]string
	refuse             string // a type
}

func (p *policy) security() *security {
	return &security{
		base: func() (string, string) {
			p.given++
			level := fmt.Sprintf("s0:c%d,c1000", p.given)
			return "system_u:system_r:container_t:" + level, "system_u:object_r:container_file_t:" + level
		},
		check: func(context string) error {
			if p.refuse != "" && strings.Contains(context, p.refuse) {
				return unix.EINVAL
			}
			return nil
		},
		label: func(path, context string) error {
			if path == "/etc" {
				return errors.New("it is the host's")
			}
			p.labelled[path] = context
			return nil
		},
		reserve: func(c string) { p.reserved = append(p.reserved, c) },
		release: func(c string) { p.released = append(p.released, c) },
	}
}

func labelling(t *testing.T) (*Maker, *policy) {
	t.Helper()
	dir := t.TempDir()
	m, err := New(Options{Layout: paths.Layout{Root: dir + "/root", State: dir + "/state"}})
	if err != nil {
		t.Fatal(err)
	}
	p := &policy{labelled: map[string]string{}}
	m.security = p.security()
	return m, p
}

// sandboxed makes a sandbox without what needs root.
func sandboxed(t *testing.T, m *Maker, id pod.ID, o pod.SELinuxLabel) (pod.Sandbox, contexts, error) {
	t.Helper()
	s := pod.Sandbox{ID: id}
	s.Config.Security.SELinux = o
	if err := os.MkdirAll(m.opt.Layout.Shared(string(id)), 0o711); err != nil {
		t.Fatal(err)
	}
	c, err := m.labelSandbox(s)
	return s, c, err
}

func TestPodsHaveCategoriesOfTheirOwn(t *testing.T) {
	m, p := labelling(t)
	s, first, err := sandboxed(t, m, "a", pod.SELinuxLabel{})
	if err != nil || first.Process != "system_u:system_r:container_t:s0:c1,c1000" || first.Mount != "system_u:object_r:container_file_t:s0:c1,c1000" {
		t.Fatalf("got %+v, %v", first, err)
	}
	if again, err := m.labelSandbox(s); err != nil || again != first || p.given != 1 {
		t.Errorf("again: %+v, %v", again, err)
	}
	if _, second, _ := sandboxed(t, m, "b", pod.SELinuxLabel{}); second.Process == first.Process {
		t.Errorf("two pods have %s", second.Process)
	}
	next := &Maker{opt: m.opt, security: m.security}
	next.reserveContexts()
	if len(p.reserved) != 2 || !slices.Contains(p.reserved, first.Process) {
		t.Errorf("after a start: reserved %q", p.reserved)
	}
	if err := m.RemoveSandbox(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(p.released, []string{first.Process}) {
		t.Errorf("released %q", p.released)
	}
}

func TestSELinuxOptions(t *testing.T) {
	for name, c := range map[string]struct {
		pod, container pod.SELinuxLabel
		privileged     bool
		process, mount string
	}{
		"the pod's": {process: "system_u:system_r:container_t:s0:c1,c1000", mount: "system_u:object_r:container_file_t:s0:c1,c1000"},
		"level of the pod": {
			pod: pod.SELinuxLabel{Level: "s0:c3,c4"}, process: "system_u:system_r:container_t:s0:c3,c4", mount: "system_u:object_r:container_file_t:s0:c3,c4",
		},
		"type of the container": {
			pod: pod.SELinuxLabel{Level: "s0:c3,c4"}, container: pod.SELinuxLabel{Type: "my_t"},
			process: "system_u:system_r:my_t:s0:c3,c4", mount: "system_u:object_r:container_file_t:s0:c3,c4",
		},
		"all": {
			container: pod.SELinuxLabel{User: "u", Role: "r", Type: "t", Level: "s1"}, process: "u:r:t:s1", mount: "u:object_r:container_file_t:s1",
		},
		"privileged": {privileged: true, process: "", mount: "system_u:object_r:container_file_t:s0:c1,c1000"},
	} {
		m, p := labelling(t)
		s, _, err := sandboxed(t, m, "a", c.pod)
		if err != nil {
			t.Fatal(err)
		}
		cfg := pod.ContainerConfig{Privileged: c.privileged}
		cfg.Security.SELinux = c.container
		got, err := m.containerContexts(s, cfg)
		if err != nil || got != (contexts{c.process, c.mount}) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		if gave := slices.Contains(p.released, "system_u:system_r:container_t:s0:c1,c1000"); gave != (c.pod.Level != "") {
			t.Errorf("%s: released %q: categories that are not used are to be given back", name, p.released)
		}
	}
}

func TestSELinuxRefuses(t *testing.T) {
	m, p := labelling(t)
	p.refuse = "nonsense_t"
	bad := pod.SELinuxLabel{Type: "nonsense_t"}
	if _, _, err := sandboxed(t, m, "a", bad); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "nonsense_t") {
		t.Errorf("a sandbox: %v", err)
	}
	if len(p.released) != 1 {
		t.Errorf("released %q", p.released)
	}
	s, _, err := sandboxed(t, m, "b", pod.SELinuxLabel{})
	if err != nil {
		t.Fatal(err)
	}
	cfg := pod.ContainerConfig{}
	cfg.Security.SELinux = bad
	if _, err := m.containerContexts(s, cfg); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("a container: %v", err)
	}
}

func TestRelabel(t *testing.T) {
	m, p := labelling(t)
	dir := t.TempDir()
	var c pod.Container
	for _, relabel := range []bool{false, true} {
		c.Config.Mounts = []pod.Mount{{ContainerPath: "/x", HostPath: dir, SELinuxRelabel: relabel}}
		if _, err := m.volumes(pod.Sandbox{}, c, nil, "label"); err != nil {
			t.Fatal(err)
		}
		if got := p.labelled[dir]; relabel != (got == "label") {
			t.Errorf("asked %t: got %q", relabel, got)
		}
	}
	c.Config.Mounts = []pod.Mount{{ContainerPath: "/x", HostPath: "/etc", SELinuxRelabel: true}}
	if _, err := m.volumes(pod.Sandbox{}, c, nil, "label"); !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), "selinux_relabel") {
		t.Errorf("the host's own: %v", err)
	}
	m.security = nil
	if _, err := m.volumes(pod.Sandbox{}, c, nil, ""); err != nil {
		t.Errorf("without SELinux: %v", err)
	}
}

func TestMountContext(t *testing.T) {
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	for _, upper := range []string{"", "/u"} {
		options := overlayOptions([]string{"/a", "/b"}, upper, "/w", label)
		if !strings.HasSuffix(options, `,context="`+label+`"`) || !strings.Contains(options, "lowerdir=/a:/b") {
			t.Errorf("got %s", options)
		}
		if options := overlayOptions([]string{"/a"}, upper, "/w", ""); strings.Contains(options, "context") {
			t.Errorf("got %s", options)
		}
	}
}
