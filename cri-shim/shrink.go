package crishim

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
	"syscall"
)

// shrink gives back what only a start needs. The heap's garbage goes to the kernel. Pages of our own
// program are unmapped: most of them are code that initialises libraries. Those still needed come back
// from the page cache at their next use, for the price of a minor fault.
func shrink() {
	debug.FreeOSMemory()
	self, err := os.Executable()
	if err != nil {
		return
	}
	f, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer f.Close()
	for _, m := range unchanged(f, self) {
		_, _, _ = syscall.Syscall(syscall.SYS_MADVISE, m.from, m.to-m.from, syscall.MADV_DONTNEED) // refused, nothing is lost
	}
}

type mapping struct{ from, to uintptr }

// unchanged finds the mappings of file whose pages are all as in the file. A page that was written to,
// by a relocation or a debugger, is anonymous, and would be lost.
func unchanged(smaps io.Reader, file string) []mapping {
	var found []mapping
	var m mapping
	ours := false
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 5 && !strings.HasSuffix(fields[0], ":") {
			// address range, permissions, offset, device, inode, path (proc_pid_maps(5))
			_, err := fmt.Sscanf(fields[0], "%x-%x", &m.from, &m.to)
			ours = err == nil && len(fields) == 6 && fields[5] == file && !strings.Contains(fields[1], "w")
			continue
		}
		if ours && len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" {
			found = append(found, m)
		}
	}
	return found
}
