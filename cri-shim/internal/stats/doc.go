// Package stats measures what containers and pods use: CPU, memory, swap, pressure, block devices, processes,
// network and writable layers. It reads cgroups v1 and v2, /proc and pinned network namespaces, and changes
// nothing.
//
// Counters are read at the moment they are asked for, a few small files per container. What takes long, adding
// up the files of a writable layer, and what needs two moments, CPU per second, is gathered in the background
// by Run at a steady pace.
//
// Crash story: it keeps everything in memory; after a restart the first pass fills it again.
package stats
