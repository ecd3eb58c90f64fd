package podnet

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
	"golang.org/x/sys/unix"
)

// outputWait is how long the outputs of a plugin that has ended may stay open.
const outputWait = 2 * time.Second

// program executes plugins. libcni's own waits until the outputs are closed, without a limit: a child that a plugin has
// left, or that outlived one which was killed, would hold up its pod for ever.
type program struct {
	invoke.RawExec
	version.PluginDecoder
	executed func(plugin, command string, took time.Duration, err error) // may be nil
}

func newProgram(o Options) *program {
	return &program{RawExec: invoke.RawExec{Stderr: stderrLog{o.Logger}}, executed: o.Executed}
}

// ExecPlugin implements invoke.Exec. Errors are worded as libcni's.
func (p *program) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	begin := time.Now()
	out, err := p.execute(ctx, path, stdin, environ)
	if p.executed != nil {
		p.executed(filepath.Base(path), commandOf(environ), time.Since(begin), err)
	}
	return out, err
}

// commandOf is what a plugin is asked to do: the last CNI_COMMAND counts, as for exec.Cmd.
func commandOf(environ []string) string {
	for _, e := range slices.Backward(environ) {
		if command, ok := strings.CutPrefix(e, "CNI_COMMAND="); ok {
			return command
		}
	}
	return ""
}

func (p *program) execute(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	const attempts = 6
	var stdout, stderr bytes.Buffer
	err := error(unix.ETXTBSY)
	for i := 0; i < attempts && errors.Is(err, unix.ETXTBSY); i++ { // it is being replaced
		if i > 0 && !sleep(ctx, time.Second) {
			break
		}
		c := exec.CommandContext(ctx, path)
		c.Env, c.Stdin, c.Stdout, c.Stderr, c.WaitDelay = environ, bytes.NewReader(stdin), &stdout, &stderr, outputWait
		err = c.Run()
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, failure(err, stdout.Bytes(), stderr.Bytes())
	}
	if p.Stderr != nil && stderr.Len() > 0 {
		_, _ = stderr.WriteTo(p.Stderr)
	}
	return stdout.Bytes(), nil
}

// failure is what the plugin says of it.
func failure(err error, stdout, stderr []byte) error {
	said := types.Error{}
	switch {
	case len(stdout) > 0:
		if bad := json.Unmarshal(stdout, &said); bad != nil {
			said.Msg = fmt.Sprintf("netplugin failed but error parsing its diagnostic message %q: %v", stdout, bad)
		}
	case len(stderr) > 0:
		said.Msg = fmt.Sprintf("netplugin failed: %q: %v", stderr, err)
	default:
		said.Msg = fmt.Sprintf("netplugin failed with no error message: %v", err)
	}
	return &said
}
