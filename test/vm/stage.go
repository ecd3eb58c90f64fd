package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

//go:embed *.sh
var scripts embed.FS

// handedIn are the built programs that the machine gets beside the source tree, which tests read.
var handedIn = []string{"bin", ".cache/applets", ".cache/criset", ".cache/critest", ".cache/debian", ".cache/demo", ".cache/nriplugin", ".cache/registry", ".cache/tools"}

// notHandedIn are those that nothing in the machine runs.
var notHandedIn = []string{".cache/tools/golangci-lint"}

// stage is the directory that becomes the machine's /podwright.
type stage struct{ dir string }

// fill copies the source tree of the current directory and what is built of it.
func (s stage) fill() error {
	out, err := exec.Command("git", "ls-files", "-z").Output()
	if err != nil {
		return fmt.Errorf("list the source files: %w", err)
	}
	for _, name := range strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if err := s.link(name); err != nil && !errors.Is(err, fs.ErrNotExist) { // deleted, and not committed yet
			return err
		}
	}
	for _, top := range handedIn {
		err := filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || slices.Contains(notHandedIn, path) {
				return err
			}
			return s.link(path)
		})
		if err != nil {
			return fmt.Errorf("%w (make vm builds it)", err)
		}
	}
	return nil
}

// builtInTests are the programs that tests build for themselves, by the module that they are in.
var builtInTests = map[string][]string{
	".": {"./cmd/cri-monitor", "./cmd/bridge-ipam", "./cri-shim/internal/podnet/testdata/plugin"},
	"tools": {
		"github.com/containernetworking/plugins/plugins/main/bridge", "github.com/containernetworking/plugins/plugins/main/ptp",
		"github.com/containernetworking/plugins/plugins/ipam/host-local", "github.com/containernetworking/plugins/plugins/ipam/static",
	},
}

// standIns take the place of go and make in the machine, which has neither.
func (s stage) standIns(ctx context.Context) error {
	bin, programs := filepath.Join(s.dir, ".vm", "bin"), filepath.Join(s.dir, ".vm", "programs")
	err := errors.Join(os.MkdirAll(bin, 0o755), os.MkdirAll(programs, 0o755))
	for _, name := range []string{"go", "make"} {
		err = errors.Join(err, os.Symlink("../"+name+".sh", filepath.Join(bin, name)))
	}
	if err != nil {
		return err
	}
	if programs, err = filepath.Abs(programs); err != nil {
		return err
	}
	for module, packages := range builtInTests {
		cmd := exec.CommandContext(ctx, "go", append([]string{"build", "-trimpath", "-o", programs + "/"}, packages...)...)
		cmd.Dir, cmd.Env = module, append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("build what tests build: %w: %s", err, out)
		}
	}
	return nil
}

// link puts a file of the current directory at the same place. Only mkfs reads it, so that a link will do.
func (s stage) link(name string) error {
	to := filepath.Join(s.dir, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	return os.Link(name, to)
}

// buildTest compiles the tests of one package to where they run.
func (s stage) buildTest(ctx context.Context, pkg string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-c", "-o", filepath.Join(s.dir, pkg, testBinary), "./"+pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the tests of %s: %w", pkg, err)
	}
	return nil
}

const testBinary = "package.test"

// script writes the command that the machine runs, beside those of this package.
func (s stage) script(command string) error {
	dir := filepath.Join(s.dir, ".vm")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	names, err := fs.Glob(scripts, "*.sh")
	if err != nil {
		return err
	}
	for _, name := range names {
		text, err := scripts.ReadFile(name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o755); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "command"), []byte(command), 0o644)
}

// pack makes a file system of the directory, with room to write.
func (s stage) pack(file string) error {
	const size = "4G" // sparse
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", "-O", "^has_journal", "-m", "0", "-d", s.dir, file, size).CombinedOutput(); err != nil {
		return fmt.Errorf("pack what is handed in: %w: %s", err, out)
	}
	return nil
}
