package netconf

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Lint names every fault of one plugin's configuration, for people, and the keys that nothing reads. It is
// slower than Parse, which ends at a key of the wrong type.
func Lint(data []byte) (faults, unknown []string) {
	generic := map[string]any{}
	if err := json.Unmarshal(data, &generic); err != nil {
		return []string{err.Error()}, nil
	}
	if generic == nil { // null
		generic = map[string]any{}
	}
	unknown = unknownKeys(generic)
	for range maxFaults {
		_, err := Parse(data, "")
		var many *faulty
		switch {
		case err == nil:
			return faults, unknown
		case errors.As(err, &many):
			return append(faults, many.all...), unknown
		}
		faults = append(faults, err.Error())
		// The key is put out of the way, to see what there is beside it.
		key, _, _ := strings.Cut(err.Error(), " ")
		if !forget(generic, strings.Split(strings.TrimSuffix(key, ":"), ".")) {
			break
		}
		if data, err = json.Marshal(generic); err != nil {
			break
		}
	}
	return faults, unknown
}

// forget drops a key in all its spellings, or the list that it is in; the name is replaced, because there must
// be one.
func forget(m map[string]any, path []string) bool {
	if path[0] == "name" && m["name"] != "x" {
		m["name"] = "x"
		return true
	}
	found := false
	for key, value := range m {
		if !strings.EqualFold(key, path[0]) {
			continue
		}
		if inner, is := value.(map[string]any); is && len(path) > 1 {
			found = forget(inner, path[1:]) || found
			continue
		}
		delete(m, key)
		found = true
	}
	return found
}

// ofRuntime are keys that the runtime reads or fills in, with whatever is in them.
var ofRuntime = []string{"capabilities", "args", "runtimeConfig", "prevResult", "dns"}

// unknownKeys lists the keys that this plugin does not read in its role.
func unknownKeys(generic map[string]any) []string {
	section := func(key string) (string, map[string]any) {
		m, _ := generic[key].(map[string]any)
		s, _ := m["type"].(string)
		return s, m
	}
	ipamType, ipam := section("ipam")
	pluginType, _ := generic["type"].(string)
	r := rawIdentity{Type: pluginType}.roles(ipamType, "")
	var out []string
	if r.Delegate == "" {
		out = unknownIn("ipam.", reflect.TypeFor[rawIPAM](), ipam)
	}
	if !r.AddressesOnly {
		rest := map[string]any{}
		for key, value := range generic {
			if key != "ipam" && !slices.Contains(ofRuntime, key) && !strings.HasPrefix(key, "cni.dev/") {
				rest[key] = value
			}
		}
		out = append(out, unknownIn("", reflect.TypeFor[raw](), rest)...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// unknownIn compares keys with the fields of a struct, as encoding/json does: without regard to case.
func unknownIn(at string, t reflect.Type, value any) (out []string) {
	if t.Kind() == reflect.Slice && t != reflect.TypeFor[json.RawMessage]() {
		list, _ := value.([]any)
		for _, v := range list {
			out = append(out, unknownIn(at, t.Elem(), v)...)
		}
		return out
	}
	m, is := value.(map[string]any)
	if !is || t.Kind() != reflect.Struct {
		return nil
	}
	for key, v := range m {
		i := slices.IndexFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
			tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			return tag != "" && strings.EqualFold(tag, key)
		})
		if i < 0 {
			out = append(out, fmt.Sprintf("%s%s", at, key))
			continue
		}
		out = append(out, unknownIn(at+key+".", reflect.VisibleFields(t)[i].Type, v)...)
	}
	return out
}
