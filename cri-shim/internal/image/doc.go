// Package image pulls, unpacks, lists and removes images. It owns everything under Layout.Images(): a content
// store, its bbolt metadata and unpacked layers, by containerd's libraries, embedded. It is their only importer.
// It never mounts a container's root file system: it tells the directories of the layers.
//
// Crash story: an image exists once its record is in the metadata, which is written last, after its layers were
// synced. What an interrupted pull left has no record, and is collected at the next start. Holds of containers
// are in memory: after a start nothing is collected until Collect says that all holds are back.
package image
