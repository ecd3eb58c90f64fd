package criserver

import (
	"go/ast"
	"go/types"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/tools/go/packages"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// unread are the fields of requests that nothing reads, and why. README has them too.
var unread = map[string]string{
	"VersionRequest.version":                      "what the caller speaks; there is one version of the API",
	"ImageSpec.image_ref":                         "said by the runtime, never asked",
	"ImageSpec.annotations":                       "none is defined; an index is resolved for this host's platform",
	"UpdateContainerResourcesRequest.annotations": "none is defined",
	"CreateContainerRequest.sandbox_config":       "a copy of what RunPodSandbox was given; the record counts",
	"PullImageRequest.sandbox_config":             "a pull does not depend on the pod that needs it",
}

// TestEveryFieldIsRead looks at every field of every request, and of what it is made of: somewhere in this package that
// field of that message is read, or there is a reason why not. Windows has fields of its own, which nobody sends here.
func TestEveryFieldIsRead(t *testing.T) {
	used := reads(t)
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
				if used[string(f.Parent().Name())+"."+goName(string(f.Name()))] {
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

// reads returns which fields of which messages of the API the code of this package reads, as "Message.Field", by their
// getters or directly. The types tell apart what has the same name.
func reads(t *testing.T) map[string]bool {
	t.Helper()
	const mode = packages.NeedName | packages.NeedImports | packages.NeedTypes | packages.NeedSyntax | packages.NeedTypesInfo | packages.NeedExportFile
	list, err := packages.Load(&packages.Config{Mode: mode, Context: t.Context()}, ".")
	if err != nil {
		t.Fatal(err)
	}
	used := map[string]bool{}
	for _, p := range list {
		for _, err := range p.Errors {
			t.Fatal(err)
		}
		written := assigned(p.Syntax)
		for at, sel := range p.TypesInfo.Selections {
			if message := messageOf(sel.Recv()); message != "" && !written[at] {
				used[message+"."+strings.TrimPrefix(at.Sel.Name, "Get")] = true
			}
		}
	}
	return used
}

// messageOf is the name of a type of the API; "" for any other.
func messageOf(t types.Type) string {
	if p, ok := t.(*types.Pointer); ok {
		t = p.Elem()
	}
	named, ok := t.(*types.Named)
	if !ok || named.Obj().Pkg() == nil || named.Obj().Pkg().Path() != reflect.TypeFor[runtime.Mount]().PkgPath() {
		return ""
	}
	return named.Obj().Name()
}

// assigned are the selections that stand on the left of an assignment.
func assigned(files []*ast.File) map[*ast.SelectorExpr]bool {
	out := map[*ast.SelectorExpr]bool{}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			if a, ok := n.(*ast.AssignStmt); ok {
				for _, l := range a.Lhs {
					if s, ok := l.(*ast.SelectorExpr); ok {
						out[s] = true
					}
				}
			}
			return true
		})
	}
	return out
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
