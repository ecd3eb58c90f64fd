package criserver

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// imageService is the ImageService of the CRI.
type imageService struct {
	runtime.UnimplementedImageServiceServer
	images   Images
	root     string // where images are kept
	handlers []Handler
}

// PullImage fetches an image; the answer is the id that every other answer shows. All handlers share it, but one that
// does not exist is refused.
func (s *imageService) PullImage(ctx context.Context, r *runtime.PullImageRequest) (*runtime.PullImageResponse, error) {
	var f faults
	imageIn(&f, "image", r.GetImage())
	f.handler("image.runtime_handler", r.GetImage().GetRuntimeHandler(), s.handlers)
	credentials := credentialsIn(&f, r.GetAuth())
	if err := f.err(); err != nil {
		return nil, err
	}
	id, err := s.images.Pull(ctx, r.GetImage().GetImage(), credentials)
	if err != nil {
		return nil, err
	}
	return &runtime.PullImageResponse{ImageRef: id}, nil
}

// credentialsIn never shows what it was given.
func credentialsIn(f *faults, a *runtime.AuthConfig) Credentials {
	c := Credentials{
		Username: a.GetUsername(), Password: a.GetPassword(), Server: a.GetServerAddress(),
		IdentityToken: a.GetIdentityToken(), RegistryToken: a.GetRegistryToken(),
	}
	if c.Username != "" || a.GetAuth() == "" {
		return c
	}
	plain, err := base64.StdEncoding.DecodeString(a.GetAuth())
	user, password, found := strings.Cut(string(plain), ":")
	if err != nil || !found {
		f.invalid = append(f.invalid, `auth.auth: want "user:password" in base64`)
		return c
	}
	c.Username, c.Password = user, strings.Trim(password, "\x00") // docker pads with NUL
	return c
}

// ListImages shows each image once, under all its names.
func (s *imageService) ListImages(ctx context.Context, r *runtime.ListImagesRequest) (*runtime.ListImagesResponse, error) {
	resp := &runtime.ListImagesResponse{}
	if ref := r.GetFilter().GetImage().GetImage(); ref != "" {
		one, err := s.images.Find(ctx, ref)
		if noSuchImage(err) {
			return resp, nil
		}
		if err != nil {
			return nil, err
		}
		resp.Images = append(resp.Images, localImageOut(one))
		return resp, nil
	}
	all, err := s.images.List(ctx)
	if err != nil {
		return nil, err
	}
	for _, i := range all {
		resp.Images = append(resp.Images, localImageOut(i))
	}
	return resp, nil
}

// ImageStatus shows one image; no image is an answer, not an error.
func (s *imageService) ImageStatus(ctx context.Context, r *runtime.ImageStatusRequest) (*runtime.ImageStatusResponse, error) {
	var f faults
	imageIn(&f, "image", r.GetImage())
	if err := f.err(); err != nil {
		return nil, err
	}
	image, err := s.images.Find(ctx, r.GetImage().GetImage())
	if noSuchImage(err) {
		return &runtime.ImageStatusResponse{}, nil
	}
	if err != nil {
		return nil, err
	}
	resp := &runtime.ImageStatusResponse{Image: localImageOut(image)}
	if r.GetVerbose() {
		resp.Info, err = infoOut(struct {
			Root      string          `json:"root"`
			ImageSpec json.RawMessage `json:"imageSpec,omitempty"`
		}{s.root, image.Config})
	}
	return resp, err
}

// noSuchImage covers a text that cannot name an image: nothing has that name.
func noSuchImage(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsInvalidArgument(err)
}

// RemoveImage forgets an image with all its names.
func (s *imageService) RemoveImage(ctx context.Context, r *runtime.RemoveImageRequest) (*runtime.RemoveImageResponse, error) {
	var f faults
	imageIn(&f, "image", r.GetImage())
	if err := f.err(); err != nil {
		return nil, err
	}
	if err := s.images.Remove(ctx, r.GetImage().GetImage()); err != nil && !noSuchImage(err) {
		return nil, fmt.Errorf("remove image %q: %w", cut(r.GetImage().GetImage()), err)
	}
	return &runtime.RemoveImageResponse{}, nil
}

// ImageFsInfo tells what images take. Writable layers are on the same file system.
func (s *imageService) ImageFsInfo(ctx context.Context, _ *runtime.ImageFsInfoRequest) (*runtime.ImageFsInfoResponse, error) {
	u, err := s.images.Usage(ctx)
	if err != nil {
		return nil, err
	}
	usage := func() []*runtime.FilesystemUsage {
		return []*runtime.FilesystemUsage{{
			Timestamp:  u.Time.UnixNano(),
			FsId:       &runtime.FilesystemIdentifier{Mountpoint: u.MountPoint},
			UsedBytes:  &runtime.UInt64Value{Value: u.Bytes},
			InodesUsed: &runtime.UInt64Value{Value: u.Inodes},
		}}
	}
	return &runtime.ImageFsInfoResponse{ImageFilesystems: usage(), ContainerFilesystems: usage()}, nil
}

func localImageOut(i Image) *runtime.Image {
	out := &runtime.Image{
		Id: i.ID, RepoTags: i.Tags, RepoDigests: i.Digests, Size: uint64(max(i.Size, 0)), Pinned: i.Pinned,
	}
	out.Uid, out.Username = imageUserOut(i.User)
	return out
}

// imageUserOut returns a number or a name, never both. A number out of range stays text, so that
// nobody mistakes it for another one.
func imageUserOut(user string) (*runtime.Int64Value, string) {
	name, _, _ := strings.Cut(user, ":")
	if name == "" {
		return &runtime.Int64Value{}, ""
	}
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return &runtime.Int64Value{Value: int64(n)}, ""
	}
	return nil, name
}
