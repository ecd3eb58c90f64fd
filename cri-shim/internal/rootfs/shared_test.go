package rootfs

import (
	"os"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// TestResolvConf: no configuration is the host's, an empty one is none.
func TestResolvConf(t *testing.T) {
	host, err := os.ReadFile("/etc/resolv.conf")
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	for want, dns := range map[string]*pod.DNS{
		string(host): nil, "": {}, "search a b\nnameserver 1.2.3.4\nnameserver ::1\noptions ndots:5\n": {Servers: []string{"1.2.3.4", "::1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
	} {
		if got, err := resolvConf(dns); err != nil || string(got) != want {
			t.Errorf("%+v: %q, %v", dns, got, err)
		}
	}
	for _, word := range []string{"", "a b", "a\nb", "a\x00"} {
		if got, err := resolvConf(&pod.DNS{Searches: []string{word}}); err == nil {
			t.Errorf("%q: %q", word, got)
		}
	}
}
