package rootfs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// contexts are what SELinux lets a container's processes run as, and what they may use. Empty ones are none.
type contexts struct {
	Process string `json:"process"`
	Mount   string `json:"mount"`
}

// security is the SELinux of a host. Tests have one of their own.
type security struct {
	base    func() (process, mount string) // of the policy, with categories that no other pod has
	check   func(context string) error     // of the kernel
	label   func(path, context string) error
	reserve func(context string)
	release func(context string)
}

// hostSecurity is what New uses where labels are enabled.
func hostSecurity() *security {
	return &security{
		base:  selinux.ContainerLabels, //nolint:staticcheck // it goes into a package of the library's own, without another way
		check: selinux.SecurityCheckContext,
		label: func(path, context string) error { return selinux.Chcon(path, context, true) },
		// What a user has asked for may be there twice.
		reserve: func(context string) { _ = selinux.ReserveLabelV2(context) },
		release: selinux.ReleaseLabel,
	}
}

// with applies what was asked for. The level, and the user, are those of the files too.
func (c contexts) with(o pod.SELinuxLabel) (contexts, error) {
	if o == (pod.SELinuxLabel{}) || c.Process == "" {
		return c, nil
	}
	process, err := selinux.NewContext(c.Process)
	if err != nil {
		return c, fmt.Errorf("selinux context %q: %w", c.Process, err)
	}
	mount, err := selinux.NewContext(c.Mount)
	if err != nil {
		return c, fmt.Errorf("selinux context %q: %w", c.Mount, err)
	}
	for key, value := range map[string]string{"user": o.User, "role": o.Role, "type": o.Type, "level": o.Level} {
		if value == "" {
			continue
		}
		process[key] = value
		if key == "user" || key == "level" {
			mount[key] = value
		}
	}
	return contexts{process.Get(), mount.Get()}, nil
}

func (m *Maker) contextFile(sandbox string) string {
	return filepath.Join(m.opt.Layout.Shared(sandbox), "selinux.json")
}

// labelSandbox chooses the contexts of a sandbox, once, and writes them down before anything has them.
func (m *Maker) labelSandbox(s pod.Sandbox) (contexts, error) {
	if m.security == nil {
		return contexts{}, nil
	}
	c, err := m.sandboxContexts(s.ID)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	base := contexts{}
	base.Process, base.Mount = m.security.base()
	if c, err = m.checked(base, s.Config.Security.SELinux); err == nil {
		var data []byte
		if data, err = json.Marshal(c); err == nil {
			err = durable.WriteFile(m.contextFile(string(s.ID)), data, 0o600, durable.NoSync)
		}
	}
	if err != nil || c.Process != base.Process && s.Config.Security.SELinux.Level != "" {
		m.security.release(base.Process)
	}
	return c, err
}

// checked is with, and asks the kernel what it thinks of the result.
func (m *Maker) checked(base contexts, o pod.SELinuxLabel) (contexts, error) {
	c, err := base.with(o)
	if err != nil || c == base {
		return c, err
	}
	for _, context := range []string{c.Process, c.Mount} {
		if err := m.security.check(context); err != nil {
			return c, fmt.Errorf("selinux_options: the policy has no context %q: %w: %w", context, err, errdefs.ErrInvalidArgument)
		}
	}
	return c, nil
}

func (m *Maker) sandboxContexts(sandbox pod.ID) (contexts, error) {
	var c contexts
	data, err := os.ReadFile(m.contextFile(string(sandbox)))
	if err == nil {
		err = json.Unmarshal(data, &c)
	}
	return c, err
}

// containerContexts are those of the sandbox, but for what the container asks for. A privileged container is not
// confined: it has the context of the OCI runtime.
func (m *Maker) containerContexts(s pod.Sandbox, c pod.ContainerConfig) (contexts, error) {
	if m.security == nil {
		return contexts{}, nil
	}
	base, err := m.sandboxContexts(s.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return contexts{}, nil // it was made before labels were enabled
	}
	if err != nil {
		return base, fmt.Errorf("read the sandbox's SELinux contexts: %w", err)
	}
	out, err := m.checked(base, c.Security.SELinux)
	if c.Privileged {
		out.Process = ""
	}
	return out, err
}

// relabel gives files to a context. The library refuses /, /usr, /etc and the like.
func (m *Maker) relabel(path, context string) error {
	if m.security == nil || context == "" {
		return nil
	}
	if err := m.security.label(path, context); err != nil && !errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("relabel %s: %w: %w", path, err, errdefs.ErrInvalidArgument)
	}
	return nil
}

// reserveContexts keeps those of the pods that are there from being given out again.
func (m *Maker) reserveContexts() {
	if m.security == nil {
		return
	}
	sandboxes, _ := os.ReadDir(m.opt.Layout.Shared("")) // missing: there are none
	for _, s := range sandboxes {
		if c, err := m.sandboxContexts(pod.ID(s.Name())); err == nil && c.Process != "" {
			m.security.reserve(c.Process)
		}
	}
}

// releaseContexts is called before their file goes. A crash in between releases them too: they are kept in memory.
func (m *Maker) releaseContexts(sandbox pod.ID) {
	if m.security == nil {
		return
	}
	if c, err := m.sandboxContexts(sandbox); err == nil && c.Process != "" {
		m.security.release(c.Process)
	}
}
