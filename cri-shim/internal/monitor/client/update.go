package client

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Update implements pod.Runtime. A monitor of an older version, which runs on until its containers have ended
// or it is replaced, cannot do it: that is ErrFailedPrecondition.
func (c *Client) Update(ctx context.Context, id pod.ID, resources []byte) error {
	_, err := call(ctx, c, true, func(m api.MonitorClient) (*api.Empty, error) {
		resp, err := m.Update(ctx, &api.UpdateRequest{Id: string(id), Resources: resources})
		if status.Code(err) == codes.Unimplemented {
			err = status.Error(codes.FailedPrecondition, "cri-monitor is older than cri-shim and cannot update containers; restart it")
		}
		return resp, err
	})
	if errdefs.IsNotFound(err) {
		return fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	return err
}
