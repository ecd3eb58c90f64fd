// Command plugin is a CNI plugin for tests: a real process behind the real libcni.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

// call is what the plugin was given.
type call struct {
	Command, ID, NetNS, IfName, Args string
	Conf                             map[string]any
}

func main() { os.Exit(plugin()) }

// plugin notes its input in the directory that its configuration names. A file fail-<COMMAND> there
// makes it fail with that text, slow-<COMMAND> makes it wait.
func plugin() int {
	stdin, _ := io.ReadAll(os.Stdin)
	c := call{
		Command: os.Getenv("CNI_COMMAND"), ID: os.Getenv("CNI_CONTAINERID"), NetNS: os.Getenv("CNI_NETNS"),
		IfName: os.Getenv("CNI_IFNAME"), Args: os.Getenv("CNI_ARGS"),
	}
	if c.Command == "VERSION" {
		fmt.Print(`{"cniVersion":"1.1.0","supportedVersions":["0.4.0","1.0.0","1.1.0"]}`)
		return 0
	}
	if err := json.Unmarshal(stdin, &c.Conf); err != nil {
		fmt.Printf(`{"code":6,"msg":%q}`, err)
		return 1
	}
	dir, _ := c.Conf["dir"].(string)
	line, _ := json.Marshal(c)
	f, err := os.OpenFile(filepath.Join(dir, "calls"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = f.Write(append(line, '\n'))
		_ = f.Close()
	}
	if err != nil {
		fmt.Printf(`{"code":5,"msg":%q}`, err)
		return 1
	}
	if _, err := os.Stat(filepath.Join(dir, "slow-"+c.Command)); err == nil {
		time.Sleep(time.Minute)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "fail-"+c.Command)); err == nil {
		fmt.Fprint(os.Stdout, string(text))
		return 1
	}
	fmt.Fprintln(os.Stderr, "a note for people")
	if c.Command == "ADD" {
		result, _ := json.Marshal(c.Conf["answer"])
		fmt.Print(string(result))
	}
	return 0
}
