package criserver

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/moby/sys/capability"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

const securityField = "config.linux.security_context"

// sandboxSecurityIn accepts a group without a user, which a kubelet sends when the user is the image's.
func sandboxSecurityIn(f *faults, sc *runtime.LinuxSandboxSecurityContext) pod.Security {
	return pod.Security{
		RunAsUser:          userIn(f, securityField+".run_as_user", sc.GetRunAsUser()),
		RunAsGroup:         userIn(f, securityField+".run_as_group", sc.GetRunAsGroup()),
		SupplementalGroups: groupsIn(f, sc.GetSupplementalGroups()),
		StrictGroups:       strictIn(f, sc.GetSupplementalGroupsPolicy()),
		ReadonlyRootfs:     sc.GetReadonlyRootfs(),
		Seccomp:            seccompIn(f, sc.GetSeccomp(), sc.GetSeccompProfilePath()), //nolint:staticcheck // deprecated, still in the API
		AppArmor:           apparmorIn(f, sc.GetApparmor(), ""),
		SELinux:            selinuxIn(f, sc.GetSelinuxOptions()),
	}
}

func containerSecurityIn(f *faults, sc *runtime.LinuxContainerSecurityContext) pod.Security {
	name := sc.GetRunAsUsername()
	switch {
	case sc.GetRunAsUser() != nil && name != "":
		f.bad(securityField+".run_as_username", name, "only one of run_as_user and run_as_username")
	case sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil && name == "":
		f.bad(securityField+".run_as_group", sc.GetRunAsGroup().GetValue(), "a user with the group: run_as_user or run_as_username")
	case hasControl(name) || strings.Contains(name, ":"):
		f.bad(securityField+".run_as_username", name, "the name of a user")
	}
	caps := sc.GetCapabilities()
	const capField = securityField + ".capabilities."
	for i, p := range sc.GetMaskedPaths() {
		f.absolute(fmt.Sprintf("%s.masked_paths[%d]", securityField, i), p)
	}
	for i, p := range sc.GetReadonlyPaths() {
		f.absolute(fmt.Sprintf("%s.readonly_paths[%d]", securityField, i), p)
	}
	return pod.Security{
		RunAsUser:          userIn(f, securityField+".run_as_user", sc.GetRunAsUser()),
		RunAsGroup:         userIn(f, securityField+".run_as_group", sc.GetRunAsGroup()),
		RunAsUsername:      name,
		SupplementalGroups: groupsIn(f, sc.GetSupplementalGroups()),
		StrictGroups:       strictIn(f, sc.GetSupplementalGroupsPolicy()),
		AddCapabilities:    capsIn(f, capField+"add_capabilities", caps.GetAddCapabilities()),
		DropCapabilities:   capsIn(f, capField+"drop_capabilities", caps.GetDropCapabilities()),
		AmbientCaps:        capsIn(f, capField+"add_ambient_capabilities", caps.GetAddAmbientCapabilities()),
		NoNewPrivileges:    sc.GetNoNewPrivs(),
		ReadonlyRootfs:     sc.GetReadonlyRootfs(),
		MaskedPaths:        sc.GetMaskedPaths(),
		ReadonlyPaths:      sc.GetReadonlyPaths(),
		Seccomp:            seccompIn(f, sc.GetSeccomp(), sc.GetSeccompProfilePath()), //nolint:staticcheck // deprecated, still in the API
		AppArmor:           apparmorIn(f, sc.GetApparmor(), sc.GetApparmorProfile()),  //nolint:staticcheck // deprecated, still in the API
		SELinux:            selinuxIn(f, sc.GetSelinuxOptions()),
	}
}

func userIn(f *faults, field string, v *runtime.Int64Value) *int64 {
	if v == nil {
		return nil
	}
	f.within(field, v.GetValue(), 0, maxID)
	id := v.GetValue()
	return &id
}

func groupsIn(f *faults, groups []int64) []int64 {
	for i, g := range groups {
		f.within(fmt.Sprintf("%s.supplemental_groups[%d]", securityField, i), g, 0, maxID)
	}
	return groups
}

func strictIn(f *faults, p runtime.SupplementalGroupsPolicy) bool {
	if p != runtime.SupplementalGroupsPolicy_Merge && p != runtime.SupplementalGroupsPolicy_Strict {
		f.bad(securityField+".supplemental_groups_policy", int32(p), "Merge or Strict")
	}
	return p == runtime.SupplementalGroupsPolicy_Strict
}

var knownCaps = sync.OnceValue(func() map[string]bool {
	known := map[string]bool{"ALL": true}
	for _, c := range capability.ListKnown() {
		known[strings.ToUpper(c.String())] = true
	}
	return known
})

// capsIn returns names in capitals without CAP_, or ALL.
func capsIn(f *faults, field string, names []string) []string {
	out := make([]string, 0, len(names))
	for i, n := range names {
		short := strings.TrimPrefix(strings.ToUpper(n), "CAP_")
		if !knownCaps()[short] {
			f.bad(fmt.Sprintf("%s[%d]", field, i), n, "the name of a capability, like NET_ADMIN, or ALL")
		}
		out = append(out, short)
	}
	return out
}

// seccompIn reads the older text only when the field is not there.
func seccompIn(f *faults, p *runtime.SecurityProfile, older string) pod.Profile {
	out, field := profileIn(f, "seccomp", p, older)
	if out.Kind == pod.ProfileLocalhost {
		f.absolute(field, out.Ref)
	}
	return out
}

func apparmorIn(f *faults, p *runtime.SecurityProfile, older string) pod.Profile {
	out, field := profileIn(f, "apparmor", p, older)
	out.Ref = strings.TrimPrefix(out.Ref, "localhost/")
	if out.Kind == pod.ProfileLocalhost && (out.Ref == "" || hasControl(out.Ref)) {
		f.bad(field, out.Ref, "the name of a loaded profile")
	}
	return out
}

// profileIn returns a profile and the field that holds its reference.
func profileIn(f *faults, name string, p *runtime.SecurityProfile, older string) (pod.Profile, string) {
	field := securityField + "." + name
	if p == nil {
		return olderProfileIn(f, name, older), field + "_profile"
	}
	switch p.GetProfileType() {
	case runtime.SecurityProfile_RuntimeDefault:
		return pod.Profile{Kind: pod.ProfileDefault}, field
	case runtime.SecurityProfile_Unconfined:
		return pod.Profile{Kind: pod.ProfileUnconfined}, field
	case runtime.SecurityProfile_Localhost:
		return pod.Profile{Kind: pod.ProfileLocalhost, Ref: p.GetLocalhostRef()}, field + ".localhost_ref"
	}
	f.bad(field+".profile_type", int32(p.GetProfileType()), "RuntimeDefault, Unconfined or Localhost")
	return pod.Profile{}, field
}

func olderProfileIn(f *faults, name, v string) pod.Profile {
	ref, local := strings.CutPrefix(v, "localhost/")
	switch {
	case v == "":
		return pod.Profile{}
	case v == "runtime/default" || v == "docker/default":
		return pod.Profile{Kind: pod.ProfileDefault}
	case v == "unconfined":
		return pod.Profile{Kind: pod.ProfileUnconfined}
	case local:
		return pod.Profile{Kind: pod.ProfileLocalhost, Ref: ref}
	}
	f.bad(securityField+"."+name+"_profile", v, `"runtime/default", "unconfined" or "localhost/…"`)
	return pod.Profile{}
}

var (
	selinuxWord  = regexp.MustCompile(`^[A-Za-z0-9_.-]+$`)
	selinuxLevel = regexp.MustCompile(`^s[0-9]+(-s[0-9]+)?(:c[0-9]+([.,]c[0-9]+)*)?(-s[0-9]+(:c[0-9]+([.,]c[0-9]+)*)?)?$`)
)

func selinuxIn(f *faults, o *runtime.SELinuxOption) pod.SELinuxLabel {
	const field = securityField + ".selinux_options"
	f.matches(field+".user", o.GetUser(), selinuxWord, "an SELinux user")
	f.matches(field+".role", o.GetRole(), selinuxWord, "an SELinux role")
	f.matches(field+".type", o.GetType(), selinuxWord, "an SELinux type")
	f.matches(field+".level", o.GetLevel(), selinuxLevel, `an SELinux level like "s0:c1,c2"`)
	return pod.SELinuxLabel{User: o.GetUser(), Role: o.GetRole(), Type: o.GetType(), Level: o.GetLevel()}
}
