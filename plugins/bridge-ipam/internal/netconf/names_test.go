package netconf

import (
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/utils"
)

// TestNames: names are good where libcni says so, but for the kernel's pattern.
func TestNames(t *testing.T) {
	names := []string{"", ".", "..", "a", "0", "-", "_a", ".a", "a.", "a-b_c.9", "A/b", "a b", "a\n", "é", "a\x00", "\xff", "eth%d",
		"a:b", "a\u00a0b", strings.Repeat("a", 15), strings.Repeat("a", 16), "éééééééé", strings.Repeat("a", 300)}
	for b := range 128 {
		names = append(names, string(rune(b)), "a"+string(rune(b)))
	}
	for _, name := range names {
		if want := utils.ValidateNetworkName(name) == nil; IsName(name) != want || (utils.ValidateContainerID(name) == nil) != want {
			t.Errorf("name %q: %t, want %t", name, IsName(name), want)
		}
		want := utils.ValidateInterfaceName(name) == nil && !strings.Contains(name, "%")
		if IsInterfaceName(name) != want {
			t.Errorf("interface name %q: %t, want %t", name, IsInterfaceName(name), want)
		}
	}
}
