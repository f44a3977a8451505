/* The new root: objects, scratch, opened directories, mounts. Everything is reached through
 * directory descriptors and without following links. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "launch.h"

struct object {
	const struct record *record;
	struct tree tree;   /* of a source: its clone, until it is attached */
	bool staged;        /* a clone of it lies in the scratch */
	bool late;          /* cloned only when attached: descriptors are scarce */
};

struct opened {
	const struct record *record;
	/* Descriptors, until it is filled: there may be many opened directories. */
	int backing;        /* the directory of the image */
	int base;           /* where points are made: scratch, or the point itself when that is on our tmpfs */
	struct tree top;    /* our own mount over the point; fd -1 when there is none */
	bool in_place, mounted, overlay;
	dev_t device;       /* of base */
	ino_t inode;
	const char *first_point;
	size_t taken;       /* mounts that were made for entries */
	size_t made, shown; /* mounts directly in it, if entries were taken: all that were made; those that the kernel shows */
};

static struct object *objects;
static struct opened *opened;
static int scratch = -1, session = -1, root = -1, credentials = -1;
static const char *scratch_place = "";
static dev_t scratch_below; /* what lies there otherwise */
static dev_t *our_devices;
static size_t our_device_count;

static const char stale_fix[] = "start it again; if it repeats, find out what keeps changing these files";

static bool is_ours(dev_t device) {
	for (size_t i = 0; i < our_device_count; i++)
		if (our_devices[i] == device)
			return true;
	return false;
}

static void ours(int fd) {
	struct stat status;
	if (fstat(fd, &status) < 0)
		die("", errno, "fstat", "look at our own tmpfs");
	if (is_ours(status.st_dev) || status.st_dev == scratch_below)
		die("", 0, "the kernel said that it was mounted, and it is not there", "use a tmpfs of our own");
	our_devices[our_device_count++] = status.st_dev;
}

/* ---- objects ---- */

static const char *source_problem(const struct record *record, const struct stat *found) {
	bool wanted_dir = words(record, ARG_SOURCE_KIND) == WORD_SOURCE_KIND_DIR;
	uint64_t inode = number(record, ARG_SOURCE_INODE);
	if (S_ISLNK(found->st_mode))
		return "it became a symbolic link";
	if (!S_ISDIR(found->st_mode) == wanted_dir)
		return wanted_dir ? "it is no directory any more" : "it became a directory";
	if (inode && (found->st_ino != inode || found->st_dev != number(record, ARG_SOURCE_DEVICE)))
		return "it was replaced";
	return NULL;
}

static int open_source(const struct record *record, const char **problem, int *error) {
	struct stat found;
	int fd = open_host(record->field[ARG_SOURCE_PATH], O_PATH);
	*error = fd < 0 ? errno : 0;
	*problem = fd < 0 ? "open" : NULL;
	if (fd >= 0 && fstat(fd, &found) < 0) {
		*error = errno;
		*problem = "fstat";
	} else if (fd >= 0) {
		*problem = source_problem(record, &found);
	}
	return fd;
}

/* O_PATH alone does not make an automount happen. What comes of it shows when the source is opened. */
static void trigger_automount(const char *path) {
	char inner[PATH_MAX + 2];
	struct stat found;
	snprintf(inner, sizeof inner, "%s/.", path);
	(void)fstatat(AT_FDCWD, inner, &found, 0);
}

/* Before any effect: a stale plan is made anew, once, by the front. */
void objects_compare(const struct plan *plan) {
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_SOURCE)
			continue;
		const char *problem, *path = record->field[ARG_SOURCE_PATH];
		if (words(record, ARG_SOURCE_FLAGS) & WORD_SOURCE_FLAGS_TRIGGER)
			trigger_automount(path);
		if (!call.known && !speech.mute)
			continue; /* nobody could plan anew: the second comparison, on what is mounted, is enough */
		int error, fd = open_source(record, &problem, &error);
		if (fd >= 0)
			close(fd);
		if (!problem)
			continue;
		if (error == EMFILE || error == ENFILE)
			die_request(small(record, ARG_SOURCE_REQUEST), path, error, problem);
		front_again("stale");
		die(stale_fix, error, problem, "start, the file system changed while the container was being prepared: %s", path);
	}
}

static void clone_source(struct object *object) {
	const struct record *record = object->record;
	unsigned given = words(record, ARG_SOURCE_FLAGS), request = small(record, ARG_SOURCE_REQUEST);
	unsigned flags = (given & WORD_SOURCE_FLAGS_RO ? FLAG_RO : 0u) | (given & WORD_SOURCE_FLAGS_DEV ? FLAG_DEV : 0u)
		| (given & WORD_SOURCE_FLAGS_PRIVATE ? FLAG_PRIVATE : 0u);
	const char *problem;
	int error, fd = open_source(record, &problem, &error);
	if (error == ELOOP && given & WORD_SOURCE_FLAGS_TRIGGER)
		die_request(request, record->field[ARG_SOURCE_PATH], error,
			"open: the automount did not happen in this namespace (is its mount shared on the host?)");
	if (problem)
		die_stale(request, record->field[ARG_SOURCE_PATH], error, problem);
	if (tree_clone(&object->tree, fd, "", flags) < 0)
		die_request(request, record->field[ARG_SOURCE_PATH], errno, "open_tree or mount_setattr of the source");
	close(fd);
}

static bool at_or_below(const char *path, const char *top) {
	size_t length = strlen(top);
	return !top[1] || (!strncmp(path, top, length) && (!path[length] || path[length] == '/'));
}

static void raise_descriptors(size_t wanted, size_t *possible) {
	struct rlimit limit;
	*possible = 1024;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	if (limit.rlim_cur < wanted + 64 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max < wanted + 64 ? limit.rlim_max : wanted + 64;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
	*possible = limit.rlim_cur > 64 ? (size_t)limit.rlim_cur - 64 : 0;
}

static void choose_scratch(const struct plan *plan) {
	struct stat found;
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

void objects_clone(const struct plan *plan) {
	objects = reserve(plan->objects, sizeof *objects);
	opened = reserve(plan->opened, sizeof *opened);
	choose_scratch(plan);
	size_t sources = 0, possible, tmpfs = 3; /* scratch, session, credentials */
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_SOURCE || record->id == OP_GENERATED || record->id == OP_PRIVATE || record->id == OP_CREDENTIALS
		    || record->id == OP_IMAGE_FILE) {
			objects[small(record, 0)] = (struct object){.record = record, .tree.fd = -1};
			sources += record->id == OP_SOURCE;
		}
		tmpfs += record->id == OP_MOUNT_TMPFS;
	}
	our_devices = reserve(tmpfs, sizeof *our_devices);
	raise_descriptors(sources, &possible);
	size_t held = 0;
	for (size_t i = 0; i < plan->objects; i++) {
		struct object *object = &objects[i];
		if (object->record->id != OP_SOURCE)
			continue;
		const char *path = object->record->field[ARG_SOURCE_PATH]; /* the scratch would show in it, or hide it */
		object->late = held >= possible && !at_or_below(scratch_place, path) && !at_or_below(path, scratch_place);
		if (object->late)
			continue;
		clone_source(object);
		held++;
	}
}

/* ---- the scratch ---- */

static int make_tmpfs(const char *place, int point, mode_t mode, uint64_t bytes, uint64_t inodes) {
	char options[120], link[32];
	snprintf(options, sizeof options, "mode=%04o,size=%llu,nr_inodes=%llu", mode,
		(unsigned long long)bytes, (unsigned long long)inodes);
	return mount("tmpfs", place ? place : proc_path(link, point), "tmpfs", MS_NOSUID | MS_NODEV, options);
}

static void make_scratch(const struct record *record) {
	if (make_tmpfs(scratch_place, -1, 0755, number(record, ARG_SCRATCH_BYTES), number(record, ARG_SCRATCH_INODES)) < 0) {
		int error = errno;
		char reason[64];
		snprintf(reason, sizeof reason, "userns:mount:%s", errno_name(error));
		front_again(reason);
		die("see dunnage check", error, "mount of tmpfs", "make the scratch on %s", scratch_place);
	}
	scratch = open(scratch_place, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (scratch < 0)
		die("", errno, "open", "enter the scratch");
	ours(scratch);
}

static int scratch_dir(const char *format, unsigned which, char name[24]) {
	snprintf(name, 24, format, which);
	if (mkdirat(scratch, name, 0755) < 0)
		die("", errno, "mkdirat in the scratch", "assemble the root");
	int fd = openat(scratch, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("", errno, "openat in the scratch", "assemble the root");
	return fd;
}

/* A tmpfs of its own in the scratch. */
static int scratch_tmpfs(const char *name, uint64_t bytes, uint64_t inodes, int flags) {
	char made[24];
	int point = scratch_dir(name, 0, made);
	if (make_tmpfs(NULL, point, 0755, bytes, inodes) < 0)
		die("", errno, "mount of tmpfs", "make the directory for %s", name);
	close(point);
	int fd = openat(scratch, name, flags | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		die("", errno, "open", "enter the directory for %s", name);
	ours(fd);
	return fd;
}

static void make_generated(const struct record *record) {
	char name[24];
	snprintf(name, sizeof name, "g%u", small(record, ARG_GENERATED_OBJECT));
	int fd = openat(scratch, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	const char *content = record->field[ARG_GENERATED_CONTENT];
	for (size_t left = strlen(content); fd >= 0 && left;) {
		ssize_t wrote = write(fd, content, left);
		if (wrote < 0 && errno == EINTR)
			continue;
		if (wrote < 0)
			die("", errno, "write", "generate a file");
		content += wrote;
		left -= (size_t)wrote;
	}
	if (fd < 0 || fchmod(fd, mode_of(record, ARG_GENERATED_MODE)) < 0)
		die("", errno, "open or fchmod", "generate a file");
	close(fd);
}

static void make_private(const struct record *record) {
	char name[24];
	snprintf(name, sizeof name, "%u", small(record, ARG_PRIVATE_OBJECT));
	if (mkdirat(session, name, mode_of(record, ARG_PRIVATE_MODE)) < 0)
		die("", errno, "mkdirat", "make a private directory");
}

/* The payload gets a read-only clone; the outer process goes on writing here. */
static void make_credentials(void) {
	credentials = scratch_tmpfs("credentials", 16 << 20, 64, O_RDONLY);
	credentials_copy(credentials);
	hand_over_credentials(credentials);
}

/* ---- image and stages ---- */

static unsigned request_of(const struct record *record) {
	return small(record, record->id == OP_SOURCE ? (unsigned)ARG_SOURCE_REQUEST : (unsigned)ARG_IMAGE_FILE_REQUEST);
}

static const char *path_of(const struct record *record) {
	return record->field[record->id == OP_SOURCE ? (unsigned)ARG_SOURCE_PATH : (unsigned)ARG_IMAGE_FILE_PATH];
}

static void show_image(struct object *object) {
	const struct record *record = object->record;
	const char *below = record->field[ARG_IMAGE_FILE_BELOW];
	char name[24];
	snprintf(name, sizeof name, "m%u", small(record, 0));
	int top = openat(scratch, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (top < 0)
		die("", errno, "openat in the scratch", "mount the image %s", path_of(record));
	image_answers(record, top);
	int shown = *below ? open_below(top, below, O_PATH | O_DIRECTORY) : top;
	if (shown < 0 || tree_clone(&object->tree, shown, "", FLAG_RO) < 0)
		die_stale(request_of(record), path_of(record), errno, *below ? "opening that directory of it" : "open_tree");
	if (shown != top)
		close(shown);
	close(top);
}

/* All servers begin before the first has to answer. */
static void show_images(const struct plan *plan) {
	char name[24];
	for (size_t i = 0; i < plan->objects; i++)
		if (objects[i].record->id == OP_IMAGE_FILE) {
			int point = scratch_dir("m%u", (unsigned)i, name);
			image_mount(objects[i].record, point);
			close(point);
		}
	for (size_t i = 0; i < plan->objects; i++)
		if (objects[i].record->id == OP_IMAGE_FILE)
			show_image(&objects[i]);
}

/* mount(2) copies what is mounted when it is called: a source above the scratch's place now shows the scratch. */
static void hide_scratch(const struct object *object, const struct tree *tree) {
	const char *path = object->record->field[ARG_SOURCE_PATH];
	if (!classic || object->record->id != OP_SOURCE || !at_or_below(scratch_place, path))
		return;
	char link[32];
	int copy = open_below(tree->fd, scratch_place + (path[1] ? strlen(path) + 1 : 1), O_PATH | O_DIRECTORY);
	if (copy < 0 || umount2(proc_path(link, copy), MNT_DETACH) < 0)
		die_request(small(object->record, ARG_SOURCE_REQUEST), path, errno, "taking the scratch out of it");
	close(copy);
}

static void stage(const struct record *record) {
	struct object *object = &objects[small(record, 0)];
	char name[24];
	if (object->late)
		clone_source(object);
	int point = scratch_dir("s%u", small(record, 0), name);
	if (tree_attach(&object->tree, point, scratch, name) < 0)
		die_request(request_of(object->record), path_of(object->record), errno, "attaching its staged clone");
	hide_scratch(object, &object->tree);
	close(point);
	tree_close(&object->tree);
	object->staged = true;
}

/* The object as a tree that can be attached now. */
static struct tree take(struct object *object, unsigned request, const char *inside) {
	struct tree tree = object->tree;
	char name[24];
	int error = 0;
	switch (object->record->id) {
	case OP_SOURCE: case OP_IMAGE_FILE:
		if (object->staged) {
			snprintf(name, sizeof name, "s%u", small(object->record, 0));
			if (tree_clone(&tree, scratch, name, FLAG_AS_IS) < 0)
				error = errno;
		} else if (object->late) {
			clone_source(object);
			tree = object->tree;
		}
		break;
	case OP_GENERATED:
		snprintf(name, sizeof name, "g%u", small(object->record, 0));
		if (tree_clone(&tree, scratch, name, FLAG_RO) < 0)
			error = errno;
		break;
	case OP_CREDENTIALS:
		if (tree_clone(&tree, credentials, "", FLAG_RO) < 0)
			error = errno;
		break;
	default:
		snprintf(name, sizeof name, "%u", small(object->record, 0));
		if (tree_clone(&tree, session, name, 0) < 0)
			error = errno;
	}
	object->tree.fd = -1;
	if (error)
		die_request(request, inside, error, "open_tree");
	return tree;
}

static void make_root(const struct record *record) {
	char name[24];
	struct object *object = &objects[small(record, ARG_ROOT_OBJECT)];
	int point = scratch_dir("root", 0, name);
	struct tree tree = take(object, 0, "/");
	if (tree_attach(&tree, point, scratch, name) < 0)
		die("", errno, "move_mount", "make the image the root");
	if (!object->staged)
		hide_scratch(object, &tree);
	close(point);
	root = tree.fd;
}

/* ---- opened directories ---- */

/* The point at `inside`, of whatever kind. */
static int open_point(const char *inside, int flags, unsigned request) {
	int fd = open_below(root, inside + 1, flags);
	if (fd < 0)
		die_stale(request, inside, errno, "opening its mount point: the image changed, or a link appeared");
	return fd;
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

static void begin_open(const struct record *record) {
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
		directory->in_place = is_ours(found.st_dev);
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

static void make_point(const struct record *record, const char *below, bool dir, mode_t mode) {
	struct opened *directory = &opened[small(record, 0)];
	if (!directory->first_point)
		directory->first_point = below;
	int result = dir ? mkdirat(directory->base, below, mode) : mknodat(directory->base, below, S_IFREG | mode, 0);
	if (result < 0)
		die_request(small(directory->record, ARG_OPEN_REQUEST), directory->record->field[ARG_OPEN_INSIDE], errno,
			dir ? "mkdirat of a mount point" : "mknodat of a mount point");
}

static void expect_no_dir(const struct record *record) {
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

static void fill(const struct record *record) {
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

static void seal(const struct record *record) {
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

/* ---- mounts and points ---- */

static bool of_kind(const struct stat *found, unsigned kind) {
	switch (kind) {
	case WORD_ATTACH_KIND_DIR: return S_ISDIR(found->st_mode);
	case WORD_ATTACH_KIND_LINK: return S_ISLNK(found->st_mode);
	default: return !S_ISDIR(found->st_mode) && !S_ISLNK(found->st_mode);
	}
}

static void expect_link(int point, const char *wanted, unsigned request, const char *inside) {
	char text[PATH_MAX];
	ssize_t length = readlinkat(point, "", text, sizeof text - 1);
	text[length < 0 ? 0 : length] = 0;
	if (strcmp(text, wanted))
		die_stale(request, inside, 0, "the link there changed since the plan was made");
}

static void attach(const struct record *record) {
	const char *inside = record->field[ARG_ATTACH_INSIDE];
	unsigned request = small(record, ARG_ATTACH_REQUEST), kind = words(record, ARG_ATTACH_KIND);
	struct stat found;
	int point = open_point(inside, O_PATH | O_NOFOLLOW, request);
	if (fstat(point, &found) < 0)
		die_request(request, inside, errno, "fstat");
	if (!of_kind(&found, kind))
		die_stale(request, inside, 0, "the mount point changed its kind since the plan was made");
	if (kind == WORD_ATTACH_KIND_LINK)
		expect_link(point, record->field[ARG_ATTACH_LINK], request, inside);
	struct object *object = &objects[small(record, ARG_ATTACH_OBJECT)];
	struct tree tree = take(object, request, inside);
	if (tree_attach(&tree, point, root, inside + 1) < 0)
		die_request(request, inside, errno, "move_mount or its flags");
	if (!object->staged)
		hide_scratch(object, &tree);
	close(point);
	tree_close(&tree);
}

/* The parent of something we make; on a tmpfs of ours, or, if so wanted, anywhere else. */
static int parent_of(const char *inside, const char **name, bool on_ours, unsigned request) {
	struct stat found;
	int parent = open_parent(root, inside + 1, name);
	if (parent < 0 || fstat(parent, &found) < 0)
		die_request(request, inside, errno, "opening its parent directory");
	if (on_ours != is_ours(found.st_dev))
		die_request(request, inside, 0, on_ours ? "its parent directory is not on a tmpfs of ours"
			: "its parent directory is on a tmpfs of ours");
	return parent;
}

static void make(const struct record *record) {
	const char *name, *inside = record->field[1];
	int parent = parent_of(inside, &name, true, 0), result;
	switch (record->id) {
	case OP_MAKE_DIR: result = mkdirat(parent, name, mode_of(record, 0)); break;
	case OP_MAKE_FILE: result = mknodat(parent, name, S_IFREG | mode_of(record, 0), 0); break;
	default: result = symlinkat(record->field[0], parent, name);
	}
	if (result < 0)
		die_request(0, inside, errno, "mkdirat, mknodat or symlinkat on our tmpfs");
	close(parent);
}

/* ---- what was promised ---- */

struct promise { /* flags, of mount(2), that mounts at and below a path must have */
	const char *place;
	unsigned long flags;
	unsigned request;
	bool seen;
};

static int by_place(const void *a, const void *b) {
	return strcmp(((const struct promise *)a)->place, ((const struct promise *)b)->place);
}

static struct promise *promise_for(struct promise *promises, size_t count, const char *path) {
	char above[PATH_MAX];
	size_t length = strlen(path);
	if (length >= sizeof above)
		return NULL;
	memcpy(above, path, length + 1);
	for (;;) {
		struct promise wanted = {.place = *above ? above : "/"};
		struct promise *found = bsearch(&wanted, promises, count, sizeof *promises, by_place);
		if (found || !*above)
			return found;
		*strrchr(above, '/') = 0;
	}
}

static struct promise promise(const char *place, const struct record *object, unsigned request) {
	unsigned given = object->id == OP_SOURCE ? words(object, ARG_SOURCE_FLAGS) : 0;
	bool ro = object->id == OP_GENERATED || object->id == OP_CREDENTIALS || object->id == OP_IMAGE_FILE
		|| given & WORD_SOURCE_FLAGS_RO;
	return (struct promise){.place = place, .request = request,
		.flags = MS_NOSUID | (given & WORD_SOURCE_FLAGS_DEV ? 0 : MS_NODEV) | (ro ? MS_RDONLY : 0)};
}

/* Sorted. */
static struct promise *of_root(const struct plan *plan, size_t *count) {
	struct promise *promises = reserve(plan->count + 1, sizeof *promises);
	size_t made = 0;
	promises[made++] = (struct promise){.place = "/", .flags = MS_RDONLY | MS_NOSUID | MS_NODEV};
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_ATTACH)
			promises[made++] = promise(record->field[ARG_ATTACH_INSIDE],
				objects[small(record, ARG_ATTACH_OBJECT)].record, small(record, ARG_ATTACH_REQUEST));
		else if (record->id == OP_MOUNT_PROC || record->id == OP_MOUNT_MQUEUE)
			promises[made++] = (struct promise){.place = record->field[0], .flags = MS_NOSUID | MS_NODEV};
		else if (record->id == OP_MOUNT_DEVPTS)
			promises[made++] = (struct promise){.place = record->field[0], .flags = MS_NOSUID};
		else if (record->id == OP_MOUNT_TMPFS)
			promises[made++] = (struct promise){.place = record->field[ARG_MOUNT_TMPFS_INSIDE], .flags = MS_NOSUID | MS_NODEV};
	}
	qsort(promises, made, sizeof *promises, by_place);
	*count = made;
	return promises;
}

/* ---- points on the host ---- */

/* What mount(2) mounted is not read-only yet. */
static void expect_writable(const struct plan *plan, const char *inside, unsigned request) {
	static struct promise *promises;
	static size_t count;
	char above[PATH_MAX];
	if (!promises)
		promises = of_root(plan, &count);
	snprintf(above, sizeof above, "%s", inside);
	*strrchr(above, '/') = 0;
	const struct promise *promised = promise_for(promises, count, above);
	if (!promised || promised->flags & MS_RDONLY)
		die_request(request, inside, EROFS, "mkdirat or mknodat of its mount point in the writable bind");
}

/* The only thing ever created outside the scratch. Never followed, never replaced. */
static void make_on_host(const struct plan *plan, const struct record *record) {
	const char *name, *inside = record->field[1];
	unsigned request = small(record, 0);
	struct stat found;
	bool dir = record->id == OP_HOST_DIR;
	int parent = parent_of(inside, &name, false, request);
	if (classic)
		expect_writable(plan, inside, request);
	int result = dir ? mkdirat(parent, name, 0755) : mknodat(parent, name, S_IFREG | 0644, 0);
	if (result < 0 && errno != EEXIST)
		die_request(request, inside, errno, "mkdirat or mknodat of its mount point in the writable bind");
	if (fstatat(parent, name, &found, AT_SYMLINK_NOFOLLOW) < 0 || !of_kind(&found, dir ? WORD_ATTACH_KIND_DIR : WORD_ATTACH_KIND_FILE))
		die_request(request, inside, 0, "something of another kind appeared where its mount point belongs");
	close(parent);
}

/* The kernel looks at every proc of the namespace and wants one that shows all of it. */
static _Noreturn void proc_masked(void) {
	struct mount_table table;
	char why[200] = "mount: the /proc of this machine is masked";
	size_t used = strlen(why), shown = 0;
	if (mount_table_read(&table) < 0)
		table.count = 0;
	for (size_t i = 0; i < table.count && shown < 3; i++)
		if (!strncmp(table.entries[i].point, "/proc/", 6) && strlen(table.entries[i].point) < 40)
			used += (size_t)sprintf(why + used, "%s%s", shown++ ? ", " : " at ", table.entries[i].point);
	die("unmask /proc in the outer container (systempaths=unconfined, procMount: Unmasked), or do without --pid",
		EPERM, why, "mount a new /proc");
}

static void mount_kernel(const struct record *record, const char *type, unsigned long flags, const char *options, const char *inside) {
	int point = open_point(inside, O_PATH | O_DIRECTORY, 0);
	if (mount_new(type, point, flags, options) < 0) {
		int error = errno;
		if (record->id == OP_MOUNT_PROC && error == EPERM)
			proc_masked();
		die("", error, "mount", "mount a new %s on %s", type, inside);
	}
	close(point);
}

static void mount_tmpfs(const struct record *record) {
	const char *inside = record->field[ARG_MOUNT_TMPFS_INSIDE];
	int point = open_point(inside, O_PATH | O_DIRECTORY, 0);
	if (make_tmpfs(NULL, point, mode_of(record, ARG_MOUNT_TMPFS_MODE), number(record, ARG_MOUNT_TMPFS_BYTES),
		number(record, ARG_MOUNT_TMPFS_INODES)) < 0)
		die("", errno, "mount", "mount a new tmpfs on %s", inside);
	close(point);
	int top = open_point(inside, O_PATH | O_DIRECTORY, 0);
	ours(top);
	close(top);
}

/* ---- keeping what was promised ---- */

/* The opened directory in which this is; NULL when there is none. */
static struct opened *opened_around(struct opened **sorted, size_t count, const char *path) {
	size_t low = 0, high = count, length = (size_t)(strrchr(path, '/') - path);
	while (low < high) {
		size_t middle = (low + high) / 2;
		const char *inside = sorted[middle]->record->field[ARG_OPEN_INSIDE];
		inside += !inside[1]; /* that of the root has no slash before its entries */
		int order = strncmp(path, inside, length);
		if (!order && inside[length])
			order = -1;
		if (!order)
			return sorted[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

static int by_inside(const void *a, const void *b) {
	const struct opened *one = *(struct opened *const *)a, *other = *(struct opened *const *)b;
	return strcmp(one->record->field[ARG_OPEN_INSIDE], other->record->field[ARG_OPEN_INSIDE]);
}

/* Opened directories with entries taken over, each of which is a mount, too; sorted. Other mounts in them may cover
 * these: all are counted. */
static size_t filled_directories(const struct plan *plan, struct opened **sorted, const struct promise *promises, size_t promised) {
	size_t count = 0;
	struct opened *around;
	for (size_t i = 0; i < plan->opened; i++)
		if (opened[i].taken)
			sorted[count++] = &opened[i];
	qsort(sorted, count, sizeof *sorted, by_inside);
	for (size_t i = 0; i < count; i++)
		sorted[i]->made = sorted[i]->taken;
	for (size_t i = 0; i < plan->opened; i++) {
		const char *inside = opened[i].record->field[ARG_OPEN_INSIDE];
		if (inside[1] && (opened[i].mounted || opened[i].overlay) && (around = opened_around(sorted, count, inside)))
			around->made++;
	}
	for (size_t i = 0; i < promised; i++)
		if (promises[i].place[1] && (around = opened_around(sorted, count, promises[i].place)))
			around->made++;
	return count;
}

enum { ROUNDS = 5 };

/* A call that returned 0 is no proof: read back what the kernel shows. mount(2) has set no flags yet, and mounts can
 * come while we look: a round that finds nothing to change ends it. `whole`: there is nothing but what was promised,
 * and entries of `filled` directories. */
static void hold(struct promise *promises, size_t count, bool whole, struct opened **filled, size_t filled_count) {
	bool changed = true;
	for (unsigned round = 0; changed; round++) {
		struct mount_table table;
		changed = false;
		for (size_t i = 0; i < filled_count; i++)
			filled[i]->shown = 0;
		if (mount_table_read(&table) < 0 || !table.count)
			die("", errno, "reading mountinfo", "verify the mounts");
		for (size_t i = 0; i < table.count; i++) {
			const struct mount_entry *entry = &table.entries[i];
			struct promise *promised = promise_for(promises, count, entry->point);
			bool exactly = promised && !strcmp(promised->place, entry->point);
			struct opened *around = entry->point[1] ? opened_around(filled, filled_count, entry->point) : NULL;
			if (exactly)
				promised->seen = true;
			if (around)
				around->shown++;
			unsigned long missing = promised ? promised->flags & ~entry->flags : 0;
			if ((promised ? !missing : !whole) || mount_hidden(&table, entry))
				continue; /* what another mount covers, the payload cannot reach either */
			if (!promised)
				die_request(0, entry->point, 0, "the mount came out without a place in the plan");
			int error = 0;
			if (classic && round < ROUNDS) {
				error = mount_restrict(entry, promised->flags) < 0 ? errno : 0;
				changed = true;
				if (!error || error == ESTALE || error == ENOENT) /* the next round tells */
					continue;
			}
			char why[100];
			snprintf(why, sizeof why, "%s%s", error ? "the remount that makes it " : "the mount came out without ",
				missing & MS_RDONLY ? "ro" : missing & MS_NOSUID ? "nosuid" : "nodev");
			die_request(promised->request, entry->point, error, why);
		}
		mount_table_free(&table);
	}
	for (size_t i = 0; i < count; i++)
		if (!promises[i].seen)
			die_request(promises[i].request, promises[i].place, 0, "it is not among the mounts after all were made");
	for (size_t i = 0; i < filled_count; i++)
		if (filled[i]->shown < filled[i]->made)
			die_request(small(filled[i]->record, ARG_OPEN_REQUEST), filled[i]->record->field[ARG_OPEN_INSIDE], 0,
				"one of its entries is not among the mounts after all were made");
}

/* What is taken from the stages has their flags. */
static void hold_stages(const struct plan *plan) {
	struct promise *promises = reserve(plan->objects, sizeof *promises);
	char top[PATH_MAX], link[32];
	size_t count = 0, size = PATH_MAX + 24;
	ssize_t length = readlink(proc_path(link, scratch), top, sizeof top - 1);
	if (length < 0)
		die("", errno, "readlink", "find the scratch");
	top[length] = 0;
	for (size_t i = 0; i < plan->objects; i++)
		if (objects[i].staged) {
			char *place = reserve(size, 1);
			snprintf(place, size, "%s/s%zu", top, i);
			promises[count++] = promise(place, objects[i].record, request_of(objects[i].record));
		}
	qsort(promises, count, sizeof *promises, by_place);
	hold(promises, count, false, NULL, 0);
	for (size_t i = 0; i < count; i++)
		release((void *)(uintptr_t)promises[i].place);
	release(promises);
}

static void hold_root(const struct plan *plan) {
	size_t count;
	struct promise *promises = of_root(plan, &count);
	struct opened **filled = reserve(plan->opened, sizeof *filled);
	hold(promises, count, true, filled, filled_directories(plan, filled, promises, count));
	release(filled);
	release(promises);
}

/* ---- assembling and entering ---- */

void root_assemble(const struct plan *plan) {
	bool staged = false;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		speech.doing = operations[record->id].name;
		if (classic && staged && record->id != OP_STAGE)
			hold_stages(plan);
		staged = record->id == OP_STAGE;
		switch (record->id) {
		case OP_SCRATCH:
			make_scratch(record);
			show_images(plan);
			break;
		case OP_SESSION:
			session = scratch_tmpfs("session", number(record, ARG_SESSION_BYTES), number(record, ARG_SESSION_INODES), O_PATH);
			break;
		case OP_GENERATED: make_generated(record); break;
		case OP_PRIVATE: make_private(record); break;
		case OP_CREDENTIALS: make_credentials(); break;
		case OP_STAGE: stage(record); break;
		case OP_ROOT: make_root(record); break;
		case OP_OPEN: begin_open(record); break;
		case OP_POINT_DIR:
			make_point(record, record->field[ARG_POINT_DIR_BELOW], true, mode_of(record, ARG_POINT_DIR_MODE)); break;
		case OP_POINT_FILE:
			make_point(record, record->field[ARG_POINT_FILE_BELOW], false, mode_of(record, ARG_POINT_FILE_MODE)); break;
		case OP_EXPECT_NO_DIR: expect_no_dir(record); break;
		case OP_EXPECT_LINK: {
			unsigned request = small(record, ARG_EXPECT_LINK_REQUEST);
			int point = open_point(record->field[ARG_EXPECT_LINK_INSIDE], O_PATH | O_NOFOLLOW, request);
			expect_link(point, record->field[ARG_EXPECT_LINK_TEXT], request, record->field[ARG_EXPECT_LINK_INSIDE]);
			close(point);
			break;
		}
		case OP_FILL: fill(record); break;
		case OP_SEAL: seal(record); break;
		case OP_ATTACH: attach(record); break;
		case OP_MAKE_DIR: case OP_MAKE_FILE: case OP_MAKE_LINK: make(record); break;
		case OP_HOST_DIR: case OP_HOST_FILE: make_on_host(plan, record); break;
		case OP_MOUNT_PROC:
			mount_kernel(record, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, record->field[0]); break;
		case OP_MOUNT_MQUEUE:
			mount_kernel(record, "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL, record->field[0]); break;
		case OP_MOUNT_DEVPTS:
			mount_kernel(record, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620", record->field[0]); break;
		case OP_MOUNT_TMPFS: mount_tmpfs(record); break;
		default: break;
		}
	}
}

/* The uppermost mount, that of an initramfs, cannot be pivoted away. Ours covers it; nothing leads below. */
static void cover_root(void) {
	if (mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0)
		die("", errno, "mount or chroot", "cover the initramfs");
	int above = open("/..", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (above < 0 || !mount_is_same(above, root))
		die("", above < 0 ? errno : 0, above < 0 ? "open" : "it still shows", "cover the initramfs");
	close(above);
}

void root_enter(const struct plan *plan) {
	speech.doing = "pivot_root";
	int old = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (old < 0 || fchdir(root) < 0)
		die("", errno, "open or fchdir", "enter the new root");
	if (!syscall(SYS_pivot_root, ".", ".")) {
		if (umount2(".", MNT_DETACH) < 0)
			die("", errno, "umount2 of the old root", "leave the old root");
	} else if (errno == EINVAL && mount_is_uppermost(old)) {
		cover_root();
	} else {
		die("", errno, "pivot_root", "enter the new root");
	}
	close(old);
	if (chdir("/") < 0)
		die("", errno, "chdir", "enter the new root");
	close(root);
	close(scratch);
	if (session >= 0)
		close(session);
	if (credentials >= 0)
		close(credentials);
	for (size_t i = 0; i < plan->objects; i++)
		tree_close(&objects[i].tree);
	hold_root(plan);
	if (chdir("/") < 0) /* mount_restrict left it */
		die("", errno, "chdir", "enter the new root");
	phase_ended(FACT_ENTERED_US);
}
