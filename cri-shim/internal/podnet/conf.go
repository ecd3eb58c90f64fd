package podnet

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/invoke"
)

// load reads the first configuration by name. A broken one is an error, not a reason to take the next:
// pods on a wrong network are worse than pods that wait.
func (n *Network) load() (*libcni.NetworkConfigList, error) {
	files, err := libcni.ConfFiles(n.ConfDir, []string{".conflist", ".conf", ".json"})
	if err != nil {
		return nil, fmt.Errorf("read CNI configuration: %w: %w", err, errdefs.ErrUnavailable)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no CNI configuration in %s: %w", n.ConfDir, errdefs.ErrUnavailable)
	}
	slices.Sort(files)
	list, err := fromFile(files[0])
	if err != nil {
		return nil, fmt.Errorf("CNI configuration %s: %w: %w", files[0], err, errdefs.ErrUnavailable)
	}
	return list, nil
}

// fromFile accepts a list, or a single plugin's configuration as older installers write it.
func fromFile(file string) (*libcni.NetworkConfigList, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var single struct {
		Type    string          `json:"type"`
		Plugins json.RawMessage `json:"plugins"`
	}
	if err := json.Unmarshal(b, &single); err != nil {
		return nil, err
	}
	if single.Type == "" || single.Plugins != nil {
		return libcni.NetworkConfFromFile(file)
	}
	b, err = json.Marshal(map[string]any{"plugins": []json.RawMessage{b}, "name": nameOf(b), "cniVersion": versionOf(b)})
	if err != nil {
		return nil, err
	}
	return libcni.NetworkConfFromBytes(b)
}

func nameOf(b []byte) string    { return stringField(b, "name") }
func versionOf(b []byte) string { return stringField(b, "cniVersion") }

func stringField(b []byte, key string) string {
	var fields map[string]any
	_ = json.Unmarshal(b, &fields) // it was parsed before
	s, _ := fields[key].(string)
	return s
}

// render writes a list with all its plugins in one document, also those from files of their own.
func render(list *libcni.NetworkConfigList) ([]byte, error) {
	plugins := make([]json.RawMessage, len(list.Plugins))
	for i, p := range list.Plugins {
		plugins[i] = p.Bytes
	}
	return json.Marshal(map[string]any{
		"cniVersion": list.CNIVersion, "name": list.Name, "plugins": plugins,
		"disableGC": list.DisableGC, "disableCheck": list.DisableCheck,
	})
}

// installed checks that every plugin can be found, before any of them is run.
func (n *Network) installed(list *libcni.NetworkConfigList) error {
	for _, p := range list.Plugins {
		if _, err := invoke.FindInPath(p.Network.Type, n.BinDirs); err != nil {
			return fmt.Errorf("CNI plugin %q of network %q: not found in %q: %w", p.Network.Type, list.Name, n.BinDirs, errdefs.ErrUnavailable)
		}
	}
	return nil
}

// intents is the directory of the configurations in use, one file per sandbox.
func (n *Network) intents() string { return filepath.Join(n.CacheDir, "attached") }

func (n *Network) intent(id string) string { return filepath.Join(n.intents(), id+".conflist") }
