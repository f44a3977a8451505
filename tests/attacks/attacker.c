/* The attacker of the attack tests: a static programme that tries, from inside a payload, everything
 * that a payload has no business doing to the pilot which started it and to the payload beside it.
 *
 *     attacker assault|tty|hold|... NAME=VALUE...
 *
 * The facts tell what a real attacker would have to guess: pids, names, serial numbers. Those of the
 * pilot begin with "p.", those of the neighbour with "b.". Each attempt prints one line,
 *
 *     NUMBER.WHAT LEAK|safe|info TEXT
 *
 * with the number of the attack in the test plan (ATK-NUMBER) and the errno's name, or `ok`, as text.
 * LEAK says that the attempt worked; whether it should have is for the test to know.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <arpa/inet.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif
#ifndef TIOCSTI
#define TIOCSTI 0x5412
#endif
#ifndef TIOCLINUX
#define TIOCLINUX 0x541C
#endif

enum { SESSION_RING = -3, USER_RING = -4, PROCESS_RING = -2 };
enum { KEYCTL_JOIN = 1, KEYCTL_REVOKE = 3, KEYCTL_SETPERM = 5, KEYCTL_LINK = 8, KEYCTL_SEARCH = 10, KEYCTL_READ = 11 };
enum { GIVEN_UP = 97, PATIENCE = 120, PROCESSORS = 8192 };

extern char **environ;
static char **facts;
static pid_t main_pid, main_parent;

static const char *errno_text(int error) {
	static char number[20];
#define NAME(e) case e: return #e
	switch (error) {
	NAME(EPERM); NAME(ENOENT); NAME(ESRCH); NAME(EIO); NAME(ENXIO); NAME(EBADF); NAME(EAGAIN); NAME(EACCES); NAME(EFAULT);
	NAME(EBUSY); NAME(EEXIST); NAME(EXDEV); NAME(ENODEV); NAME(ENOTDIR); NAME(EISDIR); NAME(EINVAL); NAME(ENOTTY);
	NAME(ETXTBSY); NAME(ENOSPC); NAME(ESPIPE); NAME(EROFS); NAME(ELOOP); NAME(ENOSYS); NAME(ECONNREFUSED); NAME(ENOKEY);
	NAME(ENOTEMPTY); NAME(EOPNOTSUPP); NAME(ENODATA); NAME(ENETUNREACH); NAME(ENOTSOCK); NAME(EKEYREVOKED); NAME(ENOTCONN);
	NAME(EDQUOT); NAME(ENFILE); NAME(EMFILE); NAME(ENOMEM); NAME(ESTALE); NAME(EUSERS);
	}
#undef NAME
	snprintf(number, sizeof number, "errno%d", error);
	return number;
}

/* ---- saying ---- */

static void say(const char *name, bool leak, const char *text) {
	printf("%s %s %s\n", name, leak ? "LEAK" : "safe", text);
	fflush(stdout);
}

static void info(const char *name, const char *text) {
	printf("%s info %s\n", name, text);
	fflush(stdout);
}

/* The attempt was this call. */
static void tried(const char *name, long result) {
	say(name, result >= 0, result >= 0 ? "ok" : errno_text(errno));
}

/* NUMBER.TARGET.WHAT */
static const char *named(const char *number, const char *target, const char *what) {
	static char name[120];
	snprintf(name, sizeof name, "%s.%s%s%s", number, target, *what ? "." : "", what);
	return name;
}

/* ---- facts ---- */

static const char *fact_or(const char *name, const char *otherwise) {
	size_t length = strlen(name);
	for (char **each = facts; *each; each++)
		if (!strncmp(*each, name, length) && (*each)[length] == '=')
			return *each + length + 1;
	return otherwise;
}

static const char *fact(const char *name) {
	const char *value = fact_or(name, NULL);
	if (value)
		return value;
	fprintf(stderr, "attacker: the fact %s is missing\n", name);
	_exit(GIVEN_UP);
}

static const char *of(const char *target, const char *what) {
	char name[80];
	snprintf(name, sizeof name, "%s.%s", target, what);
	return fact(name);
}

static pid_t pid_of(const char *target) {
	return (pid_t)atol(of(target, "pid"));
}

/* A path made of the parts; of the last eight calls the results stay. */
static const char *path(const char *first, const char *second, const char *third) {
	static char room[8][PATH_MAX];
	static unsigned next;
	char *made = room[next++ % 8];
	snprintf(made, PATH_MAX, "%s%s%s", first, second, third);
	return made;
}

/* ---- reading ---- */

static bool contains(const char *text, size_t size, const char *wanted) {
	return memmem(text, size, wanted, strlen(wanted)) != NULL;
}

static bool is_secret(const char *text, size_t size) {
	return contains(text, size, fact("p.marker")) || contains(text, size, fact_or("b.marker", fact("p.marker")));
}

static ssize_t read_all(int fd, char *text, size_t room) {
	size_t size = 0;
	for (ssize_t got; size < room && (got = read(fd, text + size, room - size)) > 0;)
		size += (size_t)got;
	return (ssize_t)size;
}

static char text[1 << 20];

/* A file that may hold a secret: LEAK if it does. */
static void look_into(const char *name, const char *file) {
	int fd = open(file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		tried(name, -1);
		return;
	}
	ssize_t size = read_all(fd, text, sizeof text);
	say(name, is_secret(text, (size_t)size), is_secret(text, (size_t)size) ? "ok" : "readable");
	close(fd);
}

static void open_for(const char *name, const char *file, int flags) {
	int fd = open(file, flags | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0666);
	tried(name, fd);
	if (fd >= 0)
		close(fd);
}

/* ---- environment and arguments ---- */

static void names_of_secrets(char **list, int *count) {
	static char names[2000];
	snprintf(names, sizeof names, "%s", fact("names"));
	for (char *name = strtok(names, ","); name && *count < 60; name = strtok(NULL, ","))
		list[(*count)++] = name;
}

static void environment(void) {
	char *wanted[60], known[8000] = "";
	int count = 0;
	names_of_secrets(wanted, &count);
	for (int i = 0; i < count; i++)
		say(named("01", wanted[i], ""), getenv(wanted[i]) != NULL, getenv(wanted[i]) ? "ok" : "absent");
	for (char **each = environ; *each; each++) {
		char name[200];
		snprintf(name, sizeof name, "%.*s", (int)strcspn(*each, "="), *each);
		bool expected = false;
		for (int i = 0; i < count; i++)
			expected |= !strcmp(name, wanted[i]);
		if (!expected && is_secret(*each, strlen(*each)))
			say(named("01", name, ""), true, "ok");
		if (strlen(known) + strlen(name) + 2 < sizeof known)
			strcat(strcat(known, *known ? "," : ""), name);
	}
	info("01.names", known);
}

static void environment_of_others(void) {
	char parent[60];
	snprintf(parent, sizeof parent, "/proc/%d/environ", main_parent);
	look_into("02.init", "/proc/1/environ");
	look_into("02.parent", parent);
}

static void arguments_of_others(void) {
	int fd = open("/proc/1/cmdline", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read_all(fd, text, sizeof text);
	bool leak = contains(text, (size_t)size, fact("where")) || is_secret(text, (size_t)size);
	say("03.arguments", leak, fd < 0 ? errno_text(errno) : leak ? "ok" : "nothing");
	close(fd);
	fd = open("/proc/self/mountinfo", O_RDONLY | O_CLOEXEC);
	size = fd < 0 ? 0 : read_all(fd, text, sizeof text);
	leak = contains(text, (size_t)size, fact("where"));
	say("03.paths", leak, leak ? "ok" : "nothing");
	close(fd);
}

/* ---- descriptors ---- */

static void descriptors(void) {
	char others[2000] = "";
	char head[200];
	ssize_t got = pread(17, head, sizeof head, 0);
	tried("04.17", got > 0 && is_secret(head, (size_t)got) ? 0 : -1);
	tried("04.900", openat(900, "..", O_RDONLY | O_DIRECTORY));
	for (int fd = 3; fd < 65536; fd++)
		if (fcntl(fd, F_GETFD) >= 0 && strlen(others) < sizeof others - 20)
			sprintf(others + strlen(others), "%s%d", *others ? "," : "", fd);
	say("04.any", *others, *others ? others : "EBADF");
}

static void own_output(void) {
	ssize_t got = pread(1, text, sizeof text, 0);
	say("05.log", got > 0 && is_secret(text, (size_t)got), got < 0 ? errno_text(errno) : got ? "ok" : "nothing");
}

static void passed_descriptors(void) {
	bool found = false;
	for (int fd = 3; fd < 1024; fd++) {
		char byte, room[CMSG_SPACE(sizeof(int))];
		struct iovec part = {&byte, 1};
		struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
		if (recvmsg(fd, &message, MSG_DONTWAIT | MSG_PEEK) >= 0 && CMSG_FIRSTHDR(&message))
			found = true;
	}
	say("06.passed", found, found ? "ok" : "EBADF");
}

/* ---- processes ---- */

static void processes(const char *target) {
	int fd = open(path("/proc/", of(target, "pid"), "/cmdline"), O_RDONLY | O_CLOEXEC);
	if (fd < 0) {
		tried(named("07", target, ""), -1);
		return;
	}
	ssize_t size = read_all(fd, text, sizeof text);
	close(fd);
	bool seen = contains(text, (size_t)size, of(target, "calls"));
	say(named("07", target, ""), seen, seen ? "ok" : "somebody else");
}

static void all_processes(void) {
	int count = 0;
	char number[30];
	DIR *proc = opendir("/proc");
	for (struct dirent *each; proc && (each = readdir(proc));)
		count += each->d_name[0] >= '1' && each->d_name[0] <= '9';
	if (proc)
		closedir(proc);
	snprintf(number, sizeof number, "%d", count);
	info("07.visible", number);
}

static void inside_of(const char *target) {
	static const struct { const char *name; int flags; } files[] = {
		{"environ", O_RDONLY}, {"root", O_RDONLY | O_DIRECTORY}, {"cwd", O_RDONLY | O_DIRECTORY},
		{"fd", O_RDONLY | O_DIRECTORY} /* their numbers only */, {"mem", O_RDWR}, {"ns/mnt", O_RDONLY}, {"exe", O_RDONLY}, {"fd/17", O_RDONLY}};
	pid_t pid = pid_of(target);
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		int fd = open(path("/proc/", of(target, "pid"), path("/", files[i].name, "")), files[i].flags | O_CLOEXEC);
		tried(named("08", target, files[i].name), fd);
		if (!strcmp(files[i].name, "ns/mnt") && fd >= 0)
			tried(named("08", target, "setns"), setns(fd, 0));
		close(fd);
	}
	char byte;
	struct iovec here = {&byte, 1}, there = {(void *)16, 1};
	long done = process_vm_readv(pid, &here, 1, &there, 1, 0);
	tried(named("08", target, "vm"), done < 0 && errno == EFAULT ? 0 : done); /* EFAULT: allowed, but nothing is there */
	done = ptrace(PTRACE_SEIZE, pid, 0, 0);
	tried(named("08", target, "ptrace"), done);
	if (!done)
		ptrace(PTRACE_DETACH, pid, 0, 0);
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	tried(named("08", target, "getfd"), pidfd < 0 ? -1 : syscall(SYS_pidfd_getfd, pidfd, 0, 0));
	tried(named("08", target, "join"), pidfd < 0 ? -1 : setns(pidfd, CLONE_NEWNS | CLONE_NEWUSER));
}

static void signals_to(const char *target) {
	pid_t pid = pid_of(target);
	siginfo_t sent = {.si_code = SI_QUEUE};
	tried(named("09", target, "kill"), kill(pid, SIGUSR1));
	tried(named("09", target, "tgkill"), syscall(SYS_tgkill, pid, pid, SIGUSR2));
	tried(named("09", target, "queue"), syscall(SYS_rt_sigqueueinfo, pid, SIGUSR1, &sent));
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	tried(named("09", target, "pidfd"), pidfd < 0 ? -1 : syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0));
	tried(named("46", target, "group"), kill(-(pid_t)atol(of(target, "group")), SIGWINCH));
}

/* Only where it can hit nobody else: without a pid namespace these would reach every process of the user. */
static void everybody(void) {
	kill(0, SIGWINCH);
	if (!*fact("apart"))
		return;
	kill(-1, SIGURG);
	setpriority(PRIO_USER, 0, 7);
	setpriority(PRIO_PGRP, 0, 7);
}

/* For the worse, which everybody may: more so where we are badly off already. */
static void meddling_with(const char *target) {
	pid_t pid = pid_of(target);
	struct rlimit limit = {1000, 1000};
	bool low = getpriority(PRIO_PROCESS, 0) >= 9;
	unsigned long mask[PROCESSORS / LONG_BIT] = {0};
	size_t at = 0;
	syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	while (at + 1 < sizeof mask / sizeof *mask && !mask[at])
		at++;
	unsigned long first = mask[at] & -mask[at];
	memset(mask, 0, sizeof mask);
	mask[at] = first;
	tried(named("10", target, "limit"), prlimit(pid, RLIMIT_NOFILE, &limit, NULL));
	tried(named("10", target, "priority"), setpriority(PRIO_PROCESS, (id_t)pid, low ? 19 : 9));
	tried(named("10", target, "affinity"), syscall(SYS_sched_setaffinity, pid, sizeof mask, mask));
	tried(named("10", target, "io"), syscall(SYS_ioprio_set, 1, pid, low ? 3 << 13 : 2 << 13 | 7));
	int fd = open(path("/proc/", of(target, "pid"), "/oom_score_adj"), O_WRONLY | O_CLOEXEC);
	tried(named("10", target, "oom"), fd < 0 ? -1 : write(fd, "1000", 4));
}

/* The process is not there, or no longer: it may have ended since its name was read. */
static bool ended(int error) {
	return error == ENOENT || error == ESRCH;
}

/* Whatever is visible and not ours. */
static void helpers(void) {
	/* of a thread of the kernel, maps can be opened, and is empty */
	static const struct { const char *name; bool read; } names[] = {{"mem", false}, {"fd/.", false}, {"root/.", false},
		{"cwd/.", false}, {"exe", false}, {"environ", true}, {"maps", true}, {"ns/mnt", false}};
	int leaks[sizeof names / sizeof *names] = {0}, errors[sizeof names / sizeof *names] = {0}, traced = 0, refused = 0;
	DIR *proc = opendir("/proc");
	for (struct dirent *each; proc && (each = readdir(proc));) {
		pid_t pid = (pid_t)atol(each->d_name);
		if (pid <= 0 || pid == getpid() || pid == main_pid)
			continue;
		if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
			traced++;
			ptrace(PTRACE_DETACH, pid, 0, 0);
		} else if (!ended(errno)) {
			refused = errno;
		}
		for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
			int fd = open(path("/proc/", each->d_name, path("/", names[i].name, "")), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
			char byte;
			if (fd >= 0)
				leaks[i] += !names[i].read || read(fd, &byte, 1) > 0;
			else if (!ended(errno))
				errors[i] = errno;
			close(fd);
		}
	}
	say("12.ptrace", traced, traced ? "ok" : errno_text(refused));
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		char name[40];
		snprintf(name, sizeof name, "12.%.*s", (int)strcspn(names[i].name, "/"), names[i].name);
		say(name, leaks[i], leaks[i] ? "ok" : errors[i] ? errno_text(errors[i]) : "nobody");
	}
	if (proc)
		closedir(proc);
}

/* The programme that became our init: readable, by path only, writable? */
static void own_executable(void) {
	open_for("13.read", "/proc/1/exe", O_RDONLY);
	open_for("13.path", "/proc/1/exe", O_PATH);
	open_for("13.write", "/proc/1/exe", O_RDWR);
	open_for("13.truncate", "/proc/1/exe", O_WRONLY | O_TRUNC);
	open_for("13.self", "/proc/self/exe", O_RDWR);
}

/* ---- memory, queues, files ---- */

static void memory(const char *target) {
	int key = (int)strtoul(of(target, "ipc"), NULL, 0);
	tried(named("15", target, "shm"), syscall(SYS_shmget, key, 0, 0));
	tried(named("15", target, "sem"), syscall(SYS_semget, key, 0, 0));
	tried(named("15", target, "msg"), syscall(SYS_msgget, key, 0));
	tried(named("15", target, "queue"), syscall(SYS_mq_open, of(target, "name"), O_RDONLY, 0, NULL));
	look_into(named("16", target, ""), path("/dev/shm/", of(target, "name"), ""));
}

static void files(const char *target) {
	const char *name = of(target, "name");
	look_into(named("17", target, "tmp"), path("/tmp/", name, ""));
	look_into(named("17", target, "var-tmp"), path("/var/tmp/", name, ""));
	look_into(named("18", target, "home"), path(of(target, "home"), "/.globus/userkey.pem", ""));
	look_into(named("18", target, "ssh"), path(of(target, "home"), "/.ssh/id", ""));
	open_for(named("18", target, "append"), path(of(target, "home"), "/.bashrc", ""), O_WRONLY | O_APPEND);
}

/* What somebody outside would find later; whether something arrived there is what the pilot looks for. */
static void planting(void) {
	const char *name = fact("plant");
	close(open(path("/tmp/", name, ""), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	close(open(path("/var/tmp/", name, ""), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	close(open(path("/dev/shm/", name, ""), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	close(open(path(fact("p.home"), "/", name), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
	close(open(path("../", name, ""), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static void above_the_job(void) {
	look_into("19.p.up", "../proxy");
	look_into("19.p.cwd", "/proc/self/cwd/../proxy");
	look_into("19.p.path", fact("p.proxy"));
	look_into("19.b.up", "../job-b/secret");
	look_into("19.b.path", fact("b.secret"));
}

/* ---- sockets ---- */

static socklen_t address_of(struct sockaddr_un *address, const char *name, bool abstract) {
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path + abstract, sizeof address->sun_path - abstract, "%s", name);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(name) + 1);
}

static long connect_unix(const char *name, bool abstract, int type) {
	struct sockaddr_un address;
	socklen_t size = address_of(&address, name, abstract);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	long done = type == SOCK_DGRAM ? sendto(fd, "x", 1, MSG_DONTWAIT, (struct sockaddr *)&address, size)
		: connect(fd, (struct sockaddr *)&address, size);
	int error = errno;
	close(fd);
	errno = error;
	return done;
}

static void sockets(const char *target) {
	tried(named("20", target, "connect"), connect_unix(of(target, "abstract"), true, SOCK_STREAM));
	tried(named("20", target, "sendto"), connect_unix(of(target, "datagrams"), true, SOCK_DGRAM));
	tried(named("21", target, ""), connect_unix(of(target, "socket"), false, SOCK_STREAM));
	struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)atoi(of(target, "port")))};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	tried(named("22", target, ""), connect(fd, (struct sockaddr *)&address, sizeof address));
	close(fd);
}

/* ---- keys ---- */

static void keys(const char *target) {
	const char *name = of(target, "name");
	long serial = atol(of(target, "serial"));
	if (!serial)
		return; /* the kernel has none */
	char secret[200];
	tried(named("23", target, "search"), syscall(SYS_keyctl, KEYCTL_SEARCH, (long)SESSION_RING, "user", name, 0L));
	tried(named("23", target, "read"), syscall(SYS_keyctl, KEYCTL_READ, serial, secret, sizeof secret));
	tried(named("23", target, "link"), syscall(SYS_keyctl, KEYCTL_LINK, serial, (long)PROCESS_RING));
	tried(named("23", target, "permit"), syscall(SYS_keyctl, KEYCTL_SETPERM, serial, 0x3f3f0000L));
	int fd = open("/proc/keys", O_RDONLY | O_CLOEXEC);
	ssize_t size = fd < 0 ? 0 : read_all(fd, text, sizeof text);
	bool listed = contains(text, (size_t)size, path(name, ":", ""));
	say(named("23", target, "listed"), listed, fd < 0 ? errno_text(errno) : listed ? "ok" : "absent");
	close(fd);
	tried(named("24", target, ""), syscall(SYS_keyctl, KEYCTL_SEARCH, (long)USER_RING, "user", path(name, "-user", ""), 0L));
}

static void revoke_key(const char *target) {
	if (atol(of(target, "serial")))
		tried(named("23", target, "revoke"), syscall(SYS_keyctl, KEYCTL_REVOKE, atol(of(target, "serial"))));
}

/* ---- cgroups and devices ---- */

static int cgroup_leaks, cgroup_error;

static void writable_below(const char *place, int depth) {
	static const char *const names[] = {"/cgroup.procs", "/tasks", "/memory.max", "/pids.max", "/memory.limit_in_bytes",
		"/release_agent", "/cgroup.subtree_control"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
		int fd = open(path(place, names[i], ""), O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			cgroup_leaks++;
		else if (errno != ENOENT && errno != ENODEV) /* it is removed just now */
			cgroup_error = errno;
		close(fd);
	}
	char own[PATH_MAX];
	snprintf(own, sizeof own, "%s", place);
	DIR *directory = depth ? opendir(own) : NULL;
	for (struct dirent *each; directory && (each = readdir(directory));)
		if (each->d_type == DT_DIR && each->d_name[0] != '.')
			writable_below(path(own, "/", each->d_name), depth - 1);
	if (directory)
		closedir(directory);
}

static void cgroups(void) {
	writable_below("/sys/fs/cgroup", 4);
	say("25.write", cgroup_leaks, cgroup_leaks ? "ok" : cgroup_error ? errno_text(cgroup_error) : "ENOENT");
	int fd = open("/proc/self/cgroup", O_RDONLY | O_CLOEXEC);
	ssize_t size = read_all(fd, text, sizeof text);
	close(fd);
	bool root_only = true;
	for (char *line = text; line < text + size; line = memchr(line, '\n', (size_t)(text + size - line)) + 1) {
		char *end = memchr(line, '\n', (size_t)(text + size - line)), *slash = memrchr(line, ':', (size_t)(end - line));
		root_only &= end - slash == 2;
	}
	info("25.path", root_only ? "root" : "host");
}

static void devices(void) {
	static const char *const names[] = {"fuse", "kvm", "nvidia0", "nvidiactl", "kfd", "dri/card0", "loop0", "loop-control",
		"mem", "port", "kmsg", "sda", "vda", "net/tun", "uinput", "hwrng", "vhost-net", "console", "tty0", "autofs"};
	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		open_for(named("34", names[i], ""), path("/dev/", names[i], ""), O_RDONLY);
	tried("34.mknod", mknod(path("/tmp/", fact("plant"), "-node"), S_IFCHR | 0600, makedev(1, 3)));
	tried("34.mknod-dev", mknod("/dev/mine", S_IFCHR | 0600, makedev(1, 1)));
}

/* Information that no namespace of ours hides. */
static void information(void) {
	static const struct { const char *name, *file, *fact; } files[] = {
		{"locks", "/proc/locks", "lock"}, {"sockets", "/proc/net/unix", "p.abstract"}, {"ports", "/proc/net/tcp", "hexport"},
		{"partitions", "/proc/partitions", NULL}, {"load", "/proc/loadavg", NULL}};
	for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
		int fd = open(files[i].file, O_RDONLY | O_CLOEXEC);
		ssize_t size = fd < 0 ? 0 : read_all(fd, text, sizeof text);
		bool seen = files[i].fact ? contains(text, (size_t)size, fact(files[i].fact)) : size > 0;
		say(named("35", files[i].name, ""), seen, fd < 0 ? errno_text(errno) : seen ? "ok" : "nothing");
		close(fd);
	}
}

/* ---- mounts ---- */

static void writing(void) {
	open_for("44.top", "/x", O_WRONLY | O_CREAT);
	open_for("44.usr", "/usr/x", O_WRONLY | O_CREAT);
	open_for("44.file", "/file", O_WRONLY);
	const char *place = fact_or("ro", NULL);
	if (!place)
		return;
	const char *file = path(place, "/file", "");
	int fd = open(file, O_RDONLY | O_CLOEXEC);
	char again[60];
	snprintf(again, sizeof again, "/proc/self/fd/%d", fd);
	open_for("37.reopen", again, O_WRONLY);
	open_for("37.tmpfile", place, O_TMPFILE | O_RDWR);
	tried("37.truncate", truncate(file, 0));
	tried("37.times", utimensat(AT_FDCWD, file, NULL, 0));
	tried("37.xattr", setxattr(file, "user.x", "x", 1, 0));
	tried("37.chmod", fchmod(fd, 0777));
	tried("37.link", link(file, path(place, "/link", "")));
	tried("37.rename", rename(file, path(place, "/other", "")));
	tried("37.unlink", unlink(file));
	close(fd);
}

/* A bind covers a directory that holds `hidden`. */
static void uncovering(const char *who) {
	const char *cover = fact("cover"), *hidden = path(cover, "/hidden", ""), *above = fact("above");
	tried(named("29", who, "umount"), umount2(cover, 0));
	tried(named("29", who, "detach"), umount2(cover, MNT_DETACH));
	tried(named("29", who, "writable"), mount(NULL, fact_or("ro", "/"), NULL, MS_REMOUNT | MS_BIND, NULL));
	tried(named("29", who, "suid"), mount(NULL, cover, NULL, MS_REMOUNT | MS_BIND, NULL));
	tried(named("29", who, "bind"), mount(above, "/mnt", NULL, MS_BIND, NULL));
	tried(named("29", who, "move"), mount(cover, "/mnt", NULL, MS_MOVE, NULL));
	tried(named("29", who, "root"), mount("/", "/mnt", NULL, MS_BIND, NULL));
	bool seen = !access(hidden, F_OK) || !access(path("/mnt", strrchr(cover, '/'), "/hidden"), F_OK);
	say(named("29", who, "hidden"), seen, seen ? "ok" : "ENOENT");
}

static bool write_file(const char *file, const char *line) {
	int fd = open(file, O_WRONLY | O_CLOEXEC);
	bool done = fd >= 0 && write(fd, line, strlen(line)) == (ssize_t)strlen(line);
	close(fd);
	return done;
}

static bool become_root(void) {
	char map[60];
	snprintf(map, sizeof map, "0 %u 1\n", getuid());
	return !unshare(CLONE_NEWUSER | CLONE_NEWNS) && write_file("/proc/self/uid_map", map);
}

static void mounts(void) {
	uncovering("payload");
	bool nested = become_root();
	info("31.namespace", nested ? "ok" : errno_text(errno));
	if (nested)
		uncovering("nested");
}

static void privileges(void) {
	static const char *const lines[] = {"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n"};
	int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	ssize_t size = read_all(fd, text, sizeof text);
	close(fd);
	for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
		char name[40];
		snprintf(name, sizeof name, "45.%.*s", (int)strcspn(lines[i], ":"), lines[i]);
		bool right = contains(text, (size_t)size, lines[i]);
		say(name, !right, right ? "ok" : "more");
	}
}

/* ---- on a terminal ---- */

static void terminal(void) {
	struct stat own;
	char room[64] = "x";
	bool same = !fstat(0, &own) && S_ISCHR(own.st_mode) && own.st_rdev == (dev_t)strtoul(fact("rdev"), NULL, 0)
		&& own.st_dev == (dev_t)strtoul(fact("dev"), NULL, 0);
	say("33.same", same, same ? "ok" : isatty(0) ? "another" : "none");
	if (same) { /* into another one we would type for ourselves */
		tried("33.type", syscall(SYS_ioctl, 0, TIOCSTI, room));
		tried("33.type-high", syscall(SYS_ioctl, 0, 0xdead00000000ul | TIOCSTI, room));
		tried("33.paste", syscall(SYS_ioctl, 0, TIOCLINUX, room));
		int own_tty = open("/dev/tty", O_RDWR | O_CLOEXEC);
		tried("33.tty-type", own_tty < 0 ? -1 : syscall(SYS_ioctl, own_tty, TIOCSTI, room));
		close(own_tty);
	}
	int fd = open(fact("tty"), O_RDWR | O_CLOEXEC | O_NOCTTY);
	bool opened = fd >= 0 && !fstat(fd, &own) && own.st_dev == (dev_t)strtoul(fact("dev"), NULL, 0);
	say("33.path", opened, opened ? "ok" : fd < 0 ? errno_text(errno) : "another");
	tried("33.steal", fd < 0 ? -1 : syscall(SYS_ioctl, fd, TIOCSCTTY, 1));
	close(fd);
}

/* ---- the neighbour ---- */

static volatile sig_atomic_t counted;

static void count(int number) {
	(void)number;
	counted++;
}

static int listening(int domain, int type, const void *address, socklen_t size) {
	int fd = socket(domain, type, 0);
	if (bind(fd, address, size) < 0 || (type == SOCK_STREAM && listen(fd, 9) < 0)) {
		fprintf(stderr, "attacker: bind: %s\n", errno_text(errno));
		_exit(GIVEN_UP);
	}
	return fd;
}

static void keep(const char *file, const char *marker) {
	int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || write(fd, marker, strlen(marker)) < 0)
		fprintf(stderr, "attacker: %s: %s\n", file, errno_text(errno));
}

/* Holds secrets of its own in every place that the attacker looks into, and counts signals until its
 * standard input ends. Says with which facts it can be found, and in the end what was done to it. */
static void hold(void) {
	const char *name = fact("b.name"), *marker = fact("b.marker");
	struct sigaction action = {.sa_handler = count};
	static const int watched[] = {SIGUSR1, SIGUSR2, SIGURG, SIGWINCH};
	for (size_t i = 0; i < sizeof watched / sizeof *watched; i++)
		sigaction(watched[i], &action, NULL);
	int key = (int)strtoul(fact("b.ipc"), NULL, 0);
	syscall(SYS_shmget, key, 4096, 01600);
	syscall(SYS_semget, key, 1, 01600);
	syscall(SYS_msgget, key, 01600);
	syscall(SYS_mq_open, name, O_CREAT | O_RDWR, 0600, NULL);
	keep(path("/tmp/", name, ""), marker);
	keep(path("/var/tmp/", name, ""), marker);
	keep(path("/dev/shm/", name, ""), marker);
	struct sockaddr_un address;
	socklen_t size = address_of(&address, fact("b.abstract"), true);
	listening(AF_UNIX, SOCK_STREAM, &address, size);
	size = address_of(&address, fact("b.datagrams"), true);
	listening(AF_UNIX, SOCK_DGRAM, &address, size);
	size = address_of(&address, fact("b.socket"), false);
	listening(AF_UNIX, SOCK_STREAM, &address, size);
	struct sockaddr_in local = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t local_size = sizeof local;
	int server = listening(AF_INET, SOCK_STREAM, &local, sizeof local);
	getsockname(server, (struct sockaddr *)&local, &local_size);
	/* In the keyrings that it has: where the session's is shared, that is the pilot's. */
	long serial = syscall(SYS_add_key, "user", name, marker, strlen(marker), (long)SESSION_RING);
	syscall(SYS_add_key, "user", path(name, "-user", ""), marker, strlen(marker), (long)USER_RING);
	int fd = open(path("/tmp/", name, ""), O_RDONLY);
	dup2(fd, 17);
	printf("ready port=%d serial=%ld\n", ntohs(local.sin_port), serial < 0 ? 0 : serial);
	fflush(stdout);
	char byte;
	while (read(0, &byte, 1) > 0 || errno == EINTR)
		errno = 0;
	struct rlimit limit;
	unsigned long mask[PROCESSORS / LONG_BIT] = {0};
	int processors = 0;
	char score[20] = "";
	getrlimit(RLIMIT_NOFILE, &limit);
	syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
	for (size_t i = 0; i < sizeof mask / sizeof *mask; i++)
		processors += __builtin_popcountl(mask[i]);
	int adjust = open("/proc/self/oom_score_adj", O_RDONLY);
	score[read_all(adjust, score, sizeof score - 1)] = 0;
	printf("signals=%d nice=%d files=%lu processors=%d io=%ld oom=%d\n", (int)counted, getpriority(PRIO_PROCESS, 0),
		(unsigned long)limit.rlim_cur, processors, syscall(SYS_ioprio_get, 1, 0), atoi(score));
	fflush(stdout);
	/* What is not in a namespace of ours stays when we go. */
	unlink(path("/tmp/", name, ""));
	unlink(path("/var/tmp/", name, ""));
	unlink(path("/dev/shm/", name, ""));
	unlink(fact("b.socket"));
	syscall(SYS_mq_unlink, name);
	syscall(SYS_shmctl, syscall(SYS_shmget, key, 0, 0), 0, NULL);
	syscall(SYS_semctl, syscall(SYS_semget, key, 0, 0), 0, 0, NULL);
	syscall(SYS_msgctl, syscall(SYS_msgget, key, 0), 0, NULL);
}

/* ---- all of it ---- */

/* In a child: no attack can spoil the next one. */
static void apart(const char *name, void (*alone)(void), void (*against)(const char *), const char *target) {
	fflush(stdout);
	pid_t pid = fork();
	if (!pid) {
		alarm(PATIENCE);
		if (alone)
			alone();
		else
			against(target);
		_exit(fflush(stdout) ? GIVEN_UP : 0);
	}
	int status;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (status) { /* no result is none to rely on */
		char how[60];
		snprintf(how, sizeof how, "status %#x", status);
		say(named(name, target ? target : "all", "attack-ended-early"), true, how);
	}
}

static void assault(void) {
	static void (*const alone[])(void) = {environment, environment_of_others, arguments_of_others, descriptors, own_output,
		passed_descriptors, all_processes, helpers, own_executable, planting, above_the_job, cgroups, devices, information,
		writing, mounts, privileges};
	static void (*const against[])(const char *) = {processes, inside_of, memory, files, sockets, keys, signals_to,
		meddling_with, revoke_key};
	char number[20];
	for (size_t i = 0; i < sizeof alone / sizeof *alone; i++) {
		snprintf(number, sizeof number, "alone%zu", i);
		apart(number, alone[i], NULL, NULL);
	}
	for (size_t i = 0; i < sizeof against / sizeof *against; i++) {
		snprintf(number, sizeof number, "against%zu", i);
		apart(number, NULL, against[i], "p");
		if (fact_or("b.pid", NULL))
			apart(number, NULL, against[i], "b");
	}
	apart("everybody", everybody, NULL, NULL);
}

static const struct { const char *name; void (*run)(void); } programmes[] = {
	{"assault", assault}, {"hold", hold}, {"terminal", terminal}, {"executable", own_executable},
	{"descriptors", descriptors}, {"sockets", NULL}, {"mounts", mounts}, {"privileges", privileges}, {"helpers", helpers},
	{"writing", writing},
};

int main(int argc, char **argv) {
	main_pid = getpid();
	main_parent = getppid();
	facts = argc > 1 ? argv + 2 : argv + 1;
	signal(SIGPIPE, SIG_IGN);
	signal(SIGURG, SIG_IGN);
	for (size_t i = 0; argc > 1 && i < sizeof programmes / sizeof *programmes; i++)
		if (!strcmp(argv[1], programmes[i].name)) {
			if (programmes[i].run)
				programmes[i].run();
			else
				sockets("p");
			return 0;
		}
	fprintf(stderr, "attacker: no such attack\n");
	return GIVEN_UP;
}
