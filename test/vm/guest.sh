# What runs in the virtual machine, as root, once systemd has reached its basic target. Its output and its end go to
# the host by virtio ports.
exec >/dev/virtio-ports/out 2>&1 </dev/null
export PATH=/podwright/.vm/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 RESULTS=/results
mkdir -p "$RESULTS"
# A node's modules: kubeadm and the packages of Kubernetes ask for the first two.
modprobe -a br_netfilter overlay veth bridge nf_tables ifb sch_tbf sch_ingress cls_u32 cls_matchall act_mirred act_police
ip link set lo up
ip address add 10.0.2.15/24 dev "$(ls /sys/class/net | grep -m1 '^e')" && ip link set "$(ls /sys/class/net | grep -m1 '^e')" up
ip route add default via 10.0.2.2
echo nameserver 10.0.2.3 >/etc/resolv.conf
fallocate -l 256M /swap && chmod 0600 /swap && mkswap -q /swap && swapon /swap
if [ -b /dev/vdc ]; then mount /dev/vdc /persistent; fi
cd /podwright || exit
bash /podwright/.vm/command
code=$?
tar -C "$RESULTS" -cf /dev/virtio-ports/results .
sync
echo "$code" >/dev/virtio-ports/status
systemctl poweroff --force --force >/dev/null 2>&1
