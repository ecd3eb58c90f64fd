package main

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// ends are the two namespaces of a path.
type ends struct {
	name     string
	from, to *lab.NS
	addr     string // of to, as from sees it
}

const (
	echoPort = "7007"
	tripsBy  = 500 // of a request and its answer at a stretch
)

// path measures what packets of pods see: it is the kernel's work, by what the plugins have set up.
func (b *bench) path() error {
	list, err := b.contenders(wish{})
	if err != nil {
		return err
	}
	paths := map[string][]ends{}
	for _, c := range list {
		if paths[c.name], err = b.connect(c); err != nil {
			return err
		}
	}
	for range max(1, b.trips/tripsBy) {
		for i := range paths[ourName] {
			for _, c := range list {
				if err := b.trip(c.name, paths[c.name][i]); err != nil {
					return err
				}
			}
		}
	}
	if missing("iperf3") {
		b.table.note("There is no iperf3 here, which measures throughput: apt-get install iperf3")
		return nil
	}
	for range b.seconds {
		for i := range paths[ourName] {
			for _, c := range list {
				if err := b.flood(c.name, paths[c.name][i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// connect makes two pods.
func (b *bench) connect(c *contender) ([]ends, error) {
	var addrs []netip.Addr
	for range 2 {
		a, err := b.next(c, 0)
		if err != nil {
			return nil, err
		}
		out, err := c.node.Add(c.chain, a)
		if err != nil {
			return nil, err
		}
		var res struct {
			IPs []struct{ Address netip.Prefix }
		}
		if err := json.Unmarshal(out, &res); err != nil {
			return nil, err
		}
		addrs = append(addrs, res.IPs[0].Address.Addr())
	}
	pods := b.pods[len(b.pods)-2:]
	return []ends{
		{"pod to pod", pods[0], pods[1], addrs[1].String()},
		{"pod to node", pods[0], c.node.NS, "10.88.0.1"},
		{"pod to outside, masqueraded", pods[0], c.node.LAN, lab.OutsideAddr4},
	}, nil
}

// trip measures requests and answers of one byte on one TCP connection.
func (b *bench) trip(contender string, e ends) error {
	client, server, err := e.dial()
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() {
		_, err := io.Copy(server, server)
		ended <- err
	}()
	buf := make([]byte, 1)
	for range tripsBy {
		begin := time.Now()
		if _, err = client.Write(buf); err == nil {
			_, err = io.ReadFull(client, buf)
		}
		if err != nil {
			break
		}
		b.table.add(e.name+", request and answer", contender, time.Since(begin))
	}
	_ = client.Close()
	err = errors.Join(err, <-ended)
	_ = server.Close()
	return err
}

// dial connects the ends.
func (e ends) dial() (client, server net.Conn, err error) {
	at := net.JoinHostPort(e.addr, echoPort)
	var l net.Listener
	if err := e.to.Do(func() (err error) { l, err = net.Listen("tcp", at); return err }); err != nil {
		return nil, nil, err
	}
	defer func() { _ = l.Close() }()
	err = e.from.Do(func() (err error) { client, err = net.DialTimeout("tcp", at, 5*time.Second); return err })
	if err != nil {
		return nil, nil, err
	}
	server, err = l.Accept()
	return client, server, err
}

// flood measures one second of throughput.
func (b *bench) flood(contender string, e ends) error {
	served := make(chan error, 1)
	go func() {
		_, err := e.to.Run("iperf3", "-s", "-1", "-B", e.addr)
		served <- err
	}()
	var out string
	err := errors.New("the server does not come up")
	for range 20 {
		time.Sleep(50 * time.Millisecond)
		if out, err = e.from.Run("iperf3", "-c", e.addr, "-t", "1", "-J"); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	var report struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		} `json:"end"`
	}
	if err := errors.Join(json.Unmarshal([]byte(out), &report), <-served); err != nil {
		return err
	}
	r := b.table.row(e.name+", throughput", contender)
	r.rate = append(r.rate, report.End.Received.BitsPerSecond)
	return b.interrupted()
}
