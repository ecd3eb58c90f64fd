package podnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/podwright/podwright/pkg/netutil"
)

// dialLimit is long for a loopback: only a server with a full queue lets a client wait.
const dialLimit = 10 * time.Second

// DialLoopback connects to a TCP port on the loopback of the network namespace at netns, "" being ours: on
// 127.0.0.1, else on ::1. The connection lives on when the namespace is unpinned.
func DialLoopback(ctx context.Context, netns string, port int32) (net.Conn, error) {
	if netns == "" {
		return dialLoopback(ctx, port)
	}
	ns, err := netutil.OpenNS(netns)
	if err != nil {
		return nil, err
	}
	defer func() { _ = ns.Close() }()
	var conn net.Conn
	err = ns.Do(func() (err error) {
		conn, err = dialLoopback(ctx, port)
		return err
	})
	return conn, err
}

// dialLoopback dials one address at a time: net makes a socket on the caller's thread, which counts here, as long
// as it has no second address to try beside.
func dialLoopback(ctx context.Context, port int32) (net.Conn, error) {
	d := net.Dialer{Timeout: dialLimit}
	var faults []error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		faults = append(faults, err)
	}
	return nil, fmt.Errorf("connect to port %d of the pod: %w", port, errors.Join(faults...))
}
