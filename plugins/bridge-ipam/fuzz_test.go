package bridgeipam

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containernetworking/cni/pkg/types"
)

// FuzzStdin: whatever is on stdin or in a file, reading it does not panic, and every refusal has a code. The
// seeds are the samples that are shipped.
func FuzzStdin(f *testing.F) {
	files, err := filepath.Glob("../../conf/cni/*.conflist")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	for _, seed := range []string{"", " ", "{", "null", "[]", "1e999", `{"plugins":[{"type":"bridge-ipam"}]}`, `{"cniVersion":7}`, `{"plugins":[null]}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var coded *types.Error
		config, err := readConfig(bytes.NewReader(data))
		if err == nil {
			_, err = configVersion("GC", config)
		}
		if err != nil && (!errors.As(err, &coded) || coded.Code == 0) {
			t.Errorf("no code: %v", err)
		}
		_, _ = lintFile(data)
	})
}
