// Package podnet attaches sandboxes to a network through CNI plugins. It is the only importer of
// libcni. It decides nothing about pods and never touches a link or an address itself.
//
// The configuration is read anew for each call, so that no change of it can be missed.
//
// Crash: before the first plugin runs, the configuration it will get is on disk under the sandbox's id
// (an intent). It stays until a DEL with that same configuration succeeded, whatever happened to the
// file in the configuration directory meanwhile. After a start, GC gives back what no record explains.
package podnet
