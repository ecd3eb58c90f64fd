package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"

	"golang.org/x/sys/unix"
)

// Conf is a network configuration or a part of one.
type Conf map[string]any

// Chain is a network: one plugin, or several of which each gets the result of the one before.
type Chain struct {
	Name    string
	Version string // cniVersion; "" is 1.1.0
	Dir     string // of the plugins
	Plugins []Conf // each with its type
}

// Attachment is one interface of one pod.
type Attachment struct {
	ID     string
	IfName string // "" is eth0
	NetNS  string
	Args   string // CNI_ARGS
	// Runtime is runtimeConfig; each plugin gets the capabilities that it declares.
	Runtime Conf
	// Prev is what ADD returned, for CHECK and DEL.
	Prev json.RawMessage
	// Started, if set, gets each process as soon as it runs; it is for tests that kill.
	Started func(*exec.Cmd)
}

// Error is what a plugin answered when it failed.
type Error struct {
	Command, Plugin string
	Exit            int // -1: killed by a signal
	Code            uint
	Msg, Details    string
	Output          string // stdout and stderr, when there is no error object
}

func (e *Error) Error() string {
	if e.Msg == "" {
		return fmt.Sprintf("%s %s: exit %d: %s", e.Command, e.Plugin, e.Exit, e.Output)
	}
	return fmt.Sprintf("%s %s: code %d: %s %s", e.Command, e.Plugin, e.Code, e.Msg, e.Details)
}

// Call is one run of one plugin.
type Call struct {
	Command string
	Path    string // of the binary
	Dir     string // CNI_PATH
	Stdin   []byte
	Attachment
}

// RunPlugin runs a plugin on the node.
func (n *Node) RunPlugin(c Call) (stdout []byte, err error) {
	cmd := exec.Command(c.Path)
	cmd.Env = []string{"CNI_COMMAND=" + c.Command, "CNI_PATH=" + c.Dir, "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	if c.ID != "" {
		cmd.Env = append(cmd.Env, "CNI_CONTAINERID="+c.ID, "CNI_IFNAME="+c.ifName(), "CNI_NETNS="+c.NetNS)
	}
	if c.Args != "" {
		cmd.Env = append(cmd.Env, "CNI_ARGS="+c.Args)
	}
	// Files in memory and not pipes: there is nobody to copy, and to be measured along with the plugin.
	var files [3]*os.File
	for i, content := range [][]byte{c.Stdin, nil, nil} {
		f, err := inMemory(content)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		files[i] = f
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files[0], files[1], files[2]
	if err := n.Start(cmd); err != nil {
		return nil, err
	}
	if c.Started != nil {
		c.Started(cmd)
	}
	ended := cmd.Wait()
	out, err := written(files[1])
	if err != nil {
		return nil, err
	}
	var exit *exec.ExitError
	if !errors.As(ended, &exit) {
		return out, ended
	}
	e := &Error{Command: c.Command, Plugin: c.Path, Exit: exit.ExitCode()}
	if json.Unmarshal(out, e) != nil || e.Msg == "" {
		errs, _ := written(files[2])
		e.Output = string(out) + string(errs)
	}
	return nil, e
}

// inMemory is a file that is nowhere, at its beginning.
func inMemory(content []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate("plugin", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "plugin")
	if len(content) > 0 {
		_, err = f.WriteAt(content, 0)
	}
	return f, err
}

// written is all that is in a file, wherever its offset is.
func written(f *os.File) ([]byte, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(f, 0, info.Size()))
}

func (a Attachment) ifName() string {
	if a.IfName == "" {
		return "eth0"
	}
	return a.IfName
}

// Add runs ADD along the chain. As runtimes do, it leaves the undoing of a failure to Del.
func (n *Node) Add(c Chain, a Attachment) (result json.RawMessage, err error) {
	for _, p := range c.Plugins {
		if result, err = n.RunPlugin(c.call("ADD", p, a, result)); err != nil {
			return nil, err
		}
	}
	return result, nil
}

// Check runs CHECK along the chain.
func (n *Node) Check(c Chain, a Attachment) error {
	for _, p := range c.Plugins {
		if _, err := n.RunPlugin(c.call("CHECK", p, a, a.Prev)); err != nil {
			return err
		}
	}
	return nil
}

// Del runs DEL against the order of the chain, and ends at the first error, as libcni does.
func (n *Node) Del(c Chain, a Attachment) error {
	for _, p := range slices.Backward(c.Plugins) {
		if _, err := n.RunPlugin(c.call("DEL", p, a, a.Prev)); err != nil {
			return err
		}
	}
	return nil
}

// Valid is an entry of cni.dev/valid-attachments.
type Valid struct {
	ContainerID string `json:"containerID"`
	IfName      string `json:"ifname"`
}

// GC runs GC along the chain.
func (n *Node) GC(c Chain, valid []Valid, started ...func(*exec.Cmd)) error {
	var a Attachment
	for _, f := range started {
		a.Started = f
	}
	for _, p := range c.Plugins {
		p = maps.Clone(p)
		p["cni.dev/valid-attachments"] = valid
		if _, err := n.RunPlugin(c.call("GC", p, a, nil)); err != nil {
			return err
		}
	}
	return nil
}

// Status runs STATUS along the chain.
func (n *Node) Status(c Chain) error {
	for _, p := range c.Plugins {
		if _, err := n.RunPlugin(c.call("STATUS", p, Attachment{}, nil)); err != nil {
			return err
		}
	}
	return nil
}

// Call makes the call of one plugin of the chain; see Plugin for what it is given.
func (c Chain) call(command string, plugin Conf, a Attachment, prev json.RawMessage) Call {
	conf := maps.Clone(plugin)
	conf["name"], conf["cniVersion"] = c.Name, c.Version
	if c.Version == "" {
		conf["cniVersion"] = "1.1.0"
	}
	runtime := Conf{}
	declared, _ := plugin["capabilities"].(Conf)
	for key, value := range a.Runtime {
		if declared[key] == true {
			runtime[key] = value
		}
	}
	delete(conf, "capabilities")
	if len(runtime) > 0 {
		conf["runtimeConfig"] = runtime
	}
	if prev != nil {
		conf["prevResult"] = prev
	}
	stdin, err := json.Marshal(conf)
	if err != nil {
		panic(err) // a test's own mistake
	}
	kind, _ := plugin["type"].(string)
	return Call{Command: command, Path: c.Dir + "/" + kind, Dir: c.Dir, Stdin: stdin, Attachment: a}
}

// First is the call of the chain's first plugin, for tests that need the process.
func (c Chain) First(command string, a Attachment) Call {
	return c.call(command, c.Plugins[0], a, a.Prev)
}
