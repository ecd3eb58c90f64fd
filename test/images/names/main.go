// Command names answers DNS queries of the type A over UDP, from a file in the form of hosts(5) that it reads anew for each query.
// Other types of a name that it knows have an empty answer, other names do not exist.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

func main() {
	listen := flag.String("listen", ":53", "UDP address")
	hosts := flag.String("hosts", "/etc/names/hosts", "file of lines: address name")
	flag.Parse()
	if err := serve(*listen, *hosts); err != nil {
		fmt.Fprintln(os.Stderr, "names:", err)
		os.Exit(1)
	}
}

func serve(listen, hosts string) error {
	conn, err := net.ListenPacket("udp", listen)
	if err != nil {
		return err
	}
	defer conn.Close()
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if err != nil {
			return err
		}
		reply, err := answer(buffer[:n], hosts)
		if err != nil {
			fmt.Fprintf(os.Stderr, "names: query from %v: %v\n", from, err)
			continue
		}
		if _, err := conn.WriteTo(reply, from); err != nil {
			fmt.Fprintf(os.Stderr, "names: answer to %v: %v\n", from, err)
		}
	}
}

func answer(query []byte, hosts string) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil {
		return nil, err
	}
	if m.Response || len(m.Questions) != 1 {
		return nil, fmt.Errorf("want one question, not %d", len(m.Questions))
	}
	q := m.Questions[0]
	known, err := lookUp(q.Name.String(), hosts)
	if err != nil {
		return nil, err
	}
	m.Response, m.Authoritative, m.Answers, m.Additionals = true, true, nil, nil
	if len(known) == 0 {
		m.RCode = dnsmessage.RCodeNameError
	}
	for _, a := range known {
		if q.Type == dnsmessage.TypeA {
			h := dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1}
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		}
	}
	return m.Pack()
}

func lookUp(name, hosts string) (out []netip.Addr, err error) {
	f, err := os.Open(hosts)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) != 2 || !strings.EqualFold(words[1]+".", name) {
			continue
		}
		if a, err := netip.ParseAddr(words[0]); err == nil && a.Is4() {
			out = append(out, a)
		}
	}
	return out, lines.Err()
}
