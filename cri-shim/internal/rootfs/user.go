package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/user"
	"golang.org/x/sys/unix"

	"github.com/podwright/podwright/cri-shim/internal/bundle"
	"github.com/podwright/podwright/cri-shim/internal/pod"
)

// root is a container's root file system. What is in it is the image author's: nothing in it leads out.
type root struct {
	dir *os.File
}

func openRoot(path string) (*root, error) {
	dir, err := os.OpenFile(path, unix.O_DIRECTORY|unix.O_PATH, 0)
	if err != nil {
		return nil, fmt.Errorf("open the root file system: %w", err)
	}
	return &root{dir}, nil
}

func (r *root) close() { _ = r.dir.Close() }

// open opens a path as a process inside would, and cannot be led out by links (openat2(2)). Where ".." is on the way, the
// kernel asks to try again after each rename and mount on the host.
func (r *root) open(path string, flags int) (*os.File, error) {
	const most = 10000
	how := unix.OpenHow{Flags: uint64(flags | unix.O_CLOEXEC), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := unix.Openat2(int(r.dir.Fd()), path, &how)
	for i := 0; i < most && (errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EINTR)); i++ {
		fd, err = unix.Openat2(int(r.dir.Fd()), path, &how)
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open in the root file system", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// read returns a regular file of bounded size; a missing one is empty. A FIFO in its place cannot block us,
// nor an endless file fill the memory.
func (r *root) read(path string) ([]byte, error) {
	const most = 10 << 20
	f, err := r.open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() || fi.Size() > most {
		return nil, fmt.Errorf("%s in the image: must be a regular file of at most %d bytes: %w", path, most, errdefs.ErrInvalidArgument)
	}
	return io.ReadAll(io.LimitReader(f, most))
}

// wish is whom to run as, before it was looked up. Names and numbers never stand in for each other: a number
// that is too large must not become the name of somebody's account.
type wish struct {
	uid, gid   *uint32
	name, gnam string
}

func wishOf(s pod.Security, imageUser string) (wish, error) {
	bad := func(field, value string) (wish, error) {
		return wish{}, fmt.Errorf("%s %.100q: must be 0…2147483647, or a name: %w", field, value, errdefs.ErrInvalidArgument)
	}
	if s.RunAsGroup != nil && s.RunAsUser == nil && s.RunAsUsername == "" {
		return wish{}, fmt.Errorf("run_as_group %d: needs run_as_user or run_as_username: %w", *s.RunAsGroup, errdefs.ErrInvalidArgument)
	}
	var w wish
	var ok bool
	if s.RunAsUser != nil || s.RunAsUsername != "" {
		w.name = s.RunAsUsername
		if s.RunAsUser != nil {
			if w.uid, ok = number(strconv.FormatInt(*s.RunAsUser, 10)); !ok || w.uid == nil {
				return bad("run_as_user", fmt.Sprint(*s.RunAsUser))
			}
			w.name = ""
		}
		if s.RunAsGroup != nil {
			if w.gid, ok = number(strconv.FormatInt(*s.RunAsGroup, 10)); !ok || w.gid == nil {
				return bad("run_as_group", fmt.Sprint(*s.RunAsGroup))
			}
		}
		return w, nil
	}
	u, g, _ := strings.Cut(imageUser, ":")
	if w.uid, ok = number(u); !ok {
		return bad("the image's USER", imageUser)
	}
	if w.gid, ok = number(g); !ok {
		return bad("the image's USER", imageUser)
	}
	if w.uid == nil {
		w.name = u
	}
	if w.gid == nil {
		w.gnam = g
	}
	return w, nil
}

// number parses an id; nil is not a number, and !ok one that is out of range.
func number(s string) (*uint32, bool) {
	if s == "" || strings.Trim(s, "+-0123456789") != "" {
		return nil, true
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil {
		return nil, false
	}
	id := uint32(n)
	return &id, true
}

// user looks up whom the process runs as in the image's passwd and group files.
func (r *root) user(s pod.Security, imageUser string) (bundle.User, error) {
	w, err := wishOf(s, imageUser)
	if err != nil {
		return bundle.User{}, err
	}
	passwd, err := r.read("etc/passwd")
	if err != nil {
		return bundle.User{}, err
	}
	group, err := r.read("etc/group")
	if err != nil {
		return bundle.User{}, err
	}
	account, err := findAccount(w, passwd)
	if err != nil {
		return bundle.User{}, err
	}
	out := bundle.User{UID: uint32(account.Uid), GID: uint32(account.Gid), Home: account.Home}
	if w.gid != nil {
		out.GID = *w.gid
	}
	groups, err := user.ParseGroup(bytes.NewReader(group))
	if err != nil {
		return out, fmt.Errorf("etc/group in the image: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if w.gnam != "" {
		i := slices.IndexFunc(groups, func(g user.Group) bool { return g.Name == w.gnam })
		if i < 0 {
			return out, fmt.Errorf("group %.100q: not in the image's etc/group: %w", w.gnam, errdefs.ErrInvalidArgument)
		}
		if gid := groups[i].Gid; gid < 0 || int64(gid) > 1<<31-1 { // cut to 32 bits it could be root's
			return out, fmt.Errorf("group %.100q in the image's etc/group has an id out of range: %w", w.gnam, errdefs.ErrInvalidArgument)
		}
		out.GID = uint32(groups[i].Gid)
	}
	out.Groups, err = supplemental(s, account.Name, groups)
	return out, err
}

// findAccount returns the entry of the wished user, or one made up for a number that has none.
func findAccount(w wish, passwd []byte) (user.User, error) {
	if w.uid == nil && w.name == "" {
		zero := uint32(0)
		w.uid = &zero
	}
	found, err := user.ParsePasswdFilter(bytes.NewReader(passwd), func(u user.User) bool {
		if w.uid != nil {
			return u.Uid == int(*w.uid)
		}
		return u.Name == w.name
	})
	if err != nil {
		return user.User{}, fmt.Errorf("etc/passwd in the image: %w: %w", err, errdefs.ErrInvalidArgument)
	}
	if len(found) > 0 {
		u := found[0]
		if u.Uid < 0 || u.Gid < 0 || int64(u.Uid) > 1<<31-1 || int64(u.Gid) > 1<<31-1 {
			return u, fmt.Errorf("user %.100q in the image's etc/passwd has ids out of range: %w", u.Name, errdefs.ErrInvalidArgument)
		}
		if strings.ContainsRune(u.Home, 0) {
			u.Home = ""
		}
		return u, nil
	}
	if w.uid == nil {
		return user.User{}, fmt.Errorf("user %.100q: not in the image's etc/passwd: %w", w.name, errdefs.ErrInvalidArgument)
	}
	return user.User{Uid: int(*w.uid), Home: "/"}, nil
}

// supplemental merges the groups that the image gives the account with the asked ones; Strict takes only those.
func supplemental(s pod.Security, account string, groups []user.Group) ([]uint32, error) {
	var out []uint32
	add := func(g uint32) {
		if !slices.Contains(out, g) {
			out = append(out, g)
		}
	}
	if !s.StrictGroups && account != "" {
		for _, g := range groups {
			if slices.Contains(g.List, account) && g.Gid >= 0 && int64(g.Gid) <= 1<<31-1 {
				add(uint32(g.Gid))
			}
		}
	}
	for _, g := range s.SupplementalGroups {
		if g < 0 || g > 1<<31-1 {
			return nil, fmt.Errorf("supplemental_groups: %d must be 0…2147483647: %w", g, errdefs.ErrInvalidArgument)
		}
		add(uint32(g))
	}
	return out, nil
}
