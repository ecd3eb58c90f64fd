package images

import (
	"net/http"
	"strings"
)

// CorruptLayers is a wrapper for Serve that changes the last byte of every blob of the repository repo whose
// answer is larger than a configuration: what a pull must notice by the digest.
func CorruptLayers(repo string) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodGet && strings.HasPrefix(r.URL.Path, "/v2/"+repo+"/blobs/") {
				w = &corrupter{ResponseWriter: w}
			}
			next.ServeHTTP(w, r)
		})
	}
}

// corrupter flips a bit of every large write.
type corrupter struct{ http.ResponseWriter }

// Write implements io.Writer.
func (c *corrupter) Write(p []byte) (int, error) {
	const configSize = 4096
	if len(p) > configSize {
		q := append([]byte{}, p...)
		q[len(q)-1] ^= 1
		p = q
	}
	return c.ResponseWriter.Write(p)
}
