#!/bin/sh
# Two grid jobs in another operating system, run by an ordinary user: what `make demo` shows.
# Usage: demo/run.sh [clean]
#
# Started by root: everything lies below /var/cache/dunnage, where an unprivileged user can read it
# (the clone may lie in /root), and that user runs the jobs: the one behind sudo, or the system user
# dunnage-demo, made if absent. A plain user has it below the own cache directory and needs root for nothing.
# The image is made once and kept; `demo/run.sh clean` removes all of it.
set -eu
umask 022
PATH=$PATH:/usr/sbin:/sbin # debootstrap, useradd; an ordinary user's PATH lacks them
tree=$(cd "$(dirname "$0")/.." && pwd -P)
account=dunnage-demo
if [ "$(id -u)" = 0 ]; then
	place=/var/cache/dunnage
else
	place=${XDG_CACHE_HOME:-${HOME:?is not set}/.cache}/dunnage
fi
base=$place/demo

say() { echo "demo: $*"; }

clean() {
	chmod -R u+rwX "$base" "$place/images" 2> /dev/null || true
	rm -rf "$base" "$place/images"
	rmdir "$place" 2> /dev/null || true
	if [ "$(id -u)" = 0 ] && id "$account" > /dev/null 2>&1; then
		userdel "$account"
	fi
	say "removed $base, $place/images$([ "$(id -u)" != 0 ] || echo " and the user $account")"
}

# Trixie, or bookworm where the host is trixie: the point is an operating system that is not the host's.
choose_release() {
	release=trixie
	if grep -q '^VERSION_CODENAME=trixie' /etc/os-release 2> /dev/null; then release=bookworm; fi
	script=/usr/share/debootstrap/scripts/$release
	[ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid # an older debootstrap than the release
}

# Mirrors to try: the machine's own, which may be the only ones that it reaches; DEBIAN_MIRROR names another.
mirrors() {
	# shellcheck disable=SC2016
	apt-get indextargets --format '$(REPO_URI) $(ORIGIN)' 2> /dev/null |
		sed -n '/ Debian$/ { s/ .*//; /security/d; s,/$,,; p; }' | sort -u
	[ -z "${DEBIAN_MIRROR-}" ] || echo "$DEBIAN_MIRROR"
}

# bootstrap DIRECTORY: root makes a complete system; others unpack its packages, of which no script runs then.
bootstrap() {
	for mirror in $(mirrors); do
		rm -rf "$1"
		if [ "$(id -u)" = 0 ]; then
			debootstrap --variant=minbase "$release" "$1" "$mirror" "$script" > "$1.log" 2>&1 && return
		else
			debootstrap --variant=minbase --download-only "$release" "$1.packages" "$mirror" "$script" \
				> "$1.log" 2>&1 && unpack "$1.packages" "$1" >> "$1.log" 2>&1 && return
		fi
	done
	say "no image: $(tail -n 1 "$1.log" | sed 's/^[EIW]: //'); all that debootstrap said: $1.log"
	return 1
}

unpack() {
	mkdir -p "$2"
	for package in "$1"/var/cache/apt/archives/*.deb; do dpkg-deb -x "$package" "$2" || return; done
	# What the scripts of base-passwd and base-files would have copied.
	for file in passwd group; do cp "$2/usr/share/base-passwd/$file.master" "$2/etc/$file"; done
	rm -rf "$1"
}

# Nothing in the image is meant for the host: no setuid program, no device, no directory that everybody may write.
tame() {
	find "$1" -xdev -type f -perm /6000 -exec chmod ug-s '{}' +
	find "$1" -xdev -type d -perm -0002 -exec chmod 0755 '{}' +
	find "$1" -xdev '(' -type b -o -type c ')' -exec rm '{}' +
	rm -rf "$1"/var/cache/apt/archives/*.deb "$1"/var/lib/apt/lists/*
}

# Sets `image`: the shared one that root made, our own, a new one, or the host's own root.
find_image() {
	choose_release
	for image in "/var/cache/dunnage/images/$release" "$place/images/$release"; do
		if [ -r "$image/etc/os-release" ]; then
			say "the image is there already: $image"
			return
		fi
	done
	if [ -e "$script" ] && command -v dpkg-deb > /dev/null; then
		say "making the image $image with debootstrap; takes a minute, once"
		mkdir -p "$place/images"
		if bootstrap "$image.partial"; then
			tame "$image.partial"
			mv "$image.partial" "$image"
			rm -f "$image.partial.log"
			return
		fi
		rm -rf "$image.partial" "$image.partial.packages"
	else
		say "no image: debootstrap is not installed"
	fi
	image=/
	say "taking the host's own / as the image instead: the operating system inside will be the same"
}

# Sets `layout`: the image once more, as the layer that a registry will hand out; or empty. Only who owns the image may
# read all of it.
pack_image() {
	layout=''
	[ "$image" != / ] && command -v docker-registry > /dev/null || return 0
	if [ ! -e "$image.layout" ] && [ -O "$image" ]; then
		say "packing $image as an OCI image, once"
		"$base/prefix/bin/dunnage" -s build "oci:$image.layout:latest" "$image" || return 0
	fi
	[ ! -e "$image.layout" ] || layout=$image.layout
}

# A build needs a tree that may be written to; a clone of somebody else is copied.
install_dunnage() {
	source=$tree
	if ! [ -w "$tree/launcher" ] || ! [ -w "$tree/src/dunnage" ]; then
		source=$base/tree
		say "building in a copy, $source, because $tree belongs to somebody else"
		mkdir -p "$source"
		tar -C "$tree" -c --exclude='./.*' --exclude=./launcher/build --exclude=__pycache__ . |
			tar -C "$source" -x --no-same-owner
	fi
	say "installing into $base/prefix"
	if ! make --no-print-directory -C "$source" install PREFIX="$base/prefix" DESTDIR= > "$base/install.log" 2>&1; then
		cat "$base/install.log"
		exit 1
	fi
}

# Sets `user`, `home` and `as_user`, the words before a command that this user shall run.
choose_user() {
	user=$(id -un 2> /dev/null || id -u)
	home=${HOME:-/}
	as_user=''
	[ "$(id -u)" = 0 ] || return 0
	user=${SUDO_USER:-$account}
	[ "$user" != root ] || user=$account
	if ! id "$user" > /dev/null 2>&1; then
		say "making the system user $user, who will run the jobs"
		useradd --system --user-group --home-dir /nonexistent --shell /usr/sbin/nologin "$user"
	fi
	home=$(getent passwd "$user" | cut -d : -f 6)
	as_user="setpriv --reuid $user --regid $(id -g "$user") --init-groups --inh-caps -all --ambient-caps -all --"
}

# What a site has: storage, a software repository, and the job's own directory, which alone belongs to the user.
lay_out_site() {
	rm -rf "$base/job" "$base/storage" "$base/cvmfs"
	mkdir -p "$base/job" "$base/storage/cache" "$base/cvmfs/atlas.cern.ch/repo/sw"
	echo '4711 collisions of run 42' > "$base/storage/cache/run42.events"
	echo 'release 25.0.1' > "$base/cvmfs/atlas.cern.ch/repo/sw/release"
	cp "$tree/demo/job.sh" "$base/job/job.sh"
	cp "$tree/demo/tour.sh" "$tree/demo/spy.sh" "$tree/demo/told.py" "$tree/demo/registry.py" "$base/"
	if [ -n "$as_user" ]; then chown -R "$user:" "$base/job"; fi
}

if [ "${1:-}" = clean ]; then
	clean
	exit
elif [ $# -gt 0 ]; then
	echo "Usage: $0 [clean]" >&2
	exit 2
fi

mkdir -p "$base"
exec 9> "$base/lock"
flock -n 9 || { say "waiting for another demo that runs in $base"; flock 9; }

"$tree/packaging/setup.sh" build
"$tree/packaging/setup.sh" demo || say "going on without"
install_dunnage
find_image
pack_image
choose_user
lay_out_site

status=0
# The user's own surroundings: nothing of root's environment belongs there.
# shellcheck disable=SC2086
(cd "$base/job" && exec 9>&- && $as_user env -i PATH=/usr/local/bin:/usr/bin:/bin HOME="$home" USER="$user" \
	LANG=C.UTF-8 TERM="${TERM:-dumb}" ${NO_COLOR:+NO_COLOR=1} sh "$base/tour.sh" "$base" "$image" "$layout") || status=$?
[ "$status" = 0 ] || exit "$status"
echo
if [ "$image" = / ]; then
	say "installed and ready in $base"
else
	say "installed and ready: $base, $image"
fi
say "to remove it all: $tree/demo/run.sh clean"
