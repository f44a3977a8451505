/* The floor: a container made by nothing but the unavoidable system calls, without a single check of
 * what it makes. No runtime can start faster on this kernel; it is what the others are measured against.
 *
 *   floor [pid] [new] STEP ... -- COMMAND [ARGUMENT ...]
 *
 * pid    own pid, ipc and uts namespaces; pid 1 waits for the payload, as an init would
 * new    open_tree, mount_setattr and move_mount in place of mount(2)
 * STEPs work in a private tmpfs on /tmp, in which `root` becomes the root; nothing below /tmp can be a source:
 *   dir PATH, file PATH, link TEXT PATH     make one
 *   bind SOURCE PATH, ro SOURCE PATH        recursive bind; ro: its top mount is made read-only
 *   seal PATH                               make the top mount there read-only
 *   tmpfs PATH, proc PATH, devpts PATH      new file system
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { NR_OPEN_TREE = 428, NR_MOVE_MOUNT = 429, NR_MOUNT_SETATTR = 442, CLONE_TREE = 1, RECURSIVE = 0x8000, EMPTY = 0x1000 };

static int new_api;

static void need(int result, const char *what) {
	if (result < 0) {
		perror(what);
		_exit(125);
	}
}

static void write_file(const char *path, const char *text) {
	int fd = open(path, O_WRONLY);
	need(fd, path);
	need((int)write(fd, text, strlen(text)), path);
	close(fd);
}

static void set_readonly(int fd, const char *path) {
	struct { uint64_t set, clear, propagation, user; } attributes = {MS_RDONLY | MS_NOSUID | MS_NODEV, 0, 0, 0};
	if (new_api)
		need((int)syscall(NR_MOUNT_SETATTR, fd, path, EMPTY, &attributes, sizeof attributes), path);
	else
		need(mount(NULL, path, NULL, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV, NULL), path);
}

static void bind_tree(const char *source, const char *path, int readonly) {
	if (new_api) {
		int fd = (int)syscall(NR_OPEN_TREE, AT_FDCWD, source, CLONE_TREE | RECURSIVE | O_CLOEXEC);
		need(fd, source);
		if (readonly)
			set_readonly(fd, "");
		need((int)syscall(NR_MOVE_MOUNT, fd, "", AT_FDCWD, path, 4), path);
		close(fd);
		return;
	}
	need(mount(source, path, NULL, MS_BIND | MS_REC, NULL), path);
	if (readonly)
		set_readonly(AT_FDCWD, path);
}

static void continue_in_child(void) {
	int status, child = fork();
	need(child, "fork");
	if (!child)
		return;
	need(waitpid(child, &status, 0), "waitpid");
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 125);
}

static char **step(char **at) {
	const char *what = at[0], *path = at[1];
	if (!strcmp(what, "dir")) {
		need(mkdir(path, 0755), path);
	} else if (!strcmp(what, "file")) {
		need(mknod(path, S_IFREG | 0444, 0), path);
	} else if (!strcmp(what, "link")) {
		need(symlink(path, at[2]), at[2]);
		return at + 3;
	} else if (!strcmp(what, "bind") || !strcmp(what, "ro")) {
		bind_tree(path, at[2], what[0] == 'r');
		return at + 3;
	} else if (!strcmp(what, "seal")) {
		set_readonly(AT_FDCWD, path);
	} else if (!strcmp(what, "tmpfs")) {
		need(mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, NULL), path);
	} else if (!strcmp(what, "proc")) {
		need(mount("proc", path, "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL), path);
	} else if (!strcmp(what, "devpts")) {
		need(mount("devpts", path, "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620"), path);
	} else {
		need(-1, what);
	}
	return at + 2;
}

int main(int argc, char **argv) {
	char uid_map[64], gid_map[64];
	int flags = CLONE_NEWUSER | CLONE_NEWNS, pid = 0;
	char **at = argv + 1;
	if (argc > 1 && !strcmp(*at, "pid") && at++)
		pid = CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS;
	if (*at && !strcmp(*at, "new") && at++)
		new_api = 1;
	snprintf(uid_map, sizeof uid_map, "%d %d 1", getuid(), getuid());
	snprintf(gid_map, sizeof gid_map, "%d %d 1", getgid(), getgid());
	need(unshare(flags | pid), "unshare");
	write_file("/proc/self/setgroups", "deny");
	write_file("/proc/self/uid_map", uid_map);
	write_file("/proc/self/gid_map", gid_map);
	if (pid)
		continue_in_child();
	need(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL), "slave");
	need(mount("tmpfs", "/tmp", "tmpfs", MS_NOSUID | MS_NODEV, NULL), "/tmp");
	need(chdir("/tmp"), "/tmp");
	while (*at && strcmp(*at, "--"))
		at = step(at);
	need(chdir("root"), "root");
	need((int)syscall(SYS_pivot_root, ".", "."), "pivot_root");
	need(umount2(".", MNT_DETACH), "umount2");
	need(chdir("/"), "/");
	if (pid)
		continue_in_child();
	char *none[] = {NULL};
	if (*at && at[1])
		execve(at[1], at + 1, none);
	need(-1, "execve");
}
