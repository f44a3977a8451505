/* The new root: the mounts and points in it, and entering it. Everything is reached through directory descriptors and
 * without following links. */
#define _GNU_SOURCE
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

int root = -1;

/* ---- mounts and points ---- */

int open_point(const char *inside, int flags, unsigned request) {
	int fd = open_below(root, inside + 1, flags);
	if (fd < 0)
		die_stale(request, inside, errno, "opening its mount point: the image changed, or a link appeared");
	return fd;
}

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

static void make_root(const struct record *record) {
	char name[24];
	struct object *object = &objects[small(record, ARG_ROOT_OBJECT)];
	int point = scratch_dir("root", 0, name);
	struct tree tree = object_take(object, 0, "/");
	if (tree_attach(&tree, point, scratch, name) < 0)
		die("", errno, "move_mount", "make the image the root");
	object_hide_scratch(object, &tree);
	close(point);
	root = tree.fd;
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
	struct tree tree = object_take(object, request, inside);
	if (tree_attach(&tree, point, root, inside + 1) < 0)
		die_request(request, inside, errno, "move_mount or its flags");
	object_hide_scratch(object, &tree);
	close(point);
	tree_close(&tree);
}

/* The parent of something we make; on a tmpfs of ours, or, if so wanted, anywhere else. */
static int parent_of(const char *inside, const char **name, bool on_ours, unsigned request) {
	struct stat found;
	int parent = open_parent(root, inside + 1, name);
	if (parent < 0 || fstat(parent, &found) < 0)
		die_request(request, inside, errno, "opening its parent directory");
	if (on_ours != tmpfs_is_ours(found.st_dev))
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
	if (tmpfs_make(NULL, point, mode_of(record, ARG_MOUNT_TMPFS_MODE), number(record, ARG_MOUNT_TMPFS_BYTES),
		number(record, ARG_MOUNT_TMPFS_INODES)) < 0)
		die("", errno, "mount", "mount a new tmpfs on %s", inside);
	close(point);
	int top = open_point(inside, O_PATH | O_DIRECTORY, 0);
	tmpfs_note(top);
	close(top);
}

/* ---- assembling and entering ---- */

void root_assemble(const struct plan *plan) {
	bool staged = false;
	opened_prepare(plan);
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		speech.doing = operations[record->id].name;
		if (classic && staged && record->id != OP_STAGE)
			promises_hold_stages(plan);
		staged = record->id == OP_STAGE;
		switch (record->id) {
		case OP_SCRATCH:
			scratch_make(record);
			images_show(plan);
			break;
		case OP_SESSION: session_make(record); break;
		case OP_GENERATED: object_generate(record); break;
		case OP_PRIVATE: object_make_private(record); break;
		case OP_CREDENTIALS: object_copy_credentials(); break;
		case OP_STAGE: object_stage(record); break;
		case OP_ROOT: make_root(record); break;
		case OP_OPEN: opened_begin(record); break;
		case OP_POINT_DIR:
			opened_point(record, record->field[ARG_POINT_DIR_BELOW], true, mode_of(record, ARG_POINT_DIR_MODE)); break;
		case OP_POINT_FILE:
			opened_point(record, record->field[ARG_POINT_FILE_BELOW], false, mode_of(record, ARG_POINT_FILE_MODE)); break;
		case OP_EXPECT_NO_DIR: opened_expect_no_dir(record); break;
		case OP_EXPECT_LINK: {
			unsigned request = small(record, ARG_EXPECT_LINK_REQUEST);
			int point = open_point(record->field[ARG_EXPECT_LINK_INSIDE], O_PATH | O_NOFOLLOW, request);
			expect_link(point, record->field[ARG_EXPECT_LINK_TEXT], request, record->field[ARG_EXPECT_LINK_INSIDE]);
			close(point);
			break;
		}
		case OP_FILL: opened_fill(record); break;
		case OP_SEAL: opened_seal(record); break;
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
	objects_close(plan);
	promises_hold_root(plan);
	if (chdir("/") < 0) /* mount_restrict left it */
		die("", errno, "chdir", "enter the new root");
	phase_ended(FACT_ENTERED_US);
}
