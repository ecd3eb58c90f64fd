package netconf

import (
	"strings"
	"unicode"
)

// IsName says whether the specification takes a name for a network's or a container's: letters, digits, '.', '_' and
// '-', a letter or digit first. Of libcni, which has the same (pkg/utils), the regular expression costs more than all of it.
func IsName(s string) bool {
	for i, c := range []byte(s) {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && strings.IndexByte("._-", c) >= 0:
		default:
			return false
		}
	}
	return s != ""
}

// maxInterfaceName is the longest name of a link, in bytes.
const maxInterfaceName = 15

// IsInterfaceName says whether the kernel takes a name for a link's (dev_valid_name), and for no pattern: it numbers eth%d.
func IsInterfaceName(s string) bool {
	return s != "" && len(s) <= maxInterfaceName && s != "." && s != ".." &&
		!strings.ContainsAny(s, "/:%") && !strings.ContainsFunc(s, unicode.IsSpace)
}
