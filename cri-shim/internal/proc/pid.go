package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone says that a process is not there any more.
var ErrGone = errors.New("process is gone")

// Stat is what identifies a process over the reuse of its pid.
type Stat struct {
	Start   uint64 // clock ticks since boot, /proc/pid/stat field 22
	Session int    // field 6
	Parent  int    // field 4
	Zombie  bool   // it has ended; one whose first thread has ended alone runs
}

// ReadStat reads /proc/pid/stat (proc_pid_stat(5)). A process that is not there is ErrGone.
func ReadStat(pid int) (Stat, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			return Stat{}, fmt.Errorf("process %d: %w", pid, ErrGone)
		}
		return Stat{}, fmt.Errorf("read the state of process %d: %w", pid, err)
	}
	// The name may hold anything, also ") ": the fields count from the last parenthesis.
	end := bytes.LastIndexByte(data, ')')
	fields := strings.Fields(string(data[end+1:]))
	if end < 0 || len(fields) < 20 {
		return Stat{}, fmt.Errorf("process %d: /proc stat has %d fields", pid, len(fields))
	}
	var s Stat
	var errs [4]error
	threads, err := strconv.Atoi(fields[17])
	s.Zombie = fields[0] == "X" || fields[0] == "Z" && threads <= 1
	s.Parent, errs[0] = strconv.Atoi(fields[1])
	s.Session, errs[1] = strconv.Atoi(fields[3])
	s.Start, errs[2] = strconv.ParseUint(fields[19], 10, 64)
	errs[3] = err
	return s, errors.Join(errs[:]...)
}

// Handle is a pidfd (pidfd_open(2)): it means one process for ever.
type Handle struct {
	pid int
	f   *os.File
}

// Open returns a handle of the process pid that started at start; ErrGone when there is no such process.
func Open(pid int, start uint64) (*Handle, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			err = ErrGone
		}
		return nil, fmt.Errorf("open process %d: %w", pid, err)
	}
	h := &Handle{pid, os.NewFile(uintptr(fd), "pidfd")}
	if s, err := ReadStat(pid); err != nil || s.Start != start {
		_ = h.Close()
		return nil, fmt.Errorf("open process %d: %w", pid, ErrGone)
	}
	return h, nil
}

// Close gives the handle up.
func (h *Handle) Close() error { return h.f.Close() }

// Signal sends a signal; gone is success.
func (h *Handle) Signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(h.f.Fd()), sig, nil, 0)
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signal process %d: %w", h.pid, err)
	}
	return nil
}

// Wait returns when the process has ended, whosever child it is. It costs no thread. Close ends it.
func (h *Handle) Wait() error {
	conn, err := h.f.SyscallConn()
	if err == nil {
		err = conn.Read(func(fd uintptr) bool {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
			return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
		})
	}
	if err != nil {
		return fmt.Errorf("wait for process %d: %w", h.pid, err)
	}
	return nil
}

// ExitStatus returns how a process that was not our child has ended (PIDFD_GET_INFO with
// PIDFD_INFO_EXIT, Linux 6.15). The kernel tells once the parent has reaped it.
func (h *Handle) ExitStatus() (Status, error) {
	const patience = 2 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err := unix.IoctlPidfdInfo(int(h.f.Fd()), &info)
		if err == nil && info.Mask&unix.PIDFD_INFO_EXIT != 0 {
			return statusOf(syscall.WaitStatus(info.Exit_code)), nil
		}
		if errors.Is(err, unix.ENOTTY) || time.Now().After(end) { // a kernel before 6.13
			return Status{}, errors.Join(fmt.Errorf("process %d: its exit status is not known", h.pid), err)
		}
	}
}
