package stream

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

const (
	// tokenSize is in bytes: 192 random bits. A token is all that a client needs, and a container with the
	// host's network reaches the server.
	tokenSize = 24
	// tokenLife is how long a URL may be used after it was handed out.
	tokenLife = time.Minute
	// maxPending is how many URLs may be handed out and not yet used.
	maxPending = 1000
)

// tokens are requests that were granted and not yet used.
type tokens struct {
	now func() time.Time

	mu      sync.Mutex
	pending map[key]grant // guarded by mu
}

// key is a hash of kind and token: how long a look-up takes tells nothing of a token.
type key [sha256.Size]byte

type grant struct {
	r     Request
	until time.Time
}

func newTokens(now func() time.Time) *tokens {
	return &tokens{now: now, pending: map[key]grant{}}
}

func keyOf(k Kind, token string) key { return sha256.Sum256([]byte(string(k) + "/" + token)) }

// add returns a new token for r. When too many are pending it is ErrResourceExhausted; no other is given up.
func (t *tokens) add(r Request) (string, error) {
	var b [tokenSize]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	token := base64.RawURLEncoding.EncodeToString(b[:])
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	for k, g := range t.pending {
		if now.After(g.until) {
			delete(t.pending, k)
		}
	}
	if len(t.pending) >= maxPending {
		return "", fmt.Errorf("%d streaming URLs were handed out and not yet used: %w", maxPending, errdefs.ErrResourceExhausted)
	}
	t.pending[keyOf(r.Kind, token)] = grant{r, now.Add(tokenLife)}
	return token, nil
}

// take returns what the token was made for, once.
func (t *tokens) take(k Kind, token string) (Request, bool) {
	at := keyOf(k, token)
	t.mu.Lock()
	defer t.mu.Unlock()
	g, ok := t.pending[at]
	delete(t.pending, at)
	return g.r, ok && !t.now().After(g.until)
}
