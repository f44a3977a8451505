/* Builds a tree of the input and resolves a path in it by both ways of launcher/paths.c: openat2 and the walk.
 *
 * Both must come to the same inode or to the same error, and to nothing outside the tree. Paths that no plan holds (with
 * `..` in them and the like) may be refused by either way, but must not lead out.
 *
 * The input is a programme: one byte says what to do, names are picked by one byte each, so that any bytes are a tree.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fuzz.h"
#include "launch.h"

enum { MAX_ENTRIES = 24, MAX_PARTS = 8, MAX_INODES = MAX_ENTRIES + 1 };
int outcome;
static char top_path[200];
static int top = -1;
static char longest[256], too_long[257];
static ino_t inodes[MAX_INODES];
static size_t inode_count;
static char made[MAX_ENTRIES][1024];
static bool is_dir[MAX_ENTRIES];
static size_t made_count;

bool mount_is_ours(int fd) {
	return fd < 0;
}

struct input {
	const uint8_t *data;
	size_t left;
};

static unsigned take(struct input *input) {
	if (!input->left)
		return 0;
	input->left--;
	return *input->data++;
}

/* Parts joined by slashes; true when a plan could hold the path. */
static bool path_of(struct input *input, char path[4096]) {
	static const char *const names[] = {"a", "b", "c", "d", "a", "b", "c", "..", ".", "", longest, too_long};
	unsigned parts = 1 + take(input) % MAX_PARTS;
	size_t used = 0;
	bool plain = true;
	for (unsigned i = 0; i < parts; i++) {
		unsigned which = take(input) % (sizeof names / sizeof *names);
		used += (size_t)snprintf(path + used, 4096 - used, "%s%s", i ? "/" : "", names[which]);
		plain = plain && *names[which] && names[which][0] != '.' && names[which] != too_long;
	}
	return plain;
}

static void remember(int dir, const char *path, bool directory) {
	struct stat found;
	if (made_count == MAX_ENTRIES || strlen(path) >= sizeof *made || fstatat(dir, path, &found, AT_SYMLINK_NOFOLLOW) < 0)
		abort();
	strcpy(made[made_count], path);
	is_dir[made_count++] = directory;
	inodes[inode_count++] = found.st_ino;
}

static void grow(struct input *input) {
	char path[4096], text[4096];
	unsigned kind = take(input) % 6;
	bool plain = path_of(input, path);
	if (kind < 2)
		path_of(input, text);
	if (!plain || strlen(path) >= sizeof *made)
		return;
	if (kind == 0 ? symlinkat(text, top, path) : kind == 1 ? (memmove(text + 1, text, strlen(text) + 1), *text = '/',
	    symlinkat(text, top, path)) : kind == 2 ? mknodat(top, path, S_IFREG | 0600, 0) : mkdirat(top, path, 0700))
		return;
	remember(top, path, kind > 2);
}

static bool inside(ino_t inode) {
	for (size_t i = 0; i < inode_count; i++)
		if (inodes[i] == inode)
			return true;
	return false;
}

struct end {
	int error;
	ino_t inode;
	mode_t mode;
};

static struct end end_of(int fd) {
	struct end end = {.error = fd < 0 ? errno : 0};
	struct stat found;
	if (fd >= 0 && fstat(fd, &found) == 0) {
		end.inode = found.st_ino;
		end.mode = found.st_mode & S_IFMT;
		if (!inside(end.inode)) {
			fprintf(stderr, "it left the tree\n");
			abort();
		}
	}
	if (fd >= 0)
		close(fd);
	return end;
}

static struct end resolve(const char *path, int flags, unsigned without, int way) {
	const char *name;
	char host[5000];
	lacking = without;
	switch (way) {
	case 0: return end_of(open_below(top, path, flags));
	case 1: return end_of(open_parent(top, path, &name));
	default:
		snprintf(host, sizeof host, "%s/%s", top_path, path);
		return end_of(open_host(host, flags));
	}
}

/* This one follows links, where there is openat2: never out of the tree. What the walk finds, it finds, too. */
static void follow(const char *path, bool plain) {
	lacking = 0;
	struct end one = end_of(open_in_root(top, path, O_PATH | O_NOFOLLOW));
	lacking = LACK_OPENAT2;
	struct end other = end_of(open_in_root(top, path, O_PATH | O_NOFOLLOW));
	if (!plain || other.error || (!one.error && one.inode == other.inode))
		return;
	fprintf(stderr, "%s: followed to %s, walked to something\n", path, strerror(one.error));
	abort();
}

static void compare(const char *path, bool plain) {
	follow(path, plain);
	static const int flags[] = {O_PATH, O_PATH | O_DIRECTORY, O_RDONLY | O_DIRECTORY};
	for (int way = 0; way < 3; way++)
		for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
			if (way == 2 && !plain)
				continue; /* the host's paths are checked before */
			struct end one = resolve(path, flags[i], 0, way), other = resolve(path, flags[i], LACK_OPENAT2, way);
			outcome = !one.error;
			if (!plain || (one.error == other.error && one.inode == other.inode && one.mode == other.mode))
				continue;
			fprintf(stderr, "%s: way %d flags %o: openat2 %s, walk %s\n", path, way, (unsigned)flags[i],
				strerror(one.error), strerror(other.error));
			abort();
		}
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
	(void)argc;
	(void)argv;
	const char *where = getenv("TMPDIR");
	char template[150];
	struct stat found;
	snprintf(template, sizeof template, "%s/resolver.XXXXXX", where ? where : P_tmpdir);
	memset(longest, 'x', sizeof longest - 1);
	memset(too_long, 'x', sizeof too_long - 1);
	if (!mkdtemp(template) || !realpath(template, top_path) || (top = open(top_path, O_PATH | O_DIRECTORY)) < 0
	    || fstat(top, &found) < 0)
		abort();
	inodes[inode_count++] = found.st_ino;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct input input = {data, size};
	char path[4096];
	unsigned entries = take(&input) % MAX_ENTRIES;
	for (unsigned i = 0; i < entries && input.left; i++)
		grow(&input);
	for (int i = 0; i < 3; i++) {
		bool plain = path_of(&input, path);
		compare(path, plain);
	}
	while (made_count) {
		made_count--;
		if (unlinkat(top, made[made_count], is_dir[made_count] ? AT_REMOVEDIR : 0) < 0)
			abort();
	}
	inode_count = 1;
	return 0;
}
