package images

import (
	"debug/elf"
	"fmt"
	"io"
	"os/exec"
	"strings"
)

// linked returns the absolute paths of a program's dynamic linker and libraries; none for a static program. The
// linker itself is asked (ld.so(8), --list).
func linked(program string) ([]string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", program, err)
	}
	defer func() { _ = f.Close() }()
	linker := ""
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			data, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", program, err)
			}
			linker = strings.TrimRight(string(data), "\x00")
		}
	}
	if linker == "" {
		return nil, nil
	}
	out, err := exec.Command(linker, "--list", program).Output()
	if err != nil {
		return nil, fmt.Errorf("list the libraries of %s: %w", program, err)
	}
	paths := []string{linker}
	for line := range strings.Lines(string(out)) {
		if _, rest, ok := strings.Cut(line, " => "); ok {
			path, _, _ := strings.Cut(rest, " (")
			if path = strings.TrimSpace(path); path != linker {
				paths = append(paths, path)
			}
		}
	}
	return paths, nil
}
