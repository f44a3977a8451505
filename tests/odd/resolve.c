/* Resolves paths by both ways of launcher/paths.c, below a directory.
 *
 *   resolve TOP                 a path a line: where the ways differ is printed; the last line is their number
 *   resolve TOP OUTSIDE ROUNDS  the path a/b/c, while a/b is exchanged with its siblings all the time; prints how often
 *                               each way came to which end, and fails when one of them ever left TOP
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launch.h"

bool mount_is_ours(int fd) {
	return fd < 0;
}

struct end {
	int error;
	dev_t device;
	ino_t inode;
};

static struct end resolve(int top, const char *path, int flags, unsigned without) {
	struct end end = {.error = 0};
	struct stat found;
	lacking = without;
	int fd = open_below(top, path, flags);
	if (fd < 0 || fstat(fd, &found) < 0) {
		end.error = errno;
		return end;
	}
	close(fd);
	end.device = found.st_dev;
	end.inode = found.st_ino;
	return end;
}

static bool same(struct end one, struct end other) {
	return one.error == other.error && one.device == other.device && one.inode == other.inode;
}

static int compare(int top) {
	static const int flags[] = {O_PATH, O_PATH | O_DIRECTORY, O_RDONLY | O_DIRECTORY};
	char *line = NULL;
	size_t size = 0;
	unsigned lines = 0;
	for (ssize_t length; (length = getline(&line, &size, stdin)) > 0; lines++) {
		line[length - 1] = 0;
		for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
			struct end one = resolve(top, line, flags[i], 0), other = resolve(top, line, flags[i], LACK_OPENAT2);
			if (!same(one, other))
				printf("%s flags %o: openat2 %d inode %lu, walk %d inode %lu\n", line, (unsigned)flags[i], one.error,
					(unsigned long)one.inode, other.error, (unsigned long)other.inode);
		}
	}
	free(line);
	printf("%u\n", lines);
	return 0;
}

static volatile bool done;
static int directory;

static void *exchange(void *nothing) {
	static const char *const others[] = {"link", "deep", "file", "far"};
	for (unsigned i = 0; !done; i++) {
		const char *other = others[i / 2 % 4];
		if (syscall(SYS_renameat2, directory, "b", directory, other, 2 /* RENAME_EXCHANGE */) < 0)
			perror("renameat2");
	}
	return nothing;
}

static int race(int top, const char *outside, unsigned long rounds) {
	struct stat escaped;
	pthread_t thread;
	unsigned long left = 0, ends[2][200] = {{0}};
	directory = openat(top, "a", O_PATH | O_DIRECTORY);
	if (directory < 0 || stat(outside, &escaped) < 0 || pthread_create(&thread, NULL, exchange, NULL))
		return 2;
	for (unsigned long i = 0; i < rounds; i++)
		for (unsigned way = 0; way < 2; way++) {
			struct end end = resolve(top, "a/b/c", O_PATH, way ? LACK_OPENAT2 : 0);
			left += !end.error && end.device == escaped.st_dev && end.inode == escaped.st_ino;
			ends[way][end.error < 200 ? end.error : 199]++;
		}
	done = true;
	pthread_join(thread, NULL);
	for (unsigned way = 0; way < 2; way++)
		for (unsigned error = 0; error < 200; error++)
			if (ends[way][error])
				printf("%s %u %lu\n", way ? "walk" : "openat2", error, ends[way][error]);
	return left != 0;
}

int main(int argc, char **argv) {
	int top = open(argc > 1 ? argv[1] : "", O_PATH | O_DIRECTORY);
	if (top < 0)
		return 2;
	return argc > 3 ? race(top, argv[2], strtoul(argv[3], NULL, 10)) : compare(top);
}
