#!/bin/sh
# Run pytest as an unprivileged user. Usage: packaging/test.sh [pytest arguments]
#
# Started by root: tests of a tool that needs no privilege prove nothing when root runs them, so a
# copy of the tree is given to the user dunnage-test (made if absent) and tested there. A
# plain user tests in the clone itself, or in a copy if the clone is somebody else's.
# Afterwards the copy is gone; the exit status is pytest's.
set -eu
PATH=$PATH:/usr/sbin:/sbin # useradd, where `su` left them out
umask 022
tree=$(cd "$(dirname "$0")/.." && pwd -P)
venv=$("$tree/packaging/venv.sh")
user=dunnage-test
python=${PYTHON:-/usr/bin/python3}

if [ "$(id -u)" != 0 ] && [ -w "$tree" ] && [ -w "$tree/launcher" ] && [ -w "$tree/src/dunnage" ]; then
	cd "$tree"
	make --no-print-directory build "PYTHON=$python"
	# Not in /tmp, which some tests cover by another one.
	TMPDIR=${TMPDIR:-/var/tmp} DUNNAGE_WHEELS=$venv/wheels exec "$venv/bin/python" -m pytest "$@"
fi

work=$(mktemp -d /var/tmp/dunnage-test.XXXXXX)
cgroup='' no_cgroup='' enabled=''
clean_up() {
	# An interrupted test can leave directories that even their owner may not enter.
	chmod -R u+rwX "$work" 2> /dev/null || true
	# What is left in use is no failure of a test.
	rm -rf --one-file-system "$work" || echo "test: not all of $work could be removed" >&2
	[ -n "$cgroup" ] || return 0
	# An ended process leaves its cgroup a moment later.
	for _ in 1 2 3 4 5; do
		rmdir "$cgroup/session" "$cgroup" 2> /dev/null || true
		[ -e "$cgroup" ] || break
		sleep 1
	done
	for controller in $enabled; do
		(echo "-$controller" > "$cgroup/../cgroup.subtree_control") 2> /dev/null || true
	done
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP
mkdir "$work/tree" "$work/home" "$work/tmp"
tar -C "$tree" -c --exclude=./.git --exclude=./.venv --exclude=./launcher/build --exclude=./build --exclude=./dist \
	--exclude=__pycache__ --exclude='./.*_cache' --exclude=./.hypothesis . | tar -C "$work/tree" -x --no-same-owner

# A cgroup that is the user's, as systemd gives to a session (Delegate=): the ground for limits. Where that is
# impossible $no_cgroup says why.
delegate() {
	top=$(findmnt -n -t cgroup2 -o TARGET | head -n 1)
	[ -n "$top" ] || { no_cgroup='cgroup version 2 is not mounted'; return; }
	for old in "$top"/dunnage-test.*; do # of runs that were killed, or left processes
		[ -e "/proc/${old##*.}" ] || rmdir "$old/session" "$old" 2> /dev/null || true
	done
	mkdir "$top/dunnage-test.$$" 2> /dev/null || { no_cgroup="root cannot make a cgroup in $top"; return; }
	cgroup=$top/dunnage-test.$$
	mkdir "$cgroup/session"
	for controller in memory pids; do
		grep -qw "$controller" "$top/cgroup.controllers" || continue
		if ! grep -qw "$controller" "$top/cgroup.subtree_control"; then
			(echo "+$controller" > "$top/cgroup.subtree_control") 2> /dev/null || continue
			enabled="$enabled $controller"
		fi
		(echo "+$controller" > "$cgroup/cgroup.subtree_control") 2> /dev/null || true
	done
	for place in "$cgroup" "$cgroup/session"; do
		chown "$user:" "$place" "$place/cgroup.procs" "$place/cgroup.subtree_control" "$place/cgroup.threads"
	done
}
# From now on this shell is in there; it must still be root.
enter_cgroup() {
	# shellcheck disable=SC2016
	[ -z "$cgroup" ] || sh -c 'echo $PPID > "$0"' "$cgroup/session/cgroup.procs"
}

as_user=''
if [ "$(id -u)" = 0 ]; then
	id "$user" > /dev/null 2>&1 || useradd --system --home-dir /nonexistent --shell /usr/sbin/nologin "$user" ||
		id "$user" > /dev/null # another run was faster
	# Debian gives everybody the use of it through udev, which a container does not run.
	[ ! -c /dev/fuse ] || [ "$(stat -c %a /dev/fuse)" = 666 ] || chmod 0666 /dev/fuse 2> /dev/null || true
	chown -R "$user:" "$work"
	chmod 0755 "$work"
	"$python" -B "$work/tree/tests/prepare_root.py" "$work/root"
	delegate
	as_user="setpriv --reuid $user --regid $user --init-groups --inh-caps -all --ambient-caps -all"
	echo "test: as $user in $work"
else
	echo "test: in a copy, $work, because $tree belongs to somebody else"
fi

# with_automounts COMMAND...: root's automounter beside it, and a mount namespace that takes its mounts away
with_automounts() {
	unshare --mount true 2> /dev/null || { "$@"; return; }
	# shellcheck disable=SC2016
	unshare --mount --propagation slave sh -c '"$0" -B tests/odd/automounter.py "$1" $$ || true; shift; exec "$@"' \
		"$python" "$work/root/automounts" "$@"
}
[ "$(id -u)" = 0 ] || with_automounts() { "$@"; }

# No exec: the trap cleans up. Nothing of the caller's environment is needed, or wanted, in a test.
status=0
# shellcheck disable=SC2086,SC2016
(cd "$work/tree" && enter_cgroup && with_automounts $as_user env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
	HOME="$work/home" TMPDIR="$work/tmp" DUNNAGE_WHEELS="$venv/wheels" \
	DUNNAGE_ROOT_FIXTURES="$work/root" ${no_cgroup:+"DUNNAGE_NO_CGROUP=$no_cgroup"} ${DUNNAGE_MUST_WORK:+DUNNAGE_MUST_WORK=$DUNNAGE_MUST_WORK} ${DUNNAGE_FUZZ_SECONDS:+DUNNAGE_FUZZ_SECONDS=$DUNNAGE_FUZZ_SECONDS} \
	sh -c 'umask 022; make --no-print-directory build "PYTHON=$1" && shift && exec "$@"' sh \
	"$python" "$venv/bin/python" -m pytest --basetemp="$work/t" "$@") || status=$?
exit "$status"
