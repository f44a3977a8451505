/* The surroundings of the launch: signals, limits, descriptors, namespaces. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

#define PROC_MAGIC 0x9fa0
#define NR_CLOSE_RANGE 436
#define MARK_CLOEXEC 4u /* of close_range */
enum { WATCHDOG_SECONDS = 300, LAST_SIGNAL = 64 };

struct call call;
struct caller caller;

/* ---- the surroundings of the launch ---- */

static struct timespec armed;
static volatile sig_atomic_t foreign_alarm; /* one that is not the watchdog's, for the payload */

static void watchdog(int signal) {
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	if (now.tv_sec - armed.tv_sec < WATCHDOG_SECONDS - 1) {
		foreign_alarm = signal;
		return;
	}
	die("look at the file systems of the image and of the binds; one of them may hang", 0,
		"it took longer than 300 s", "start the container, at %s", speech.doing);
}

/* A handler does not end a wait for a dead FUSE server; SIGKILL, sent by a timer some seconds later, does. */
static timer_t deadline;
static bool deadline_set;

void arm_watchdog(void) {
	clock_gettime(CLOCK_MONOTONIC, &armed);
	struct sigevent kill_us = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	deadline_set = !timer_create(CLOCK_MONOTONIC, &kill_us, &deadline)
		&& !timer_settime(deadline, 0, &(struct itimerspec){.it_value.tv_sec = WATCHDOG_SECONDS + 10}, NULL);
	alarm(WATCHDOG_SECONDS);
}

void disarm_watchdog(void) {
	alarm(0);
	if (deadline_set)
		timer_delete(deadline);
}

void need_call(int result, const char *name) {
	if (result < 0)
		die("", errno, name, "look after signals and limits");
}

void process_prepare(void) {
	prctl(PR_SET_NAME, "dunnage-launch"); /* whatever file it was started from */
	prctl(PR_SET_DUMPABLE, 1); /* else the map files belong to root where our file may be executed but not read */
	caller.umask = umask(0); /* every mode is given explicitly */
	need_call(getrlimit(RLIMIT_CORE, &caller.core), "getrlimit");
	need_call(getrlimit(RLIMIT_NOFILE, &caller.files), "getrlimit");
	need_call(setrlimit(RLIMIT_CORE, &(struct rlimit){0, caller.core.rlim_max}), "setrlimit");
	need_call(sigprocmask(SIG_SETMASK, NULL, &caller.mask), "sigprocmask");
	/* An ignored SIGCHLD would take the payload's status away; SIGPIPE and SIGXFSZ are what Python changed. */
	for (int signal = 1; call.known && signal <= LAST_SIGNAL; signal++)
		caller.action[signal].sa_handler = call.ignored >> (signal - 1) & 1 ? SIG_IGN : SIG_DFL;
	static const int ours[] = {SIGCHLD, SIGPIPE, SIGXFSZ, SIGALRM};
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
		struct sigaction old, action = {.sa_flags = SA_RESTART, .sa_handler = ours[i] == SIGALRM ? watchdog : ours[i] == SIGCHLD ? SIG_DFL : SIG_IGN};
		need_call(sigaction(ours[i], &action, &old), "sigaction");
		if (!call.known)
			caller.action[ours[i]] = old;
	}
	caller.alarm = alarm(0);
	arm_watchdog();
	sigset_t unblock;
	sigemptyset(&unblock);
	sigaddset(&unblock, SIGALRM);
	need_call(sigprocmask(SIG_UNBLOCK, &unblock, NULL), "sigprocmask");
	if (!getcwd(caller.directory, sizeof caller.directory))
		caller.directory[0] = 0; /* it was deleted */
	struct statfs found;
	procfs = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (procfs < 0 || fstatfs(procfs, &found) < 0 || found.f_type != PROC_MAGIC)
		die("mount a proc file system on /proc", 0, "/proc is not a proc file system", "start");
}

void restore_signals(void) {
	static const int changed[] = {SIGCHLD, SIGPIPE, SIGXFSZ, SIGALRM};
	sigset_t all;
	sigfillset(&all);
	need_call(sigprocmask(SIG_SETMASK, &all, NULL), "sigprocmask");
	alarm(0);
	if (foreign_alarm) /* waits, as it would have without us */
		kill(getpid(), SIGALRM);
	for (size_t i = 0; i < sizeof changed / sizeof *changed; i++)
		need_call(sigaction(changed[i], &caller.action[changed[i]], NULL), "sigaction");
	need_call(sigprocmask(SIG_SETMASK, &caller.mask, NULL), "sigprocmask");
	alarm(caller.alarm);
}

void restore_limits(void) {
	need_call(setrlimit(RLIMIT_CORE, &caller.core), "setrlimit");
	need_call(setrlimit(RLIMIT_NOFILE, &caller.files), "setrlimit");
	umask(caller.umask);
}

void front_again(const char *reason) {
	if (!is_top())
		return; /* the caller's words go to whoever can do something */
	servers_end(false);
	cgroup_end();
	if (speech.mute && !strcmp(reason, "stale") && tell(MESSAGE_STALE, NULL, 0))
		_exit(speech.code);
	if (speech.mute && !strncmp(reason, "userns:", 7) && tell_sentence(MESSAGE_REFUSED, reason + 7))
		_exit(speech.code);
	const struct record *record = speech.plan ? find(speech.plan, OP_FRONT) : NULL;
	if (!record || !call.known || is_init)
		return;
	const char *front = record->field[0];
	char after[80];
	snprintf(after, sizeof after, "--dunnage-after=%s", reason);
	char **arguments = reserve(call.argument_count + 3, sizeof *arguments);
	arguments[0] = (char *)(uintptr_t)call.program;
	arguments[1] = after;
	memcpy(arguments + 2, call.arguments, call.argument_count * sizeof *arguments);
	restore_limits();
	restore_signals();
	execve(front, arguments, call.environment);
}

/* ---- descriptors ---- */

static int *kept; /* sorted */
static size_t kept_count;

void keep(int fd) {
	size_t at = kept_count;
	if (fd < 0)
		return;
	kept = room_for_one(kept, kept_count, sizeof *kept);
	for (; at && kept[at - 1] > fd; at--)
		kept[at] = kept[at - 1];
	kept[at] = fd;
	kept_count++;
}

void unkeep(int fd) {
	size_t at = 0;
	for (size_t i = 0; i < kept_count; i++)
		if (kept[i] != fd)
			kept[at++] = kept[i];
	kept_count = at;
}

void keep_none(void) {
	kept_count = 0;
}

/* Without close_range: what /proc/self/fd lists above 2 is marked, or closed but for what is kept. */
static void each_descriptor(bool closing) {
	int listing = openat(procfs, "self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = listing < 0 ? NULL : fdopendir(listing);
	if (!dir)
		die("", errno, "listing /proc/self/fd", "close inherited descriptors");
	for (struct dirent *entry; errno = 0, entry = readdir(dir);) {
		int fd = atoi(entry->d_name);
		bool keeps = fd <= 2 || fd == listing;
		for (size_t i = 0; closing && i < kept_count; i++)
			keeps |= fd == kept[i];
		if (!keeps && closing)
			close(fd);
		else if (!keeps)
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	if (errno)
		die("", errno, "readdir of /proc/self/fd", "close inherited descriptors");
	closedir(dir);
}

/* Everything above 2 closes at exec, unless the plan keeps it. */
void process_protect_descriptors(const struct plan *plan) {
	const struct record *others = find(plan, OP_DESCRIPTORS);
	if (!others || words(others, 0) != WORD_DESCRIPTORS_OTHERS_CLOSE)
		return;
	if (lacking & LACK_CLOSE_RANGE || syscall(NR_CLOSE_RANGE, 3u, ~0u, MARK_CLOEXEC) < 0)
		each_descriptor(false);
	for (size_t i = 0; i < plan->count; i++) {
		if (plan->records[i].id != OP_KEEP_DESCRIPTOR)
			continue;
		int fd = (int)number(&plan->records[i], 0);
		bool own = fd == procfs;
		for (size_t k = 0; k < kept_count; k++)
			own |= fd == kept[k];
		if (own || fcntl(fd, F_SETFD, 0) < 0)
			die("open it before the start", EBADF, "fcntl", "keep descriptor %s", plan->records[i].field[0]);
	}
}

static int null = -1;

/* The host's: what an image calls so may be anything. */
void null_open(void) {
	struct stat found;
	null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null >= 0 && (fstat(null, &found) < 0 || !S_ISCHR(found.st_mode) || found.st_rdev != makedev(1, 3))) {
		close(null);
		null = -1;
	}
}

/* A range that could not be closed as one; /proc may be closed already. */
static void close_one_by_one(unsigned from, unsigned to) {
	unsigned last = caller.files.rlim_max < 65536 ? 65536 : caller.files.rlim_max > INT_MAX ? INT_MAX : (unsigned)caller.files.rlim_max;
	for (; from <= to && from < last; from++)
		close((int)from);
}

void let_go_of_descriptors(bool keep_stderr) {
	for (int fd = 0; fd < (keep_stderr ? 2 : 3); fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	unsigned from = 3;
	bool any = false;
	for (size_t i = 0; i <= kept_count; i++) {
		unsigned to = i == kept_count ? ~0u : (unsigned)kept[i] - 1;
		if (from <= to && (lacking & LACK_CLOSE_RANGE || syscall(NR_CLOSE_RANGE, from, to, 0) < 0)) {
			if (!any) {
				each_descriptor(true);
				return;
			}
			close_one_by_one(from, to);
		}
		any |= from <= to;
		from = i == kept_count ? to : (unsigned)kept[i] + 1;
	}
}

/* ---- namespaces ---- */

static _Noreturn void namespaces_refused(const char *failed, int error) {
	char reason[64], dunnage[160], foreign[160];
	snprintf(reason, sizeof reason, "userns:%s:%s", failed, errno_name(error));
	front_again(reason); /* it knows the sysctls and says which one to change */
	snprintf(dunnage, sizeof dunnage, "cannot create a user namespace: %s on %s", errno_name(error), failed);
	snprintf(foreign, sizeof foreign, "Failed to create user namespace: error: %s on %s", errno_name(error), failed);
	die_sentence(dunnage, foreign, "run `dunnage check`: it names the setting to change");
}

int write_once(int dir, const char *file, const char *text) {
	int fd = openat(dir, file, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -1;
	ssize_t wrote = write(fd, text, strlen(text));
	int error = errno;
	close(fd);
	errno = error;
	return wrote == (ssize_t)strlen(text) ? 0 : -1;
}

static void write_map(const struct plan *plan, enum operation_id which, const char *file) {
	char text[4096];
	size_t used = 0;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != which)
			continue;
		if (used > sizeof text - 64)
			die("", 0, "too many lines", "write the id map");
		used += (size_t)snprintf(text + used, sizeof text - used, "%s %s %s\n", record->field[0], record->field[1], record->field[2]);
	}
	if (used && write_once(procfs, file, text) < 0)
		namespaces_refused(which == OP_UID_MAP ? "uid_map" : "gid_map", errno);
}

/* Of a map for somebody else the kernel would only say EPERM. */
static void compare_ids(const struct plan *plan, enum operation_id which, const char *what, uint64_t own) {
	const char *other = NULL;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != which)
			continue;
		if (own - number(record, ARG_UID_MAP_OUTSIDE) < number(record, ARG_UID_MAP_COUNT))
			return;
		other = record->field[ARG_UID_MAP_OUTSIDE];
	}
	if (!other)
		return;
	char why[100];
	snprintf(why, sizeof why, "it was made for %s %s, and yours is %llu", what, other, (unsigned long long)own);
	die(renewal("make one of your own"), 0, why, "start from %s", speech.stored ? speech.stored : "this plan");
}

static void loopback_up(void) {
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &request) < 0)
		die("", errno, "SIOCSIFFLAGS", "bring up the loopback interface");
	close(fd);
}

void namespaces_enter(const struct plan *plan) {
	static const struct { unsigned word; int flag; } all[] = {
		{WORD_UNSHARE_NAMESPACES_USER, CLONE_NEWUSER}, {WORD_UNSHARE_NAMESPACES_MOUNT, CLONE_NEWNS},
		{WORD_UNSHARE_NAMESPACES_PID, CLONE_NEWPID}, {WORD_UNSHARE_NAMESPACES_IPC, CLONE_NEWIPC},
		{WORD_UNSHARE_NAMESPACES_UTS, CLONE_NEWUTS}, {WORD_UNSHARE_NAMESPACES_CGROUP, CLONE_NEWCGROUP},
		{WORD_UNSHARE_NAMESPACES_NET, CLONE_NEWNET}};
	int flags = 0;
	compare_ids(plan, OP_UID_MAP, "uid", getuid());
	compare_ids(plan, OP_GID_MAP, "gid", getgid());
	for (size_t k = 0; k < sizeof all / sizeof *all; k++)
		flags |= words(find(plan, OP_UNSHARE), 0) & all[k].word ? all[k].flag : 0;
	if (cgroup_wanted()) /* it is to begin at the payload's own cgroup */
		flags &= ~CLONE_NEWCGROUP;
	speech.doing = "unshare";
	if (unshare(flags) < 0) {
		int error = errno;
		if (flags & CLONE_NEWNET && error == ENOSPC)
			die("allow network namespaces (user.max_net_namespaces) or do without --net", error, "unshare", "create a network namespace");
		namespaces_refused("unshare", error);
	}
	if (write_once(procfs, "self/setgroups", "deny") < 0)
		namespaces_refused("setgroups", errno);
	write_map(plan, OP_UID_MAP, "self/uid_map");
	write_map(plan, OP_GID_MAP, "self/gid_map");
	/* Slave, never private: automounts of the host must go on to appear in our copies. */
	if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) < 0)
		namespaces_refused("mount", errno);
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_HOSTNAME && sethostname(record->field[0], strlen(record->field[0])) < 0)
			die("", errno, "sethostname", "set the host name");
		if (record->id == OP_LOOPBACK)
			loopback_up();
	}
}
