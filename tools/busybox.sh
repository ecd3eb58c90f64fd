#!/usr/bin/env bash
# Fetches Debian's package busybox and unpacks its program into the directory $1, without installing it: it would
# take the place of busybox-static, whose shell does not look at the file system for its applets.
set -euo pipefail

dir=$1
[ -x "$dir/bin/busybox" ] && exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq busybox)
mkdir -p "$dir"
dpkg-deb --fsys-tarfile "$work"/busybox_*.deb | tar -x -C "$dir" ./bin/busybox
