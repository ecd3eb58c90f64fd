package criserver

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	crierrors "k8s.io/cri-api/pkg/errors"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// errRRO is a recursive read-only mount that the handler cannot make.
var errRRO = errors.New("recursive read-only mounts are not supported")

// mapping gives one class of errors its code. A prefix, where there is one, opens the message.
type mapping struct {
	class  error
	code   codes.Code
	prefix error
}

// codeOf is read from the top; the first class that fits decides. The kubelet finds a prefix only at
// the very start of the text, and only for Unknown does its client leave the code out of the text.
var codeOf = []mapping{
	{ErrRegistryUnavailable, codes.Unknown, crierrors.ErrRegistryUnavailable},
	{ErrSignature, codes.Unknown, crierrors.ErrSignatureValidationFailed},
	{pod.ErrImageVolume, codes.Unknown, crierrors.ErrImageVolumeMountFailed},
	{errRRO, codes.Unknown, crierrors.ErrRROUnsupported},
	{context.Canceled, codes.Canceled, nil},
	{context.DeadlineExceeded, codes.DeadlineExceeded, nil},
	{errdefs.ErrInvalidArgument, codes.InvalidArgument, nil},
	{errdefs.ErrNotImplemented, codes.Unimplemented, nil},
	{pod.ErrStart, codes.FailedPrecondition, nil},
	{errdefs.ErrFailedPrecondition, codes.FailedPrecondition, nil},
	{errdefs.ErrNotFound, codes.NotFound, nil},
	{errdefs.ErrAlreadyExists, codes.AlreadyExists, nil},
	{errdefs.ErrUnauthenticated, codes.Unauthenticated, nil},
	{errdefs.ErrPermissionDenied, codes.PermissionDenied, nil},
	{errdefs.ErrResourceExhausted, codes.ResourceExhausted, nil},
	{errdefs.ErrUnavailable, codes.Unavailable, nil},
	{errdefs.ErrAborted, codes.Aborted, nil},
	{errdefs.ErrConflict, codes.Aborted, nil},
	{errdefs.ErrOutOfRange, codes.OutOfRange, nil},
	{errdefs.ErrDataLoss, codes.DataLoss, nil},
}

// statusOf gives an error its code. Only the generated servers make statuses of their own; any other
// status came from further down, and its code means something else there.
func statusOf(err error) error {
	if err == nil {
		return nil
	}
	if s, ok := err.(interface{ GRPCStatus() *status.Status }); ok && s.GRPCStatus().Code() == codes.Unimplemented { //nolint:errorlint // direct only, see above
		return err
	}
	for _, m := range codeOf {
		if !errors.Is(err, m.class) {
			continue
		}
		return status.Error(m.code, withPrefix(m.prefix, err.Error()))
	}
	return status.Error(codes.Internal, err.Error())
}

func withPrefix(prefix error, text string) string {
	if prefix == nil || strings.HasPrefix(text, prefix.Error()) {
		return text
	}
	return prefix.Error() + ": " + text
}
