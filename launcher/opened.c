/* Opened directories: each shows what the image has there, and points for mounts. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "place.h"

struct opened *opened;

void opened_prepare(const struct plan *plan) {
	opened = reserve(plan->opened, sizeof *opened);
}

static int open_backing(const struct record *record) {
	char name[24];
	snprintf(name, sizeof name, "s%u", small(record, ARG_OPEN_BACKING));
	int top = open_below(scratch, name, O_PATH | O_DIRECTORY);
	if (top < 0)
		return -1;
	int fd = open_below(top, record->field[ARG_OPEN_BELOW], O_RDONLY | O_DIRECTORY), error = errno;
	close(top);
	errno = error;
	return fd;
}

void opened_begin(const struct record *record) {
	struct opened *directory = &opened[small(record, ARG_OPEN_OPENED)];
	const char *inside = record->field[ARG_OPEN_INSIDE];
	unsigned request = small(record, ARG_OPEN_REQUEST);
	char name[24];
	*directory = (struct opened){.record = record, .top.fd = -1};
	directory->backing = open_backing(record);
	if (directory->backing < 0)
		die_stale(request, inside, errno, "listing the directory");
	if (!inside[1]) { /* the root: one mount of the scratch's own tmpfs, filled in place */
		int point = scratch_dir("root", 0, name);
		if (tree_clone(&directory->top, point, "", FLAG_PLAIN) < 0 || tree_attach(&directory->top, point, scratch, name) < 0)
			die("", errno, "open_tree or move_mount", "make the root");
		close(point);
		root = directory->top.fd;
		directory->in_place = directory->mounted = true;
		directory->base = openat(root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	} else {
		struct stat found;
		int point = open_point(inside, O_RDONLY | O_DIRECTORY, request);
		if (fstat(point, &found) < 0)
			die_request(request, inside, errno, "fstat");
		directory->in_place = tmpfs_is_ours(found.st_dev);
		if (directory->in_place) {
			directory->base = point;
		} else {
			close(point);
			directory->base = scratch_dir("o%u", small(record, ARG_OPEN_OPENED), name);
		}
	}
	if (directory->base < 0)
		die_request(request, inside, errno, "open");
}

void opened_point(const struct record *record, const char *below, bool dir, mode_t mode) {
	struct opened *directory = &opened[small(record, 0)];
	if (!directory->first_point)
		directory->first_point = below;
	int result = dir ? mkdirat(directory->base, below, mode) : mknodat(directory->base, below, S_IFREG | mode, 0);
	if (result < 0)
		die_request(small(directory->record, ARG_OPEN_REQUEST), directory->record->field[ARG_OPEN_INSIDE], errno,
			dir ? "mkdirat of a mount point" : "mknodat of a mount point");
}

void opened_expect_no_dir(const struct record *record) {
	struct opened *directory = &opened[small(record, 0)];
	struct stat found;
	const char *name = record->field[ARG_EXPECT_NO_DIR_NAME];
	if (fstatat(directory->backing, name, &found, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISDIR(found.st_mode))
		return;
	char why[NAME_MAX + 100];
	snprintf(why, sizeof why, "the image has %.255s there now, and the plan would hide it", name);
	die_stale(small(directory->record, ARG_OPEN_REQUEST), directory->record->field[ARG_OPEN_INSIDE], 0, why);
}

static void copy_metadata(const struct record *record, int fd) {
	struct timespec times[2] = {{.tv_nsec = UTIME_OMIT},
		{.tv_sec = (time_t)number(record, ARG_OPEN_SECONDS), .tv_nsec = (long)number(record, ARG_OPEN_NANOSECONDS)}};
	if (fchmod(fd, mode_of(record, ARG_OPEN_MODE)) < 0 || futimens(fd, times) < 0)
		die_request(small(record, ARG_OPEN_REQUEST), record->field[ARG_OPEN_INSIDE], errno, "fchmod or futimens");
}

struct entry { /* of getdents64 */
	uint64_t inode;
	int64_t offset;
	unsigned short length;
	unsigned char type;
	char name[];
};

static bool ordinary(const char *name) {
	return strcmp(name, ".") && strcmp(name, "..");
}

/* Some kernels mount an overlay over FUSE and then fail on use: look before going on. */
static bool overlay_works(struct opened *directory, int top) {
	struct stat found;
	if (directory->first_point && fstatat(top, directory->first_point, &found, AT_SYMLINK_NOFOLLOW) < 0)
		return false;
	_Alignas(struct entry) char buffer[1024];
	long got = syscall(SYS_getdents64, directory->backing, buffer, sizeof buffer);
	bool works = false, missing = got < 0;
	for (long at = 0; at < got && !works;) {
		struct entry *entry = (struct entry *)(void *)(buffer + at);
		at += entry->length;
		if (!ordinary(entry->name))
			continue;
		works = !fstatat(top, entry->name, &found, AT_SYMLINK_NOFOLLOW);
		/* what is gone from the backing, too, says nothing about the overlay */
		missing = missing || (!works && !fstatat(directory->backing, entry->name, &found, AT_SYMLINK_NOFOLLOW));
	}
	lseek(directory->backing, 0, SEEK_SET);
	return works || !missing;
}

static bool fill_by_overlay(struct opened *directory) {
	const char *inside = directory->record->field[ARG_OPEN_INSIDE];
	unsigned request = small(directory->record, ARG_OPEN_REQUEST);
	char layers[140];
	copy_metadata(directory->record, directory->base);
	snprintf(layers, sizeof layers, "redirect_dir=nofollow,lowerdir=/proc/self/fd/%d:/proc/self/fd/%d", directory->base, directory->backing);
	int point = inside[1] ? open_point(inside, O_PATH | O_DIRECTORY, request) : root;
	if (mount_new("overlay", point, MS_RDONLY | MS_NOSUID | MS_NODEV, layers) < 0) {
		note("no overlay on %s (%s), using binds", inside, errno_name(errno));
		if (inside[1])
			close(point);
		return false;
	}
	int top = inside[1] ? open_point(inside, O_PATH | O_DIRECTORY, request) : openat(scratch, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	directory->overlay = overlay_works(directory, top);
	if (!directory->overlay) {
		char link[32];
		note("the overlay on %s does not work, using binds", inside);
		if (umount2(proc_path(link, top), MNT_DETACH) < 0) /* binds in place would lie below it */
			die_request(request, inside, errno, "umount2 of an overlay that does not work");
	}
	if (!inside[1] && directory->overlay) {
		close(root);
		root = directory->top.fd = top;
	} else {
		close(top);
	}
	if (inside[1])
		close(point);
	return directory->overlay;
}

static void take_over(struct opened *directory, int into, const char *name, unsigned char type) {
	const char *inside = directory->record->field[ARG_OPEN_INSIDE];
	struct stat found;
	if (type == DT_UNKNOWN) {
		if (fstatat(directory->backing, name, &found, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0) {
			note("%s/%s is left out: %s", inside, name, errno_name(errno));
			return;
		}
		type = S_ISLNK(found.st_mode) ? DT_LNK : S_ISDIR(found.st_mode) ? DT_DIR : DT_REG;
	}
	int made;
	if (type == DT_LNK) {
		char text[PATH_MAX];
		ssize_t length = readlinkat(directory->backing, name, text, sizeof text - 1);
		if (length < 0) {
			note("%s/%s is left out: %s", inside, name, errno_name(errno));
			return;
		}
		text[length] = 0;
		made = symlinkat(text, directory->base, name);
	} else {
		made = type == DT_DIR ? mkdirat(directory->base, name, 0755) : mknodat(directory->base, name, S_IFREG | 0444, 0);
	}
	if (made < 0 && errno == EEXIST)
		return; /* a point of ours */
	if (made < 0)
		die_request(small(directory->record, ARG_OPEN_REQUEST), inside, errno, "mkdirat, mknodat or symlinkat in the scratch");
	if (type == DT_LNK)
		return;
	struct tree tree;
	int point = -1, result = tree_clone(&tree, directory->backing, name, FLAG_AS_IS); /* those of the stage */
	if (result >= 0) {
		point = openat(into, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		result = point < 0 ? -1 : tree_attach(&tree, point, into, NULL);
	}
	int error = errno;
	if (result < 0) { /* gone, or on a file system that is: everything else is there without it */
		bool broken = error == EACCES || error == ENOTCONN || error == ESTALE || error == EIO || error == ELOOP;
		if (error != ENOENT && !broken)
			die_request(small(directory->record, ARG_OPEN_REQUEST), inside, error, "mounting its entries");
		(broken ? warn : note)("%s/%s is left out: %s", inside, name, errno_name(error));
		unlinkat(directory->base, name, type == DT_DIR ? AT_REMOVEDIR : 0);
	}
	directory->taken += result >= 0;
	if (point >= 0)
		close(point);
	tree_close(&tree);
}

static void fill_by_binds(struct opened *directory) {
	const char *inside = directory->record->field[ARG_OPEN_INSIDE];
	unsigned request = small(directory->record, ARG_OPEN_REQUEST);
	if (!directory->in_place) { /* our mount first: filling before binding would multiply the mounts */
		int point = open_point(inside, O_PATH | O_DIRECTORY, request);
		if (tree_clone(&directory->top, directory->base, "", FLAG_PLAIN) < 0 || tree_attach(&directory->top, point, root, inside + 1) < 0)
			die_request(request, inside, errno, "move_mount of the opened directory");
		close(point);
		directory->mounted = true;
	}
	int into = directory->top.fd >= 0 ? directory->top.fd : directory->base;
	_Alignas(struct entry) char buffer[32768];
	for (;;) {
		long got = syscall(SYS_getdents64, directory->backing, buffer, sizeof buffer);
		if (got < 0)
			die_request(request, inside, errno, "listing the directory");
		if (!got)
			return;
		for (long at = 0; at < got;) {
			struct entry *entry = (struct entry *)(void *)(buffer + at);
			at += entry->length;
			if (ordinary(entry->name))
				take_over(directory, into, entry->name, entry->type);
		}
	}
}

void opened_fill(const struct record *record) {
	struct opened *directory = &opened[small(record, 0)];
	const struct record *plan = directory->record;
	const char *inside = plan->field[ARG_OPEN_INSIDE];
	unsigned request = small(plan, ARG_OPEN_REQUEST);
	struct stat base;
	speech.doing = inside;
	bool overlay = words(plan, ARG_OPEN_STRATEGY) == WORD_OPEN_STRATEGY_OVERLAY && fill_by_overlay(directory);
	if (!overlay && words(plan, ARG_OPEN_STRATEGY) == WORD_OPEN_STRATEGY_OVERLAY
	    && words(plan, ARG_OPEN_FALLBACK) == WORD_OPEN_FALLBACK_NONE)
		die_request(request, inside, 0, "overlay is refused here and the plan allows nothing else");
	if (!overlay)
		fill_by_binds(directory);
	if (fstat(directory->base, &base) < 0)
		die_request(request, inside, errno, "fstat");
	directory->device = base.st_dev;
	directory->inode = base.st_ino;
	close(directory->base);
	close(directory->backing);
	if (directory->top.fd != root)
		tree_close(&directory->top);
}

void opened_seal(const struct record *record) {
	const struct opened *directory = &opened[small(record, 0)];
	const char *inside = directory->record->field[ARG_OPEN_INSIDE];
	unsigned request = small(directory->record, ARG_OPEN_REQUEST);
	struct stat found;
	if (directory->overlay)
		return;
	int top = open_below(root, inside + 1, O_RDONLY | O_DIRECTORY);
	if (top < 0 || fstat(top, &found) < 0)
		die_stale(request, inside, errno, "opening what was put together for it");
	if (found.st_dev != directory->device || found.st_ino != directory->inode)
		die_stale(request, inside, 0, "something else is there now than what was put together for it");
	copy_metadata(directory->record, top);
	if (directory->mounted && mount_readonly(top) < 0)
		die_request(request, inside, errno, "making the opened directory read-only");
	close(top);
}
