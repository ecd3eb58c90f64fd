package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	"k8s.io/utils/exec"
)

// The channels of a WebSocket, by their numbers.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	errorChannel
	resizeChannel
)

// serveV5 speaks v5.channel.k8s.io over WebSocket (KEP-4006): v4, and a message that ends the input alone. The
// library has its other versions; current clients offer only this one to a server that they talk to directly.
func (p *session) serveV5(w http.ResponseWriter, r *http.Request) {
	channel := func(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return t
		}
		return wsstream.IgnoreChannel
	}
	ws := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{
		remotecommand.StreamProtocolV5Name: {Binary: true, Channels: []wsstream.ChannelType{
			stdinChannel:  channel(p.r.Stdin, wsstream.ReadChannel),
			stdoutChannel: channel(p.r.Stdout, wsstream.WriteChannel),
			stderrChannel: channel(p.r.Stderr, wsstream.WriteChannel),
			errorChannel:  wsstream.WriteChannel,
			resizeChannel: channel(p.r.TTY, wsstream.ReadChannel),
		}},
	})
	ws.SetIdleTimeout(p.s.Idle)
	_, streams, err := ws.Open(w, r)
	if err != nil { // the library has answered
		p.err = err
		return
	}
	defer ws.Close()
	_, _ = streams[errorChannel].Write(nil) // tells the client that the connection stands
	var sizes chan remotecommand.TerminalSize
	if p.r.TTY {
		sizes = make(chan remotecommand.TerminalSize)
		p.work.Go(func() { p.readSizes(streams[resizeChannel], sizes) })
	}
	err = p.run(streams[stdinChannel], streams[stdoutChannel], streams[stderrChannel], sizes)
	_, _ = streams[errorChannel].Write(statusOf(err)) // it may have left
}

// readSizes reads what the client says of its terminal's size.
func (p *session) readSizes(from io.Reader, to chan<- remotecommand.TerminalSize) {
	for d := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if err := d.Decode(&size); err != nil {
			return
		}
		select {
		case to <- size:
		case <-p.ctx.Done():
			return
		}
	}
}

// status is what the error stream of v4 and later carries: what clients read of a metav1.Status.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(err error) []byte {
	st := status{Status: "Success"}
	var exit exec.ExitError
	switch {
	case errors.As(err, &exit):
		st.Status, st.Reason = "Failure", remotecommand.NonZeroExitCodeReason
		st.Message = fmt.Sprintf("command terminated with non-zero exit code: %v", exit)
		st.Details = &details{[]cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(exit.ExitStatus())}}}
	case err != nil:
		st.Status, st.Reason, st.Code = "Failure", "InternalError", http.StatusInternalServerError
		st.Message = "Internal error occurred: " + err.Error()
	}
	b, _ := json.Marshal(st) // plain strings and numbers
	return b
}
