package kubelet

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// Streams is what came back by a WebSocket: outputs, and the status by which the kubelet ends them, as JSON.
type Streams struct{ Stdout, Stderr, Status string }

// Exec runs a command in a container, by a connection that the kubelet passes on to cri-shim.
func (k *Kubelet) Exec(ctx context.Context, pod, container string, command ...string) (Streams, error) {
	return k.stream(ctx, fmt.Sprintf("/exec/default/%s/%s?%s", staticName(pod), container,
		url.Values{"command": command, "output": {"1"}, "error": {"1"}}.Encode()))
}

// Attach reads what a container writes from now on, until it ends.
func (k *Kubelet) Attach(ctx context.Context, pod, container string) (Streams, error) {
	return k.stream(ctx, fmt.Sprintf("/attach/default/%s/%s?output=1&error=1", staticName(pod), container))
}

// stream speaks as much of RFC 6455 as it takes to read, in the protocol of Kubernetes: the first byte of a message is its channel.
func (k *Kubelet) stream(ctx context.Context, path string) (out Streams, err error) {
	dialer := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}} //nolint:gosec // as in New
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return out, err
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return out, err
		}
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: cG9kd3JpZ2h0IHRlc3RzIQ==\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n", path)
	if err != nil {
		return out, err
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(resp.Body)
		return out, fmt.Errorf("%s: %s: %s", path, resp.Status, strings.TrimSpace(string(body)))
	}
	return readStreams(in)
}

func readStreams(in io.Reader) (out Streams, err error) {
	channels := map[byte]*string{1: &out.Stdout, 2: &out.Stderr, 3: &out.Status}
	channel := byte(0)
	for {
		opcode, data, err := readFrame(in)
		switch {
		case errors.Is(err, io.EOF) || opcode == 8: // closed
			return out, nil
		case err != nil:
			return out, err
		case opcode > 8 || len(data) == 0: // ping and pong
			continue
		case opcode != 0: // a new message
			channel, data = data[0], data[1:]
		}
		if to := channels[channel]; to != nil {
			*to += string(data)
		}
	}
}

// readFrame reads one frame; a server sends them without a mask.
func readFrame(in io.Reader) (opcode byte, data []byte, err error) {
	var head [2]byte
	if _, err := io.ReadFull(in, head[:]); err != nil {
		return 0, nil, err
	}
	size := uint64(head[1] & 0x7f)
	if wide := map[uint64]int{126: 2, 127: 8}[size]; wide > 0 {
		var length [8]byte
		if _, err := io.ReadFull(in, length[8-wide:]); err != nil {
			return 0, nil, err
		}
		size = binary.BigEndian.Uint64(length[:])
	}
	const most = 64 << 20
	if size > most {
		return 0, nil, fmt.Errorf("a frame of %d bytes", size)
	}
	data = make([]byte, size)
	_, err = io.ReadFull(in, data)
	return head[0] & 0x0f, data, err
}
