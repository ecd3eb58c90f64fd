package image

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	"github.com/containerd/errdefs"
	"github.com/distribution/reference"
)

// Auth is the credentials of one pull. It must not be logged.
type Auth struct {
	Username, Password string
	Basic              string // base64 of username:password
	Server             string // empty, or the registry that may see the credentials
	IdentityToken      string // OAuth2 refresh token
	RegistryToken      string // bearer token
}

// decode takes Basic apart.
func (a Auth) decode() (Auth, error) {
	if a.Basic == "" || a.Username != "" {
		return a, nil
	}
	raw, err := base64.StdEncoding.DecodeString(a.Basic)
	user, password, ok := strings.Cut(string(raw), ":")
	if err != nil || !ok {
		return a, fmt.Errorf("auth: must be base64 of username:password: %w", errdefs.ErrInvalidArgument)
	}
	a.Username, a.Password, a.Basic = user, strings.Trim(password, "\x00"), ""
	return a, nil
}

// key tells pulls with other credentials apart, without keeping them.
func (a Auth) key() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%q", []string{a.Username, a.Password, a.Server, a.IdentityToken, a.RegistryToken}))
	return hex.EncodeToString(sum[:])
}

// server is the host in Server, which people write with a scheme and a path.
func (a Auth) server() string {
	host := a.Server
	if _, rest, ok := strings.Cut(host, "://"); ok {
		host = rest
	}
	host, _, _ = strings.Cut(host, "/")
	return canonicalHost(host)
}

// canonicalHost knows the names of the one registry that has several.
func canonicalHost(host string) string {
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		return "docker.io"
	}
	return host
}

// registryHosts are the hosts to ask for an image, as hosts.toml has them. Credentials go to the registry that
// the image names, and to no mirror and no other host.
func (s *Store) registryHosts(ctx context.Context, name string, auth Auth) docker.RegistryHosts {
	registry := ""
	if named, err := reference.ParseNormalizedNamed(name); err == nil {
		registry = canonicalHost(reference.Domain(named))
	}
	may := func(host string) bool {
		return canonicalHost(host) == registry && (auth.Server == "" || auth.server() == registry)
	}
	opts := config.HostOptions{Credentials: func(host string) (string, string, error) {
		switch {
		case !may(host):
			return "", "", nil
		case auth.IdentityToken != "":
			return "", auth.IdentityToken, nil
		}
		return auth.Username, auth.Password, nil
	}}
	if dir := s.cfg.RegistryConfigDir; dir != "" {
		if _, err := os.Stat(dir); err == nil {
			opts.HostDir = config.HostDirFromRoot(dir)
		}
	}
	hosts := config.ConfigureHosts(ctx, opts)
	if auth.RegistryToken == "" {
		return hosts
	}
	return func(host string) ([]docker.RegistryHost, error) {
		all, err := hosts(host)
		for i := range all {
			if may(all[i].Host) {
				all[i].Authorizer = bearer(auth.RegistryToken)
			}
		}
		return all, err
	}
}

// bearer shows a token that the caller brought.
type bearer string

// Authorize implements docker.Authorizer.
func (b bearer) Authorize(_ context.Context, r *http.Request) error {
	r.Header.Set("Authorization", "Bearer "+string(b))
	return nil
}

// AddResponses implements docker.Authorizer: there is no second token to try.
func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return errors.Join(docker.ErrInvalidAuthorization, errdefs.ErrPermissionDenied)
}
