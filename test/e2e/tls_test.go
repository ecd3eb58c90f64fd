package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestStreamsOverTLS: crictl streams over TLS by the right authority and by no other, and a URL is good for one use.
func TestStreamsOverTLS(t *testing.T) {
	n := prepareNode(t)
	ca, cert, key := n.authority("ours")
	other, _, _ := n.authority("another")
	n.configure(fmt.Sprintf("[streaming]\ntls_cert = %q\ntls_key = %q\n", cert, key))
	n.must(n.Start())
	n.crictl("pull", image)
	p := n.pod("tls")
	id := n.run(p, "tls", "main", echoing, `"stdin": true`)
	n.run(p, "tls", "server", "nc -ll -p 7 -e echo pong", "")
	n.eventually(func() bool {
		return strings.Contains(n.crictl("exec", "--sync", id, "cat", "/proc/net/tcp", "/proc/net/tcp6"), ":0007 ")
	})

	// crictl wants a certificate of its own, for which cri-shim does not ask.
	trusting := func(ca string) []string { return []string{"--tls-ca", ca, "--tls-cert", cert, "--tls-key", key} }
	for _, transport := range transports {
		args := func(command, ca string, rest ...string) []string {
			return slices.Concat([]string{command, "-r", transport}, trusting(ca), rest)
		}
		got := n.stream("in\n", args("exec", ca, "-i", id, "sh", "-c", "cat; echo err >&2; exit 3")...)
		if got.stdout != "in\n" || !strings.HasPrefix(got.stderr, "err\n") || !strings.Contains(got.stderr, "exit code 3") {
			t.Errorf("exec by %s: %+v", transport, got)
		}
		a := n.client(args("attach", ca, "-i", id)...).follow()
		n.eventually(func() bool {
			a.say("ping\n")
			return a.saw("got ping\n")
		})
		a.kill()
		f := n.client(args("port-forward", ca, p, "0:7")...).follow()
		if got := dial(f.ports(1)[0], ""); got != "pong\n" {
			t.Errorf("port-forward by %s: %q", transport, got)
		}
		f.kill()
		got = n.stream("", args("exec", other, id, "touch", "/refused")...)
		if got.err == nil || !strings.Contains(got.stderr, "certificate signed by unknown authority") {
			t.Errorf("exec by %s, trusting another authority: %+v", transport, got)
		}
	}
	if _, err := n.Crictl("exec", "--sync", id, "ls", "/refused"); err == nil {
		t.Error("a client that did not trust the server ran its command")
	}
	n.oneUse(id, ca)
}

// oneUse takes URLs as any client of the CRI gets them.
func (n *tester) oneUse(id, ca string) {
	n.t.Helper()
	cri := runtime.NewRuntimeServiceClient(n.dial())
	pool := x509.NewCertPool()
	data, err := os.ReadFile(ca)
	n.must(err)
	pool.AppendCertsFromPEM(data)
	ask := func(u string, most uint16) (int, error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: most}}
		defer transport.CloseIdleConnections()
		client := &http.Client{Transport: transport, Timeout: 20 * time.Second}
		r, err := client.Get(u)
		if err != nil {
			return 0, err
		}
		return r.StatusCode, r.Body.Close()
	}
	r, err := cri.Exec(n.t.Context(), &runtime.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
	n.must(err)
	u, err := url.Parse(r.GetUrl())
	n.must(err)
	if u.Scheme != "https" {
		n.t.Fatalf("the URL is %s", u)
	}
	plain := *u
	plain.Scheme = "http"
	if code, err := ask(plain.String(), 0); err != nil || code != http.StatusBadRequest {
		n.t.Errorf("without TLS: %d, %v", code, err)
	}
	if _, err := ask(u.String(), tls.VersionTLS11); err == nil || !strings.Contains(err.Error(), "protocol version") {
		n.t.Errorf("TLS 1.1: %v", err)
	}
	guess := *u
	guess.Path = u.Path[:len(u.Path)-1]
	if code, err := ask(guess.String(), 0); err != nil || code != http.StatusNotFound {
		n.t.Errorf("a token that lacks its end: %d, %v", code, err)
	}
	// None of these used the token up. It takes an upgrade to run a command, but any request uses its token.
	if code, err := ask(u.String(), 0); err != nil || code == http.StatusNotFound {
		n.t.Errorf("the first use: %d, %v", code, err)
	}
	if code, err := ask(u.String(), 0); err != nil || code != http.StatusNotFound {
		n.t.Errorf("the second use: %d, %v", code, err)
	}
}

// authority makes one, with a certificate for this host, and returns their files.
func (n *tester) authority(name string) (ca, cert, key string) {
	n.t.Helper()
	sign := func(what string, template, parent *x509.Certificate, by *ecdsa.PrivateKey) (string, *ecdsa.PrivateKey) {
		own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		n.must(err)
		if by == nil {
			by = own
		}
		template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, own.Public(), by)
		n.must(err)
		file, err := n.File(name+what, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})))
		n.must(err)
		return file, own
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	ca, by := sign("-ca.pem", root, root, nil)
	cert, own := sign("-cert.pem", &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "cri-shim"}, DNSNames: []string{"localhost"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}, root, by)
	der, err := x509.MarshalECPrivateKey(own)
	n.must(err)
	key, err = n.File(name+"-key.pem", string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})))
	n.must(err)
	return ca, cert, key
}
