package doctor

import (
	"slices"
	"testing"

	"github.com/podwright/podwright/cri-shim/internal/paths"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

var fixture = paths.Layout{Root: "/root", State: "/state"}

// seen makes a look of records and objects.
func seen(records []any, objects ...Object) look {
	l := look{layout: fixture, boot: "now", sandboxes: map[string]pod.Sandbox{}, containers: map[string]pod.Container{}, objects: map[string]Object{}}
	for _, r := range records {
		switch r := r.(type) {
		case pod.Sandbox:
			l.sandboxes[string(r.ID)] = r
		case pod.Container:
			l.containers[string(r.ID)] = r
		}
	}
	for _, o := range objects {
		l.objects[o.key()] = o
	}
	return l
}

func names(objects []Object) []string {
	var out []string
	for _, o := range objects {
		out = append(out, string(o.Kind)+" "+o.Name)
	}
	return out
}

func TestLeftovers(t *testing.T) {
	s := pod.Sandbox{ID: "s", State: pod.NotReady}
	c := pod.Container{ID: "c", SandboxID: "s", State: pod.Exited}
	of := func(owner string) Object { return Object{Kind: kindMount, Name: "/m/" + owner, Owner: owner} }
	for _, test := range []struct {
		name  string
		looks []look
		want  []string
	}{
		{"nothing at all", []look{seen(nil)}, nil},
		{"of records", []look{seen([]any{s, c}, of("s"), of("c"))}, nil},
		{"of nobody", []look{seen([]any{s}, of("x"), of(""))}, []string{"mount /m/", "mount /m/x"}},
		{"was just being made", []look{seen(nil, of("s")), seen([]any{s}, of("s"))}, nil},
		{"was just being removed", []look{seen([]any{c}, of("c")), seen(nil, of("c")), seen(nil)}, nil},
		{"made and removed between two looks", []look{seen(nil, of("x")), seen(nil, of("y"))}, nil},
		{"stays", []look{seen(nil, of("x"), of("y")), seen(nil, of("x")), seen(nil, of("x"))}, []string{"mount /m/x"}},
	} {
		if got := names(leftovers(test.looks)); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// whole is a sandbox with a container that runs in it, and all that both have.
func whole() (records []any, objects []Object) {
	s := pod.Sandbox{ID: "s", State: pod.Ready, BootID: "now", Attached: true}
	s.Config.Namespaces.PID = pod.ModePod
	s.Config.Namespaces.User = &pod.UserNamespace{}
	c := pod.Container{ID: "c", SandboxID: "s", State: pod.Running, BootID: "now"}
	for _, pin := range []string{"net", "uts", "ipc", "user", "pid"} {
		objects = append(objects, Object{Kind: kindNamespace, Name: "/state/ns/s/" + pin})
	}
	return []any{s, c}, append(objects,
		Object{Kind: kindFiles, Name: "/state/shared/s"},
		Object{Kind: kindAttachment, Name: "/root/cni/attached/s.conflist"},
		Object{Kind: kindMonitor, Name: "/state/monitor/containers/s.json"},
		Object{Kind: kindRuntime, Name: "/state/runc/s"},
		Object{Kind: kindBundle, Name: "/state/bundles/c"},
		Object{Kind: kindMount, Name: "/state/bundles/c/rootfs"},
		Object{Kind: kindMonitor, Name: "/state/monitor/containers/c.json"},
		Object{Kind: kindRuntime, Name: "/state/runc/c"},
	)
}

// TestMissing takes each object away in turn: it is missing exactly when it is in no look.
func TestMissing(t *testing.T) {
	records, objects := whole()
	if got := missing([]look{seen(records, objects...)}); len(got) != 0 {
		t.Errorf("of the whole: %q", names(got))
	}
	for i, o := range objects {
		less := seen(records, slices.Delete(slices.Clone(objects), i, i+1)...)
		if got, want := names(missing([]look{less, less})), []string{string(o.Kind) + " " + o.Name}; !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := missing([]look{less, seen(records, objects...)}); len(got) != 0 {
			t.Errorf("it was only late: %q", names(got))
		}
	}
}

func TestMissingOfWhomNothingIsExpected(t *testing.T) {
	s := pod.Sandbox{ID: "s", State: pod.Ready, BootID: "now", Attached: true}
	c := pod.Container{ID: "c", SandboxID: "s", State: pod.Running, BootID: "now"}
	with := func(f func()) []any {
		s0, c0 := s, c
		f()
		out := []any{s, c}
		s, c = s0, c0
		return out
	}
	for name, f := range map[string]func(){
		"of another boot": func() { s.BootID, c.BootID = "before", "before" },
		"at work":         func() { s.State, c.State = pod.Creating, pod.Starting },
		"ended":           func() { s.State, c.State = pod.NotReady, pod.Exited },
		"on its way out":  func() { s.State, c.State = pod.Removing, pod.Removing },
	} {
		if got := missing([]look{seen(with(f))}); len(got) != 0 {
			t.Errorf("%s: %q", name, names(got))
		}
	}
	// One that has ended and whose record does not say so yet.
	got := missing([]look{seen([]any{pod.Sandbox{ID: "s"}, c},
		Object{Kind: kindBundle, Name: "/state/bundles/c"}, Object{Kind: kindMount, Name: "/state/bundles/c/rootfs"},
		Object{Kind: kindExit, Name: "/state/monitor/exits/c"})})
	if len(got) != 0 {
		t.Errorf("its end is on record: %q", names(got))
	}
	c.State = pod.Exited
	if got := names(missing([]look{seen([]any{c})})); !slices.Equal(got, []string{"record /root/pods/s/sandbox.json"}) {
		t.Errorf("a container without a sandbox: %q", got)
	}
}

func TestSpace(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		free, size, inodesFree, inodes uint64
		want                           Level
	}{
		{50 * gib, 100 * gib, 0, 0, OK}, {5 * gib, 100 * gib, 50, 100, OK}, {gib / 2, 8 * gib, 50, 100, Warn},
		{gib / 2, 100 * gib, 50, 100, Fail}, {50 * gib, 100 * gib, 5, 100, Warn}, {50 * gib, 100 * gib, 0, 100, Fail},
	} {
		if got, text := space(c.free, c.size, c.inodesFree, c.inodes); got != c.want {
			t.Errorf("%+v: %s (%s)", c, got, text)
		}
	}
}
