package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
)

// exitError is the exit code of a command that failed.
type exitError int32

func (e exitError) Error() string {
	return fmt.Sprintf("command terminated with non-zero exit code: exit status %d", int32(e))
}

// status is what the error stream of v4 and later carries: what clients read of a metav1.Status.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Reason  string `json:"reason"`
	Message string `json:"message"`
}

// statusOf is the last word to a client: JSON since v4, before a text, and nothing for success.
func (p *session) statusOf(err error, asJSON bool) []byte {
	st := status{Status: "Success"}
	var exit exitError
	switch {
	case errors.As(err, &exit):
		st.Status, st.Reason, st.Message = "Failure", remotecommand.NonZeroExitCodeReason, exit.Error()
		st.Details = &details{[]cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(int(exit))}}}
	case err != nil:
		st.Status, st.Reason, st.Code = "Failure", "InternalError", http.StatusInternalServerError
		st.Message = fmt.Sprintf("%s: %v", p.r.Kind, err)
	}
	if !asJSON {
		return []byte(st.Message)
	}
	b, _ := json.Marshal(st) // plain strings and numbers
	return b
}
