#!/usr/bin/env bash
# Installs the Debian packages that building, the demo and the tests need and this machine lacks; with the word
# runc also what the newest runc is built with. What is there already, in whatever version and from
# wherever, is left alone.
set -euo pipefail

# program that must be there → package that brings it
need=(
	"runc:runc"
	"crun:crun"
	"nft:nftables"
	"ip:iproute2"
	"conntrack:conntrack"
	"iptables:iptables" # what the plugins that bridge-ipam is compared with work by
	"iperf3:iperf3" # the test of bandwidth limits
	"mkfs.ext4:e2fsprogs" # the test of a disk that breaks
	"file:file"
	"gcc:gcc libc6-dev" # the race detector links C
)
missing=()
for pair in "${need[@]}"; do
	PATH=$PATH:/usr/sbin:/sbin command -v "${pair%%:*}" >/dev/null || missing+=(${pair#*:})
done
# The image of the demo is made of a busybox that needs no library.
if ! [ -x /bin/busybox ] || ! /bin/busybox --list >/dev/null 2>&1; then
	missing+=(busybox-static)
elif command -v ldd >/dev/null && ldd /bin/busybox >/dev/null 2>&1; then
	missing+=(busybox-static)
fi
if [ "${1:-}" = runc ] && ! [ -e /usr/include/seccomp.h ]; then
	missing+=(libseccomp-dev pkg-config)
fi
[ ${#missing[@]} -gt 0 ] || exit 0

echo "This machine lacks: ${missing[*]}"
if ! command -v apt-get >/dev/null; then
	echo "They cannot be installed from here without apt-get; please install them by hand." >&2
	exit 1
fi
if [ "$(id -u)" != 0 ]; then
	echo "Installing them takes root. Please run: sudo apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "Running: apt-get install --no-install-recommends ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
