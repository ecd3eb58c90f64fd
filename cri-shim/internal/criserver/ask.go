package criserver

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Ask asks whoever serves the CRI on a socket for its name and version.
func Ask(ctx context.Context, socket string) (name, version string, err error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return "", "", fmt.Errorf("ask %s: %w", socket, err)
	}
	defer func() { _ = conn.Close() }()
	v, err := runtime.NewRuntimeServiceClient(conn).Version(ctx, &runtime.VersionRequest{})
	if err != nil {
		return "", "", fmt.Errorf("ask %s: %w", socket, err)
	}
	return v.GetRuntimeName(), v.GetRuntimeVersion(), nil
}
