package criserver

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestImport: every byte of an archive arrives, and half of one is never taken for a whole one.
func TestImport(t *testing.T) {
	w := started(t)
	for _, size := range []int{0, 1, importChunk, 3*importChunk + 5} {
		data := bytes.Repeat([]byte("0123456789abcdef!"), size/17+1)[:size]
		got, err := ImportImages(t.Context(), w.conn, iotest.HalfReader(bytes.NewReader(data)), "app:1")
		want := []Named{{"app:1", fmt.Sprintf("%x", sha256.Sum256(data))}, {"z", "1"}}
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%d bytes: got %v, want %v, %v", size, got, want, err)
		}
	}
	if got, err := ImportImages(t.Context(), w.conn, strings.NewReader(""), ""); err != nil || got[0].Name != "a" {
		t.Errorf("without a name: %v, %v", got, err)
	}
	if _, err := ImportImages(t.Context(), w.conn, bytes.NewReader(make([]byte, 10<<20)), "bad"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "bad") {
		t.Errorf("refused: %v", err)
	}
	before := w.store.imported.Load()
	broken := io.MultiReader(bytes.NewReader(make([]byte, 2*importChunk)), iotest.ErrReader(errors.New("no luck")))
	if _, err := ImportImages(t.Context(), w.conn, broken, ""); err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("an archive that cannot be read: %v", err)
	}
	if err := w.stop(); err != nil { // what is under way has ended
		t.Fatal(err)
	}
	if got := w.store.imported.Load(); got != before {
		t.Error("half an archive was imported")
	}
}

// TestImportWaitsForRecovery: as every call.
func TestImportWaitsForRecovery(t *testing.T) {
	w := newWorld(t)
	if _, err := ImportImages(t.Context(), w.conn, strings.NewReader("x"), ""); status.Code(err) != codes.Unavailable {
		t.Errorf("got %v", err)
	}
}
