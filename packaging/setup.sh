#!/bin/sh
# Install what is missing on Debian or Ubuntu; without root, say what is and what still works.
# Usage: packaging/setup.sh GROUP...     groups as in packages.txt: build test demo bench kernels fuzz
# Exit status 1: what the groups are for is impossible.
set -eu
PATH=$PATH:/usr/sbin:/sbin # dpkg needs them, and `su` leaves them out
list=$(dirname "$0")/packages.txt

# of GROUP: its lines, without the group
of() { sed -n "s/^\([^# ]\{1,\}\) \{1,\}$1 \{1,\}/\1 /p" "$list"; }

if ! command -v dpkg-query > /dev/null; then
	echo "setup: not Debian or Ubuntu; install the counterparts of these packages yourself:"
	for group; do of "$group" | sed 's/^/  /; s/ /: /3'; done
	exit 0
fi

missing=''
for group; do
	for package in $(of "$group" | cut -d ' ' -f 1); do
		[ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null)" = installed ] || missing="$missing $package"
	done
done
if [ -z "$missing" ]; then
	echo "setup: everything for $* is installed"
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	echo "setup: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	# Somebody else may be installing just now.
	install="apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=600 $missing"
	# First with the package lists as they are: a machine that is offline may have the packages in its cache.
	# shellcheck disable=SC2086
	$install > /dev/null 2>&1 || "$(dirname "$0")/again" sh -c "apt-get update -qq && $install" ||
		{ echo "setup: cannot install$missing: apt-get failed, see above" >&2; exit 1; }
	exit 0
fi

echo "setup: not installed, and only root can do that:"
for package in $missing; do
	sed -n "s/^\($package\) \{1,\}[a-z]\{1,\} \{1,\}/  \1: /p" "$list"
done
echo "fix: as root: apt-get install --no-install-recommends$missing"
case " $missing " in
*' gcc '* | *' libc6-dev '* | *' make '* | *' python3 '*) echo "Until then nothing can be built."; exit 1 ;;
*' python3-venv '*) echo "Until then make build, install and demo work; make test and lint do not."; exit 1 ;;
*) echo "Everything works without; what needs one of them skips it and says so." ;;
esac
