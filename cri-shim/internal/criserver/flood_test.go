package criserver

import (
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestFlood: clients that connect and say nothing, or half of something, and calls by the thousand beside each other;
// every call is answered. A field that is not known yet is no fault.
func TestFlood(t *testing.T) {
	w := started(t)
	for i := range 200 {
		conn, err := net.Dial("unix", filepath.Join(w.dir, "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[:i%25])) // it may have hung up
	}
	request := &runtime.VersionRequest{}
	request.ProtoReflect().SetUnknown(protowire.AppendString(protowire.AppendTag(nil, 9999, protowire.BytesType), strings.Repeat("x", 1<<10)))
	var wg sync.WaitGroup
	for range 3000 {
		wg.Go(func() {
			if r, err := w.Version(t.Context(), request); err != nil || r.GetRuntimeName() == "" {
				t.Errorf("%v, %v", r, err)
			}
		})
	}
	wg.Wait()
}
