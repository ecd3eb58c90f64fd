package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/core/diff"
	"github.com/containerd/containerd/v2/core/diff/apply"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/containerd/v2/core/unpack"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/semaphore"
)

// ErrRegistryUnavailable is the class of a pull that no registry answered, or only with a fault of its own.
var ErrRegistryUnavailable = errors.New("registry unavailable")

// maxManifest is the largest manifest, index or configuration that is read into memory.
const maxManifest = 8 << 20

// Pull brings an image from its registry, unpacks it, and returns its id. Equal calls at the same time share
// the work, which ends when the last of them gives up. A pull that fails leaves nothing behind. What the
// registry does not have is errdefs.ErrNotFound; what it refuses, errdefs.ErrPermissionDenied; what the node's
// verifiers refuse, ErrVerification.
func (s *Store) Pull(ctx context.Context, ref string, auth Auth) (string, error) {
	name, err := normalize(ref)
	if err != nil {
		return "", err
	}
	if auth, err = auth.decode(); err != nil {
		return "", err
	}
	id, err := s.flights.do(ctx, name+"\x00"+auth.key(), func(ctx context.Context) (string, error) {
		return s.pull(scoped(ctx), name, auth)
	})
	if err != nil {
		return "", fmt.Errorf("pull %s: %w", name, classify(err))
	}
	return id, nil
}

func (s *Store) pull(ctx context.Context, name string, auth Auth) (id string, err error) {
	err = s.leased(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		watch := newProgress(s.cfg.ProgressTimeout, cancel, &s.downloaded)
		defer watch.stop()

		target, err := s.fetch(ctx, name, auth, watch)
		if err != nil {
			if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
				return cause
			}
			return err
		}
		id, err = s.record(ctx, name, target)
		return err
	})
	return id, err
}

// leased runs f, and keeps what it stores until it returns. What no image refers to then goes.
func (s *Store) leased(ctx context.Context, f func(context.Context) error) (err error) {
	lease, err := s.leases.Create(ctx, leases.WithRandomID())
	if err != nil {
		return fmt.Errorf("begin: %w", err)
	}
	defer func() {
		err = errors.Join(err, s.leases.Delete(context.WithoutCancel(ctx), lease))
		s.Collect()
	}()
	return f(leases.WithLease(ctx, lease.ID))
}

// fetch downloads and unpacks.
func (s *Store) fetch(ctx context.Context, name string, auth Auth, watch *progress) (imagespec.Descriptor, error) {
	resolver := docker.NewResolver(docker.ResolverOptions{Hosts: s.registryHosts(ctx, name, auth)})
	resolved, target, err := resolver.Resolve(ctx, name)
	if err != nil {
		return target, err
	}
	if target.MediaType == images.MediaTypeDockerSchema1Manifest {
		return target, fmt.Errorf("manifest has schema 1, which is not supported: rebuild the image: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.verify(ctx, name, target); err != nil {
		return target, err
	}
	watch.note() // verifiers have a limit of their own
	fetcher, err := resolver.Fetcher(ctx, resolved)
	if err != nil {
		return target, err
	}
	return target, s.unpack(ctx, target, remotes.FetchHandler(s.content, watch.over(fetcher)))
}

// unpack unpacks an image, each part of it after get has stored it.
func (s *Store) unpack(ctx context.Context, target imagespec.Descriptor, get images.HandlerFunc) error {
	limit := semaphore.NewWeighted(int64(max(s.cfg.MaxParallelDownloads, 1)))
	unpacker, err := unpack.NewUnpacker(ctx, s.content, unpack.WithLimiter(limit), unpack.WithUnpackPlatform(unpack.Platform{
		Platform: platforms.All, SnapshotterKey: snapshotter, Snapshotter: s.layers,
		Applier:   apply.NewFileSystemApplier(s.content),
		ApplyOpts: []diff.ApplyOpt{diff.WithSyncFs(true)}, // before the record says that it is complete
	}))
	if err != nil {
		return err
	}
	children := images.SetChildrenMappedLabels(s.content, images.ChildrenHandler(s.content), images.ChildGCLabelsFilterLayers)
	children = images.LimitManifests(images.FilterPlatforms(children, platforms.Default()), platforms.Default(), 1)
	handler := unpacker.Unpack(images.Handlers(images.HandlerFunc(refuseHuge), get, children))
	err = images.Dispatch(ctx, handler, nil, target)
	result, unpackErr := unpacker.Wait()
	if err := errors.Join(err, unpackErr); err != nil {
		return err
	}
	if result.Unpacks == 0 {
		return fmt.Errorf("no image for %s in it: %w", platforms.DefaultString(), errdefs.ErrNotFound)
	}
	return nil
}

// refuseHuge keeps a registry from filling the memory with a manifest.
func refuseHuge(_ context.Context, d imagespec.Descriptor) ([]imagespec.Descriptor, error) {
	if !images.IsLayerType(d.MediaType) && d.Size > maxManifest {
		return nil, fmt.Errorf("%s %s has %d bytes, at most %d are read: %w", d.MediaType, d.Digest, d.Size, maxManifest, errdefs.ErrInvalidArgument)
	}
	return nil, nil
}

// record makes the image exist: under its tag, if it was asked for by one, and under its digest.
func (s *Store) record(ctx context.Context, name string, target imagespec.Descriptor) (string, error) {
	named, err := reference.ParseNormalizedNamed(name)
	if err != nil {
		return "", err
	}
	withDigest, err := reference.WithDigest(reference.TrimNamed(named), target.Digest)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	img, err := s.readImage(ctx, target)
	if err != nil {
		delete(s.read, target.Digest) // what is lost since is dropped, and the next pull makes it good
		return "", errors.Join(err, s.reload(context.WithoutCancel(ctx)))
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	ctx = context.WithoutCancel(ctx) // from here on all of it or nothing
	s.read[target.Digest] = img
	for _, n := range []string{name, withDigest.String()} {
		_, err := s.images.Create(ctx, images.Image{Name: n, Target: target})
		if errors.Is(err, errdefs.ErrAlreadyExists) {
			_, err = s.images.Update(ctx, images.Image{Name: n, Target: target}, "target")
		}
		if err != nil {
			return "", fmt.Errorf("record image %s: %w", n, err)
		}
	}
	return img.ID, s.reload(ctx)
}

// classify finds out whether a failed pull is the registry's fault, and drops what the transport wraps
// around: its texts may hold the query of a request.
func classify(err error) error {
	var status remoteerrors.ErrUnexpectedStatus
	var urlErr *url.Error
	var netErr net.Error
	switch {
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), errors.Is(err, errdefs.ErrNotFound),
		errors.Is(err, ErrVerification):
		return err
	case errors.As(err, &status):
		switch {
		case status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden:
			return fmt.Errorf("the registry says %s: %w", status.Status, errdefs.ErrPermissionDenied)
		case status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests:
			return fmt.Errorf("the registry says %s: %w", status.Status, ErrRegistryUnavailable)
		}
		return fmt.Errorf("the registry says %s", status.Status)
	case errors.Is(err, docker.ErrInvalidAuthorization):
		return fmt.Errorf("%w: %w", err, errdefs.ErrPermissionDenied)
	case errors.As(err, &urlErr):
		return fmt.Errorf("%s: %w: %w", urlErr.Op, urlErr.Err, ErrRegistryUnavailable)
	case errors.As(err, &netErr), errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ECONNRESET):
		return fmt.Errorf("%w: %w", err, ErrRegistryUnavailable)
	}
	return err
}

// progress ends a pull that gets no byte for too long.
type progress struct {
	last atomic.Int64 // ns since 1970
	read *atomic.Uint64
	end  chan struct{}
	done chan struct{}
}

func newProgress(patience time.Duration, cancel context.CancelCauseFunc, read *atomic.Uint64) *progress {
	p := &progress{read: read, end: make(chan struct{}), done: make(chan struct{})}
	p.note()
	go func() {
		defer close(p.done)
		if patience <= 0 {
			<-p.end
			return
		}
		for {
			select {
			case <-p.end:
				return
			case <-time.After(patience / 4):
			}
			if idle := time.Since(time.Unix(0, p.last.Load())); idle > patience {
				cancel(fmt.Errorf("no progress for %s: %w", idle.Round(time.Second), ErrRegistryUnavailable))
				return
			}
		}
	}()
	return p
}

func (p *progress) note() { p.last.Store(time.Now().UnixNano()) }
func (p *progress) stop() { close(p.end); <-p.done }

// over notes each byte that a fetcher brings.
func (p *progress) over(f remotes.Fetcher) remotes.Fetcher {
	return remotes.FetcherFunc(func(ctx context.Context, d imagespec.Descriptor) (io.ReadCloser, error) {
		p.note()
		r, err := f.Fetch(ctx, d)
		if err != nil {
			return nil, err
		}
		return &watched{r, p}, nil
	})
}

type watched struct {
	io.ReadCloser
	p *progress
}

// Read implements io.Reader.
func (w *watched) Read(b []byte) (int, error) {
	n, err := w.ReadCloser.Read(b)
	if n > 0 {
		w.p.note()
		w.p.read.Add(uint64(n))
	}
	return n, err
}
