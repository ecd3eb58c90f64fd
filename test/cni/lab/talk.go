package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// Port is where Serve listens.
const Port = 8080

// patience is how long an answer may take. It is waited for in full where nobody answers.
const patience = 400 * time.Millisecond

// Serve answers, on TCP and UDP, with its name and with the source address that it sees, until stop is called.
func (n *NS) Serve(name string, port int) (stop func(), err error) {
	var tcp net.Listener
	var udp net.PacketConn
	at := fmt.Sprintf(":%d", port)
	err = n.Do(func() (err error) {
		if tcp, err = net.Listen("tcp", at); err != nil {
			return err
		}
		udp, err = net.ListenPacket("udp", at)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("serve %s: %w", name, err)
	}
	ended := make(chan struct{}, 2)
	go func() { serveTCP(tcp, name); ended <- struct{}{} }()
	go func() { serveUDP(udp, name); ended <- struct{}{} }()
	return func() {
		_, _ = tcp.Close(), udp.Close()
		<-ended
		<-ended
	}, nil
}

func serveTCP(l net.Listener, name string) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		_, _ = fmt.Fprintf(c, "%s sees %s\n", name, host(c.RemoteAddr()))
		_ = c.Close()
	}
}

func serveUDP(c net.PacketConn, name string) {
	buf := make([]byte, 64)
	for {
		_, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = c.WriteTo([]byte(name+" sees "+host(from)+"\n"), from)
	}
}

func host(a net.Addr) string {
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String()
	}
	return p.Addr().Unmap().WithZone("").String()
}

// Ask connects from the namespace and returns the answer of Serve, or what went wrong in a word. network is "tcp" or
// "udp", to an address with a port.
func (n *NS) Ask(network, to string) string {
	var conn net.Conn
	err := n.Do(func() (err error) {
		conn, err = net.DialTimeout(network, to, patience)
		return err
	})
	if err != nil {
		return inAWord(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if network == "udp" {
		if _, err := conn.Write([]byte("?")); err != nil {
			return inAWord(err)
		}
	}
	buf := make([]byte, 128)
	size, err := conn.Read(buf)
	if err != nil {
		return inAWord(err)
	}
	return strings.TrimSpace(string(buf[:size]))
}

func inAWord(err error) string {
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "no answer"
	}
	for _, word := range []string{"connection refused", "network is unreachable", "no route to host", "invalid argument"} {
		if strings.Contains(err.Error(), word) {
			return word
		}
	}
	return err.Error()
}
