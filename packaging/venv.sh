#!/bin/sh
# Make the virtual environment of tests and linters, unless it is there, and print its directory.
#
# Root: below /var/cache/dunnage, where the unprivileged user that runs the tests can read it (the
# clone may lie in /root). Others: .venv of the clone, or of the user's cache if that is not theirs.
# Beside it `wheels` keeps what was fetched: the tests install from it without a network.
set -eu
umask 022
tree=$(cd "$(dirname "$0")/.." && pwd -P)
python=${PYTHON:-/usr/bin/python3}

if [ "$(id -u)" = 0 ]; then
	place=/var/cache/dunnage
elif [ -w "$tree" ]; then
	place=$tree/.venv
else
	place=${XDG_CACHE_HOME:-$HOME/.cache}/dunnage
fi
key=$({ "$python" -c 'import sys; print(sys.executable, sys.version)'; cat "$tree/tests/requirements.txt"; } | sha256sum | cut -c 1-12)
venv=$place/$key

mkdir -p "$place"
exec 9> "$place/lock"
flock 9
if [ ! -e "$venv/complete" ]; then
	echo "venv: making $venv from tests/requirements.txt" >&2
	rm -rf "$venv"
	"$python" -m venv "$venv" >&2 ||
		{ echo "venv: $python cannot make virtual environments; fix: apt-get install python3-venv" >&2; exit 1; }
	"$tree/packaging/again" "$venv/bin/pip" --disable-pip-version-check download --quiet --timeout 60 --only-binary :all: \
		--dest "$venv/wheels" --requirement "$tree/tests/requirements.txt" >&2 ||
		{ echo "venv: cannot fetch the packages above from PyPI; fix: connect once, or point PIP_INDEX_URL at a mirror" >&2; exit 1; }
	"$venv/bin/pip" --disable-pip-version-check install --quiet --no-index --find-links "$venv/wheels" \
		--requirement "$tree/tests/requirements.txt" >&2
	: > "$venv/complete"
fi
echo "$venv"
