#!/bin/busybox sh
# shellcheck shell=dash
# Process 1 of the initramfs: unpacks the system from the first disk into a tmpfs and goes on there.
# Nearly nothing is tested in the initramfs itself, which pivot_root refuses to leave: most nodes are not like that.
b=/bin/busybox
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
while read -r module; do $b insmod "/modules/$module"; done < /modules/order
$b mount -t tmpfs -o mode=755,size=90% system /system
$b tar -x -f /dev/vda -C /system
# One start where the root is the initramfs; test_initramfs.py looks at what it wrote.
/bin/dunnage-launch /plan > /system/initramfs.txt 2>&1
echo "status $?" >> /system/initramfs.txt
# Moved, not bound: a second, unmasked /proc would let every container mount a new one (UND-505).
$b mount --move /proc /system/proc
$b mount --move /dev /system/dev
exec $b switch_root /system /init
