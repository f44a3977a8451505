/* One interface over the new mount API (open_tree, mount_setattr, move_mount) and mount(2).
 * Linux 5.12 and later have the new one whole; anything older runs entirely on mount(2). */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launch.h"

/* Same numbers on every architecture; old headers lack them. */
#define NR_OPEN_TREE 428
#define NR_MOVE_MOUNT 429
#define NR_MOUNT_SETATTR 442
#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1u
#define OPEN_TREE_CLOEXEC ((unsigned)O_CLOEXEC)
#define MOVE_MOUNT_F_EMPTY_PATH 0x04u
#define MOVE_MOUNT_T_EMPTY_PATH 0x40u
#define MOUNT_ATTR_RDONLY 0x01u
#define MOUNT_ATTR_NOSUID 0x02u
#define MOUNT_ATTR_NODEV 0x04u
#endif
#ifndef AT_RECURSIVE
#define AT_RECURSIVE 0x8000
#endif

#define NO_SYMFOLLOW 256ul /* MS_NOSYMFOLLOW, Linux 5.10 */

struct attributes {
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

bool classic;
int procfs = -1;

static int set_attributes(int fd, unsigned flags, uint64_t set, uint64_t propagation) {
	struct attributes attr = {.attr_set = set, .propagation = propagation};
	return (int)syscall(NR_MOUNT_SETATTR, fd, "", (unsigned)AT_EMPTY_PATH | flags, &attr, sizeof attr);
}

static bool call_exists(long result) {
	return !(result < 0 && (errno == ENOSYS || errno == EPERM));
}

/* By calling, never by version: vendor kernels carry backports, seccomp removes calls. */
void mounts_choose(bool force_classic) {
	classic = force_classic || lacking & (LACK_OPEN_TREE | LACK_MOUNT_SETATTR)
		|| !call_exists(syscall(NR_OPEN_TREE, -1, "", 0))
		|| !call_exists(syscall(NR_MOVE_MOUNT, -1, "", -1, "", 0))
		|| !call_exists(set_attributes(-1, 0, MOUNT_ATTR_RDONLY, 0));
}

char *proc_path(char buffer[32], int fd) {
	snprintf(buffer, 32, "/proc/self/fd/%d", fd);
	return buffer;
}

/* ---- the mount table ---- */

static char *read_mountinfo(void) {
	int fd = openat(procfs, "self/mountinfo", O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return NULL;
	size_t size = 1 << 13, length = 0;
	char *text = reserve(size, 1);
	for (ssize_t got; (got = read(fd, text + length, size - length - 1)) != 0;) {
		if (got < 0 && errno != EINTR) {
			release(text);
			text = NULL;
			break;
		}
		length += got > 0 ? (size_t)got : 0;
		if (length == size - 1) {
			char *larger = reserve(size *= 8, 1);
			memcpy(larger, text, length);
			release(text);
			text = larger;
		}
	}
	close(fd);
	return text; /* zeroed from the start, so it ends in NUL */
}

static void unescape(char *text) {
	char *to = text;
	for (char *from = text; *from; to++)
		if (from[0] == '\\' && from[1] >= '0' && from[1] <= '3' && from[2] && from[3]) {
			*to = (char)((from[1] - '0') << 6 | (from[2] - '0') << 3 | (from[3] - '0'));
			from += 4;
		} else {
			*to = *from++;
		}
	*to = 0;
}

/* Those that a remount would drop if it did not repeat them; the kernel keeps the way of access times by itself. Most
 * may be locked, and dropping one is EPERM then. */
static unsigned long kept_flags(const char *options) {
	static const struct { const char *name; unsigned long flag; } all[] = {
		{"ro", MS_RDONLY}, {"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC}, {"nosymfollow", NO_SYMFOLLOW},
		{"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME}};
	unsigned long flags = 0;
	for (const char *word = options; *word; word += strcspn(word, ","), word += *word == ',')
		for (size_t i = 0; i < sizeof all / sizeof *all; i++)
			if (!strncmp(word, all[i].name, strlen(all[i].name)) && strchr(",", word[strlen(all[i].name)]))
				flags |= all[i].flag;
	return flags;
}

/* "id parent major:minor root point options ..." */
static bool parse_mount(char *line, struct mount_entry *entry) {
	entry->id = (unsigned)strtoul(line, &line, 10);
	entry->parent = (unsigned)strtoul(line, &line, 10);
	for (int fields = 0; fields < 2 && line; fields++) /* from the blank before major:minor to that before the point */
		line = strchr(line + 1, ' ');
	if (!line)
		return false;
	entry->point = line + 1;
	char *options = strchr(entry->point, ' ');
	if (!options)
		return false;
	*options++ = 0;
	options[strcspn(options, " ")] = 0;
	entry->flags = kept_flags(options);
	unescape(entry->point);
	return true;
}

int mount_table_read(struct mount_table *table) {
	*table = (struct mount_table){.text = read_mountinfo()};
	if (!table->text)
		return -1;
	size_t lines = 0;
	for (const char *at = table->text; *at; at++)
		lines += *at == '\n';
	table->entries = reserve(lines, sizeof *table->entries);
	for (char *line = table->text; table->count < lines; table->count++) {
		char *end = line + strcspn(line, "\n");
		*end = 0;
		if (!parse_mount(line, &table->entries[table->count])) {
			mount_table_free(table);
			errno = EPROTO;
			return -1;
		}
		line = end + 1;
	}
	return 0;
}

void mount_table_free(struct mount_table *table) {
	release(table->by_place);
	release(table->by_id);
	release(table->entries);
	release(table->text);
}

static int by_place(const void *a, const void *b) {
	const struct mount_entry *one = *(const struct mount_entry *const *)a, *other = *(const struct mount_entry *const *)b;
	return one->parent == other->parent ? strcmp(one->point, other->point) : one->parent < other->parent ? -1 : 1;
}

static void index_mounts(struct mount_table *table) {
	for (size_t i = 0; i < table->count; i++)
		table->last_id = table->entries[i].id > table->last_id ? table->entries[i].id : table->last_id;
	table->by_id = reserve((size_t)table->last_id + 1, sizeof *table->by_id);
	table->by_place = reserve(table->count, sizeof *table->by_place);
	for (size_t i = 0; i < table->count; i++)
		table->by_id[table->entries[i].id] = table->by_place[i] = &table->entries[i];
	qsort(table->by_place, table->count, sizeof *table->by_place, by_place);
}

/* Did somebody mount something at this path of the mount `parent`? */
static bool covered(const struct mount_table *table, unsigned parent, char *path) {
	const struct mount_entry wanted = {.parent = parent, .point = path}, *key = &wanted;
	return bsearch(&key, table->by_place, table->count, sizeof *table->by_place, by_place);
}

bool mount_hidden(struct mount_table *table, const struct mount_entry *entry) {
	char above[PATH_MAX];
	if (!table->by_id)
		index_mounts(table);
	if (covered(table, entry->id, entry->point))
		return true;
	for (size_t depth = 0; entry && depth < table->count; depth++) {
		size_t length = strlen(entry->point);
		if (length >= sizeof above)
			return false; /* nor can it be told by path */
		memcpy(above, entry->point, length + 1);
		while (above[1]) { /* each directory on the way to its point, in the mount that it hangs on */
			char *slash = strrchr(above, '/');
			slash[slash == above] = 0;
			if (covered(table, entry->parent, above))
				return true;
		}
		entry = entry->parent <= table->last_id ? table->by_id[entry->parent] : NULL;
	}
	return false;
}

static unsigned mount_id(int fd) {
	char name[40], text[512];
	snprintf(name, sizeof name, "self/fdinfo/%d", fd);
	int info = openat(procfs, name, O_RDONLY | O_CLOEXEC);
	ssize_t got = info < 0 ? -1 : read(info, text, sizeof text - 1);
	if (info >= 0)
		close(info);
	if (got <= 0)
		return 0;
	text[got] = 0;
	const char *field = strstr(text, "mnt_id:");
	return field ? (unsigned)strtoul(field + 7, NULL, 10) : 0;
}

/* Is it in the table, and, if so wanted, its own parent? */
static bool is_listed(unsigned wanted, bool uppermost) {
	struct mount_table table;
	bool found = false;
	if (mount_table_read(&table) < 0)
		return false;
	for (size_t i = 0; !found && i < table.count; i++)
		found = table.entries[i].id == wanted && (!uppermost || table.entries[i].parent == wanted);
	mount_table_free(&table);
	return found;
}

bool mount_is_ours(int fd) {
	return is_listed(mount_id(fd), false);
}

bool mount_is_uppermost(int fd) {
	int error = errno;
	bool uppermost = is_listed(mount_id(fd), true);
	errno = error;
	return uppermost;
}

bool mount_is_same(int one, int other) {
	unsigned id = mount_id(one);
	return id && id == mount_id(other);
}

int mount_restrict(const struct mount_entry *entry, unsigned long wanted) {
	char link[32];
	int result = -1, fd = open(entry->point, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -1;
	snprintf(link, sizeof link, "self/fd/%d", fd); /* our root need not have a /proc any more */
	if (mount_id(fd) != entry->id)
		errno = ESTALE; /* the path leads elsewhere: it was renamed, or something else came to lie there */
	else if (!fchdir(procfs))
		result = mount(NULL, link, NULL, MS_BIND | MS_REMOUNT | entry->flags | wanted, NULL);
	int error = errno;
	close(fd);
	errno = error;
	return result;
}

/* ---- the interface ---- */

int tree_clone(struct tree *tree, int dir, const char *name, unsigned flags) {
	tree->flags = flags;
	if (classic) {
		tree->fd = *name ? openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC) : fcntl(dir, F_DUPFD_CLOEXEC, 3);
		return tree->fd;
	}
	unsigned how = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (unsigned)AT_SYMLINK_NOFOLLOW | (unsigned)AT_NO_AUTOMOUNT;
	how |= (*name ? 0 : (unsigned)AT_EMPTY_PATH) | (flags & FLAG_PLAIN ? 0 : (unsigned)AT_RECURSIVE);
	tree->fd = (int)syscall(NR_OPEN_TREE, dir, name, how);
	if (tree->fd < 0 || flags & (FLAG_PLAIN | FLAG_AS_IS))
		return tree->fd;
	uint64_t set = MOUNT_ATTR_NOSUID | (flags & FLAG_DEV ? 0 : MOUNT_ATTR_NODEV)
		| (flags & FLAG_RO ? MOUNT_ATTR_RDONLY : 0);
	if (set_attributes(tree->fd, (unsigned)AT_RECURSIVE, set, flags & FLAG_PRIVATE ? MS_PRIVATE : 0) < 0) {
		int error = errno;
		close(tree->fd);
		errno = error;
		return tree->fd = -1;
	}
	return tree->fd;
}

/* mount(2) has no detached trees, and does not tell what it made. */
static int attach_classic(struct tree *tree, int point, int dir, const char *way) {
	char from[32], to[32];
	unsigned long recursive = tree->flags & FLAG_PLAIN ? 0 : MS_REC;
	if (mount(proc_path(from, tree->fd), proc_path(to, point), NULL, MS_BIND | recursive, NULL) < 0)
		return -1;
	if (!way)
		return 0;
	int top = open_below(dir, way, O_PATH | O_NOFOLLOW);
	if (top < 0)
		return -1;
	close(tree->fd);
	tree->fd = top;
	unsigned id = mount_id(top);
	if (!id || id == mount_id(point)) { /* the way leads elsewhere by now */
		errno = ESTALE;
		return -1;
	}
	if (tree->flags & FLAG_PRIVATE && !(tree->flags & (FLAG_PLAIN | FLAG_AS_IS)))
		return mount(NULL, proc_path(to, top), NULL, MS_PRIVATE | MS_REC, NULL);
	return 0;
}

int tree_attach(struct tree *tree, int point, int dir, const char *way) {
	if (classic)
		return attach_classic(tree, point, dir, way);
	return (int)syscall(NR_MOVE_MOUNT, tree->fd, "", point, "",
		MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

int mount_readonly(int top) {
	char link[32];
	if (classic)
		return mount(NULL, proc_path(link, top), NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL);
	return set_attributes(top, 0, MOUNT_ATTR_RDONLY, 0);
}

void tree_close(struct tree *tree) {
	if (tree->fd >= 0)
		close(tree->fd);
	tree->fd = -1;
}

int mount_new(const char *type, int point, unsigned long flags, const char *options) {
	char to[32];
	return mount(type, proc_path(to, point), type, flags, options);
}
