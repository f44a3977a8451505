/* The payload of the tests: a static programme of many small commands, so that a test image needs no
 * distribution in it. Commands are separated by "+" and run in turn:
 *
 *     payload cat /etc/hostname + try create /x + exit 3
 *
 * Each prints facts, one a line; calls that fail print the errno's name. Nothing here needs /proc,
 * except `mounts` and what the test itself opens there.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *errno_text(int error) {
	static char number[20];
#define NAME(e) case e: return #e
	switch (error) {
	NAME(EPERM); NAME(ENOENT); NAME(ESRCH); NAME(EIO); NAME(ENXIO); NAME(EBADF); NAME(EAGAIN); NAME(EACCES);
	NAME(EBUSY); NAME(EEXIST); NAME(EXDEV); NAME(ENODEV); NAME(ENOTDIR); NAME(EISDIR); NAME(EINVAL); NAME(ENOTTY);
	NAME(ETXTBSY); NAME(ENOSPC); NAME(EROFS); NAME(ELOOP); NAME(ENOSYS); NAME(ECONNREFUSED); NAME(ENOKEY);
	NAME(ENOTEMPTY); NAME(EOPNOTSUPP); NAME(EDQUOT); NAME(ENODATA); NAME(ENETUNREACH); NAME(EADDRNOTAVAIL);
	NAME(ENOTCONN);
	}
#undef NAME
	snprintf(number, sizeof number, "errno%d", error);
	return number;
}

static void result(long value) {
	printf("%s\n", value < 0 ? errno_text(errno) : "ok");
}

static _Noreturn void give_up(const char *what) {
	fflush(stdout);
	fprintf(stderr, "payload: %s: %s\n", what, errno_text(errno));
	_exit(99);
}

static char *text_of(const char *path, size_t *size) {
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	size_t room = 1 << 16;
	char *text = malloc(room);
	*size = 0;
	if (fd < 0 || !text) {
		free(text);
		return NULL;
	}
	for (ssize_t got; (got = read(fd, text + *size, room - *size - 1)) > 0;)
		if ((*size += (size_t)got) == room - 1 && !(text = realloc(text, room *= 2)))
			give_up("realloc");
	close(fd);
	text[*size] = 0;
	return text;
}

/* ---- looking ---- */

static void do_cat(char **argument) {
	size_t size;
	char *text = text_of(argument[0], &size);
	if (text)
		fwrite(text, 1, size, stdout);
	else
		printf("%s\n", errno_text(errno));
	free(text);
}

/* The whole file, without showing it. */
static void do_read(char **argument) {
	static char piece[1 << 16];
	int fd = open(argument[0], O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : 1;
	while (got > 0)
		got = read(fd, piece, sizeof piece);
	result(got);
	if (fd >= 0)
		close(fd);
}

static int by_name(const void *a, const void *b) {
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void do_ls(char **argument) {
	DIR *dir = opendir(argument[0]);
	char **names = NULL;
	size_t count = 0;
	if (!dir) {
		result(-1);
		return;
	}
	for (struct dirent *entry; (entry = readdir(dir));) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		names = realloc(names, (count + 1) * sizeof *names);
		if (!names || !(names[count++] = strdup(entry->d_name)))
			give_up("realloc");
	}
	closedir(dir);
	if (count)
		qsort(names, count, sizeof *names, by_name);
	for (size_t i = 0; i < count; i++)
		printf("%s%s", names[i], i + 1 < count ? " " : "");
	printf("\n");
}

/* type, mode, owner, group, size, modification time in nanoseconds, device, inode */
static void do_stat(char **argument) {
	struct stat found;
	if (lstat(argument[0], &found) < 0) {
		result(-1);
		return;
	}
	static const char *const types[16] = {[1] = "fifo", [2] = "char", [4] = "dir", [6] = "block", [8] = "file",
		[10] = "link", [12] = "socket"};
	printf("%s %o %u %u %lld %lld%09ld %llu %llu\n", types[found.st_mode >> 12 & 15], found.st_mode & 07777u, found.st_uid,
		found.st_gid, (long long)found.st_size, (long long)found.st_mtim.tv_sec, found.st_mtim.tv_nsec,
		(unsigned long long)found.st_dev, (unsigned long long)found.st_ino);
}

static void do_readlink(char **argument) {
	char text[4096];
	ssize_t length = readlink(argument[0], text, sizeof text - 1);
	if (length < 0) {
		result(-1);
		return;
	}
	text[length] = 0;
	printf("%s\n", text);
}

/* Everything below a directory, one line each; links are not followed, files of /bin not read. */
static void walk(const char *path) {
	struct stat found;
	char below[8192];
	if (lstat(path, &found) < 0) {
		printf("%s %s\n", path, errno_text(errno));
		return;
	}
	if (S_ISLNK(found.st_mode)) {
		printf("%s -> ", path);
		do_readlink((char *[]){(char *)(uintptr_t)path, NULL});
		return;
	}
	printf("%s %s", path, S_ISDIR(found.st_mode) ? "dir\n" : S_ISREG(found.st_mode) ? "file " : "other\n");
	if (S_ISREG(found.st_mode)) {
		if (found.st_size < 4096)
			do_cat((char *[]){(char *)(uintptr_t)path, NULL});
		printf("\n");
	}
	struct dirent **entries;
	int count = S_ISDIR(found.st_mode) ? scandir(path, &entries, NULL, alphasort) : 0;
	for (int i = 0; i < count; i++) {
		if (strcmp(entries[i]->d_name, ".") && strcmp(entries[i]->d_name, "..")) {
			snprintf(below, sizeof below, "%s/%s", strcmp(path, "/") ? path : "", entries[i]->d_name);
			walk(below);
		}
		free(entries[i]);
	}
	if (count > 0)
		free(entries);
}

static void do_walk(char **argument) {
	walk(argument[0]);
}

static void do_mounts(char **argument) {
	(void)argument;
	do_cat((char *[]){(char *)(uintptr_t)"/proc/self/mountinfo", NULL});
}

static void do_cwd(char **argument) {
	char path[8192];
	(void)argument;
	printf("%s\n", getcwd(path, sizeof path) ? path : errno_text(errno));
}

/* ---- what the process was given ---- */

/* Raw: each entry ended by a NUL. */
static void do_environment(char **argument) {
	(void)argument;
	for (char **entry = environ; *entry; entry++)
		fwrite(*entry, 1, strlen(*entry) + 1, stdout);
}

static void do_arguments(char **argument) {
	for (; *argument; argument++)
		fwrite(*argument, 1, strlen(*argument) + 1, stdout);
}

/* Open descriptors with their type, without help from /proc. */
static void do_fds(char **argument) {
	struct stat found;
	(void)argument;
	for (int fd = 0; fd < 65536; fd++)
		if (!fstat(fd, &found))
			printf("%d:%s%s ", fd, S_ISDIR(found.st_mode) ? "dir" : S_ISCHR(found.st_mode) ? "char" : S_ISFIFO(found.st_mode)
				? "fifo" : S_ISSOCK(found.st_mode) ? "socket" : "file", fcntl(fd, F_GETFD) & FD_CLOEXEC ? "!" : "");
	printf("\n");
}

static void do_ids(char **argument) {
	gid_t groups[256];
	int count = getgroups(256, groups);
	(void)argument;
	printf("%u %u %u %u %d\n", getuid(), geteuid(), getgid(), getegid(), count);
}

static void do_caps(char **argument) {
	struct { uint32_t version; int pid; } header = {0x20080522, 0};
	struct { uint32_t effective, permitted, inheritable; } sets[2];
	uint64_t bounding = 0, ambient = 0;
	(void)argument;
	if (syscall(SYS_capget, &header, sets) < 0)
		give_up("capget");
	for (unsigned i = 0; i < 64; i++) {
		bounding |= prctl(PR_CAPBSET_READ, i, 0, 0, 0) == 1 ? UINT64_C(1) << i : 0;
		ambient |= prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, i, 0, 0) == 1 ? UINT64_C(1) << i : 0;
	}
	printf("effective=%x%08x permitted=%x%08x inheritable=%x%08x bounding=%llx ambient=%llx no_new_privs=%d seccomp=%d "
		"dumpable=%d pdeathsig=", sets[1].effective, sets[0].effective, sets[1].permitted, sets[0].permitted,
		sets[1].inheritable, sets[0].inheritable, (unsigned long long)bounding, (unsigned long long)ambient,
		prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), prctl(PR_GET_SECCOMP, 0, 0, 0, 0), prctl(PR_GET_DUMPABLE, 0, 0, 0, 0));
	int death = -1;
	prctl(PR_GET_PDEATHSIG, &death);
	printf("%d\n", death);
}

static void do_signals(char **argument) {
	sigset_t blocked;
	(void)argument;
	sigprocmask(SIG_SETMASK, NULL, &blocked);
	printf("ignored=");
	for (int number = 1; number <= 64; number++) {
		struct sigaction action;
		if (!sigaction(number, NULL, &action) && action.sa_handler == SIG_IGN)
			printf("%d,", number);
	}
	printf(" blocked=");
	for (int number = 1; number <= 64; number++)
		if (sigismember(&blocked, number) == 1)
			printf("%d,", number);
	printf(" alarm=%u\n", alarm(0));
}

static void do_limits(char **argument) {
	struct rlimit core, files;
	(void)argument;
	getrlimit(RLIMIT_CORE, &core);
	getrlimit(RLIMIT_NOFILE, &files);
	mode_t mask = umask(0);
	umask(mask);
	printf("core=%lld,%lld files=%lld,%lld umask=%04o nice=%d\n", (long long)core.rlim_cur, (long long)core.rlim_max,
		(long long)files.rlim_cur, (long long)files.rlim_max, mask, getpriority(PRIO_PROCESS, 0));
}

static void do_pid(char **argument) {
	char name[16] = "";
	(void)argument;
	prctl(PR_GET_NAME, name);
	printf("%d %d %d %d %s\n", getpid(), getppid(), getpgrp(), getsid(0), name);
}

static void do_hostname(char **argument) {
	struct utsname name;
	(void)argument;
	uname(&name);
	printf("%s\n", name.nodename);
}

static void do_umask(char **argument) {
	umask((mode_t)strtoul(argument[0], NULL, 8));
}

/* ---- trying ---- */

static int put(const char *path, int flags) {
	int fd = open(path, flags | O_CLOEXEC, 0666);
	if (fd < 0)
		return -1;
	ssize_t wrote = write(fd, "payload\n", 8);
	int error = errno;
	close(fd);
	errno = error;
	return wrote == 8 ? 0 : -1;
}

/* One call on one path, and how it went. */
static void do_try(char **argument) {
	const char *call = argument[0], *path = argument[1], *other = path ? argument[2] : NULL;
	long done = -1;
	errno = EINVAL;
	if (!path)
		;
	else if (!strcmp(call, "read"))
		done = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	else if (!strcmp(call, "create"))
		done = put(path, O_WRONLY | O_CREAT | O_EXCL);
	else if (!strcmp(call, "write"))
		done = put(path, O_WRONLY);
	else if (!strcmp(call, "redirect")) /* what `>` of a shell does */
		done = put(path, O_WRONLY | O_CREAT | O_TRUNC);
	else if (!strcmp(call, "truncate"))
		done = truncate(path, 0);
	else if (!strcmp(call, "mkdir"))
		done = mkdir(path, 0777);
	else if (!strcmp(call, "unlink"))
		done = unlink(path);
	else if (!strcmp(call, "rmdir"))
		done = rmdir(path);
	else if (!strcmp(call, "chmod"))
		done = chmod(path, 0700);
	else if (!strcmp(call, "touch"))
		done = utimensat(AT_FDCWD, path, NULL, 0);
	else if (!strcmp(call, "mknod"))
		done = mknod(path, S_IFCHR | 0666, (1 << 8) | 3);
	else if (!strcmp(call, "tmpfile"))
		done = open(path, O_TMPFILE | O_WRONLY | O_CLOEXEC, 0600);
	else if (!strcmp(call, "rename") && other)
		done = rename(path, other);
	else if (!strcmp(call, "symlink") && other)
		done = symlink(path, other);
	else if (!strcmp(call, "umount"))
		done = umount2(path, MNT_DETACH);
	else if (!strcmp(call, "remount-rw"))
		done = mount(NULL, path, NULL, MS_BIND | MS_REMOUNT, NULL);
	else if (!strcmp(call, "bind") && other)
		done = mount(path, other, NULL, MS_BIND, NULL);
	else if (!strcmp(call, "tmpfs"))
		done = mount("tmpfs", path, "tmpfs", 0, NULL);
	else if (!strcmp(call, "chroot"))
		done = chroot(path);
	else if (!strcmp(call, "hostname"))
		done = sethostname(path, strlen(path));
	else if (!strcmp(call, "chdir"))
		done = chdir(path);
	else
		give_up(call);
	result(done);
}

/* Writes until it is refused; how many KiB went in, and why no more. */
static void do_fill(char **argument) {
	static const char block[4096];
	int fd = open(argument[0], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	long count = 0;
	if (fd < 0) {
		result(-1);
		return;
	}
	while (count < 1 << 20 && write(fd, block, sizeof block) == (ssize_t)sizeof block)
		count++;
	printf("%ld %s\n", count * 4, errno_text(errno));
	close(fd);
}

/* A user and a mount namespace of the payload's own; what follows runs in there, as root of it. */
static void do_nested(char **argument) {
	(void)argument;
	char map[60];
	uid_t uid = getuid();
	if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) {
		result(-1);
		return;
	}
	snprintf(map, sizeof map, "0 %u 1\n", uid);
	int fd = open("/proc/self/uid_map", O_WRONLY | O_CLOEXEC);
	if (fd >= 0) {
		ssize_t wrote = write(fd, map, strlen(map));
		close(fd);
		(void)wrote;
	}
	printf("ok\n");
}

/* A new terminal pair works, and which kind of /dev/pts it is from. */
static void do_pty(char **argument) {
	char name[64];
	(void)argument;
	int leader = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (leader < 0 || unlockpt(leader) < 0 || ptsname_r(leader, name, sizeof name)) {
		result(-1);
		return;
	}
	int follower = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	printf("%s %s\n", name, follower < 0 ? errno_text(errno) : "ok");
	close(follower);
	close(leader);
}

static void do_connect(char **argument) {
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	size_t length = strlen(argument[0]);
	memcpy(address.sun_path + 1, argument[0], length);
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	result(connect(fd, (struct sockaddr *)&address, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + length)));
	close(fd);
}

/* Is the interface lo up? */
static void do_loopback(char **argument) {
	struct { char name[16]; union { short flags; char room[24]; } u; } request = {.name = "lo"};
	(void)argument;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (ioctl(fd, 0x8913 /* SIOCGIFFLAGS */, &request) < 0)
		result(-1);
	else
		printf("%s\n", request.u.flags & 1 ? "up" : "down");
	close(fd);
}

/* A key of this description, in the session and in the user keyring. */
static void do_key(char **argument) {
	for (int ring = -3; ring >= -4; ring--)
		printf("%s ", syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, (long)ring, "user", argument[0], 0L) < 0 ? errno_text(errno) : "ok");
	printf("\n");
}

static void do_ioctl(char **argument) {
	static const struct { const char *name; unsigned long number; } known[] = {
		{"TIOCSTI", TIOCSTI}, {"TIOCLINUX", TIOCLINUX}, {"TIOCGWINSZ", TIOCGWINSZ},
		{"TIOCSTI+high", 0xdead00000000ul | TIOCSTI}};
	for (size_t i = 0; i < sizeof known / sizeof *known; i++)
		if (!strcmp(argument[0], known[i].name)) {
			char room[64] = "x";
			result(syscall(SYS_ioctl, 0, known[i].number, room));
			return;
		}
	give_up(argument[0]);
}

#ifdef __x86_64__
/* The same call by the 32-bit entry, which has its own number and its own audit architecture. */
static void do_ioctl32(char **argument) {
	char *room = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int done, low = (int)(uintptr_t)room;
	int number = strcmp(argument[0], "TIOCSTI") ? TIOCGWINSZ : TIOCSTI;
	if (room == MAP_FAILED)
		give_up("mmap");
	*room = 'x';
	__asm__ volatile("int $0x80" : "=a"(done) : "a"(54), "b"(0), "c"(number), "d"(low) : "memory", "r8", "r9", "r10", "r11");
	errno = -done;
	result(done);
}
#endif

/* ---- signals and processes ---- */

static void do_signal(char **argument) { /* PID SIGNAL, or SIGNAL for ourselves */
	fflush(stdout);
	if (argument[1])
		result(kill(atoi(argument[0]), atoi(argument[1])));
	else
		kill(getpid(), atoi(argument[0]));
}

/* What one process can do to another of the same user: set its priority, its limits, its processors. */
static void do_meddle(char **argument) {
	pid_t pid = atoi(argument[0]);
	struct rlimit limit = {1000, 1000};
	unsigned long mask = 1;
	result(setpriority(PRIO_PROCESS, (id_t)pid, 19));
	result(prlimit(pid, RLIMIT_NOFILE, &limit, NULL));
	result(syscall(SYS_sched_setaffinity, pid, sizeof mask, &mask));
	result(syscall(SYS_kill, pid, SIGUSR1));
	result(syscall(SYS_pidfd_open, pid, 0));
}

/* System V memory of this key, and a POSIX queue of this name. */
static void do_ipc(char **argument) {
	result(shmget((key_t)strtoul(argument[0], NULL, 0), 0, 0));
	result(syscall(SYS_mq_open, argument[1], O_RDONLY, 0, NULL));
}

static void do_ptrace(char **argument) {
	int done = (int)ptrace(PTRACE_SEIZE, atoi(argument[0]), 0, 0);
	result(done);
	if (!done)
		ptrace(PTRACE_DETACH, atoi(argument[0]), 0, 0);
}

static volatile sig_atomic_t arrived[65], senders[65];

static void arrive(int number, siginfo_t *info, void *context) {
	(void)context;
	arrived[number]++;
	senders[number] = info->si_pid;
}

/* Prints "ready", then every signal that arrives, until it was TERM: "10 1" is number and count. */
static void do_catch(char **argument) {
	sigset_t all, before;
	(void)argument;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	for (int number = 1; number < 32; number++) {
		struct sigaction action = {.sa_sigaction = arrive, .sa_flags = SA_SIGINFO, .sa_mask = all};
		if (number != SIGKILL && number != SIGSTOP && number != SIGSEGV)
			sigaction(number, &action, NULL);
	}
	sigemptyset(&before);
	printf("ready\n");
	fflush(stdout);
	for (int done[65] = {0}; !done[SIGTERM];) {
		sigsuspend(&before);
		for (int number = 1; number < 32; number++)
			if (arrived[number] != done[number]) {
				printf("%d %d\n", number, (int)arrived[number]);
				done[number] = arrived[number];
			}
		fflush(stdout);
	}
}

static void do_ignore(char **argument) {
	signal(atoi(argument[0]), SIG_IGN);
}

/* A process of its own session that outlives us; its pid. Holds none of our descriptors. */
static void do_daemon(char **argument) {
	int seconds = atoi(argument[0]), ends[2];
	pid_t pid = 0;
	fflush(stdout);
	if (pipe(ends) < 0)
		give_up("pipe");
	if (!fork()) {
		setsid();
		pid = fork();
		if (pid) {
			ssize_t wrote = write(ends[1], &pid, sizeof pid);
			_exit(wrote != sizeof pid);
		}
		for (int fd = 0; fd < 64; fd++)
			close(fd);
		for (int number = 1; number < 32; number++)
			signal(number, SIG_IGN);
		sleep((unsigned)seconds);
		_exit(0);
	}
	wait(NULL);
	if (read(ends[0], &pid, sizeof pid) != sizeof pid)
		give_up("read");
	close(ends[0]);
	close(ends[1]);
	printf("%d\n", pid);
}

/* Orphans that end at once; waits until pid 1 has reaped all of them. */
static void do_orphans(char **argument) {
	int count = atoi(argument[0]), ends[2];
	pid_t pids[256];
	fflush(stdout);
	for (int i = 0; i < count && i < 256; i++) {
		if (pipe(ends) < 0)
			give_up("pipe");
		if (!fork()) {
			pid_t pid = fork();
			if (pid) {
				ssize_t wrote = write(ends[1], &pid, sizeof pid);
				_exit(wrote != sizeof pid);
			}
			_exit(0);
		}
		wait(NULL);
		if (read(ends[0], &pids[i], sizeof *pids) != sizeof *pids)
			give_up("read");
		close(ends[0]);
		close(ends[1]);
	}
	int left = count;
	for (int round = 0; left && round < 6000; round++) {
		left = 0;
		for (int i = 0; i < count; i++)
			left += !kill(pids[i], 0);
		usleep(10000);
	}
	printf("%d left\n", left);
}

static void do_sleep(char **argument) {
	fflush(stdout);
	sleep((unsigned)atoi(argument[0]));
}

/* Processor time; a second process takes half of it. */
static void do_burn(char **argument) {
	fflush(stdout);
	pid_t other = fork();
	for (long until = clock() + atoi(argument[0]) * CLOCKS_PER_SEC / 2; clock() < until;)
		;
	if (!other)
		_exit(0);
	wait(NULL);
}

/* A child stops and continues us as fast as it can. */
static void do_restless(char **argument) {
	(void)argument;
	pid_t self = getpid();
	fflush(stdout);
	if (!fork())
		for (;;) {
			kill(self, SIGSTOP);
			usleep(200);
			kill(self, SIGCONT);
			usleep(200);
		}
	for (;;)
		pause();
}

/* Until standard input ends. */
static void do_wait(char **argument) {
	char byte;
	(void)argument;
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
}

/* Until the file exists, or with TEXT holds it, at most some minutes. */
static void do_await(char **argument) {
	size_t size;
	fflush(stdout);
	for (int round = 0; round < 12000; round++) {
		char *text = argument[1] ? text_of(argument[0], &size) : NULL;
		bool done = argument[1] ? text && strstr(text, argument[1]) : !access(argument[0], F_OK);
		free(text);
		if (done)
			return;
		usleep(10000);
	}
	give_up("await");
}

static void do_close(char **argument) {
	fflush(stdout);
	close(atoi(argument[0]));
}

static void do_echo(char **argument) {
	for (; *argument; argument++)
		printf("%s%s", *argument, argument[1] ? " " : "");
	printf("\n");
	fflush(stdout);
}

/* Limits of another process of the same user: as many descriptors as are said. */
static void do_starve(char **argument) {
	struct rlimit limit = {(rlim_t)atoi(argument[1]), (rlim_t)atoi(argument[1])};
	result(prlimit(atoi(argument[0]), RLIMIT_NOFILE, &limit, NULL));
	fflush(stdout);
}

/* PID SIGNAL: as if it came from outside of the pid namespace, in both ways that there are. */
static void do_forge(char **argument) {
	int ends[2], pid = atoi(argument[0]), number = atoi(argument[1]);
	siginfo_t info = {.si_signo = number, .si_code = SI_QUEUE}; /* of process 0 */
	fflush(stdout);
	result(syscall(SYS_rt_sigqueueinfo, pid, number, &info));
	if (pipe(ends) < 0 || fcntl(ends[0], F_SETOWN, pid) < 0 || fcntl(ends[0], 10 /* F_SETSIG */, number) < 0
	    || fcntl(ends[0], F_SETFL, O_ASYNC) < 0)
		give_up("fcntl");
	result(write(ends[1], "", 1));
	usleep(300000);
}

/* Processes that send signals to pid 1, as fast as they can. Of those that queue up a user may have only so many, which
 * others need, too: half of that will do. */
static void do_flood(char **argument) {
	struct rlimit limit;
	if (!getrlimit(RLIMIT_SIGPENDING, &limit) && (limit.rlim_max = limit.rlim_cur /= 2))
		prlimit(1, RLIMIT_SIGPENDING, &limit, NULL);
	fflush(stdout);
	for (int i = 0; i < atoi(argument[0]); i++)
		if (!fork())
			for (int number = 0;; number++)
				kill(1, number % 2 ? SIGRTMIN + number / 2 % 20 : SIGUSR1);
}

/* Orphans that are stopped and continued, as fast as that goes. */
static void do_jostle(char **argument) {
	fflush(stdout);
	for (int i = 0; i < atoi(argument[0]); i++)
		if (!fork()) {
			pid_t pid = fork();
			if (!pid)
				for (;;)
					pause();
			if (!fork())
				for (;;) {
					kill(pid, SIGSTOP);
					kill(pid, SIGCONT);
				}
			_exit(0);
		}
}

/* Children that wait for ever, adopted by whoever adopts. */
static void do_many(char **argument) {
	fflush(stdout);
	for (int i = 0; i < atoi(argument[0]); i++) {
		pid_t pid = fork();
		if (pid < 0)
			give_up("fork");
		if (!pid)
			for (;;)
				pause();
	}
}

static void do_exit(char **argument) {
	fflush(stdout);
	_exit(atoi(argument[0]));
}

static void do_exec(char **argument) {
	fflush(stdout);
	execv(argument[0], argument);
	result(-1);
}

static const struct command {
	const char *name;
	void (*run)(char **argument);
	int least; /* arguments */
} commands[] = {
	{"walk", do_walk, 1}, {"pty", do_pty, 0}, {"cat", do_cat, 1}, {"read", do_read, 1}, {"ls", do_ls, 1}, {"stat", do_stat, 1}, {"readlink", do_readlink, 1}, {"mounts", do_mounts, 0},
	{"cwd", do_cwd, 0}, {"environment", do_environment, 0}, {"arguments", do_arguments, 0}, {"fds", do_fds, 0},
	{"ids", do_ids, 0}, {"caps", do_caps, 0}, {"signals", do_signals, 0}, {"limits", do_limits, 0}, {"pid", do_pid, 0},
	{"hostname", do_hostname, 0}, {"umask", do_umask, 1}, {"try", do_try, 2}, {"fill", do_fill, 1}, {"nested", do_nested, 0},
	{"connect", do_connect, 1}, {"loopback", do_loopback, 0}, {"key", do_key, 1}, {"ioctl", do_ioctl, 1},
	{"signal", do_signal, 1}, {"ptrace", do_ptrace, 1},
	{"meddle", do_meddle, 1}, {"ipc", do_ipc, 2}, {"catch", do_catch, 0}, {"ignore", do_ignore, 1},
	{"daemon", do_daemon, 1}, {"orphans", do_orphans, 1}, {"sleep", do_sleep, 1}, {"wait", do_wait, 0},
	{"await", do_await, 1}, {"burn", do_burn, 1}, {"restless", do_restless, 0}, {"starve", do_starve, 2}, {"forge", do_forge, 2}, {"flood", do_flood, 1},
	{"jostle", do_jostle, 1}, {"many", do_many, 1}, {"close", do_close, 1}, {"echo", do_echo, 0}, {"exit", do_exit, 1}, {"exec", do_exec, 1},
#ifdef __x86_64__
	{"ioctl32", do_ioctl32, 1},
#endif
};

static void run(char **words, int count) {
	for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
		if (!strcmp(words[0], commands[i].name)) {
			if (count - 1 < commands[i].least)
				give_up(words[0]);
			commands[i].run(words + 1);
			return;
		}
	give_up(words[0]);
}

/* The two probes of a batch system, by their names. */
static int probe(const char *name) {
	struct stat found;
	if (!strcmp(name, "get_user_ns"))
		printf("%llu\n", stat("/proc/self/ns/user", &found) ? 0 : (unsigned long long)found.st_ino);
	else if (strcmp(name, "exit_37"))
		return 0;
	fflush(stdout);
	return 37;
}

int main(int argc, char **argv) {
	const char *slash = strrchr(argv[0], '/');
	int code = probe(slash ? slash + 1 : argv[0]);
	if (code)
		return code;
	/* As the front that a plan names: show how it was started again. */
	if (argc > 1 && !strncmp(argv[1], "--dunnage-after=", 16)) {
		do_arguments(argv);
		do_environment(NULL);
		fflush(stdout);
		return 77;
	}
	for (int at = 1; at < argc;) {
		int end = at;
		while (end < argc && strcmp(argv[end], "+"))
			end++;
		argv[end] = NULL;
		if (end > at)
			run(argv + at, end - at);
		at = end + 1;
	}
	return fflush(stdout) || ferror(stdout) ? 98 : 0;
}
