package cluster

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// authority signs the certificates of one cluster, for as long as it lives and not longer than a week.
type authority struct {
	dir  string // where what it issues is written
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

// newAuthority makes a key and a certificate signed by itself, dir/ca.crt.
func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificate("podwright-cluster")
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("sign the authority: %w", err)
	}
	a := &authority{dir: dir, key: key, pem: pemBlock("CERTIFICATE", der)}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, err
	}
	return a, os.WriteFile(a.file("ca.crt"), a.pem, 0o644)
}

func (a *authority) file(name string) string { return filepath.Join(a.dir, name) }

func certificate(name string, groups ...string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // rand.Reader never fails
	return &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(7 * 24 * time.Hour),
	}
}

// issue writes NAME.crt and NAME.key for a user of these groups, who may serve at these addresses.
func (a *authority) issue(name, user string, groups []string, ips ...net.IP) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := certificate(user, groups...)
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	template.IPAddresses = ips
	if len(ips) > 0 {
		template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + Domain}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("sign the certificate of %s: %w", name, err)
	}
	if err := os.WriteFile(a.file(name+".crt"), pemBlock("CERTIFICATE", der), 0o644); err != nil {
		return err
	}
	return a.writeKey(name, key)
}

func (a *authority) writeKey(name string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	return os.WriteFile(a.file(name+".key"), pemBlock("PRIVATE KEY", der), 0o600)
}

// serviceAccounts writes the pair of keys by which tokens of service accounts are signed: sa.key and sa.pub.
func (a *authority) serviceAccounts() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := os.WriteFile(a.file("sa.pub"), pemBlock("PUBLIC KEY", public), 0o644); err != nil {
		return err
	}
	return a.writeKey("sa", key)
}

// kubeconfig writes NAME.conf, by which the user whose certificate has that name speaks to the API server.
func (a *authority) kubeconfig(name, server string) error {
	cert, err := os.ReadFile(a.file(name + ".crt"))
	if err != nil {
		return err
	}
	key, err := os.ReadFile(a.file(name + ".key"))
	if err != nil {
		return err
	}
	encode := base64.StdEncoding.EncodeToString
	return os.WriteFile(a.file(name+".conf"), fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: podwright
contexts: [{name: podwright, context: {cluster: podwright, user: podwright}}]
clusters: [{name: podwright, cluster: {server: %q, certificate-authority-data: %s}}]
users: [{name: podwright, user: {client-certificate-data: %s, client-key-data: %s}}]
`, server, encode(a.pem), encode(cert), encode(key)), 0o600)
}

func pemBlock(kind string, der []byte) []byte {
	var b bytes.Buffer
	_ = pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}) // a buffer never fails
	return b.Bytes()
}
