// Package pod is the domain: sandboxes and containers, their states, the operations on them, and
// their recovery after a crash. It imports no kernel and no gRPC: everything outside is a port,
// declared in ports.go and handed to New.
//
// Crash story: an intent is on disk before the work begins (Creating, Starting, Removing), the fact
// after it ended. Recovery decides on each record alone (decide) and has one effect; running it twice
// equals running it once.
package pod
