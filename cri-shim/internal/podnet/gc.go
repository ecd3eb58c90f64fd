package podnet

import (
	"context"
	"errors"
	"fmt"

	"github.com/containernetworking/cni/libcni"
	"github.com/containernetworking/cni/pkg/types"

	"github.com/podwright/podwright/cri-shim/internal/pod"
	"github.com/podwright/podwright/pkg/durable"
)

// GC gives back everything but what live returns. It waits until no ADD or DEL runs, keeps new ones
// waiting, and only then calls live, so that nothing attached meanwhile is missed.
//
// CNI GC is by network name: it would take the pods of another runtime too. When the network has other
// users, only what is known to be ours is given back.
func (n *Network) GC(ctx context.Context, live func() []pod.Attachment) error {
	if err := n.busy.Acquire(ctx, everyone); err != nil {
		return fmt.Errorf("wait for ADD and DEL to end: %w", err)
	}
	defer n.busy.Release(everyone)
	keep := live()
	if err := durable.RemoveLeftovers(n.intents()); err != nil {
		return err
	}
	faults := []error{n.detachStale(ctx, keep)}

	list, err := n.load()
	if err != nil {
		return errors.Join(faults...) // no network, nothing to clean
	}
	others, err := n.otherUsers(list.Name)
	if err != nil {
		return errors.Join(append(faults, err)...)
	}
	if len(others) > 0 {
		n.Logger.Info("CNI GC left out: the network has other users", "network", list.Name, "users", others)
		return errors.Join(faults...)
	}
	args := &libcni.GCArgs{ValidAttachments: []types.GCAttachment{}} // empty, never null: null means everything to some
	for _, a := range keep {
		args.ValidAttachments = append(args.ValidAttachments, types.GCAttachment{ContainerID: string(a.ID), IfName: ifName})
	}
	if err := n.cni.GCNetworkList(ctx, list, args); err != nil {
		faults = append(faults, fmt.Errorf("CNI GC %s: %w", list.Name, classify(ctx, err)))
	}
	return errors.Join(faults...)
}

func (n *Network) detachStale(ctx context.Context, keep []pod.Attachment) error {
	valid := make(map[string]bool, len(keep))
	for _, a := range keep {
		valid[string(a.ID)] = true
	}
	ids, err := n.attached()
	faults := []error{err}
	for _, id := range ids {
		if !valid[id] {
			faults = append(faults, n.detach(ctx, pod.Attachment{ID: pod.ID(id)}))
		}
	}
	return errors.Join(faults...)
}
