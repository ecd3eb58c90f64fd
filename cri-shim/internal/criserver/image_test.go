package criserver

import (
	"encoding/base64"
	"encoding/json"
	"testing"

	"google.golang.org/grpc/codes"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPullImage(t *testing.T) {
	w := started(t)
	basic := func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }
	for name, c := range map[string]struct {
		auth *runtime.AuthConfig
		want Credentials
	}{
		"none":     {nil, Credentials{}},
		"password": {&runtime.AuthConfig{Username: "u", Password: "p", ServerAddress: "r.example"}, Credentials{Username: "u", Password: "p", Server: "r.example"}},
		"auth":     {&runtime.AuthConfig{Auth: basic("u:p:q\x00\x00")}, Credentials{Username: "u", Password: "p:q"}},
		"both":     {&runtime.AuthConfig{Username: "u", Password: "p", Auth: basic("v:q")}, Credentials{Username: "u", Password: "p"}},
		"tokens":   {&runtime.AuthConfig{IdentityToken: "i", RegistryToken: "r"}, Credentials{IdentityToken: "i", RegistryToken: "r"}},
	} {
		resp, err := w.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "busybox"}, Auth: c.auth})
		if err != nil || resp.GetImageRef() != imageID || w.store.pulled != "busybox" || w.store.auth != c.want {
			t.Errorf("%s: %v, %v, %+v", name, resp, err, w.store.auth)
		}
	}
	_, err := w.images.PullImage(t.Context(), &runtime.PullImageRequest{})
	wantCode(t, err, codes.InvalidArgument, "image.image is missing")
	_, err = w.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "x", RuntimeHandler: "absent"}})
	wantCode(t, err, codes.InvalidArgument, `image.runtime_handler "absent"`)
	for _, auth := range []string{"%%%", basic("no colon")} {
		_, err = w.images.PullImage(t.Context(), &runtime.PullImageRequest{Image: &runtime.ImageSpec{Image: "x"}, Auth: &runtime.AuthConfig{Auth: auth}})
		wantCode(t, err, codes.InvalidArgument, "auth.auth")
	}
}

func TestImages(t *testing.T) {
	w := started(t)
	w.store.images = []Image{
		{ID: imageID, Tags: []string{"docker.io/library/a:1", "b:2"}, Digests: []string{"a@sha256:x"}, Size: 9, User: "1002:1003", Pinned: true, Config: json.RawMessage(`{"a":1}`)},
		{ID: "sha256:other", User: "www-data:www"},
	}
	list, err := w.images.ListImages(t.Context(), &runtime.ListImagesRequest{})
	if err != nil || len(list.GetImages()) != 2 {
		t.Fatalf("got %v, %v", list, err)
	}
	i := list.GetImages()[0]
	if i.GetId() != imageID || len(i.GetRepoTags()) != 2 || i.GetRepoDigests()[0] != "a@sha256:x" || i.GetSize() != 9 || !i.GetPinned() || i.GetUid().GetValue() != 1002 || i.GetUsername() != "" {
		t.Errorf("got %v", i)
	}
	if i := list.GetImages()[1]; i.GetUid() != nil || i.GetUsername() != "www-data" {
		t.Errorf("got %v", i)
	}
	for ref, want := range map[string]int{"b:2": 1, "nosuch": 0} {
		list, err := w.images.ListImages(t.Context(), &runtime.ListImagesRequest{Filter: &runtime.ImageFilter{Image: &runtime.ImageSpec{Image: ref}}})
		if err != nil || len(list.GetImages()) != want {
			t.Errorf("%s: %v, %v", ref, list, err)
		}
	}
	s, err := w.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: imageID}, Verbose: true})
	if err != nil || s.GetImage().GetId() != imageID || !json.Valid([]byte(s.GetInfo()["info"])) {
		t.Errorf("got %v, %v", s, err)
	}
	s, err = w.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{Image: &runtime.ImageSpec{Image: "nosuch"}})
	if err != nil || s.GetImage() != nil {
		t.Errorf("no image is no error: %v, %v", s, err)
	}
	_, err = w.images.ImageStatus(t.Context(), &runtime.ImageStatusRequest{})
	wantCode(t, err, codes.InvalidArgument, "image.image")
	_, err = w.images.RemoveImage(t.Context(), &runtime.RemoveImageRequest{Image: &runtime.ImageSpec{Image: "nosuch"}})
	wantCode(t, err, codes.OK, "")
	_, err = w.images.RemoveImage(t.Context(), &runtime.RemoveImageRequest{})
	wantCode(t, err, codes.InvalidArgument, "image.image")
	fs, err := w.images.ImageFsInfo(t.Context(), &runtime.ImageFsInfoRequest{})
	if err != nil || fs.GetImageFilesystems()[0].GetFsId().GetMountpoint() != "/img" || fs.GetImageFilesystems()[0].GetUsedBytes().GetValue() != 5 ||
		fs.GetContainerFilesystems()[0].GetInodesUsed().GetValue() != 6 {
		t.Errorf("got %v, %v", fs, err)
	}
}

func TestImageUser(t *testing.T) {
	for user, want := range map[string]struct {
		uid  int64 // -1: none
		name string
	}{
		"": {0, ""}, "0": {0, ""}, "1002:1003": {1002, ""}, "bob": {-1, "bob"}, ":5": {0, ""}, "000": {0, ""},
		"2147483648": {-1, "2147483648"}, "-1": {-1, "-1"}, "+0": {-1, "+0"}, "0x0": {-1, "0x0"}, " 0": {-1, " 0"},
	} {
		uid, name := imageUserOut(user)
		if (uid == nil) != (want.uid == -1) || uid != nil && uid.GetValue() != want.uid || name != want.name {
			t.Errorf("%q: %v, %q", user, uid, name)
		}
	}
}
