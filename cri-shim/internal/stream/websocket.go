package stream

import (
	"io"
	"net/http"
	"strings"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// The channels of a WebSocket, by their numbers.
const (
	stdinChannel = iota
	stdoutChannel
	stderrChannel
	errorChannel
	resizeChannel
)

// serveWebSocket speaks channel.k8s.io, v4.channel.k8s.io, both in base64 too, and v5.channel.k8s.io, which adds a
// message that ends the input alone (KEP-4006). Current clients offer only v5 to a server that they talk to
// directly, which the library answers with 403.
func (p *session) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	channel := func(wanted bool, t wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return t
		}
		return wsstream.IgnoreChannel
	}
	channels := []wsstream.ChannelType{
		stdinChannel:  channel(p.r.Stdin, wsstream.ReadChannel),
		stdoutChannel: channel(p.r.Stdout, wsstream.WriteChannel),
		stderrChannel: channel(p.r.Stderr, wsstream.WriteChannel),
		errorChannel:  wsstream.WriteChannel,
		resizeChannel: channel(p.r.TTY, wsstream.ReadChannel),
	}
	protocols := map[string]wsstream.ChannelProtocolConfig{}
	for name, binary := range map[string]bool{
		"": true, wsstream.ChannelWebSocketProtocol: true, wsstream.Base64ChannelWebSocketProtocol: false,
		"v4." + wsstream.ChannelWebSocketProtocol: true, "v4." + wsstream.Base64ChannelWebSocketProtocol: false,
		remotecommand.StreamProtocolV5Name: true,
	} {
		protocols[name] = wsstream.ChannelProtocolConfig{Binary: binary, Channels: channels}
	}
	ws := wsstream.NewConn(protocols)
	ws.SetIdleTimeout(p.s.Idle)
	protocol, streams, err := ws.Open(w, r)
	if err != nil { // it has answered
		p.err = err
		return
	}
	defer func() { _ = ws.Close() }()
	_, _ = streams[errorChannel].Write(nil) // an empty message tells the client that the connection stands
	in, out, stderr := io.Reader(nil), io.Writer(nil), io.Writer(nil)
	if p.r.Stdin {
		in = streams[stdinChannel]
	}
	if p.r.Stdout {
		out = streams[stdoutChannel]
	}
	if p.r.Stderr {
		stderr = streams[stderrChannel]
	}
	var sizes chan pod.Size
	if p.r.TTY {
		sizes = p.sizes(streams[resizeChannel])
	}
	err = p.run(in, out, stderr, sizes)
	asJSON := strings.HasPrefix(protocol, "v4.") || strings.HasPrefix(protocol, "v5.")
	_, _ = streams[errorChannel].Write(p.statusOf(err, asJSON)) // it may have left
}
