#!/bin/sh
# Stands for go in the virtual machine. Tests build the programs that they need; each was built by the host, and is
# copied to where "go build -o FILE PACKAGE…" would have put it. Anything else fails.
set -eu
[ "$1" = build ] || { echo "no go $1 in the virtual machine" >&2; exit 1; }
to=
while [ $# -gt 0 ]; do
	case $1 in
	-o) to=$2; shift ;;
	-ldflags) shift ;;
	*/*) cp "/podwright/.vm/programs/$(basename "$1")" "$to" ;;
	esac
	shift
done
