package pod

import (
	"errors"
	"fmt"
	"io"

	"github.com/containerd/errdefs"
)

// Streams are a client's ends of the standard streams of a process. Those that it did not ask for are nil.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
	TTY      bool // one terminal instead of three streams; Err is nil
	Resize   <-chan Size
	// Go runs work that can outlive the call which it is given to, because it waits for In or Out. Its
	// owner ends both after the call, and then waits for it.
	Go func(func())
}

// Size is the size of a terminal, in characters.
type Size struct{ Width, Height uint16 }

// ErrTooSlow is the class of an attachment that was ended because its client did not read.
var ErrTooSlow = errors.New("the client reads slower than the container writes")

// NetworkOf returns the path of the network namespace of a sandbox that is ready; "" is the host's.
func (m *Manager) NetworkOf(ref string) (string, error) {
	s, err := m.Sandbox(ref)
	if err != nil {
		return "", err
	}
	if s, err = m.readySandbox(s.ID); err != nil || s.HostNetwork() {
		return "", err
	}
	path := m.Pinner.NetNS(s.ID)
	if path == "" {
		return "", fmt.Errorf("sandbox %s has lost its network namespace: %w", s.ID, errdefs.ErrFailedPrecondition)
	}
	return path, nil
}
