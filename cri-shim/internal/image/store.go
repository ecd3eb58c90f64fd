package image

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	bolt "go.etcd.io/bbolt"

	"github.com/podwright/podwright/cri-shim/internal/pod"
)

const (
	snapshotter = "overlayfs"
	namespace   = "podwright" // of the metadata; there is one
)

// Config is what a Store is made of.
type Config struct {
	Dir                  string
	RegistryConfigDir    string        // a tree of HOST/hosts.toml; "" or missing: defaults only
	MaxParallelDownloads int           // per pull
	ProgressTimeout      time.Duration // ends a pull that got no byte for so long
	VerifierDir          string        // programs that every image must pass; "": none
	VerifierTimeout      time.Duration // of each
	Logger               *slog.Logger
}

// Store is the images of one node.
type Store struct {
	cfg     Config
	log     *slog.Logger
	bolt    *bolt.DB
	db      *metadata.DB
	content content.Store
	layers  snapshots.Snapshotter
	images  images.Store
	leases  leases.Manager
	flights flights

	view atomic.Pointer[catalog]
	use  atomic.Pointer[Usage]

	downloaded atomic.Uint64

	mu    sync.Mutex                 // held over a change of the catalog, never by readers
	holds map[string]map[pod.ID]bool // guarded by mu; image id → owners
	held  map[string]Image           // guarded by mu; removed images that somebody holds
	read  map[digest.Digest]Image    // guarded by mu; by target, without names: what was read once does not change
	wake  chan struct{}              // one slot: collect
	stop  context.CancelFunc
	done  chan struct{}
}

// New opens the store, drops what interrupted pulls left, and begins to collect in the background once Collect
// was called. Close ends that.
func New(ctx context.Context, cfg Config) (*Store, error) {
	// The libraries log through a global of their own; what matters comes back to us as errors.
	if err := log.SetLevel("error"); err != nil {
		return nil, err
	}
	for _, dir := range []string{cfg.Dir, filepath.Join(cfg.Dir, "snapshots")} {
		// Other users of the host must not come to the setuid programs of layers (CVE-2021-41103).
		if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chmod(dir, 0o700)); err != nil {
			return nil, fmt.Errorf("make the image directory: %w", err)
		}
	}
	blobs, err := local.NewStore(filepath.Join(cfg.Dir, "content"))
	if err != nil {
		return nil, fmt.Errorf("open the content store: %w", err)
	}
	layers, err := overlay.NewSnapshotter(filepath.Join(cfg.Dir, "snapshots"))
	if err != nil {
		return nil, fmt.Errorf("open the layer store: %w", err)
	}
	db, err := bolt.Open(filepath.Join(cfg.Dir, "metadata.db"), 0o600, &bolt.Options{Timeout: 5 * time.Second})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the image metadata: %w", err), layers.Close())
	}
	mdb := metadata.NewDB(db, blobs, map[string]snapshots.Snapshotter{snapshotter: layers})
	if err := mdb.Init(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open the image metadata: %w", err), db.Close(), layers.Close())
	}
	s := &Store{
		cfg: cfg, log: cfg.Logger, bolt: db, db: mdb, content: mdb.ContentStore(), layers: mdb.Snapshotter(snapshotter),
		images: metadata.NewImageStore(mdb), leases: metadata.NewLeaseManager(mdb),
		holds: map[string]map[pod.ID]bool{}, held: map[string]Image{}, read: map[digest.Digest]Image{}, wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	s.flights.byKey = map[string]*flight{}
	if err := s.recover(scoped(ctx)); err != nil {
		return nil, errors.Join(err, db.Close(), layers.Close())
	}
	background, stop := context.WithCancel(context.Background())
	s.stop = stop
	go s.collector(scoped(background))
	return s, nil
}

// Close ends pulls and background work and closes the files.
func (s *Store) Close() error {
	s.flights.close()
	s.stop()
	<-s.done
	return errors.Join(s.bolt.Close(), s.layers.Close())
}

func scoped(ctx context.Context) context.Context { return namespaces.WithNamespace(ctx, namespace) }

// recover drops what an interrupted pull holds, and reads the images.
func (s *Store) recover(ctx context.Context) error {
	all, err := s.leases.List(ctx)
	if err != nil {
		return fmt.Errorf("list leases: %w", err)
	}
	for _, l := range all {
		if err := s.leases.Delete(ctx, l); err != nil {
			return fmt.Errorf("drop lease %s: %w", l.ID, err)
		}
	}
	partial, err := s.content.ListStatuses(ctx)
	if err != nil {
		return fmt.Errorf("list partial downloads: %w", err)
	}
	for _, p := range partial {
		if err := s.content.Abort(ctx, p.Ref); err != nil {
			s.log.Warn("drop a partial download", "ref", p.Ref, "err", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.reload(ctx); err != nil {
		return err
	}
	return s.measure(ctx)
}

// Collect begins to free what no image and no container needs. Call it once all containers that were known
// before the start have called Acquire again.
func (s *Store) Collect() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// collector frees and measures, one run at a time.
func (s *Store) collector(ctx context.Context) {
	defer close(s.done)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		}
		if err := s.dropUnheld(ctx); err != nil {
			s.log.Warn("forget removed images", "err", err)
		}
		if _, err := s.db.GarbageCollect(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("collect image garbage", "err", err)
		}
		if err := s.measure(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("measure images", "err", err)
		}
	}
}

// Usage is what images take on their file system.
type Usage struct {
	Time   time.Time
	Dir    string
	Bytes  uint64
	Inodes uint64
}

// Usage returns what was measured last, after the last pull or removal. It never waits.
func (s *Store) Usage() Usage { return *s.use.Load() }

// Downloaded is how many bytes registries have sent since New.
func (s *Store) Downloaded() uint64 { return s.downloaded.Load() }

// measure adds up what the metadata knows; it walks no tree.
func (s *Store) measure(ctx context.Context) error {
	u := Usage{Time: time.Now(), Dir: s.cfg.Dir}
	err := s.content.Walk(ctx, func(i content.Info) error {
		u.Bytes += uint64(i.Size)
		u.Inodes++
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure content: %w", err)
	}
	var keys []string
	err = s.layers.Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		if i.Kind == snapshots.KindCommitted {
			keys = append(keys, i.Name)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure layers: %w", err)
	}
	for _, key := range keys {
		n, err := s.layers.Usage(ctx, key)
		if err != nil {
			continue // collected meanwhile
		}
		u.Bytes += uint64(n.Size)
		u.Inodes += uint64(n.Inodes)
	}
	s.use.Store(&u)
	return nil
}
