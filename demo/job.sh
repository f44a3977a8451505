#!/bin/sh
# A grid job as CMS starts it: in its own directory, which appears on /srv.
. /etc/os-release
echo "inside:  $PRETTY_NAME"
echo "user:    uid $(id -u), gid $(id -g)"
echo "in:      $(pwd), holding $(echo *)"
set -- /proc/[0-9]*
echo "sees:    $# processes: the container's init and this script"
echo "42 events selected under $PRETTY_NAME" > result.txt
