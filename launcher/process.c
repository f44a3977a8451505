/* Namespaces, init, environment and exec of the payload. */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

#define PROC_MAGIC 0x9fa0
#define NR_CLOSE_RANGE 436
#define MARK_CLOEXEC 4u /* of close_range */
#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_RESTRICT_SELF 446
#define KEYCTL_JOIN_SESSION_KEYRING 1
enum { WATCHDOG_SECONDS = 300, LAST_SIGNAL = 64 };

struct call call;

static mode_t caller_umask;
static struct rlimit caller_core, caller_files;
static sigset_t caller_mask;
static struct sigaction caller_action[LAST_SIGNAL + 1];
static unsigned caller_alarm;
static char caller_directory[PATH_MAX];
static bool is_init, own_session;
static int outer = -1; /* init's end of the socket to the outer process */

/* ---- the surroundings of the launch ---- */

static void watchdog(int signal) {
	(void)signal;
	die("look at the file systems of the image and of the binds; one of them may hang", 0,
		"it took longer than 300 s", "start the container, at %s", speech.doing);
}

/* A handler does not end a wait for a dead FUSE server; SIGKILL, sent by a timer some seconds later, does. */
static timer_t deadline;
static bool deadline_set;

static unsigned arm_watchdog(void) {
	struct sigevent kill_us = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	deadline_set = !timer_create(CLOCK_MONOTONIC, &kill_us, &deadline)
		&& !timer_settime(deadline, 0, &(struct itimerspec){.it_value.tv_sec = WATCHDOG_SECONDS + 10}, NULL);
	return alarm(WATCHDOG_SECONDS);
}

static void disarm_watchdog(void) {
	alarm(0);
	if (deadline_set)
		timer_delete(deadline);
}

void process_prepare(void) {
	prctl(PR_SET_DUMPABLE, 1); /* else the map files belong to root where our file may be executed but not read */
	caller_umask = umask(0); /* every mode is given explicitly */
	getrlimit(RLIMIT_CORE, &caller_core);
	getrlimit(RLIMIT_NOFILE, &caller_files);
	setrlimit(RLIMIT_CORE, &(struct rlimit){0, caller_core.rlim_max});
	sigprocmask(SIG_SETMASK, NULL, &caller_mask);
	/* An ignored SIGCHLD would take the payload's status away; SIGPIPE and SIGXFSZ are what Python changed. */
	for (int signal = 1; call.known && signal <= LAST_SIGNAL; signal++)
		caller_action[signal].sa_handler = call.ignored >> (signal - 1) & 1 ? SIG_IGN : SIG_DFL;
	static const int ours[] = {SIGCHLD, SIGPIPE, SIGXFSZ, SIGALRM};
	for (size_t i = 0; i < sizeof ours / sizeof *ours; i++) {
		struct sigaction old, action = {.sa_handler = ours[i] == SIGALRM ? watchdog : ours[i] == SIGCHLD ? SIG_DFL : SIG_IGN};
		sigaction(ours[i], &action, &old);
		if (!call.known)
			caller_action[ours[i]] = old;
	}
	sigset_t unblock;
	sigemptyset(&unblock);
	sigaddset(&unblock, SIGALRM);
	sigprocmask(SIG_UNBLOCK, &unblock, NULL);
	caller_alarm = arm_watchdog();
	if (!getcwd(caller_directory, sizeof caller_directory))
		caller_directory[0] = 0; /* it was deleted */
	struct statfs found;
	procfs = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (procfs < 0 || fstatfs(procfs, &found) < 0 || found.f_type != PROC_MAGIC)
		die("mount a proc file system on /proc", 0, "/proc is not a proc file system", "start");
}

static void restore_signals(void) {
	static const int changed[] = {SIGCHLD, SIGPIPE, SIGXFSZ, SIGALRM};
	for (size_t i = 0; i < sizeof changed / sizeof *changed; i++)
		sigaction(changed[i], &caller_action[changed[i]], NULL);
	sigprocmask(SIG_SETMASK, &caller_mask, NULL);
	alarm(caller_alarm);
}

static void restore_limits(void) {
	setrlimit(RLIMIT_CORE, &caller_core);
	setrlimit(RLIMIT_NOFILE, &caller_files);
	umask(caller_umask);
}

void front_again(const char *reason) {
	const struct plan *plan = speech.plan;
	const char *front = NULL;
	for (size_t i = 0; plan && i < plan->count; i++)
		if (plan->records[i].id == OP_FRONT)
			front = plan->records[i].field[0];
	if (!front || !call.known || is_init)
		return;
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

/* Without close_range: what /proc/self/fd lists above 2, but for two of ours, is closed or marked. */
static void each_descriptor(bool closing, int keep_a, int keep_b) {
	int listing = openat(procfs, "self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = listing < 0 ? NULL : fdopendir(listing);
	if (!dir)
		die("", errno, "listing /proc/self/fd", "close inherited descriptors");
	for (struct dirent *entry; (entry = readdir(dir));) {
		int fd = atoi(entry->d_name);
		if (fd <= 2 || fd == listing || fd == keep_a || fd == keep_b)
			continue;
		if (closing)
			close(fd);
		else
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	closedir(dir);
}

/* Everything above 2 closes at exec, unless the plan keeps it. */
void process_protect_descriptors(const struct plan *plan) {
	bool close_others = false;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_DESCRIPTORS)
			close_others = words(&plan->records[i], 0) == WORD_DESCRIPTORS_OTHERS_CLOSE;
	if (!close_others)
		return;
	if (lacking & LACK_CLOSE_RANGE || syscall(NR_CLOSE_RANGE, 3u, ~0u, MARK_CLOEXEC) < 0)
		each_descriptor(false, -1, -1);
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_KEEP_DESCRIPTOR && ((int)number(&plan->records[i], 0) == procfs
		    || fcntl((int)number(&plan->records[i], 0), F_SETFD, 0) < 0))
			die("open it before the start", EBADF, "fcntl", "keep descriptor %s", plan->records[i].field[0]);
}

/* A helper that stays must not hold the payload's pipes open. */
static void let_go_of_descriptors(int keep_a, int keep_b, bool keep_stderr) {
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int fd = 0; fd < (keep_stderr ? 2 : 3); fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd); /* an image without /dev/null */
	int low = keep_a < keep_b ? keep_a : keep_b, high = keep_a < keep_b ? keep_b : keep_a;
	bool whole = !(lacking & LACK_CLOSE_RANGE);
	if (whole && low > 3)
		whole = !syscall(NR_CLOSE_RANGE, 3u, (unsigned)low - 1, 0);
	if (whole && high > low + 1)
		whole = !syscall(NR_CLOSE_RANGE, (unsigned)low + 1, (unsigned)high - 1, 0);
	if (whole)
		whole = !syscall(NR_CLOSE_RANGE, (unsigned)high + 1, ~0u, 0);
	if (!whole)
		each_descriptor(true, keep_a, keep_b);
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

static int write_once(const char *file, const char *text) {
	int fd = openat(procfs, file, O_WRONLY | O_CLOEXEC);
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
	if (used && write_once(file, text) < 0)
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
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_UNSHARE)
			for (size_t k = 0; k < sizeof all / sizeof *all; k++)
				flags |= words(&plan->records[i], 0) & all[k].word ? all[k].flag : 0;
	speech.doing = "unshare";
	if (unshare(flags) < 0) {
		int error = errno;
		if (flags & CLONE_NEWNET && error == ENOSPC)
			die("allow network namespaces (user.max_net_namespaces) or do without --net", error, "unshare", "create a network namespace");
		namespaces_refused("unshare", error);
	}
	if (write_once("self/setgroups", "deny") < 0)
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

/* ---- pid namespace: outer process, init, payload ---- */

enum report_kind { REPORT_ENDED, REPORT_STOPPED, REPORT_CONTINUED };
struct report {
	enum report_kind kind;
	int status;
};

static _Noreturn void end_like(int status) {
	if (WIFSIGNALED(status)) {
		int signal = WTERMSIG(status);
		sigset_t only;
		setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
		struct sigaction action = {.sa_handler = SIG_DFL};
		sigaction(signal, &action, NULL);
		sigemptyset(&only);
		sigaddset(&only, signal);
		kill(getpid(), signal);
		sigprocmask(SIG_UNBLOCK, &only, NULL);
		_exit(128 + signal);
	}
	_exit(WEXITSTATUS(status));
}

/* Signals that a person or a batch system sends to the client's pid are meant for the payload. What
 * comes from the terminal reaches the payload by itself. */
static bool to_forward(const struct signalfd_siginfo *info) {
	switch (info->ssi_signo) {
	case SIGTERM: case SIGINT: case SIGHUP: case SIGQUIT: case SIGUSR1: case SIGUSR2: case SIGALRM:
	case SIGCONT: case SIGTSTP: case SIGWINCH:
		return own_session || info->ssi_code <= 0; /* SI_USER and the like; SI_KERNEL is positive */
	}
	return false;
}

static int watch_signals(void) {
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	int fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (fd < 0)
		die("", errno, "signalfd", "watch for signals");
	return fd;
}

/* What only the start needed, the caller's environment above all. */
static void forget(void) {
	speech.plan = NULL;
	release(call.text);
}

static _Noreturn void outer_process(pid_t init, int socket) {
	disarm_watchdog();
	bool foreground = tcgetpgrp(2) == getpgrp();
	int signals = watch_signals();
	prctl(PR_SET_DUMPABLE, 0);
	forget();
	if (chdir("/") < 0)
		die("", errno, "chdir", "leave the working directory");
	let_go_of_descriptors(socket, signals, true);
	char go = 1;
	if (send(socket, &go, 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		_exit(speech.code);
	/* A report wakes us even while we are stopped: the payload can be continued or ended from inside. */
	fcntl(socket, F_SETOWN, getpid());
	fcntl(socket, F_SETSIG, SIGCONT);
	fcntl(socket, F_SETFL, O_ASYNC);
	bool listening = true;
	for (;;) {
		struct pollfd wait[2] = {{.fd = listening ? socket : -1, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
		if (poll(wait, 2, -1) < 0)
			continue;
		struct report report;
		while (listening) {
			ssize_t got = recv(socket, &report, sizeof report, MSG_DONTWAIT);
			if (got == 0)
				listening = false; /* init is gone */
			if (got != sizeof report)
				break;
			if (report.kind == REPORT_ENDED) {
				waitpid(init, NULL, 0);
				if (foreground) /* a shell inside cannot give the terminal back: our group has no number there */
					tcsetpgrp(2, getpgrp());
				end_like(report.status);
			}
			char next;
			if (report.kind == REPORT_STOPPED && recv(socket, &next, 1, MSG_DONTWAIT | MSG_PEEK) < 0)
				kill(getpid(), SIGSTOP); /* the payload stopped: so do we, for the shell that waits for us */
		}
		struct signalfd_siginfo info;
		while (read(signals, &info, sizeof info) == sizeof info) {
			if (info.ssi_signo == SIGTSTP || info.ssi_signo == SIGTTIN || info.ssi_signo == SIGTTOU) {
				if (to_forward(&info))
					kill(init, (int)info.ssi_signo);
				if (info.ssi_code > 0)
					kill(getpid(), SIGSTOP);
			} else if (to_forward(&info)) {
				kill(init, (int)info.ssi_signo);
			}
		}
		int status;
		if (waitpid(init, &status, WNOHANG) == init) {
			if (recv(socket, &report, sizeof report, MSG_DONTWAIT) == sizeof report && report.kind == REPORT_ENDED)
				status = report.status;
			end_like(status);
		}
	}
}

static _Noreturn void init_process(pid_t payload, int signals) {
	disarm_watchdog();
	forget();
	setpgid(0, 0); /* what is sent to the caller's process group reaches the payload once, not through us too */
	let_go_of_descriptors(outer, signals, false);
	for (;;) {
		struct pollfd wait = {.fd = signals, .events = POLLIN};
		if (poll(&wait, 1, -1) < 0)
			continue;
		struct signalfd_siginfo info;
		while (read(signals, &info, sizeof info) == sizeof info)
			if (own_session && (info.ssi_signo == SIGTSTP || info.ssi_signo == SIGCONT)) /* no shell is there to do it */
				kill(-payload, info.ssi_signo == SIGTSTP ? SIGSTOP : SIGCONT);
			else if (to_forward(&info))
				kill(payload, (int)info.ssi_signo);
		for (int status;;) {
			pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
			if (pid <= 0)
				break;
			if (pid != payload)
				continue;
			struct report report = {WIFSTOPPED(status) ? REPORT_STOPPED
				: WIFCONTINUED(status) ? REPORT_CONTINUED : REPORT_ENDED, status};
			send(outer, &report, sizeof report, MSG_NOSIGNAL);
			if (report.kind == REPORT_ENDED)
				_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)); /* the kernel ends the rest */
		}
	}
}

void pid_namespace_enter(const struct plan *plan) {
	bool wanted = false;
	for (size_t i = 0; i < plan->count; i++) {
		own_session |= plan->records[i].id == OP_NEW_SESSION;
		if (plan->records[i].id == OP_UNSHARE)
			wanted = words(&plan->records[i], 0) & WORD_UNSHARE_NAMESPACES_PID;
	}
	if (!wanted)
		return;
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		die("", errno, "socketpair", "start init");
	sigset_t early; /* what comes from now on waits until there is a payload, or ends the start */
	sigfillset(&early);
	sigdelset(&early, SIGALRM);
	sigprocmask(SIG_SETMASK, &early, NULL);
	pid_t init = fork();
	if (init < 0)
		die(errno == EAGAIN ? "raise the limit of processes (ulimit -u)" : "", errno, "fork", "start init");
	if (init) {
		close(ends[1]);
		outer_process(init, ends[0]);
	}
	is_init = true;
	outer = ends[1];
	arm_watchdog();
	/* First the tie to the parent, then proof that it was alive when the tie was made: its end is open. */
	char go;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("", errno, "prctl", "tie init to its parent");
	close(ends[0]);
	if (recv(outer, &go, 1, 0) != 1 || !recv(outer, &go, 1, MSG_DONTWAIT))
		_exit(speech.code);
}

/* A signal that came during the start, for which pid 1 has no default action. */
static void end_if_told(void) {
	static const int ends[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	sigset_t pending;
	sigpending(&pending);
	for (size_t i = 0; is_init && i < sizeof ends / sizeof *ends; i++) {
		struct sigaction action;
		sigaction(ends[i], NULL, &action);
		if (!sigismember(&pending, ends[i]) || action.sa_handler == SIG_IGN)
			continue;
		struct report report = {REPORT_ENDED, ends[i]};
		send(outer, &report, sizeof report, MSG_NOSIGNAL);
		_exit(128 + ends[i]);
	}
}

/* ---- the payload's environment ---- */

struct variable {
	const char *name, *value;
	size_t order;
};
struct variables {
	struct variable *all;
	size_t count;
};

static int by_name(const void *a, const void *b) {
	const struct variable *one = a, *other = b;
	int order = strcmp(one->name, other->name);
	return order ? order : (one->order > other->order) - (one->order < other->order);
}

/* Sorted by name; of several with one name the last is kept. */
static struct variables variables_of(const struct plan *plan, enum operation_id which, struct variable extra) {
	struct variables found = {.count = 0};
	for (size_t i = 0; i < plan->count; i++)
		found.count += plan->records[i].id == which;
	found.all = reserve(found.count + 1, sizeof *found.all);
	found.count = 0;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == which)
			found.all[found.count++] = (struct variable){plan->records[i].field[0],
				which == OP_ENV_SET ? plan->records[i].field[ARG_ENV_SET_VALUE] : NULL, i};
	if (extra.name)
		found.all[found.count++] = extra;
	qsort(found.all, found.count, sizeof *found.all, by_name);
	size_t kept = 0;
	for (size_t i = 0; i < found.count; i++)
		if (i + 1 == found.count || strcmp(found.all[i].name, found.all[i + 1].name))
			found.all[kept++] = found.all[i];
	found.count = kept;
	return found;
}

/* Does the list hold the name of this NAME=VALUE? */
static bool names(const struct variables *list, const char *entry) {
	size_t length = strcspn(entry, "=");
	for (size_t low = 0, high = list->count; low < high;) {
		size_t middle = (low + high) / 2;
		const char *wanted = list->all[middle].name;
		int order = strncmp(entry, wanted, length);
		if (!order && wanted[length])
			order = -1; /* the entry's name is shorter */
		if (!order)
			return true;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

static char **build_environment(const struct plan *plan, const char *workdir) {
	const struct variable none = {.name = NULL};
	struct variables except = variables_of(plan, OP_ENV_EXCEPT, none), pass = variables_of(plan, OP_ENV_PASS, none),
		prefixes = variables_of(plan, OP_ENV_EXCEPT_PREFIX, none),
		set = variables_of(plan, OP_ENV_SET, (struct variable){"PWD", workdir, SIZE_MAX});
	size_t used = 0;
	bool all = false;
	for (size_t i = 0; i < plan->count; i++)
		all |= plan->records[i].id == OP_ENV_ALL;
	char **environment = reserve(call.environment_count + set.count + 1, sizeof *environment);
	for (size_t i = 0; i < call.environment_count; i++) {
		char *entry = call.environment[i];
		if (*entry == '=' || !strchr(entry, '=') || names(&set, entry))
			continue;
		bool passes = all && !names(&except, entry);
		for (size_t k = 0; passes && k < prefixes.count; k++)
			passes = strncmp(entry, prefixes.all[k].name, strlen(prefixes.all[k].name));
		if (passes || names(&pass, entry))
			environment[used++] = entry;
	}
	for (size_t i = 0; i < set.count; i++) {
		size_t name_length = strlen(set.all[i].name), value_length = strlen(set.all[i].value);
		char *entry = reserve(name_length + value_length + 2, 1);
		memcpy(entry, set.all[i].name, name_length);
		entry[name_length] = '=';
		memcpy(entry + name_length + 1, set.all[i].value, value_length + 1);
		environment[used++] = entry;
	}
	return environment;
}

/* ---- protections of the payload ---- */

struct filter { uint16_t code; uint8_t jt, jf; uint32_t k; };
struct program { unsigned short length; struct filter *filter; };

/* TIOCSTI and TIOCLINUX push input into the caller's terminal. The kernel compares the low 32 bits of
 * the ioctl number only, and so do we. */
static int filter_terminal(void) {
	enum { LOAD = 0x20, EQUAL = 0x15, AT_LEAST = 0x35, RETURN = 0x06, ALLOW = 0x7fff0000, REFUSE = 0x00050000 | EPERM };
#if defined(__x86_64__)
	enum { ARCH = (int)0xc000003e, IOCTL = 16, OTHER_ARCH = 0x40000003, OTHER_IOCTL = 54 };
	const uint32_t x32 = 0x40000000;
#elif defined(__aarch64__)
	enum { ARCH = (int)0xc00000b7, IOCTL = 29, OTHER_ARCH = 0x40000028, OTHER_IOCTL = 54 };
	const uint32_t x32 = 0xffffffff;
#else
#error "name this architecture's audit number and ioctl number"
#endif
	struct filter code[] = {
		{LOAD, 0, 0, 4},                             /*  0 architecture */
		{EQUAL, 2, 0, (uint32_t)ARCH},               /*  1 native: 4 */
		{EQUAL, 4, 0, OTHER_ARCH},                   /*  2 32 bits: 7 */
		{RETURN, 0, 0, ALLOW},                       /*  3 */
		{LOAD, 0, 0, 0},                             /*  4 native call number */
		{AT_LEAST, 3, 0, x32},                       /*  5 x32: 9, its numbers for ioctl are compared there */
		{EQUAL, 5, 8, IOCTL},                        /*  6 ioctl: 12, else 15 */
		{LOAD, 0, 0, 0},                             /*  7 32-bit call number */
		{EQUAL, 3, 6, OTHER_IOCTL},                  /*  8 ioctl: 12, else 15 */
		{EQUAL, 2, 0, 0x40000000u | 514},            /*  9 x32 ioctl: 12 */
		{EQUAL, 1, 0, 0x40000000u | IOCTL},          /* 10 */
		{RETURN, 0, 0, ALLOW},                       /* 11 */
		{LOAD, 0, 0, 24},                            /* 12 low half of the second argument */
		{EQUAL, 2, 0, 0x5412},                       /* 13 TIOCSTI: 16 */
		{EQUAL, 1, 0, 0x541c},                       /* 14 TIOCLINUX: 16 */
		{RETURN, 0, 0, ALLOW},                       /* 15 */
		{RETURN, 0, 0, REFUSE},                      /* 16 */
	};
	struct program program = {sizeof code / sizeof *code, code};
	return prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &program, 0, 0);
}

static int scope_landlock(unsigned scopes) {
	struct { uint64_t fs, net, scoped; } attributes = {0, 0, scopes};
	int ruleset = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &attributes, sizeof attributes, 0);
	int result = ruleset < 0 ? -1 : (int)syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0);
	int error = errno;
	if (ruleset >= 0)
		close(ruleset);
	errno = error;
	return result;
}

static void drop_capabilities(void) {
	struct { uint32_t version; int pid; } header = {0x20080522, 0};
	struct { uint32_t effective, permitted, inheritable; } none[2] = {{0, 0, 0}, {0, 0, 0}};
	for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++)
		;
	if (errno != EINVAL) /* which ends the kernel's list; read_back proves it */
		die("", errno, "prctl PR_CAPBSET_DROP", "drop capabilities");
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none) < 0)
		die("", errno, "capset", "drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("", errno, "prctl PR_SET_NO_NEW_PRIVS", "give up new privileges");
}

/* Best-effort ends where the kernel has the call: then a failure is one. EPERM is how seccomp says no. */
static void protection_missing(bool fatal, const char *what, const char *failed) {
	if (fatal || (errno != ENOSYS && errno != EPERM && errno != EOPNOTSUPP && errno != EINVAL && errno != E2BIG))
		die(errno == EDQUOT ? "raise kernel.keys.maxkeys: every contained payload has a keyring of its own"
			: "ask for it only where the kernel has it", errno, failed, "%s", what);
	note("cannot %s here: %s", what, errno_name(errno));
}

/* A call that returned 0 is no proof. */
static void read_back(bool filtered) {
	static const char *const wanted[] = {"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
		"NoNewPrivs:\t1\n", "Seccomp:\t2\n"};
	char text[4096];
	int fd = openat(procfs, "self/status", O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	text[got < 0 ? 0 : got] = 0;
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted - !filtered; i++)
		if (!strstr(text, wanted[i]))
			die("", 0, "the kernel does not show it in /proc/self/status", "protect the payload, %.*s",
				(int)strcspn(wanted[i], ":"), wanted[i]);
	if (fd >= 0)
		close(fd);
}

static void protect(const struct plan *plan) {
	bool filtered = false;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_NEW_KEYRING && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0)
			protection_missing(words(&plan->records[i], 0) == WORD_NEW_KEYRING_MISSING_FATAL, "make a new session keyring", "keyctl");
	drop_capabilities();
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_LANDLOCK_SCOPE && scope_landlock(words(record, ARG_LANDLOCK_SCOPE_SCOPES)) < 0)
			protection_missing(words(record, ARG_LANDLOCK_SCOPE_MISSING) == WORD_LANDLOCK_SCOPE_MISSING_FATAL,
				"scope abstract sockets or signals by Landlock", "landlock_create_ruleset");
		if (record->id != OP_TERMINAL_FILTER)
			continue;
		filtered = !filter_terminal();
		if (!filtered)
			protection_missing(words(record, 0) == WORD_TERMINAL_FILTER_MISSING_FATAL, "filter terminal injection", "prctl PR_SET_SECCOMP");
	}
	read_back(filtered);
}

/* ---- exec ---- */

static const char *enter_workdir(const struct plan *plan) {
	int missed = 0;
	const char *first = NULL;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_WORKDIR)
			continue;
		const char *path = record->field[ARG_WORKDIR_INSIDE];
		if (!strcmp(path, "."))
			path = caller_directory;
		int fd = open_workdir(path);
		if (fd >= 0 && fchdir(fd) == 0) {
			close(fd);
			if (first)
				warn("the working directory %s cannot be entered (%s), using %s", first, errno_name(missed), path);
			return path;
		}
		int error = errno;
		if (fd >= 0)
			close(fd);
		unsigned missing = words(record, ARG_WORKDIR_MISSING);
		if (missing == WORD_WORKDIR_MISSING_FATAL) {
			char dunnage[PATH_MAX + 80], foreign[PATH_MAX + 80];
			snprintf(dunnage, sizeof dunnage, "cannot set working directory %s: %s", path, errno_name(error));
			snprintf(foreign, sizeof foreign, "cannot set working directory %s: error: %s", path, errno_name(error));
			die_sentence(dunnage, foreign, "name a directory that exists in the container, or bind one there");
		}
		if (missing == WORD_WORKDIR_MISSING_WARN && !first) {
			first = path;
			missed = error;
		}
	}
	return "/";
}

static const char *machine_name(unsigned machine) {
	switch (machine) {
	case EM_X86_64: return "x86-64";
	case EM_386: return "32-bit x86";
	case EM_AARCH64: return "aarch64";
	case EM_ARM: return "32-bit ARM";
	case EM_PPC64: return "ppc64";
	case EM_S390: return "s390";
	case EM_RISCV: return "RISC-V";
	}
	return "another architecture";
}

#if defined(__x86_64__)
enum { OUR_MACHINE = EM_X86_64 };
#else
enum { OUR_MACHINE = EM_AARCH64 };
#endif

static _Noreturn void cannot_execute(const char *path, int error) {
	char why[200], dunnage[PATH_MAX + 300], foreign[PATH_MAX + 300];
	const char *fix = "give the path of a program in the image";
	struct stat found;
	unsigned char head[20] = {0};
	snprintf(why, sizeof why, "%s", errno_name(error));
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = fd < 0 ? -1 : pread(fd, head, sizeof head, 0);
	unsigned machine = head[5] == 2 ? (unsigned)head[18] << 8 | head[19] : (unsigned)head[19] << 8 | head[18];
	bool elf = got == sizeof head && !memcmp(head, "\177ELF", 4);
	if (!stat(path, &found) && S_ISDIR(found.st_mode)) {
		snprintf(why, sizeof why, "EACCES, it is a directory");
	} else if (error == ENOENT && !access(path, F_OK)) {
		snprintf(why, sizeof why, "ENOENT, the %s that it needs is not in the image", elf ? "loader" : "interpreter in its first line");
		fix = elf ? "run it in the image it was built for, or link it statically" : "correct its first line, or bind the interpreter in";
	} else if (error == ENOEXEC && elf && machine != OUR_MACHINE) {
		snprintf(why, sizeof why, "ENOEXEC, it is built for %s and this machine is %s", machine_name(machine), machine_name(OUR_MACHINE));
		fix = "use an image for this architecture";
	} else if (error == ENOEXEC) {
		snprintf(why, sizeof why, "ENOEXEC, it is neither a program nor a script with an interpreter");
	} else if (error == EACCES) {
		fix = "make it executable (chmod +x), and check that its file system allows execution";
	} else if (error == E2BIG) {
		fix = "shorten the arguments or the environment; ulimit -s raises the limit";
	}
	snprintf(dunnage, sizeof dunnage, "cannot execute %s: %s", path, why);
	snprintf(foreign, sizeof foreign, "cannot execute %s: error: %s", path, why);
	die_sentence(dunnage, foreign, fix);
}

static void try_exec(const char *path, char **arguments, char **environment, bool *found, int *error) {
	execve(path, arguments, environment);
	if (errno == ENOEXEC) { /* as execvp does: a script without #! is the shell's */
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		char head[4] = {0};
		bool script = fd >= 0 && pread(fd, head, 4, 0) >= 0 && memcmp(head, "\177ELF", 4);
		if (fd >= 0)
			close(fd);
		size_t count = 0;
		while (arguments[count])
			count++;
		if (script) {
			char **again = reserve(count + 2, sizeof *again);
			again[0] = (char *)(uintptr_t)"sh";
			again[1] = (char *)(uintptr_t)path;
			if (count)
				memcpy(again + 2, arguments + 1, (count - 1) * sizeof *again);
			execve("/bin/sh", again, environment);
		}
		errno = ENOEXEC;
	}
	if (errno != ENOENT && errno != ENOTDIR) {
		*found = true;
		*error = errno;
	} else if (!access(path, F_OK)) {
		*found = true;
		*error = ENOENT;
	}
}

_Noreturn static void execute(const struct plan *plan, char **arguments, char **environment) {
	const char *command = arguments[0];
	bool found = false;
	int error = ENOENT;
	if (strchr(command, '/')) {
		try_exec(command, arguments, environment, &found, &error);
		cannot_execute(command, error);
	}
	char path[PATH_MAX], last[PATH_MAX] = "";
	for (size_t i = 0; *command && i < plan->count; i++) {
		if (plan->records[i].id != OP_SEARCH)
			continue;
		int length = snprintf(path, sizeof path, "%s/%s", plan->records[i].field[0], command);
		if (length < 0 || (size_t)length >= sizeof path)
			continue;
		bool here = false;
		int why = 0;
		try_exec(path, arguments, environment, &here, &why);
		struct stat status;
		if (here && !stat(path, &status) && S_ISDIR(status.st_mode))
			continue;
		if (here && (!found || why != EACCES)) {
			found = true;
			error = why;
			memcpy(last, path, sizeof last);
		}
		if (here && why != EACCES)
			break;
	}
	if (found)
		cannot_execute(last, error);
	char dunnage[400], foreign[400];
	snprintf(dunnage, sizeof dunnage, "cannot execute %.200s: it is not in the container's PATH", command);
	snprintf(foreign, sizeof foreign, "\"%.200s\": executable file not found in $PATH", command);
	die_sentence(dunnage, foreign, speech.foreign ? "" : "give its full path, or set PATH with --env PATH=...");
}

static void give_umask(const struct plan *plan) {
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_UMASK)
			caller_umask = mode_of(&plan->records[i], 0);
}

_Noreturn static void become_payload(const struct plan *plan, char **arguments) {
	speech.doing = "starting the payload";
	if (own_session && setsid() < 0)
		die("", errno, "setsid", "leave the caller's session");
	protect(plan);
	const char *workdir = enter_workdir(plan);
	char **environment = build_environment(plan, workdir);
	give_umask(plan);
	close(procfs);
	restore_limits();
	restore_signals();
	execute(plan, arguments, environment);
}

_Noreturn void payload_start(const struct plan *plan, char **arguments) {
	const char *name = NULL;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_INIT)
			name = plan->records[i].field[0];
	end_if_told();
	if (!is_init || !name) /* without an init of ours, pid 1 is the payload itself */
		become_payload(plan, arguments);
	prctl(PR_SET_NAME, name);
	int signals = watch_signals();
	prctl(PR_SET_DUMPABLE, 0); /* before the payload can look */
	pid_t payload = fork();
	if (payload < 0)
		die(errno == EAGAIN ? "raise the limit of processes (ulimit -u)" : "", errno, "fork", "start the payload");
	if (payload)
		init_process(payload, signals);
	prctl(PR_SET_DUMPABLE, 1); /* /proc/self is ours again */
	close(signals);
	arm_watchdog();
	become_payload(plan, arguments);
}
