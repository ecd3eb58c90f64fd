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
	echo "== $dir took $((SECONDS - begin)) s"
}

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
