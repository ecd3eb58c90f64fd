package criserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// The CRI brings images from registries only. This service stands beside it on the same socket: the client streams an
// archive as google.protobuf.BytesValue and gets a google.protobuf.Struct of names and ids back.
const (
	importService = "podwright.v1.Images"
	importMethod  = "Import"
	importName    = "image-name" // metadata; the name of the archive's only image
	importChunk   = 1 << 20      // bytes in a message
)

var importDesc = grpc.ServiceDesc{
	ServiceName: importService,
	HandlerType: (*any)(nil),
	Streams:     []grpc.StreamDesc{{StreamName: importMethod, ClientStreams: true, Handler: importImages}},
}

func importImages(srv any, stream grpc.ServerStream) error {
	var name string
	if md, ok := metadata.FromIncomingContext(stream.Context()); ok {
		if given := md.Get(importName); len(given) > 0 {
			name = given[0]
		}
	}
	ids, err := srv.(*imageService).images.Import(stream.Context(), &chunks{stream: stream}, name)
	if err != nil {
		return err
	}
	out := &structpb.Struct{Fields: map[string]*structpb.Value{}}
	for name, id := range ids {
		out.Fields[name] = structpb.NewStringValue(id)
	}
	return stream.SendMsg(out)
}

// chunks reads what a client streams.
type chunks struct {
	stream grpc.ServerStream
	rest   []byte
}

// Read implements io.Reader.
func (c *chunks) Read(b []byte) (int, error) {
	for len(c.rest) == 0 {
		m := &wrapperspb.BytesValue{}
		if err := c.stream.RecvMsg(m); err != nil {
			return 0, err // io.EOF when the client has sent all
		}
		c.rest = m.Value
	}
	n := copy(b, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// Named is an image that was imported.
type Named struct{ Name, ID string }

// ImportImages sends an archive over a connection to a Server; see Images.Import. Its errors have the classes of gRPC.
func ImportImages(ctx context.Context, conn grpc.ClientConnInterface, archive io.Reader, name string) ([]Named, error) {
	if name != "" {
		ctx = metadata.AppendToOutgoingContext(ctx, importName, name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // also when the archive cannot be read: half of one must not be taken for all
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, "/"+importService+"/"+importMethod)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, importChunk)
	for {
		n, readErr := io.ReadFull(archive, buf)
		if n > 0 {
			// The server says by RecvMsg why it takes no more.
			if err := stream.SendMsg(wrapperspb.Bytes(buf[:n])); err != nil && !errors.Is(err, io.EOF) {
				return nil, err
			} else if err != nil {
				break
			}
		}
		if errors.Is(readErr, io.EOF) || errors.Is(readErr, io.ErrUnexpectedEOF) {
			break
		}
		if readErr != nil {
			return nil, fmt.Errorf("read the archive: %w: %w", readErr, errdefs.ErrInvalidArgument)
		}
	}
	if err := stream.CloseSend(); err != nil {
		return nil, err
	}
	answer := &structpb.Struct{}
	if err := stream.RecvMsg(answer); err != nil {
		return nil, err
	}
	var out []Named
	for name, id := range answer.Fields {
		out = append(out, Named{name, id.GetStringValue()})
	}
	slices.SortFunc(out, func(a, b Named) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}
