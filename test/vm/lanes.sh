# What the lanes are made of. A test or a suite that fails does not end its lane, but fails it.
export CI=true
failed=0

# tests DIRECTORY [ARGUMENT…] runs the tests of a package. All that they say is kept in $RESULTS.
tests() {
	local dir=$1 log=$RESULTS/${1//\//-}.log begin=$SECONDS
	shift
	echo "== $dir"
	(cd "$dir" && ./package.test -test.v -test.timeout 50m "$@" 2>&1) | tee "$log" | grep -E --line-buffered '^(--- |panic:)|^ +--- FAIL|^ +[a-z0-9_]+_test.go:[0-9]+: '
	if [ "${PIPESTATUS[0]}" != 0 ]; then
		failed=1
		echo "FAILED $dir; the end of what it said:"
		tail -n 60 "$log"
	fi
	echo "== $dir: $(count PASS) passed, $(count FAIL) failed, $(count SKIP) skipped, in $((SECONDS - begin)) s"
}

# count WORD counts the tests in $log, without their parts, that ended so.
count() { grep -c "^--- $1" "$log"; }

# units runs the tests of every package that was handed in. The arrows are read with the Go tool.
units() {
	local file
	for file in $(find cri-shim pkg plugins -name package.test | sort); do
		tests "$(dirname "$file")" -test.skip '^TestArrows$'
	done
}

# suite LANES runs critest.
suite() {
	.cache/critest -lanes "$1" -output "$RESULTS" -limit 50m || failed=1
}

# shellcheck source=node.sh
. /podwright/.vm/node.sh

# services installs podwright as its users do, with the units in conf/systemd and the systemd cgroup driver, and looks
# whether containers outlive restarts, kills and a reload of systemd.
services() {
	install -m 0755 bin/cri-shim bin/cri-monitor /usr/local/bin/
	install -D -m 0755 bin/bridge-ipam /opt/cni/bin/bridge-ipam
	install -D -m 0644 conf/cni/10-podwright.conflist /etc/cni/net.d/10-podwright.conflist
	install -m 0644 conf/systemd/*.service /etc/systemd/system/
	mkdir -p /etc/cri-shim/certs.d
	.cache/registry --hosts-dir /etc/cri-shim/certs.d >/dev/null &
	systemctl daemon-reload
	systemctl start cri-monitor cri-shim || fail "start: $(journalctl -b -u cri-shim -u cri-monitor)"
	crictl pull $image >/dev/null || fail pull
	local p c pid action
	p=$(pod services) || { fail "a pod"; return; }
	c=$(crictl ps -q --name one)
	pid=$(state "$c" '{{.info.pid}}')
	grep -q "/cri-shim.slice/cri-shim-$c.scope" "/proc/$pid/cgroup" || fail "it is in $(cat "/proc/$pid/cgroup")"
	systemctl is-active --quiet "cri-shim-$c.scope" || fail "systemd does not know its scope"
	for action in "restart cri-shim" "restart cri-monitor" daemon-reload "kill -s KILL cri-shim" "kill -s KILL cri-monitor" \
		"stop cri-shim cri-monitor" "start cri-shim cri-monitor"; do
		echo "--- systemctl $action"
		systemctl $action
		[ -d "/proc/$pid" ] || fail "systemctl $action ended the container"
		[ "$action" = "stop cri-shim cri-monitor" ] && continue
		answers
		[ "$(state "$c" '{{.status.state}}')" = CONTAINER_RUNNING ] || fail "after systemctl $action: $(crictl inspect "$c")"
		[ "$(crictl exec --sync "$c" echo well)" = well ] || fail "exec after systemctl $action"
	done
	crictl update --memory 67108864 "$c" >/dev/null || fail update
	systemctl daemon-reload
	[ "$(cat "/sys/fs/cgroup/cri.slice/cri-shim.slice/cri-shim-$c.scope/memory.max")" = 67108864 ] || fail "a reload of systemd undoes an update"
	[ "$(systemctl show -P MemoryMax "cri-shim-$c.scope")" = 67108864 ] || fail "systemd does not know the limit"
	crictl rmp -f "$p" >/dev/null || fail rmp
	[ -z "$(systemctl list-units --all --no-legend 'cri-shim-*.scope')" ] || fail "scopes: $(systemctl list-units --all 'cri-shim-*')"
	[ -z "$(systemctl list-units --failed --no-legend)" ] || fail "units: $(systemctl list-units --failed)"
	systemctl stop cri-shim cri-monitor
	echo "--- services, failed=$failed"
}

# state ID TEMPLATE is a part of a container's status.
state() {
	crictl inspect -o go-template --template "$2" "$1"
}
