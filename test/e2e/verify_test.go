package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestVerifiers lets programs of the node decide about images: nothing of what they refuse comes to the node, and what cannot be asked
// refuses.
func TestVerifiers(t *testing.T) {
	n := prepareNode(t)
	dir := filepath.Join(n.Base, "verifiers")
	n.configure("[image]\nverifier_dir = \"" + dir + "\"\nverifier_timeout = \"1s\"\npinned = [\"podwright.test/busy*:lat*\"]\n")
	n.must(n.Start())
	verifier := filepath.Join(dir, "policy")
	for _, c := range []struct{ name, script, says string }{
		{"no directory", "", "no such file"},
		{"no program", "-", "none in"},
		{"refused", "#!/bin/sh\ncat >/dev/null; echo \"$2 is not signed\"; exit 1\n", image + " is not signed"},
		{"too slow", "#!/bin/sh\nexec sleep 100\n", "policy"},
		{"not a program", "words\n", "policy"},
	} {
		switch c.script {
		case "":
		case "-":
			n.must(os.Mkdir(dir, 0o755))
		default:
			n.must(os.WriteFile(verifier, []byte(c.script), 0o755))
		}
		out, err := n.Crictl("pull", image)
		if err == nil || !strings.Contains(err.Error(), "desc = SignatureValidationFailed: ") || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, %s; want SignatureValidationFailed and %q", c.name, err, out, c.says)
		}
		if list := n.crictl("images", "-q"); list != "" {
			t.Errorf("%s: there are images: %s", c.name, list)
		}
	}
	n.must(os.WriteFile(verifier, []byte("#!/bin/sh\n[ \"$1 $3 $5\" = '-name -digest -stdin-media-type' ] && grep -q \"\\\"digest\\\":\\\"$4\\\"\"\n"), 0o755))
	n.crictl("pull", image)
	var status struct{ Status struct{ Pinned bool } }
	n.must(json.Unmarshal([]byte(n.crictl("inspecti", image)), &status))
	if !status.Status.Pinned {
		t.Error("the image is not pinned")
	}
}
