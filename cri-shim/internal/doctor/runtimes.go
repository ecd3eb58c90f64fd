package doctor

import (
	"context"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"
)

// runtimes looks at the OCI runtimes.
func (h *host) runtimes(ctx context.Context) {
	for _, handler := range slices.Sorted(maps.Keys(h.Runtimes)) {
		check := "OCI runtime"
		if handler != "" {
			check += " " + handler
		}
		file, err := exec.LookPath(h.Runtimes[handler])
		if err != nil {
			h.say(Fail, check, err.Error(), "Install it, or name another one in the configuration")
			continue
		}
		asked, cancel := context.WithTimeout(ctx, askLimit)
		out, err := exec.CommandContext(asked, file, "--version").Output()
		cancel()
		first, _, _ := strings.Cut(string(out), "\n")
		if err != nil || first == "" {
			h.say(Fail, check, fmt.Sprintf("%s --version: %v", file, err), "See that it is an OCI runtime")
			continue
		}
		text := file + ": " + first + "; " + h.Features(ctx, file)
		if warning := h.Warning(ctx, file); warning != "" {
			h.say(Warn, check, text, "Replace it: "+warning)
			continue
		}
		h.say(OK, check, text, "")
	}
}
