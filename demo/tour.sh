#!/bin/sh
# The jobs themselves, run by an unprivileged user. Usage: tour.sh BASE IMAGE LAYOUT; the working directory is BASE/job.
# LAYOUT is the image as an OCI layout, or empty.
set -eu
base=$1
image=$2
layout=$3
PATH=$base/prefix/bin:$PATH

bold='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$(printf '\033[1m') plain=$(printf '\033[0m')
fi
title() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# One word as a shell would need it typed.
typed() {
	case $1 in
	*[!A-Za-z0-9_/.:=,@%+-]* | '') printf "'%s'" "$(printf %s "$1" | sed "s/'/'\\\\''/g")" ;;
	*) printf %s "$1" ;;
	esac
}

command_line() {
	line=''
	for word; do line="$line $(typed "$word")"; done
	echo "${line# }"
}

# Show a command, then run it.
try() {
	printf '%s$ %s%s\n' "$bold" "$(command_line "$@")" "$plain"
	"$@"
}

# Everything that changes when somebody writes there.
fingerprint() { find "$image" -xdev -printf '%p %m %s %T@ %C@\n' 2> /dev/null | sha256sum; }

os_of() { (. "$1/etc/os-release" && echo "$PRETTY_NAME"); }

if ! dunnage exec "$image" /bin/true; then
	title 'This machine cannot run containers yet. What `dunnage check` says:'
	dunnage check || true
	exit 1
fi

title 'Outside'
echo "host:    $(os_of /)"
echo "user:    $(id)"
if [ "$image" = / ]; then
	echo "image:   /, the host's own root file system"
else
	echo "image:   $image, $(os_of "$image"), owned by $(stat -c %U "$image")"
	before=$(fingerprint)
fi
missing=''
for path in /storage /cvmfs; do [ -e "${image%/}$path" ] || missing="$missing $path"; done
[ -z "$missing" ] || echo "lacks:  $missing"
printf '%s$ PATH=%s:$PATH%s\n' "$bold" "$(typed "$base/prefix/bin")" "$plain"

title 'CMS: the job directory appears on /srv; nothing of the host is seen but what was asked for (-C)'
try cd "$base/job"
try dunnage exec -C -H "$PWD:/srv" --pwd /srv "$image" ./job.sh
try cat result.txt

title 'ATLAS: site storage and software at paths that the image has never heard of'
try cd "$base"
set -- -B storage/cache:/storage/site42/cache -B cvmfs:/cvmfs:ro "$image"
try dunnage exec "$@" cat /storage/site42/cache/run42.events /cvmfs/atlas.cern.ch/repo/sw/release
try dunnage exec "$@" sh -c '. /etc/os-release; echo "$PRETTY_NAME"; ls -d /storage/*/* /cvmfs/*; touch /usr/x || echo as it should be'

title 'What was mounted for that (without the rest of what explain knows)'
printf '%s$ %s | sed -n "/^[/]/,/^created/p"%s\n' "$bold" "$(command_line dunnage explain exec "$@" true)" "$plain"
dunnage explain exec "$@" true | sed -n '/^[/]/,/^created/p'

title 'A pilot with a token in its environment, an open proxy file and two hostile jobs: by exec they see everything'
try cd "$base/job"
mkdir -p bob eve
cp "$base/spy.sh" bob/
cp "$base/spy.sh" eve/
printf '  the pilot'"'"'s open proxy      -----BEGIN CERTIFICATE-----\n' > proxy
export TOKEN=s3cret
printf '%s$ exec 7< proxy; export TOKEN=s3cret%s\n' "$bold" "$plain"
exec 7< proxy
try dunnage exec -B bob:/srv --pwd /srv "$image" ./spy.sh bob $$
rm -f /tmp/demo-bob
exec 7< proxy

title 'The same jobs as payloads, side by side'
for name in bob eve; do
	try dunnage payload --job "$name" --receipt "$name.json" --wall-time 1m "$image" -- ./spy.sh "$name" $$ > "$name.out" 2>&1 &
	eval "$name=$!"
done
# shellcheck disable=SC2154
wait "$bob" && wait "$eve"
cat bob.out eve.out
exec 7<&-
unset TOKEN

title 'What the receipt tells of eve'
try python3 "$base/told.py" eve.json

title 'An image in a registry on this machine: fetched, compared with its digests, unpacked, and run'
if [ -n "$layout" ]; then
	registry=''
	trap '[ -z "$registry" ] || kill "$registry"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	python3 "$base/registry.py" "$layout" demo/system > registry.host 2> registry.said &
	registry=$!
	while [ ! -s registry.host ] && kill -0 "$registry" 2> /dev/null; do sleep 0.1; done
	if [ -s registry.host ]; then
		reference=docker://$(cat registry.host)/demo/system
		try export APPTAINER_CACHEDIR="$PWD/cache"
		try dunnage inspect --no-https "$reference"
		try dunnage pull --no-https --sandbox pulled "$reference"
		try dunnage exec pulled sh -c '. /etc/os-release; echo "$PRETTY_NAME, $(id -un), $(ls / | wc -l) entries in /"'
		echo 'Or at once; the second time from the cache:'
		try dunnage exec --no-https "$reference" cat /etc/debian_version
		try dunnage exec --no-https "$reference" cat /etc/debian_version
	else
		echo "left out: $(tail -n 1 registry.said)"
	fi
	[ ! -s registry.host ] || kill "$registry"
	wait "$registry" 2> /dev/null || true
	registry=''
	trap - INT TERM HUP
	chmod -R u+rwX pulled cache 2> /dev/null || true
	rm -rf pulled cache registry registry.*
else
	echo 'left out: it needs docker-registry, and an image that was packed by its owner'
fi

if [ "$image" != / ]; then
	title 'The image afterwards'
	if [ "$(fingerprint)" = "$before" ]; then
		echo "$(find "$image" -xdev 2> /dev/null | wc -l) files and directories, none of them changed"
	else
		echo 'something changed in it: this should not happen'
		exit 1
	fi
fi

title "Next, as $([ -O "$base" ] && echo yourself || echo 'any user of this machine') and from anywhere: a shell there"
command_line "$base/prefix/bin/dunnage" shell -B "$base/storage/cache:/storage/site42/cache" -B "$base/cvmfs:/cvmfs:ro" "$image"
