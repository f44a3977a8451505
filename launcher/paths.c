/* Resolving paths below a directory without following links. A link where the plan saw none means
 * that the file system changed, or that somebody attacks; both get the same refusal. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "launch.h"

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define RESOLVE_NO_MAGICLINKS 0x02
#define RESOLVE_NO_SYMLINKS 0x04
#define RESOLVE_BENEATH 0x08
#define RESOLVE_IN_ROOT 0x10

struct open_how {
	uint64_t flags, mode, resolve;
};

unsigned lacking;

static int openat2(int dir, const char *path, int flags, uint64_t resolve) {
	struct open_how how = {.flags = (uint64_t)(unsigned)(flags | O_CLOEXEC), .resolve = resolve};
	int fd;
	do /* EAGAIN: a rename or mount elsewhere made the kernel unsure */
		fd = (int)syscall(SYS_openat2, dir, path, &how, sizeof how);
	while (fd < 0 && errno == EAGAIN);
	return fd;
}

/* Kernels before 5.6, or a seccomp profile that predates openat2. */
static int walk(int dir, const char *path, int flags) {
	char name[NAME_MAX + 1];
	int here = dir;
	for (;;) {
		size_t length = strcspn(path, "/");
		if (!length || length > NAME_MAX) {
			errno = length ? ENAMETOOLONG : EINVAL;
			break;
		}
		memcpy(name, path, length);
		name[length] = 0;
		if (!strcmp(name, "..")) {
			errno = EXDEV;
			break;
		}
		path += length + strspn(path + length, "/");
		int next = openat(here, name, (*path ? O_PATH | O_DIRECTORY : flags) | O_NOFOLLOW | O_CLOEXEC);
		int error = errno;
		if (next < 0 && error == ENOTDIR && *path) { /* tell a link from a file, as openat2 does */
			struct stat found;
			if (!fstatat(here, name, &found, AT_SYMLINK_NOFOLLOW) && S_ISLNK(found.st_mode))
				error = ELOOP;
		}
		if (here != dir)
			close(here);
		errno = error;
		if (next < 0 || !*path)
			return next;
		here = next;
	}
	if (here != dir) {
		int error = errno;
		close(here);
		errno = error;
	}
	return -1;
}

/* False when the kernel has no openat2, or a filter hides it: walk then. */
static bool try_openat2(int dir, const char *path, int flags, uint64_t resolve, int *fd) {
	if (lacking & LACK_OPENAT2)
		return false;
	*fd = openat2(dir, path, flags | O_NOFOLLOW, RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS | resolve);
	if (*fd < 0 && (errno == ENOSYS || errno == EPERM))
		lacking |= LACK_OPENAT2;
	return !(lacking & LACK_OPENAT2);
}

int open_below(int dir, const char *path, int flags) {
	if (!*path)
		return openat(dir, ".", flags | O_CLOEXEC);
	int fd;
	return try_openat2(dir, path, flags, RESOLVE_BENEATH, &fd) ? fd : walk(dir, path, flags);
}

int open_host(const char *path, int flags) {
	if (!path[1])
		return open(path, flags | O_CLOEXEC);
	int fd;
	if (try_openat2(AT_FDCWD, path, flags, 0, &fd))
		return fd;
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	fd = root < 0 ? -1 : walk(root, path + 1, flags);
	int error = errno;
	if (root >= 0)
		close(root);
	errno = error;
	return fd;
}

int open_parent(int dir, const char *path, const char **name) {
	const char *slash = strrchr(path, '/');
	*name = slash ? slash + 1 : path;
	char parent[PATH_MAX];
	size_t length = slash ? (size_t)(slash - path) : 0;
	if (length >= sizeof parent) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(parent, path, length);
	parent[length] = 0;
	return open_below(dir, parent, O_PATH | O_DIRECTORY);
}

int open_in_root(int root, const char *path, int flags) {
	if (!(lacking & LACK_OPENAT2)) {
		int fd = openat2(root, path, flags, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
		if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
			return fd;
	}
	return walk(root, path, flags); /* which follows none */
}

int open_workdir(const char *path) {
	if (!(lacking & LACK_OPENAT2)) {
		int fd = openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY, RESOLVE_NO_MAGICLINKS);
		if (fd >= 0 || (errno != ENOSYS && errno != EPERM))
			return fd;
	}
	/* Without openat2: a magic link leads to a mount that is not among those of the new root. */
	int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || mount_is_ours(fd))
		return fd;
	close(fd);
	errno = ELOOP;
	return -1;
}
