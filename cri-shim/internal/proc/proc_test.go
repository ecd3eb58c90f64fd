package proc

import (
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// headless ends its first thread, and lives on in the others.
const headless = "PROC_TEST_HEADLESS"

// What is called while the package is initialized runs on the first thread (runtime.LockOSThread).
var _ = func() bool {
	if os.Getenv(headless) != "" {
		runtime.LockOSThread()
		go func() {
			time.Sleep(time.Minute)
			os.Exit(0)
		}()
		time.Sleep(100 * time.Millisecond) // another thread is there
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT, 0, 0, 0)
	}
	return true
}()

// TestHeadlessProcess: without its first thread a process is listed as a zombie, and runs.
func TestHeadlessProcess(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), headless+"=1")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	zombie := func() bool {
		data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
		return err == nil && strings.Contains(string(data), "State:\tZ")
	}
	for end := time.Now().Add(10 * time.Second); !zombie(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("its first thread does not end")
		}
	}
	st, err := ReadStat(pid)
	if err != nil || st.Zombie {
		t.Errorf("while it runs: %+v, %v", st, err)
	}
	h, err := Open(pid, st.Start)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = h.Close() }()
	if err := h.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := h.Wait(); err != nil {
		t.Error(err)
	}
	if st, err = ReadStat(pid); err != nil || !st.Zombie {
		t.Errorf("when it has ended: %+v, %v", st, err)
	}
	_ = cmd.Wait() // says that it was killed
}

// TestPidUsedAnew: the end of an orphan is for who was waiting for one when it ended, not for the next one with its pid.
func TestPidUsedAnew(t *testing.T) {
	r := &Reaper{waiting: map[int]chan Status{}, early: map[int]early{}, births: map[uint64]bool{}}
	long := r.Expecting()
	defer long.Done()
	r.end(77, Status{Code: 3}) // somebody's orphan
	late := r.Expecting()
	defer late.Done()
	select {
	case st := <-late.Adopt(77):
		t.Errorf("a running process ended with %+v", st)
	default:
	}
	r.end(77, Status{Code: 4})
	quick := r.Expecting()
	r.end(78, Status{Code: 5}) // before its pid is known
	select {
	case st := <-quick.Adopt(78):
		if st.Code != 5 {
			t.Errorf("got %+v", st)
		}
	default:
		t.Error("an end was missed")
	}
	quick.Done()
	long.Done()
	late.Done()
	if len(r.early) != 0 {
		t.Errorf("kept: %v", r.early)
	}
}

// TestExitStatusOfAnOldKernel: nobody waits for what it does not tell.
func TestExitStatusOfAnOldKernel(t *testing.T) {
	f, err := os.Open("/dev/null") // knows the question as little
	if err != nil {
		t.Fatal(err)
	}
	h := &Handle{f: f}
	defer func() { _ = h.Close() }()
	begin := time.Now()
	if _, err := h.ExitStatus(); err == nil || time.Since(begin) > time.Second {
		t.Errorf("%v after %s", err, time.Since(begin))
	}
}
