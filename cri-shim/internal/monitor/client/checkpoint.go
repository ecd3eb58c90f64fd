package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// Freeze freezes containers, all of them or none, until thaw is called, which returns when all go on. The monitor
// thaws them by itself when we die.
func (c *Client) Freeze(ctx context.Context, ids []pod.ID) (thaw func() error, err error) {
	conn, err := c.connect(ctx)
	if err != nil {
		return nil, err
	}
	r := &api.FreezeRequest{}
	for _, id := range ids {
		r.Ids = append(r.Ids, string(id))
	}
	// The stream outlives ctx: the monitor would not learn that it was given up. It bounds the freezing itself.
	stream, err := conn.api.Freeze(context.WithoutCancel(ctx))
	if err == nil {
		err = stream.Send(r)
	}
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return nil, fmt.Errorf("freeze containers: %w", older(err))
	}
	return sync.OnceValue(func() error {
		if err := stream.CloseSend(); err != nil {
			return fmt.Errorf("thaw containers: %w: %w", err, errdefs.ErrUnavailable)
		}
		if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("thaw containers: %w", fromWire(err))
		}
		return nil
	}), nil
}

// Dump writes the processes of a container into the directory images, and the log of that into work. It is not
// repeated: a dump that was cut off may have left the container harmed.
func (c *Client) Dump(ctx context.Context, id pod.ID, images, work string) error {
	_, err := call(ctx, c, false, func(m api.MonitorClient) (*api.Empty, error) {
		return m.Dump(ctx, &api.DumpRequest{Id: string(id), Images: images, Work: work})
	})
	return err
}

func older(err error) error {
	if status.Code(err) == codes.Unimplemented {
		err = status.Error(codes.FailedPrecondition, "cri-monitor is older than cri-shim and makes no checkpoints; restart it")
	}
	return fromWire(err)
}
