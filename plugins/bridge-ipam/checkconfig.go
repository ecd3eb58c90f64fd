package bridgeipam

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/netconf"
)

// checkConfig names every fault of a configuration, or of each part of a list that is this plugin's.
func checkConfig(p Process, args []string) error {
	if len(args) != 1 {
		return wrongUsage("check-config: want one file, or - for stdin")
	}
	data, err := readFile(p, args[0])
	if err != nil {
		return err
	}
	faults, notes := lintFile(data)
	for _, n := range notes {
		_, _ = fmt.Fprintf(p.Stdout, "%s: note: %s\n", args[0], n)
	}
	for _, f := range faults {
		_, _ = fmt.Fprintf(p.Stdout, "%s: %s\n", args[0], f)
	}
	switch len(faults) {
	case 0:
		_, err = fmt.Fprintf(p.Stdout, "%s: fine\n", args[0])
		return err
	case 1:
		return errors.New("check-config: 1 fault")
	}
	return fmt.Errorf("check-config: %d faults", len(faults))
}

func readFile(p Process, name string) ([]byte, error) {
	in := p.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, fmt.Errorf("check-config: %w", err)
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, maxConfig+1))
	if err == nil && len(data) > maxConfig {
		err = fmt.Errorf("larger than %d bytes", maxConfig)
	}
	if err != nil {
		return nil, fmt.Errorf("check-config %s: %w", name, err)
	}
	return data, nil
}

// lintFile looks at one configuration or at a list of them.
func lintFile(data []byte) (faults, notes []string) {
	if _, err := readConfig(strings.NewReader(string(data))); err != nil {
		return []string{err.Error()}, nil
	}
	var list struct {
		Name    json.RawMessage              `json:"name"`
		Version json.RawMessage              `json:"cniVersion"`
		Plugins []map[string]json.RawMessage `json:"plugins"`
	}
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(data, &keys); err != nil {
		return []string{"want an object: " + err.Error()}, nil
	}
	if _, isList := keys["plugins"]; !isList {
		return lintPlugin(data)
	}
	if err := json.Unmarshal(data, &list); err != nil {
		return []string{"plugins: want a list of objects: " + err.Error()}, nil
	}
	ours := 0
	for i, plugin := range list.Plugins {
		at := fmt.Sprintf("plugins[%d]: ", i)
		if !isOurs(plugin) {
			notes = append(notes, fmt.Sprintf("%sof type %s, not looked at", at, plugin["type"]))
			continue
		}
		ours++
		// As a runtime hands it over: the name and the version are those of the list.
		plugin["name"], plugin["cniVersion"] = list.Name, list.Version
		one, _ := json.Marshal(plugin)
		f, n := lintPlugin(one)
		for _, s := range f {
			faults = append(faults, at+s)
		}
		for _, s := range n {
			notes = append(notes, at+s)
		}
	}
	if ours == 0 {
		faults = append(faults, "plugins: none has the type or the ipam.type bridge-ipam")
	}
	return faults, notes
}

func isOurs(plugin map[string]json.RawMessage) bool {
	var ipam struct {
		Type string `json:"type"`
	}
	_ = json.Unmarshal(plugin["ipam"], &ipam) // another plugin may have anything there
	return string(plugin["type"]) == `"bridge-ipam"` || ipam.Type == "bridge-ipam"
}

func lintPlugin(data []byte) (faults, notes []string) {
	if _, err := configVersion("ADD", data); err != nil {
		faults = append(faults, err.Error())
	} else if _, err := configVersion("GC", data); err != nil {
		notes = append(notes, err.Error())
	}
	more, unknown := netconf.Lint(data)
	for _, key := range unknown {
		notes = append(notes, key+": nothing reads this key")
	}
	return append(faults, more...), notes
}
