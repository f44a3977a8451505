#!/bin/sh
# Process 1 of the emulated machine: makes it a machine as sites have them, runs /jobs as an
# ordinary user, each with its output in /results/NAME.log, and puts /results on the second disk.
export PATH=/usr/sbin:/usr/bin LANG=C.UTF-8
mount -t sysfs -o nosuid,nodev,noexec sysfs /sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
mkdir /dev/pts /dev/shm
mount -t devpts -o nosuid,noexec,mode=620,gid=5,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o nosuid,nodev tmpfs /dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs /run
ln -s /proc/self/fd /dev/fd
ln -s fd/0 /dev/stdin
ln -s fd/1 /dev/stdout
ln -s fd/2 /dev/stderr
chmod 666 /dev/fuse
ip link set lo up
hostname emulated
mount --make-rshared /
# Debian 10 and older, and whoever kept its setting, forbid user namespaces by it.
[ ! -e /proc/sys/kernel/unprivileged_userns_clone ] || echo 1 > /proc/sys/kernel/unprivileged_userns_clone

# What systemd does for a user's session (Delegate=): the directory and these files are the user's.
top=/sys/fs/cgroup
mkdir $top/delegated
echo '+memory +pids' > $top/cgroup.subtree_control
mkdir $top/delegated/session
chown tester: $top/delegated $top/delegated/session
for file in cgroup.procs cgroup.subtree_control cgroup.threads; do
	chown tester: $top/delegated/$file $top/delegated/session/$file
done
echo '+memory +pids' > $top/delegated/cgroup.subtree_control

# Names that differ by case are one below it. Kernels without tables of letters cannot mount it.
mkdir /srv/folding
if mount -t ext4 -o nosuid,nodev /dev/vdc /srv/folding; then
	export DUNNAGE_FOLDING=/srv/folding/place
	mkdir $DUNNAGE_FOLDING
	chattr +F $DUNNAGE_FOLDING
	chown tester: $DUNNAGE_FOLDING
fi

# Images that belong to root, for the tests that need one.
export DUNNAGE_ROOT_FIXTURES=/srv/root
cd /home/tester/dunnage || exit
python3 -B tests/prepare_root.py $DUNNAGE_ROOT_FIXTURES
python3 -B tests/odd/automounter.py $DUNNAGE_ROOT_FIXTURES/automounts 1

# now: whole seconds since the start
now() { read -r up _ < /proc/uptime && echo "${up%.*}"; }
# as_user COMMAND...: in the delegated cgroup, where the process moves while it is still root
as_user() {
	sh -c 'echo $$ > /sys/fs/cgroup/delegated/session/cgroup.procs; exec "$@"' sh \
		setpriv --reuid tester --regid tester --init-groups --inh-caps=-all \
		env -i PATH=/usr/sbin:/usr/bin LANG=C.UTF-8 HOME=/home/tester DUNNAGE_ROOT_FIXTURES=$DUNNAGE_ROOT_FIXTURES \
		DUNNAGE_FOLDING="$DUNNAGE_FOLDING" "$@"
}
# prepare JOB: what root does before it
prepare() {
	case $1 in
	fuse-closed) chmod 600 /dev/fuse ;;
	fuse-undriven) # a device that nobody drives: with fuse built in, another one in its place
		rmmod fuse
		rm -f /dev/fuse
		mknod -m 666 /dev/fuse c 10 "$(grep -q ' fuse$' /proc/misc && echo 250 || echo 229)"
		;;
	fuse-gone) rm -f /dev/fuse ;;
	esac
}
save() { tar -c -f - -C /results . | dd of=/dev/vdb bs=64k conv=notrunc 2> /dev/null; sync; }

echo "userspace reached after $(now) s"
while read -r name command; do
	begin=$(now)
	prepare "$name"
	# No word of the command holds a blank.
	# shellcheck disable=SC2086
	as_user $command > "/results/$name.log" 2>&1 < /dev/null
	status=$?
	echo "$status $(($(now) - begin))" > "/results/$name.job"
	echo "$name: status $status after $(now) s"
	save
done < /jobs
dmesg > /results/dmesg.txt
save
poweroff -f
