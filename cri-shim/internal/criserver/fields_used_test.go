package criserver

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
)

// unread are the fields of requests that nothing reads, and why. README has them too.
var unread = map[string]string{
	"VersionRequest.version":                "what the caller speaks; there is one version of the API",
	"ImageSpec.image_ref":                   "said by the runtime, never asked",
	"CreateContainerRequest.sandbox_config": "a copy of what RunPodSandbox was given; the record counts",
	"PullImageRequest.sandbox_config":       "a pull does not depend on the pod that needs it",
}

// TestEveryFieldIsRead looks at every field of every request, and of what it is made of: somewhere in this package there
// must be a look at a field of this name, or a reason why not. Windows has fields of its own, which are refused by nobody sending them.
func TestEveryFieldIsRead(t *testing.T) {
	code := source(t)
	seen := map[protoreflect.FullName]bool{}
	found := map[string]bool{}
	for _, service := range []protoreflect.FullName{"runtime.v1.RuntimeService", "runtime.v1.ImageService"} {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(service)
		if err != nil {
			t.Fatal(err)
		}
		methods := d.(protoreflect.ServiceDescriptor).Methods()
		for i := range methods.Len() {
			walk(methods.Get(i).Input(), seen, func(f protoreflect.FieldDescriptor) {
				if strings.Contains(code, ".Get"+goName(string(f.Name()))+"()") {
					return
				}
				name := strings.TrimPrefix(string(f.FullName()), "runtime.v1.")
				found[name] = true
				if unread[name] == "" {
					t.Errorf("%s: nothing reads it, and no reason is given", name)
				}
			})
		}
	}
	for name := range unread {
		if !found[name] {
			t.Errorf("%s: is read, or is no field of a request", name)
		}
	}
	if len(seen) < 60 {
		t.Errorf("only %d messages were found", len(seen))
	}
}

// source is the code of this package, tests left out.
func source(t *testing.T) string {
	t.Helper()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(data)
	}
	return b.String()
}

func walk(m protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool, f func(protoreflect.FieldDescriptor)) {
	if seen[m.FullName()] || strings.Contains(string(m.Name()), "Windows") || m.IsMapEntry() {
		return
	}
	seen[m.FullName()] = true
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		if field.Message() != nil && strings.Contains(string(field.Message().Name()), "Windows") {
			continue
		}
		f(field)
		if field.Message() != nil {
			walk(field.Message(), seen, f)
		}
	}
}

// goName is the name that protoc-gen-go gives a field.
func goName(name string) string {
	var b strings.Builder
	for _, part := range strings.Split(name, "_") {
		if part != "" {
			b.WriteString(strings.ToUpper(part[:1]) + part[1:])
		}
	}
	return b.String()
}
