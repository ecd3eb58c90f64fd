#!/usr/bin/env bash
# Makes a Debian with systemd, AppArmor and what the tests need, and a Debian kernel, for test/vm, in the directory
# $1: root.ext4, vmlinuz and initrd. Nothing of it is installed on this host but the programs that make it and run it.
# KERNEL names another kernel package. As root.
set -euo pipefail

dir=$1
kernel=${KERNEL:-linux-image-cloud-amd64}
packages=(
	"$kernel" initramfs-tools systemd systemd-sysv udev dbus apparmor
	runc crun criu nftables iptables iproute2 conntrack iperf3 iputils-ping ethtool
	procps kmod util-linux busybox-static file strace sudo ca-certificates
)
export PATH=$PATH:/usr/sbin:/sbin
need=()
command -v qemu-system-x86_64 >/dev/null || need+=(qemu-system-x86)
command -v mmdebstrap >/dev/null || need+=(mmdebstrap)
command -v mkfs.ext4 >/dev/null || need+=(e2fsprogs)
if [ ${#need[@]} -gt 0 ]; then
	echo "Running: apt-get install --no-install-recommends ${need[*]}"
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	apt-get install -y -qq --no-install-recommends "${need[@]}" >/dev/null
fi

want="$(sha256sum "$0" | cut -d' ' -f1) $kernel"
[ "$(cat "$dir/made-from" 2>/dev/null || true)" = "$want" ] && exit 0

echo "Making $dir/root.ext4: Debian bookworm with $kernel"
mkdir -p "$dir"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 0755 "$work"
mkdir "$work/extra"
cat >"$work/extra/vm.service" <<'UNIT'
[Unit]
Description=What test/vm hands in
RequiresMountsFor=/podwright
After=basic.target dbus.service apparmor.service
[Service]
Type=oneshot
ExecStart=/bin/sh /podwright/.vm/guest.sh
Slice=-.slice
Delegate=yes
LimitNOFILE=1048576
TasksMax=infinity
OOMPolicy=continue
UNIT
# The initramfs has the few modules that lead to the root file system, not the drivers of all machines.
mmdebstrap --quiet --mode=root --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
	--essential-hook='mkdir -p "$1/etc/initramfs-tools/conf.d"
		echo MODULES=list >"$1/etc/initramfs-tools/conf.d/vm.conf"
		printf "virtio_pci\nvirtio_blk\next4\n" >"$1/etc/initramfs-tools/modules"' \
	--customize-hook="copy-in $work/extra/vm.service /etc/systemd/system" \
	--customize-hook='mkdir -p "$1/podwright" "$1/persistent"
		echo podwright >"$1/etc/hostname"
		printf "127.0.0.1 localhost podwright\n::1 localhost\n" >"$1/etc/hosts"
		printf "/dev/vda / ext4 rw 0 0\n/dev/vdb /podwright ext4 rw 0 0\n" >"$1/etc/fstab"
		ln -sf /lib/systemd/system/basic.target "$1/etc/systemd/system/default.target"
		mkdir -p "$1/etc/systemd/system/basic.target.wants"
		ln -s ../vm.service "$1/etc/systemd/system/basic.target.wants/vm.service"
		chroot "$1" passwd -d root >/dev/null' \
	bookworm "$work/root"
cp "$work"/root/boot/vmlinuz-* "$dir/vmlinuz"
cp "$work"/root/boot/initrd.img-* "$dir/initrd"
rm -f "$dir/root.ext4"
mkfs.ext4 -q -d "$work/root" -O ^has_journal -m 0 "$dir/root.ext4" 6G
echo "$want" >"$dir/made-from"
