#!/bin/sh
# A payload that looks for its pilot and for its neighbour. Usage: spy.sh NAME PID_OF_THE_PILOT
echo "left by $1" > "/tmp/demo-$1"
sleep 1 # until the neighbour is there, too
echo "I am $1, uid $(id -u)"
set -- "$1" "$2" /proc/[0-9]*
echo "  processes that I see       $(($# - 2))"
kill -0 "$2" 2> /dev/null && echo "  the pilot's process         I could kill it" || echo "  the pilot's process         not there"
echo "  the pilot's token           ${TOKEN:-not there}"
(cat <&7) 2> /dev/null || echo "  the pilot's open proxy      not there"
echo "  files in /tmp               $(cd /tmp && echo demo-*)"
sleep 1
