package netconf

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/plugins/bridge-ipam/internal/jsontext"
)

// TestRead: a key that raw and rawTeardown have is read, or left to encoding/json, and never passed over.
func TestRead(t *testing.T) {
	for _, key := range keysOf(reflect.TypeFor[raw]()) {
		sameAsUnmarshal(t, key, (*raw).members)
	}
	for _, key := range keysOf(reflect.TypeFor[rawTeardown]()) {
		sameAsUnmarshal(t, key, (*rawTeardown).members)
	}
}

// keysOf are the paths to all members of a struct that is read from JSON.
func keysOf(of reflect.Type) [][]string {
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if of.Kind() == reflect.Slice && of != reflect.TypeFor[json.RawMessage]() {
		var out [][]string
		for _, rest := range keysOf(of.Elem()) {
			out = append(out, append([]string{"[]"}, rest...))
		}
		return out
	}
	if of.Kind() != reflect.Struct {
		return [][]string{nil}
	}
	var out [][]string
	for _, f := range reflect.VisibleFields(of) {
		if f.Anonymous {
			continue
		}
		key, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		for _, rest := range keysOf(f.Type) {
			out = append(out, append([]string{key}, rest...))
		}
	}
	return out
}

// document has one value, at the end of a path.
func document(path []string, value string) string {
	for _, key := range slices.Backward(path) {
		if key == "[]" {
			value = "[" + value + "]"
		} else {
			value = fmt.Sprintf("{%q:%s}", key, value)
		}
	}
	return value
}

func sameAsUnmarshal[T any](t *testing.T, path []string, members func(*T) []jsontext.Member) {
	t.Helper()
	fitting := 0
	for _, value := range []string{`"x"`, "true", "7"} {
		text := []byte(document(path, value))
		var got, want T
		if json.Unmarshal(text, &want) == nil {
			fitting++
			if reflect.ValueOf(want).IsZero() {
				t.Errorf("%s: has no place", text)
			}
		}
		if read(text, &got, members) && !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", text, got, want)
		}
	}
	if fitting == 0 {
		t.Errorf("%s: no value fits", path)
	}
}

// TestReadRoute: a route is what encoding/json reads, right or wrong.
func TestReadRoute(t *testing.T) {
	for _, text := range []string{
		`{"dst":"0.0.0.0/0"}`, `{"dst":"fd00::1/8","gw":"fd00::1"}`, `{"dst":"10.0.0.0/8","gw":"","mtu":1400}`,
		`{"dst":"10.0.0.9/8","gw":"10.0.0.1","mtu":1,"advmss":2,"priority":3,"table":4,"scope":0,"other":[1]}`,
		`{}`, `{"gw":"10.0.0.1"}`, `{"dst":"10.0.0.0"}`, `{"dst":"10.0.0.0/8","gw":"x"}`, `{"dst":7}`, `{"dst":null}`, `7`, `null`,
		`{"dst":"10.0.0.0/8","table":null}`, `{"dst":"10.0.0.0/8","mtu":1.5}`, `{"DST":"10.0.0.0/8"}`,
	} {
		got, err := readRoute([]byte(text))
		var want types.Route
		if werr := json.Unmarshal([]byte(text), &want); (err == nil) != (werr == nil) || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, %v, want %+v, %v", text, got, err, want, werr)
		}
	}
}

// TestReadSamples: the samples that are shipped are read without reflection, as encoding/json reads them.
func TestReadSamples(t *testing.T) {
	files, err := filepath.Glob("../../../../conf/cni/*.conflist")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Plugins []json.RawMessage }
		if err := json.Unmarshal(data, &list); err != nil {
			t.Fatal(err)
		}
		for _, plugin := range list.Plugins {
			var got, want raw
			if ok := read(plugin, &got, (*raw).members); !ok {
				t.Logf("%s: %s is left to encoding/json", file, plugin)
			} else if err := json.Unmarshal(plugin, &want); err != nil || !reflect.DeepEqual(got, want) {
				t.Errorf("%s: got %+v, want %+v, %v", file, got, want, err)
			}
		}
	}
}
