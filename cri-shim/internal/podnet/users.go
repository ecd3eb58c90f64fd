package podnet

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/libcni"
)

// users is where the runtimes on this host sign that they use a network: a symbolic link to the
// directory of their intents, named after it.
func (n *Network) users(network string) string {
	return filepath.Join(n.UsersDir, url.PathEscape(network))
}

func (n *Network) signature(network string) string {
	return filepath.Join(n.users(network), url.PathEscape(n.intents()))
}

func (n *Network) sign(network string) error {
	link := n.signature(network)
	for range 2 { // another user may remove the empty directory meanwhile
		if err := os.MkdirAll(filepath.Dir(link), 0o755); err != nil {
			return fmt.Errorf("sign as user of network %s: %w", network, err)
		}
		err := os.Symlink(n.intents(), link)
		if err == nil || errors.Is(err, fs.ErrExist) {
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sign as user of network %s: %w", network, err)
		}
	}
	return fmt.Errorf("sign as user of network %s: its directory keeps vanishing", network)
}

// unsign takes the signatures back once nothing is attached any more. The next ADD signs again.
func (n *Network) unsign() error {
	ids, err := n.attached()
	if err != nil || len(ids) > 0 {
		return err
	}
	networks, err := os.ReadDir(n.UsersDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("take back the signature: %w", err)
	}
	for _, d := range networks {
		dir := filepath.Join(n.UsersDir, d.Name())
		if err := os.Remove(filepath.Join(dir, url.PathEscape(n.intents()))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take back the signature: %w", err)
		}
		_ = os.Remove(dir) // stays while others have signed
	}
	_ = os.Remove(n.UsersDir)
	return nil
}

// otherUsers names who else uses a network: runtimes like this one that have signed, and any runtime
// that keeps libcni's results in the usual place.
func (n *Network) otherUsers(network string) ([]string, error) {
	var others []string
	links, err := os.ReadDir(n.users(network))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for other users of network %s: %w", network, err)
	}
	for _, l := range links {
		target, err := os.Readlink(filepath.Join(n.users(network), l.Name()))
		if err == nil && target != n.intents() && !isEmpty(target) {
			others = append(others, target)
		}
	}
	results := filepath.Join(libcni.CacheDir, "results")
	files, err := os.ReadDir(results)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("look for other users of network %s: %w", network, err)
	}
	for _, f := range files {
		if strings.HasPrefix(f.Name(), network+"-") {
			return append(others, results), nil
		}
	}
	return others, nil
}

func isEmpty(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err != nil || len(entries) == 0
}
