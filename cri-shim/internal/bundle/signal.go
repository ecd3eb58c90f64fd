package bundle

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/signal"
)

// StopSignal chooses the signal that ends a container: the request's, else the image's, else SIGTERM. It returns
// a name with SIG where there is one, and the number otherwise.
func StopSignal(asked, image string) (string, error) {
	field, raw := "stop_signal", asked
	if raw == "" {
		field, raw = "the image's StopSignal", image
	}
	if raw == "" {
		return "SIGTERM", nil
	}
	sig, err := signal.ParseSignal(raw)
	if err != nil {
		return "", fmt.Errorf("%s %.60q: is not a signal: %w", field, raw, errdefs.ErrInvalidArgument)
	}
	if _, err := strconv.Atoi(raw); err != nil {
		return "SIG" + strings.TrimPrefix(strings.ToUpper(raw), "SIG"), nil
	}
	for name, n := range signal.SignalMap {
		if n == sig {
			return "SIG" + name, nil
		}
	}
	return raw, nil
}
