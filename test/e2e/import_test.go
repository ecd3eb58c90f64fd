package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/podwright/podwright/test/images"
)

// TestImport: an image that no registry has runs from an archive, by file and by standard input, under its own name and
// another; what is refused says why, and leaves nothing.
func TestImport(t *testing.T) {
	n := prepareNode(t)
	verifiers := filepath.Join(n.Base, "verifiers")
	n.must(os.Mkdir(verifiers, 0o755))
	n.must(os.WriteFile(verifiers+"/policy", []byte("#!/bin/sh\ncat >/dev/null; case $2 in *evil*) echo $2 is evil; exit 1;; esac\n"), 0o755))
	n.configure("[image]\nverifier_dir = \"" + verifiers + "\"\n")
	busybox, err := images.Busybox()
	n.must(err)
	archive := n.Base + "/app.tar"
	n.must(images.Save(archive, "app:dev", busybox))
	run := func(stdin []byte, args ...string) (string, string, int) {
		cmd := exec.Command(programs.Bin+"/cri-shim", append([]string{"import", "--state", n.State, "--listen", n.Socket}, args...)...)
		var stdout, stderr bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &stdout, &stderr
		if err := cmd.Run(); err != nil && !errors.As(err, new(*exec.ExitError)) {
			t.Fatal(err)
		}
		return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
	}
	if _, stderr, code := run(nil, archive); code != 1 || !strings.Contains(stderr, n.Socket) {
		t.Errorf("without a cri-shim: exit %d, %s", code, stderr)
	}
	n.must(n.Start())
	for _, c := range []struct {
		stdin string
		args  []string
		code  int
		says  string
	}{
		{"", []string{n.Base + "/none.tar"}, 2, "none.tar: no such file"},
		{"", []string{n.Base + "/config.toml"}, 1, "want an OCI image layout or what docker save writes"},
		{"nonsense", []string{"-"}, 1, "want an OCI image layout or what docker save writes"},
		{"", []string{"--name", "No Name", archive}, 1, "No Name"},
		{"", []string{"--name", "x:1", archive, archive}, 2, "2 archives"},
		{"", []string{"--name", "evil:1", archive}, 1, "docker.io/library/evil:1 is evil"},
		{"", nil, 2, "arg"},
	} {
		if out, stderr, code := run([]byte(c.stdin), c.args...); code != c.code || out != "" || !strings.Contains(stderr, c.says) {
			t.Errorf("%q: exit %d, %q, %q; want %d and %q", c.args, code, out, stderr, c.code, c.says)
		}
	}
	if list := n.crictl("images", "-q"); list != "" {
		t.Errorf("there are images: %s", list)
	}

	config, err := busybox.ConfigName()
	n.must(err)
	if out, stderr, code := run(nil, archive); code != 0 || out != "docker.io/library/app:dev "+config.String()+"\n" {
		t.Errorf("exit %d, %q, %q", code, out, stderr)
	}
	data, err := os.ReadFile(archive)
	n.must(err)
	if out, stderr, code := run(data, "--name", "nowhere.test/app", "-"); code != 0 || out != "nowhere.test/app:latest "+config.String()+"\n" {
		t.Errorf("exit %d, %q, %q", code, out, stderr)
	}
	p := n.pod("imported")
	for i, ref := range []string{"app:dev", "nowhere.test/app"} {
		id, err := n.RunContainer(p, "imported", []string{"a", "b"}[i], ref, "echo it runs; exec sleep 1000", "")
		n.must(err)
		n.eventually(func() bool { return text(t, n.container(id).Status.LogPath, "stdout") == "it runs\n" })
	}
}
