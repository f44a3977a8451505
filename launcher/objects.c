/* What can be attached: sources of the host, image files, and what we make ourselves. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "place.h"

struct object *objects;
static int session = -1, credentials = -1;

/* ---- sources of the host ---- */

static const char stale_fix[] = "start it again; if it repeats, find out what keeps changing these files";

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

void objects_clone(const struct plan *plan) {
	objects = reserve(plan->objects, sizeof *objects);
	scratch_choose(plan);
	size_t sources = 0, possible;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_SOURCE || record->id == OP_GENERATED || record->id == OP_PRIVATE || record->id == OP_CREDENTIALS
		    || record->id == OP_IMAGE_FILE) {
			objects[small(record, 0)] = (struct object){.record = record, .tree.fd = -1};
			sources += record->id == OP_SOURCE;
		}
	}
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

/* ---- what we make ---- */

void session_make(const struct record *record) {
	session = scratch_tmpfs("session", number(record, ARG_SESSION_BYTES), number(record, ARG_SESSION_INODES), O_PATH);
}

void object_generate(const struct record *record) {
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

void object_make_private(const struct record *record) {
	char name[24];
	snprintf(name, sizeof name, "%u", small(record, ARG_PRIVATE_OBJECT));
	if (mkdirat(session, name, mode_of(record, ARG_PRIVATE_MODE)) < 0)
		die("", errno, "mkdirat", "make a private directory");
}

/* The payload gets a read-only clone; the outer process goes on writing here. */
void object_copy_credentials(void) {
	credentials = scratch_tmpfs("credentials", 16 << 20, 64, O_RDONLY);
	credentials_copy(credentials);
	hand_over_credentials(credentials);
}

/* ---- image files ---- */

unsigned request_of(const struct record *record) {
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
void images_show(const struct plan *plan) {
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

/* ---- giving them away ---- */

/* mount(2) copies what is mounted when it is called: a source above the scratch's place now shows the scratch. */
void object_hide_scratch(const struct object *object, const struct tree *tree) {
	const char *path = object->record->field[ARG_SOURCE_PATH];
	if (object->staged || !classic || object->record->id != OP_SOURCE || !at_or_below(scratch_place, path))
		return;
	char link[32];
	int copy = open_below(tree->fd, scratch_place + (path[1] ? strlen(path) + 1 : 1), O_PATH | O_DIRECTORY);
	if (copy < 0 || umount2(proc_path(link, copy), MNT_DETACH) < 0)
		die_request(small(object->record, ARG_SOURCE_REQUEST), path, errno, "taking the scratch out of it");
	close(copy);
}

void object_stage(const struct record *record) {
	struct object *object = &objects[small(record, 0)];
	char name[24];
	if (object->late)
		clone_source(object);
	int point = scratch_dir("s%u", small(record, 0), name);
	if (tree_attach(&object->tree, point, scratch, name) < 0)
		die_request(request_of(object->record), path_of(object->record), errno, "attaching its staged clone");
	object_hide_scratch(object, &object->tree);
	close(point);
	tree_close(&object->tree);
	object->staged = true;
}

struct tree object_take(struct object *object, unsigned request, const char *inside) {
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

void objects_close(const struct plan *plan) {
	if (session >= 0)
		close(session);
	if (credentials >= 0)
		close(credentials);
	for (size_t i = 0; i < plan->objects; i++)
		tree_close(&objects[i].tree);
}
