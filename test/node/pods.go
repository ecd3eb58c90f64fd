package node

import (
	"encoding/json"
	"fmt"
)

// PodJSON is a pod for crictl runp. PID namespaces are per container unless sharePID.
func (n *Node) PodJSON(name string, sharePID bool) string {
	pid := 1
	if sharePID {
		pid = 0
	}
	return fmt.Sprintf(`{"metadata": {"name": "%[1]s", "namespace": "default", "uid": "uid-%[1]s", "attempt": 0},
 "hostname": "%[1]s", "log_directory": "%[2]s/%[1]s", "labels": {"app": "%[1]s"},
 "linux": {"security_context": {"namespace_options": {"network": 0, "pid": %[3]d, "ipc": 0}}}}`, name, n.Logs, pid)
}

// ContainerJSON is a container for crictl create that runs a shell script. extra is further JSON members.
func ContainerJSON(name, image, script, extra string) string {
	line, _ := json.Marshal(script) // a string is always JSON
	if extra != "" {
		extra = ", " + extra
	}
	return fmt.Sprintf(`{"metadata": {"name": "%[1]s", "attempt": 0}, "image": {"image": "%[2]s"},
 "command": ["sh", "-c", %[3]s], "log_path": "%[1]s.log"%[4]s}`, name, image, line, extra)
}

// RunPod starts a pod and returns its id.
func (n *Node) RunPod(name string) (string, error) {
	pod, err := n.File("pod-"+name+".json", n.PodJSON(name, false))
	if err != nil {
		return "", err
	}
	return n.Crictl("runp", pod)
}

// RunContainer creates and starts a container in a pod made by RunPod, and returns its id.
func (n *Node) RunContainer(podID, podName, name, image, script, extra string) (string, error) {
	id, err := n.CreateContainer(podID, podName, ContainerJSON(name, image, script, extra))
	if err != nil {
		return "", err
	}
	_, err = n.Crictl("start", id)
	return id, err
}

// CreateContainer creates a container from its JSON.
func (n *Node) CreateContainer(podID, podName, container string) (string, error) {
	file, err := n.File("container-"+podName+".json", container)
	if err != nil {
		return "", err
	}
	return n.Crictl("create", podID, file, n.Base+"/pod-"+podName+".json")
}

// Inspect is the part of crictl inspect that tests look at.
type Inspect struct {
	Status struct {
		State      string `json:"state"`
		ExitCode   int    `json:"exitCode"`
		Reason     string `json:"reason"`
		Message    string `json:"message"`
		StartedAt  string `json:"startedAt"`
		FinishedAt string `json:"finishedAt"`
		LogPath    string `json:"logPath"`
		ImageRef   string `json:"imageRef"`
		ImageID    string `json:"imageId"`
	} `json:"status"`
}

// Container returns the status of a container.
func (n *Node) Container(id string) (Inspect, error) {
	var out Inspect
	text, err := n.Crictl("inspect", "-o", "json", id)
	if err != nil {
		return out, err
	}
	return out, json.Unmarshal([]byte(text), &out)
}

// PodIP returns the address of a pod.
func (n *Node) PodIP(id string) (string, error) {
	text, err := n.Crictl("inspectp", "-o", "json", id)
	if err != nil {
		return "", err
	}
	var out struct {
		Status struct {
			Network struct {
				IP string `json:"ip"`
			} `json:"network"`
		} `json:"status"`
	}
	if err := json.Unmarshal([]byte(text), &out); err != nil {
		return "", err
	}
	return out.Status.Network.IP, nil
}
