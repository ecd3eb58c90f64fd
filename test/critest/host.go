package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/test/images"
)

// pin copies critest with the digest of our image in the place of the one of the public image that it names. Both
// have 64 digits; nothing else of the program is changed.
func pin(from, to, digest string) (string, error) {
	program, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	n := bytes.Count(program, []byte(images.PinnedDigest))
	if n == 0 || len(digest) != len(images.PinnedDigest) {
		return "", fmt.Errorf("%s names %s %d times; is it critest v1.36.0?", from, images.PinnedDigest, n)
	}
	program = bytes.ReplaceAll(program, []byte(images.PinnedDigest), []byte(digest))
	fmt.Printf("critest runs unmodified, but for the digest of %s: %.12s… in place of %.12s…\n", images.PinnedImage, digest, images.PinnedDigest)
	return to, os.WriteFile(to, program, 0o755)
}

// shm are the System V shared memory segments of the host. Two specs make one each and leave it.
type shm map[int]bool

func segments() (shm, error) {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil, err
	}
	out := shm{}
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		// key, id, perms, size, creator, last, attached: those of ipcmk -M 1048576 that nobody uses
		if len(f) < 7 || f[3] != "1048576" || f[6] != "0" {
			continue
		}
		id, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, fmt.Errorf("/proc/sysvipc/shm: %w", err)
		}
		out[id] = true
	}
	return out, nil
}

// restore removes the segments that were not there before.
func (s shm) restore() error {
	now, err := segments()
	if err != nil {
		return err
	}
	var faults []error
	for id := range now {
		if s[id] {
			continue
		}
		if _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); err != nil {
			faults = append(faults, fmt.Errorf("remove shared memory segment %d: %w", id, err))
		}
	}
	return errors.Join(faults...)
}
