package crishim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/podwright/podwright/cri-shim/internal/criserver"
)

func importCommand() *cobra.Command {
	var file, name string
	var o overrides
	c := &cobra.Command{
		Use:   "import FILE...",
		Short: "Take in images from archives, without a registry",
		Long: `Hand the images of tar archives, which may be compressed, to a running cri-shim: OCI image layouts, or what docker save,
podman save, skopeo and buildx write. - is the standard input. Names and ids are printed, a line each.

Images keep the names that the archive gives them, as from docker save; to one that has none, or another one, give it with
--name. A name that exists already then is the new image's. Verifiers of the configuration are asked as for a pull.
A pod that is to use such an image must not pull it anew: imagePullPolicy IfNotPresent or Never.

  docker save app:dev | ssh NODE cri-shim import -

Exit codes: 0 all are there; 1 one could not be imported; 2 wrong arguments or a refused configuration.`,
		Args: usage(cobra.MinimumNArgs(1)),
		RunE: func(c *cobra.Command, args []string) error {
			if name != "" && len(args) > 1 {
				return fmt.Errorf("--name %q: %d archives, and a name can be given to the image of one: %w", name, len(args), errdefs.ErrInvalidArgument)
			}
			cfg, err := o.load(c, file)
			if err != nil {
				return err
			}
			conn, err := grpc.NewClient("unix://"+cfg.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
			if err != nil {
				return fmt.Errorf("connect to cri-shim: %w", err)
			}
			defer func() { _ = conn.Close() }()
			for _, path := range args {
				images, err := importFile(c.Context(), conn, c.InOrStdin(), path, name)
				if err != nil {
					return fmt.Errorf("%s: %w", path, err)
				}
				for _, img := range images {
					if _, err := fmt.Fprintln(c.OutOrStdout(), img.Name, img.ID); err != nil {
						return err
					}
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&file, "config", "", configHelp)
	c.Flags().StringVar(&name, "name", "", "`NAME` of the archive's only image, like registry.example/app:1")
	o.flags(c)
	return c
}

func importFile(ctx context.Context, conn grpc.ClientConnInterface, stdin io.Reader, path, name string) ([]criserver.Named, error) {
	archive := stdin
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
		}
		defer f.Close()
		archive = f
	}
	images, err := criserver.ImportImages(ctx, conn, archive, name)
	if s, ok := status.FromError(err); err != nil && ok {
		err = errors.New(s.Message()) // without gRPC's words around it
	}
	return images, err
}
