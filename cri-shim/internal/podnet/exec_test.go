package podnet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containernetworking/cni/pkg/types"
)

// TestPluginThatLeavesAChild: nobody waits for it, whatever it has inherited.
func TestPluginThatLeavesAChild(t *testing.T) {
	for name, c := range map[string]struct{ script, out, err string }{
		"succeeds":         {"cat; sleep 60 & exit 0", "input", ""},
		"fails":            {`sleep 60 & echo '{"code":11,"msg":"busy"}'; exit 1`, "", "busy"},
		"fails in silence": {"sleep 60 & exit 3", "", "no error message: exit status 3"},
		"fails in words":   {"sleep 60 & echo why >&2; exit 3", "", `"why\n": exit status 3`},
		"takes too long":   {"sleep 60; exit 0", "", "killed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "plugin")
			if err := os.WriteFile(file, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 8*time.Second)
			defer cancel()
			begin := time.Now()
			var told string
			p := &program{executed: func(plugin, command string, took time.Duration, err error) {
				told = fmt.Sprint(plugin, " ", command, " ", took > 0, " ", err == nil)
			}}
			out, err := p.ExecPlugin(ctx, file, []byte("input"), append(os.Environ(), "CNI_COMMAND=DEL", "CNI_COMMAND=ADD"))
			if want := fmt.Sprint("plugin ADD true ", c.err == ""); told != want {
				t.Errorf("told of %q, want %q", told, want)
			}
			if string(out) != c.out || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) || time.Since(begin) > 20*time.Second {
				t.Errorf("%q, %v after %s", out, err, time.Since(begin))
			}
			var said *types.Error
			if name == "fails" && (!errors.As(err, &said) || said.Code != types.ErrTryAgainLater) {
				t.Errorf("it says %#v", err)
			}
		})
	}
}
