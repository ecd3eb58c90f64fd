// Package podinit is the process that holds a shared PID namespace: process 1 of a pod whose containers see
// each other. It needs no image and no file of a distribution: it is a static ELF executable of a few hundred
// bytes, written out from the machine code below.
//
// The program ignores SIGCHLD, upon which the kernel itself reaps every orphan at once (sigaction(2), NOTES),
// and then sleeps for ever. As process 1 of its namespace it gets no signal that it has no handler for, but
// SIGKILL from outside (pid_namespaces(7)).
package podinit

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"github.com/containerd/errdefs"
)

// program is the code for one architecture; the kernel's struct sigaction follows it, where the code expects it.
type program struct {
	machine uint16 // e_machine
	code    []byte
}

var programs = map[string]program{
	"amd64": {62, []byte{
		0xb8, 0x0d, 0x00, 0x00, 0x00, // mov  eax, 13          rt_sigaction(
		0xbf, 0x11, 0x00, 0x00, 0x00, // mov  edi, 17            SIGCHLD,
		0x48, 0x8d, 0x35, 0x17, 0x00, 0x00, 0x00, // lea rsi, [rip+23]  ignore,
		0x31, 0xd2, // xor edx, edx                              NULL,
		0x41, 0xba, 0x08, 0x00, 0x00, 0x00, // mov r10d, 8       8)
		0x0f, 0x05, // syscall
		0xb8, 0x22, 0x00, 0x00, 0x00, // mov  eax, 34          pause()
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp  -9
		0x90, 0x90, 0x90, 0x90, // padding to 40
	}},
	"arm64": {183, words(
		0xd28010c8, // mov x8, 134   rt_sigaction(
		0xd2800220, // mov x0, 17      SIGCHLD,
		0x10000181, // adr x1, +48     ignore,
		0xd2800002, // mov x2, 0       NULL,
		0xd2800103, // mov x3, 8       8)
		0xd4000001, // svc 0
		0xd2800928, // mov x8, 73    ppoll(
		0xd2800000, // mov x0, 0       NULL,
		0xd2800001, // mov x1, 0       0,
		0xd2800002, // mov x2, 0       NULL,
		0xd2800003, // mov x3, 0       NULL,
		0xd2800004, // mov x4, 0       0)
		0xd4000001, // svc 0
		0x17fffff9, // b -7
	)},
}

func words(w ...uint32) []byte {
	var b []byte
	for _, x := range w {
		b = binary.LittleEndian.AppendUint32(b, x)
	}
	return b
}

// sigactionIgnore is the kernel's struct sigaction: handler SIG_IGN, no flags, no restorer, empty mask.
var sigactionIgnore = append([]byte{1}, make([]byte, 31)...)

// The layout of the file (elf(5)): header, two program headers, code, data. One segment maps all of it.
const (
	base       = 0x400000
	headerSize = 64
	phSize     = 56
	codeOffset = headerSize + 2*phSize
)

// Binary returns the executable for an architecture in Go's naming; one that is not there is
// ErrNotImplemented.
func Binary(arch string) ([]byte, error) {
	p, ok := programs[arch]
	if !ok {
		return nil, fmt.Errorf("the init of a shared PID namespace on %s: %w", arch, errdefs.ErrNotImplemented)
	}
	size := uint64(codeOffset + len(p.code) + len(sigactionIgnore))
	var b bytes.Buffer
	b.Write([]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0}) // 64 bits, little endian
	put := func(fields ...any) {
		for _, f := range fields {
			_ = binary.Write(&b, binary.LittleEndian, f) // a bytes.Buffer takes everything
		}
	}
	// e_type EXEC, machine, version, entry, phoff, shoff, flags, ehsize, phentsize, phnum, shentsize, shnum, shstrndx
	put(uint16(2), p.machine, uint32(1), uint64(base+codeOffset), uint64(headerSize), uint64(0), uint32(0))
	put(uint16(headerSize), uint16(phSize), uint16(2), uint16(0), uint16(0), uint16(0))
	// PT_LOAD, readable and executable
	put(uint32(1), uint32(5), uint64(0), uint64(base), uint64(base), size, size, uint64(0x10000))
	// PT_GNU_STACK, not executable
	put(uint32(0x6474e551), uint32(6), uint64(0), uint64(0), uint64(0), uint64(0), uint64(0), uint64(16))
	b.Write(p.code)
	b.Write(sigactionIgnore)
	return b.Bytes(), nil
}
