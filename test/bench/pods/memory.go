package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// memory adds up the proportional set size of all processes of a side, in KiB.
func (s *side) memory(into *int64) error {
	pids, err := s.pids()
	if err != nil {
		return err
	}
	*into = 0
	for _, pid := range pids {
		kib, err := pss(pid)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		*into += kib
	}
	return nil
}

// pss reads the Pss line of /proc/PID/smaps_rollup (proc(5)), in KiB.
func pss(pid int) (int64, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "Pss:" {
			return strconv.ParseInt(f[1], 10, 64)
		}
	}
	return 0, fmt.Errorf("process %d has no Pss", pid)
}
