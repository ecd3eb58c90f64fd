// Package server is cri-monitor: one process per node that parents every container, holds its standard
// streams, writes its log and records its end. It never touches images, networks or the CRI.
//
// Crash story: containers hold both ends of their output FIFOs, so that a dead monitor costs them nothing.
// A record (monitor/containers/<id>.json) is on disk before the OCI runtime runs, the end of a container
// (monitor/exits/<id>) before anyone is told. A new monitor adopts what it finds: it goes on logging where
// the old one stopped (bundle/stdout.carry keeps what was read and not yet written), and learns ends from
// pidfds. An end that nobody saw is Lost: code 255. It ends the commands that the old one ran (bundle/exec-*.json.pid),
// for which nobody waits any more. A terminal's master dies with its monitor, and its
// container is hung up: keeping it would take a second process.
package server
