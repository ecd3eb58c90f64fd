package podnet

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containernetworking/cni/libcni"
)

func TestFirstByNameCounts(t *testing.T) {
	w := newWorld(t)
	w.configure(t, "05-first.conflist", "first")
	w.write(t, "conf/01-no.txt", "{")
	if err := os.Mkdir(filepath.Join(w.ConfDir, "00-dir.conf"), 0o700); err != nil {
		t.Fatal(err)
	}
	list, err := w.load()
	if err != nil || list.Name != "first" {
		t.Fatalf("got %v, %v", list, err)
	}
	// A broken first one is said, not passed over.
	w.write(t, "conf/02-broken.conf", `{"name":`)
	if _, err := w.load(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "02-broken.conf") {
		t.Errorf("got %v", err)
	}
}

func TestSinglePluginFiles(t *testing.T) {
	for _, ext := range []string{".conf", ".json"} {
		w := newWorld(t)
		w.remove(t, "conf/10-net.conflist")
		w.write(t, "conf/10-net"+ext, fmt.Sprintf(`{"cniVersion":"1.0.0","name":"one","type":"testnet","dir":%q,"answer":%s}`, w.dir, strings.ReplaceAll(answer, "1.1.0", "1.0.0")))
		if _, err := w.Attach(t.Context(), w.attachment("aa")); err != nil {
			t.Errorf("%s: %v", ext, err)
		}
		if got := w.commands(t); got != "ADD aa one" {
			t.Errorf("got %s", got)
		}
	}
}

func TestPluginsFromFilesOfTheirOwnAreKept(t *testing.T) {
	w := newWorld(t)
	if err := os.Mkdir(filepath.Join(w.ConfDir, "net1"), 0o700); err != nil {
		t.Fatal(err)
	}
	w.write(t, "conf/net1/10-second.conf", fmt.Sprintf(`{"type":"second","dir":%q,"answer":%s}`, w.dir, answer))
	if _, err := w.Attach(t.Context(), w.attachment("aa")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(w.ConfDir); err != nil {
		t.Fatal(err)
	}
	if err := w.Detach(t.Context(), w.attachment("aa")); err != nil {
		t.Fatal(err)
	}
	var order []any
	for _, c := range w.calls(t) {
		order = append(order, c.Command, c.Conf["type"])
	}
	if got := fmt.Sprint(order...); got != "ADD testnet ADD second DEL second DEL testnet" && got != fmt.Sprint("ADD", "testnet", "ADD", "second", "DEL", "second", "DEL", "testnet") {
		t.Errorf("got %s", got)
	}
}

func TestQuantity(t *testing.T) {
	for s, want := range map[string]float64{
		"1000": 1000, "10k": 1e4, "10M": 1e7, "1.5G": 1.5e9, "2Ki": 2048, "1Mi": 1 << 20, "3e6": 3e6, "3E6": 3e6, "1P": 1e15, ".5M": 5e5, "5000000m": 5000, "+1k": 1000,
		"1E": 1e18,
	} {
		if got, ok := quantity(s); !ok || math.Abs(got-want) > 1e-6*want {
			t.Errorf("%q: %v, %v", s, got, ok)
		}
	}
	for _, s := range []string{"", "M", "10 M", "-1M", "10mb", "1e", "0x10", "1.2.3", "inf", "NaN", "10K"} {
		if got, ok := quantity(s); ok {
			t.Errorf("%q is %v", s, got)
		}
	}
	for s, ok := range map[string]bool{"1k": true, "999": false, "1P": true, "2P": false} {
		if _, err := limitsOf(map[string]string{"kubernetes.io/ingress-bandwidth": s}); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestSetPodCIDR(t *testing.T) {
	dir := t.TempDir()
	template := filepath.Join(dir, "template")
	w := newWorld(t, func(o *Options) { o.Template = template })
	text := `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"testnet","first":"{{.PodCIDR}}","ranges":[{{range $i, $r := .PodCIDRRanges}}{{if $i}},{{end}}[{"subnet":"{{$r}}"}]{{end}}],` +
		`"routes":[{{range $i, $r := .Routes}}{{if $i}},{{end}}{"dst":"{{$r}}"}{{end}}]}]}`
	if err := os.WriteFile(template, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := w.SetPodCIDR("10.1.0.7/24, fd00::/64"); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(filepath.Join(w.ConfDir, confName))
	want := `{"cniVersion":"1.1.0","name":"pods","plugins":[{"type":"testnet","first":"10.1.0.0/24","ranges":[[{"subnet":"10.1.0.0/24"}],[{"subnet":"fd00::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}]}`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v", b, err)
	}
	if _, err := libcni.NetworkConfFromBytes(b); err != nil {
		t.Error(err)
	}
	for _, bad := range []string{"10.1.0.0", "10.1.0.0/33", "x", "10.1.0.0/24,", "10.1.0.0/24\",\"x"} {
		if err := w.SetPodCIDR(bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	if err := os.WriteFile(template, []byte(`{"name":{{.Nope}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := w.SetPodCIDR("10.2.0.0/24"); err == nil {
		t.Error("a broken template is accepted")
	}
	if now, _ := os.ReadFile(filepath.Join(w.ConfDir, confName)); string(now) != want {
		t.Error("a broken template replaced the configuration")
	}
	if err := newWorld(t).SetPodCIDR("10.2.0.0/24"); err != nil {
		t.Errorf("without a template there is nothing to do: %v", err)
	}
}
