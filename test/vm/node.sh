# A node whose power fails: /persistent is a disk that keeps what reached it, all else is gone at each boot.
# work fills it and goes on until it is cut off; check says what a node finds afterwards.

cat >/etc/crictl.yaml <<-CONFIG
	runtime-endpoint: unix:///run/cri-shim/cri-shim.sock
	image-endpoint: unix:///run/cri-shim/cri-shim.sock
	timeout: 120
CONFIG
# The tools come last: among them are a runc newer than Debian's, and a plugin that is called bridge, as bridge(8) is.
PATH=/podwright/bin:$PATH:/podwright/.cache/tools
image=podwright.test/busybox:latest

fail() {
	failed=1
	echo "FAILED $*"
}

node() {
	mkdir -p /etc/cri-shim/hosts /etc/cni/net.d /persistent/logs
	cat >/etc/cri-shim/config.toml <<-CONFIG
		root = "/persistent/root"
		cgroup_driver = "systemd"
		[cni]
		bin_dirs = ["/podwright/bin"]
		[image]
		registry_config_dir = "/etc/cri-shim/hosts"
	CONFIG
	cat >/etc/cni/net.d/10.conflist <<-CONFIG
		{"cniVersion": "1.1.0", "name": "powercut", "plugins": [{"type": "bridge-ipam", "bridge": "pc0", "isGateway": true,
		"capabilities": {"io.podwright.netns-destroyed": true}, "ipam": {"ranges": [[{"subnet": "10.77.0.0/28"}]]}}]}
	CONFIG
	.cache/registry --hosts-dir /etc/cri-shim/hosts >/dev/null &
	cri-shim serve 2>>"$RESULTS/cri-shim.log" &
	shim=$!
	answers
}

# answers waits until cri-shim does.
answers() {
	for _ in $(seq 300); do
		crictl version >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "cri-shim does not start"
	[ ! -e "$RESULTS/cri-shim.log" ] || tail -n 30 "$RESULTS/cri-shim.log"
	exit 1
}

# pod NAME runs a pod with two containers; what does not succeed is said on standard output.
pod() {
	local dir=/tmp/$1 id
	mkdir -p "$dir"
	echo '{"metadata": {"name": "'"$1"'", "namespace": "default", "uid": "uid-'"$1"'"}, "hostname": "h", "log_directory": "/persistent/logs/'"$1"'", "linux": {}}' >"$dir/pod.json"
	id=$(crictl runp "$dir/pod.json") || return
	for c in one two; do
		echo '{"metadata": {"name": "'$c'"}, "image": {"image": "'$image'"}, "command": ["sh", "-c", "echo begun; dd if=/dev/urandom of=/file bs=100k count=1; sleep 1000"], "log_path": "'$c'.log"}' >"$dir/$c.json"
		crictl start "$(crictl create "$id" "$dir/$c.json" "$dir/pod.json")" >/dev/null || return
	done
	echo "$id"
}

work() {
	node
	crictl pull $image >/dev/null || fail pull
	pod steady >/dev/null && pod second >/dev/null || fail "the first pods"
	sleep 6 # ext4 writes by itself what is 5 s old, and nothing here is synced: records of these two must outlive the cut
	echo "CUT ME OFF"
	for i in $(seq 1000); do # half-way in everything, whenever it happens
		id=$(pod "busy$i") && crictl rmp -f "$id" >/dev/null
		[ $((i % 3)) = 0 ] && crictl rmi $image >/dev/null 2>&1
		crictl pull $image >/dev/null
	done
}

check() {
	node
	crictl pods
	crictl ps -a
	[ -n "$(crictl pods -q)" ] || fail "no pod of the last boot is known: they ran for seconds"
	grep -E 'level=(WARN|ERROR)' "$RESULTS/cri-shim.log"
	[ -z "$(crictl pods -q --state ready)" ] || fail "pods of the last boot are ready: $(crictl pods --state ready)"
	[ -z "$(crictl ps -q)" ] || fail "containers of the last boot run: $(crictl ps)"
	[ -z "$(bridge-ipam leases | grep -v NETWORK)" ] || fail "leases of the last boot: $(bridge-ipam leases)"
	for name in steady second; do
		[ -n "$(crictl pods -q --name "^$name\$")" ] || echo "note: the record of $name did not reach the disk"
	done
	for id in $(crictl ps -aq); do
		[ "$(crictl inspect -o go-template --template '{{.status.state}}' "$id")" = CONTAINER_EXITED ] || fail "$(crictl inspect "$id")"
	done
	crictl rmp -af >"$RESULTS/rmp" 2>&1 || fail "remove what was: $(cat "$RESULTS/rmp")"
	crictl pull $image >/dev/null || fail "pull again"
	for i in 1 2; do # the names are free, twice
		for name in steady second busy1 busy2; do
			id=$(pod $name) || fail "the name $name is not free"
			c=$(crictl ps -q --pod "$id" | head -n1)
			[ "$(crictl exec "$c" sha256sum /bin/busybox | cut -d' ' -f1)" = "$(sha256sum /bin/busybox | cut -d' ' -f1)" ] || fail "the image is another one"
		done
		crictl rmp -af >/dev/null || fail "remove the new ones"
	done
	[ -z "$(crictl pods -q)$(crictl ps -aq)" ] || fail "left: $(crictl pods; crictl ps -a)"
	find /persistent/root/pods /persistent/root/containers -mindepth 1 2>/dev/null | grep . && fail "files are left in /persistent/root"
	crictl rmi -a >/dev/null 2>&1 || fail "remove all images"
	kill $shim
	wait $shim || fail "cri-shim ends with $?"
	echo "--- checked, failed=$failed"
}
