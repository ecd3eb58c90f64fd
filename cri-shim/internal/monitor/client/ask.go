package client

import (
	"context"
	"fmt"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/paths"
)

// Ask asks the monitor of a state directory for its version and process. It starts none.
func Ask(ctx context.Context, layout paths.Layout) (version string, pid int64, err error) {
	conn, err := New(Options{Layout: layout}).dial(ctx)
	if err != nil {
		return "", 0, fmt.Errorf("reach cri-monitor: %w", err)
	}
	defer func() { _ = conn.rpc.Close() }()
	info, err := conn.api.Info(ctx, &api.InfoRequest{})
	if err != nil {
		return "", 0, fmt.Errorf("ask cri-monitor: %w", err)
	}
	return info.GetVersion(), info.GetPid(), nil
}
