// Package lease owns the lease directory of one network. It never touches the kernel's network side.
//
//	<dataDir>/<network>/lock      flock; every change is made under it
//	<dataDir>/<network>/boot      boot id of the leases
//	<dataDir>/<network>/last.N    the address given last from range set N, and the highest of its range ever given
//	<dataDir>/<network>/rec/R     one record (JSON) per attachment; R is <key>-<random> and never used again
//	<dataDir>/<network>/at/<key>  symbolic link to the attachment's record
//	<dataDir>/<network>/ip/<addr> symbolic link to the record of the address's owner
//	<dataDir>/<network>/port/<P>  symbolic link to the record of the owner of a host port, as "tcp 0.0.0.0:80"
//
// All ways to a lease are one look-up, however many leases there are. A lease is its record: links are
// made first, pointing to nothing, and the record's rename makes all of them hold at once; removing the
// record ends all of them at once. A link that points to nothing means nothing and may be replaced.
//
// The leases that the reference plugin host-local left in a directory (Beside) count as well, for as long
// as its files are there; they are read and removed, never written.
//
// Crash: between any two steps a lease is whole or not there. What is left (links to nothing, temporary
// files) is harmless, and Sweep removes it. Leases of an older boot are dropped by the next Lock: their
// namespaces are gone. A record that cannot be read keeps its addresses until its owner is proven dead.
package lease
