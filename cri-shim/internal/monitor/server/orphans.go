package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/podwright/podwright/cri-shim/internal/proc"
)

// specForm is the name of the file in a bundle that describes a command. As long as the command may run it is there,
// or pidFile beside it: those of a monitor that was killed tell the next one what to end.
const specForm = "exec-*.json"

// pidFile is where the OCI runtime writes the pid of a command.
func pidFile(spec string) string { return spec + ".pid" }

// removeSpec forgets a command that has ended. The description goes last: alone it means that nothing was started.
func removeSpec(spec string) {
	_ = os.Remove(pidFile(spec))
	_ = os.Remove(spec)
}

// noteStart adds to the pid of a command when it was started, so that no other process can be taken for it.
func noteStart(spec string, pid int) error {
	st, err := proc.ReadStat(pid)
	if errors.Is(err, proc.ErrGone) {
		return nil
	}
	if err != nil {
		return err
	}
	f, err := os.OpenFile(pidFile(spec), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(f, " %d", st.Start)
	return errors.Join(err, f.Close())
}

// endOrphans ends the commands that the monitor before us ran in a container: nobody waits for them any more.
func (c *container) endOrphans(ctx context.Context) {
	entries, err := os.ReadDir(c.rec.Bundle)
	if err != nil {
		c.s.log.Warn("look for commands of the monitor before", "container", c.rec.ID, "err", err)
	}
	specs := map[string]bool{}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), pidFile(""))
		if ok, _ := filepath.Match(specForm, name); ok {
			specs[filepath.Join(c.rec.Bundle, name)] = true
		}
	}
	for spec := range specs {
		c.s.work.Go(func() {
			if err := c.endOrphan(ctx, spec); err != nil {
				c.s.log.Warn("end a command of the monitor before", "container", c.rec.ID, "err", err)
			}
		})
	}
}

func (c *container) endOrphan(ctx context.Context, spec string) error {
	_ = os.Remove(spec) // an OCI runtime that has not read it yet gives up
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	for inUse(spec) {
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the OCI runtime: %w", ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	var pid int
	var start uint64
	data, err := os.ReadFile(pidFile(spec))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	// Without a start the monitor died right behind the OCI runtime; there was no time to use the pid again.
	if n, err := fmt.Sscan(string(data), &pid, &start); n == 0 {
		return fmt.Errorf("%s holds %.40q: %w", pidFile(spec), data, err)
	}
	if st, err := proc.ReadStat(pid); err == nil && (start == 0 || st.Start == start) {
		if err := c.killFamily(ctx, pid); err != nil {
			return err
		}
	}
	return os.Remove(pidFile(spec))
}

// inUse says whether a process has a file in its arguments, as the OCI runtime that starts a command has.
func inUse(path string) bool {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range all {
		if data, err := os.ReadFile(file); err == nil && bytes.Contains(data, []byte(path)) {
			return true
		}
	}
	return false
}
