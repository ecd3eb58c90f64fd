package criserver

import (
	"strings"
	"sync"
	"syscall"

	"github.com/moby/sys/signal"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const signalPrefix = "SIGNAL_"

// signalIn returns a name like "SIGUSR1" or "SIGRTMIN+3"; empty for the default.
func signalIn(f *faults, field string, s runtime.Signal) string {
	if s == runtime.Signal_SIGNAL_RUNTIME_DEFAULT {
		return ""
	}
	if _, known := runtime.Signal_name[int32(s)]; !known {
		f.bad(field, int32(s), "a signal of the CRI")
		return ""
	}
	return signalName(s)
}

func signalName(s runtime.Signal) string {
	name := strings.TrimPrefix(s.String(), signalPrefix)
	name = strings.Replace(name, "RTMINPLUS", "RTMIN+", 1)
	return strings.Replace(name, "RTMAXMINUS", "RTMAX-", 1)
}

// signalOut takes any form an image may use: a name with or without SIG, or a number.
func signalOut(name string) runtime.Signal {
	t := signals()
	if s, ok := t.byName[strings.ToUpper(name)]; ok {
		return s
	}
	n, err := signal.ParseSignal(name)
	if err != nil {
		return runtime.Signal_SIGNAL_RUNTIME_DEFAULT
	}
	return t.byNumber[n]
}

type signalTable struct {
	byName   map[string]runtime.Signal
	byNumber map[syscall.Signal]runtime.Signal
}

var signals = sync.OnceValue(func() signalTable {
	t := signalTable{make(map[string]runtime.Signal), make(map[syscall.Signal]runtime.Signal)}
	for i := range runtime.Signal_name {
		s := runtime.Signal(i)
		if s == runtime.Signal_SIGNAL_RUNTIME_DEFAULT {
			continue
		}
		t.byName[signalName(s)] = s
		n, err := signal.ParseSignal(signalName(s))
		if err != nil {
			continue
		}
		// Of two names for one number the first in the CRI's list is the usual one.
		if old, ok := t.byNumber[n]; !ok || s < old {
			t.byNumber[n] = s
		}
	}
	return t
})
