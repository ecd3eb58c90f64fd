package criserver

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TestEveryCallIsImplemented makes every call of the CRI, as its descriptor lists them, with an empty request.
func TestEveryCallIsImplemented(t *testing.T) {
	w := started(t)
	total := 0
	for _, service := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		total += methods.Len()
		for i := range methods.Len() {
			m := methods.Get(i)
			err := call(t, w.conn, m)
			if status.Code(err) == codes.Unimplemented && strings.HasPrefix(status.Convert(err).Message(), "method ") {
				t.Errorf("%s: answers as the generated code does: %v", m.Name(), err)
			}
		}
	}
	if total < 43 {
		t.Errorf("only %d calls were found", total)
	}
}

// call sends an empty message, which is one of every type.
func call(t *testing.T, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	name := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	if !m.IsStreamingServer() {
		return conn.Invoke(ctx, name, &emptypb.Empty{}, &emptypb.Empty{})
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, name)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(proto.Message(&emptypb.Empty{})); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	return stream.RecvMsg(&emptypb.Empty{})
}
