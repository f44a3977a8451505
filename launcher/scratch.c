/* The scratch, a tmpfs of the launch's own, where everything is made that neither image nor host has; and which tmpfs are
 * ours, to be changed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "place.h"

int scratch = -1;
const char *scratch_place = "";
static dev_t scratch_below; /* what lies there otherwise */
static dev_t *our_devices;
static size_t our_device_count;

bool tmpfs_is_ours(dev_t device) {
	for (size_t i = 0; i < our_device_count; i++)
		if (our_devices[i] == device)
			return true;
	return false;
}

void tmpfs_note(int fd) {
	struct stat status;
	if (fstat(fd, &status) < 0)
		die("", errno, "fstat", "look at our own tmpfs");
	if (tmpfs_is_ours(status.st_dev) || status.st_dev == scratch_below)
		die("", 0, "the kernel said that it was mounted, and it is not there", "use a tmpfs of our own");
	our_devices[our_device_count++] = status.st_dev;
}

void scratch_choose(const struct plan *plan) {
	struct stat found;
	size_t tmpfs = 3; /* scratch, session, credentials */
	for (size_t i = 0; i < plan->count; i++)
		tmpfs += plan->records[i].id == OP_MOUNT_TMPFS;
	our_devices = reserve(tmpfs, sizeof *our_devices);
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_SCRATCH_PLACE)
			continue;
		if (!lstat(record->field[0], &found) && S_ISDIR(found.st_mode)) {
			scratch_place = record->field[0];
			scratch_below = found.st_dev;
			return;
		}
	}
	die("create one of them, or an empty directory named in the configuration", 0,
		"none of the plan's candidate directories exists", "find a place for the scratch");
}

int tmpfs_make(const char *place, int point, mode_t mode, uint64_t bytes, uint64_t inodes) {
	char options[120], link[32];
	snprintf(options, sizeof options, "mode=%04o,size=%llu,nr_inodes=%llu", mode,
		(unsigned long long)bytes, (unsigned long long)inodes);
	return mount("tmpfs", place ? place : proc_path(link, point), "tmpfs", MS_NOSUID | MS_NODEV, options);
}

void scratch_make(const struct record *record) {
	if (tmpfs_make(scratch_place, -1, 0755, number(record, ARG_SCRATCH_BYTES), number(record, ARG_SCRATCH_INODES)) < 0) {
		int error = errno;
		char reason[64];
		snprintf(reason, sizeof reason, "userns:mount:%s", errno_name(error));
		front_again(reason);
		die("see dunnage check", error, "mount of tmpfs", "make the scratch on %s", scratch_place);
	}
	scratch = open(scratch_place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (scratch < 0)
		die("", errno, "open", "enter the scratch");
	tmpfs_note(scratch);
}

int scratch_dir(const char *format, unsigned which, char name[24]) {
	snprintf(name, 24, format, which);
	if (mkdirat(scratch, name, 0755) < 0)
		die("", errno, "mkdirat in the scratch", "assemble the root");
	int fd = openat(scratch, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("", errno, "openat in the scratch", "assemble the root");
	return fd;
}

int scratch_tmpfs(const char *name, uint64_t bytes, uint64_t inodes, int flags) {
	char made[24];
	int point = scratch_dir(name, 0, made);
	if (tmpfs_make(NULL, point, 0755, bytes, inodes) < 0)
		die("", errno, "mount of tmpfs", "make the directory for %s", name);
	close(point);
	int fd = openat(scratch, name, flags | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("", errno, "open", "enter the directory for %s", name);
	tmpfs_note(fd);
	return fd;
}
