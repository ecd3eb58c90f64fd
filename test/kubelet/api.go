package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Get asks the kubelet's API.
func (k *Kubelet) Get(ctx context.Context, path string) (string, error) {
	return k.ask(ctx, http.MethodGet, path)
}

func (k *Kubelet) ask(ctx context.Context, method, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("https://127.0.0.1:%d%s", port, path), nil)
	if err != nil {
		return "", err
	}
	resp, err := k.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", method, path, err)
	}
	if resp.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, strings.TrimSpace(string(body)))
	}
	return string(body), nil
}

// Run runs a command in a container and returns what it wrote. The kubelet splits the command at spaces: it is not a shell.
func (k *Kubelet) Run(ctx context.Context, pod, container, command string) (string, error) {
	return k.ask(ctx, http.MethodPost, fmt.Sprintf("/run/default/%s/%s?cmd=%s", staticName(pod), container, url.QueryEscape(command)))
}

// Logs is what a container has written; previous is that of the one before it.
func (k *Kubelet) Logs(ctx context.Context, pod, container string, previous bool) (string, error) {
	return k.Get(ctx, fmt.Sprintf("/containerLogs/default/%s/%s?previous=%t", staticName(pod), container, previous))
}

// staticName is what the kubelet calls a static pod.
func staticName(name string) string { return name + "-" + Hostname }

// Apply writes the manifest of a static pod, as YAML; it is complete before it has its name.
func (k *Kubelet) Apply(name, manifest string) error {
	draft := filepath.Join(k.base, name+".draft")
	if err := os.WriteFile(draft, []byte(manifest), 0o644); err != nil {
		return err
	}
	return os.Rename(draft, filepath.Join(k.Manifests, name+".yaml"))
}

// Withdraw removes the manifest of a static pod.
func (k *Kubelet) Withdraw(name string) error {
	return os.Remove(filepath.Join(k.Manifests, name+".yaml"))
}

// Pod is the part of a pod that tests look at.
type Pod struct {
	Metadata struct {
		Name, UID string
	}
	Status struct {
		Phase, Reason, Message, PodIP, HostIP string
		InitContainerStatuses                 []Container
		ContainerStatuses                     []Container
	}
}

// Container is the status of a container.
type Container struct {
	Name, ContainerID, ImageID string
	Ready                      bool
	Started                    *bool
	RestartCount               int
	State, LastState           State
}

// State is the one that is not nil.
type State struct {
	Waiting    *struct{ Reason, Message string }
	Running    *struct{ StartedAt string }
	Terminated *struct {
		ExitCode, Signal                       int
		Reason, Message, StartedAt, FinishedAt string
	}
}

// Pods are those that the kubelet has to run.
func (k *Kubelet) Pods(ctx context.Context) ([]Pod, error) { return k.pods(ctx, "/pods") }

// RunningPods are those that the runtime runs, which a kubelet that is withdrawing one still has.
func (k *Kubelet) RunningPods(ctx context.Context) ([]Pod, error) {
	return k.pods(ctx, "/runningpods/")
}

func (k *Kubelet) pods(ctx context.Context, path string) ([]Pod, error) {
	text, err := k.Get(ctx, path)
	if err != nil {
		return nil, err
	}
	var list struct{ Items []Pod }
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return list.Items, nil
}

// Pod is a static pod by its name in its manifest; false when the kubelet has not seen it yet.
func (k *Kubelet) Pod(ctx context.Context, name string) (Pod, bool, error) {
	pods, err := k.Pods(ctx)
	for _, p := range pods {
		if p.Metadata.Name == staticName(name) {
			return p, true, err
		}
	}
	return Pod{}, false, err
}

// Container is the status of a container of the pod, by name.
func (p Pod) Container(name string) Container {
	for _, list := range [][]Container{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
		for _, c := range list {
			if c.Name == name {
				return c
			}
		}
	}
	return Container{}
}
