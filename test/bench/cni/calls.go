package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/podwright/podwright/test/cni/lab"
)

// settle is how long pods that were just made go on asking for routers and telling their groups (RFC 4861, RFC 3810).
const settle = 15 * time.Second

func (b *bench) masquerade() error { return b.addDel(wish{promise: true}) }

func (b *bench) hostPort() error {
	return b.addDel(wish{hostPort: true, promise: true})
}

// addDel measures ADD and DEL of one attachment at a time beside two that are there.
func (b *bench) addDel(w wish) error {
	list, err := b.contenders(w)
	if err != nil {
		return err
	}
	list = slices.DeleteFunc(list, func(c *contender) bool {
		if err == nil {
			err = b.hold(c, 2, w)
		}
		if refused(err) {
			b.table.note("%s does not do it: %v", c.name, err)
			err = nil
			return true
		}
		return false
	})
	if err != nil {
		return err
	}
	return b.rounds(list, w, "ADD", "DEL")
}

// rounds measures the contenders in turn. Namespaces stay until the end: clearing them away would go on beside the
// next measurement.
func (b *bench) rounds(list []*contender, w wish, add, del string) error {
	for i := range b.settings.rounds {
		for j := range list {
			c := list[(i+j)%len(list)] // everybody is first as often as last
			port := 0
			if w.hostPort {
				port = 20000 + c.count
			}
			a, err := b.next(c, port)
			if err != nil {
				return err
			}
			begin := time.Now()
			a.Prev, err = c.node.Add(c.chain, a)
			if err != nil {
				return err
			}
			b.table.add(add+c.beside, c.name, time.Since(begin))
			begin = time.Now()
			if err := c.node.Del(c.chain, a); err != nil {
				return err
			}
			b.table.add(del+c.beside, c.name, time.Since(begin))
			if err := b.interrupted(); err != nil {
				return err
			}
		}
	}
	return nil
}

// hold adds attachments that stay.
func (b *bench) hold(c *contender, count int, w wish) error {
	for range count {
		port := 0
		if w.hostPort {
			port = 20000 + c.count
		}
		a, err := b.next(c, port)
		if err != nil {
			return err
		}
		if _, err := c.node.Add(c.chain, a); err != nil {
			return err
		}
		if err := b.interrupted(); err != nil {
			return err
		}
	}
	return nil
}

// burst lets pods come 8 at a time to a node on which nothing ever ran.
func (b *bench) burst() error {
	list, err := b.contenders(wish{})
	if err != nil {
		return err
	}
	for _, c := range list {
		var all []lab.Attachment
		for range b.settings.burst {
			a, err := b.next(c, 0)
			if err != nil {
				return err
			}
			all = append(all, a)
		}
		begin := time.Now()
		failed := b.atOnce(c, all)
		took := time.Since(begin)
		b.table.note("%s: %d in %s, %.0f per second, %d failed", c.name, len(all), took.Round(time.Millisecond),
			float64(len(all))/took.Seconds(), failed)
	}
	return nil
}

func (b *bench) atOnce(c *contender, all []lab.Attachment) (failed int) {
	var mu sync.Mutex
	var workers sync.WaitGroup
	jobs := make(chan lab.Attachment)
	for range 8 {
		workers.Go(func() {
			for a := range jobs {
				begin := time.Now()
				_, err := c.node.Add(c.chain, a)
				took := time.Since(begin)
				mu.Lock()
				b.table.add("ADD, 8 at a time", c.name, took)
				if err != nil {
					failed++
				}
				mu.Unlock()
			}
		})
	}
	for _, a := range all {
		jobs <- a
	}
	close(jobs)
	workers.Wait()
	return failed
}

// held compares many attachments that are there with few. A contender is alone, its two nodes in turn: what the kernel
// does late for 1,000 pods of another would count against it.
func (b *bench) held() error {
	names := []string{ourName, ourPromised, ourRouted, "reference, iptables"}
	for _, name := range names {
		var both []*contender
		for _, count := range []int{10, b.settings.held} {
			list, err := b.contenders(wish{promise: true, only: name})
			if err != nil {
				return err
			}
			if err := b.hold(list[0], count, wish{}); err != nil {
				return err
			}
			list[0].beside = fmt.Sprintf(" beside %d", count)
			both = append(both, list[0])
		}
		time.Sleep(settle)
		if err := b.rounds(both, wish{}, "ADD", "DEL"); err != nil {
			return err
		}
		b.close()
	}
	for _, name := range names {
		for _, op := range []string{"ADD", "DEL"} {
			few := b.table.row(op+" beside 10", name).samples.at(0.5)
			many := b.table.row(fmt.Sprintf("%s beside %d", op, b.settings.held), name).samples.at(0.5)
			b.table.note("%s %s: × %.2f beside %d against beside 10", name, op, float64(many)/float64(few), b.settings.held)
		}
	}
	return nil
}

// leases compares a store with many leases with one that has few.
func (b *bench) leases() error {
	for _, count := range []int{10, b.settings.leases} {
		list, err := b.contenders(wish{one: true})
		if err != nil {
			return err
		}
		for _, c := range list {
			if err := b.hold(c, 1, wish{}); err != nil {
				return err
			}
			if err := c.store(count); err != nil {
				return err
			}
		}
		if err := b.rounds(list, wish{}, fmt.Sprintf("ADD with %d leases", count), fmt.Sprintf("DEL with %d leases", count)); err != nil {
			return err
		}
		b.close()
	}
	return nil
}

// store writes leases as if so many attachments were there, in the form in which each keeps its own.
func (c *contender) store(count int) error {
	dir := filepath.Join(c.node.Dir, "leases/net1")
	addr := netip.MustParseAddr("10.88.0.2") // is held already
	var write func(addr netip.Addr, id string) error
	if c.name == ourName {
		record, err := firstRecord(dir)
		if err != nil {
			return err
		}
		write = func(addr netip.Addr, id string) error { return record.write(dir, addr, id) }
	} else {
		write = func(addr netip.Addr, id string) error {
			return os.WriteFile(filepath.Join(dir, addr.String()), []byte(id+"\r\neth0"), 0o600)
		}
	}
	for i := range count {
		addr = addr.Next()
		if err := write(addr, fmt.Sprintf("held%060d", i)); err != nil {
			return err
		}
	}
	last := "last_reserved_ip.0"
	if c.name == ourName {
		last = "last.0"
	}
	return os.WriteFile(filepath.Join(dir, last), []byte(addr.String()), 0o600)
}

// record is a lease of ours that others are made after.
type record map[string]any

func firstRecord(dir string) (record, error) {
	found, err := filepath.Glob(filepath.Join(dir, "rec/*"))
	if err != nil || len(found) != 1 {
		return nil, fmt.Errorf("%d records in %s: %w", len(found), dir, err)
	}
	data, err := os.ReadFile(found[0])
	if err != nil {
		return nil, err
	}
	var r record
	return r, json.Unmarshal(data, &r)
}

func (r record) write(dir string, addr netip.Addr, id string) error {
	r = maps.Clone(r)
	r["containerID"], r["addresses"] = id, []string{addr.String()}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	sum := sha256.Sum256([]byte(id + "\x00eth0"))
	key := hex.EncodeToString(sum[:16])
	name := key + "-" + strings.Repeat("0", 16)
	if err := os.WriteFile(filepath.Join(dir, "rec", name), data, 0o600); err != nil {
		return err
	}
	if err := os.Symlink("../rec/"+name, filepath.Join(dir, "at", key)); err != nil {
		return err
	}
	return os.Symlink("../rec/"+name, filepath.Join(dir, "ip", addr.String()))
}
