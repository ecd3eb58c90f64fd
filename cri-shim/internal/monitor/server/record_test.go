package server

import (
	"os"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/crilog"
	"github.com/podwright/podwright/cri-shim/internal/monitor/api"
)

// TestWhereLogsLie: in the directory of a pod's logs and below no link is followed; a record of a monitor that was not
// told which one that is goes on as it was.
func TestWhereLogsLie(t *testing.T) {
	files, err := newArchive(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for fields, want := range map[string]crilog.Place{
		`"logPath": "/var/log/pods/p/main/0.log"`:                              {Dir: "/var/log/pods/p/main", Name: "0.log"},
		`"logPath": "/var/log/pods/p/main/0.log", "logDir": "/var/log/pods/p"`: {Dir: "/var/log/pods", Name: "p/main/0.log"},
		`"logPath": "/p/0.log", "logDir": "/p"`:                                {Dir: "/", Name: "p/0.log"},
		`"logPath": "/p/0.log", "logDir": "/"`:                                 {Dir: "/", Name: "p/0.log"},
		`"tty": true`:                                                          {},
	} {
		if err := os.WriteFile(files.containerFile("c"), []byte(`{"id": "c", "bundle": "/b", `+fields+`}`), 0o600); err != nil {
			t.Fatal(err)
		}
		records, bad := files.load()
		if len(records) != 1 || len(bad) != 0 || records[0].log() != want {
			t.Errorf("%s: %+v, %v, want %+v", fields, records, bad, want)
		}
	}
}

// TestLogsThatAreRefused: a log lies in the directory that it is said to lie in.
func TestLogsThatAreRefused(t *testing.T) {
	ask := func(dir, path string) error {
		return validStart(&api.StartRequest{Id: "c", Bundle: "/b", LogDirectory: dir, LogPath: path})
	}
	for _, good := range [][2]string{{"", ""}, {"", "/l/x.log"}, {"/l", "/l/x.log"}, {"/l", "/l/a/x.log"}, {"/", "/x.log"}} {
		if err := ask(good[0], good[1]); err != nil {
			t.Errorf("%q: %v", good, err)
		}
	}
	for _, bad := range [][2]string{
		{"", "x.log"}, {"", "/l/../x.log"}, {"", "/l//x.log"}, {"/l", ""}, {"/l", "/l"}, {"/l", "/l2/x.log"}, {"/l", "/l/../x.log"}, {"/l/", "/l/x.log"}, {"/l/../m", "/l/../m/x.log"}, {"l", "/l/x.log"},
	} {
		if err := ask(bad[0], bad[1]); err == nil {
			t.Errorf("%q is accepted", bad)
		}
	}
}
