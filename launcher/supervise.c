/* Who stays while the payload runs: the outer process, which is the client's child, and init, which is process 1 of a
 * new pid namespace. Either can be the one that watches over the payload: init where there is one. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
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
#define NR_PIDFD_OPEN 434
#define PRIVATE_MESSAGE 1000u /* with a descriptor, between our own processes */
enum { LAST_WAIT = 2000, UNKILLABLE = 10000, TICK = 1000, LARGEST_MESSAGE = 8192, MOST_STATES = 100, AT_ONCE = 64 };

uint64_t facts[FACT_COUNT];
bool is_init, own_session;

static const struct plan *plan;
static struct timespec began;
static int control = -1;     /* the starter's socket */
static int upstream = -1;    /* to whoever supervises this process */
static int caller_pidfd = -1;
static pid_t caller_pid;     /* 0: its end does not matter */
static int credentials = -1; /* directory where the outer process writes them */

/* ---- telling ---- */

static uint64_t microseconds(const struct timespec *time) {
	return (uint64_t)time->tv_sec * 1000000 + (uint64_t)time->tv_nsec / 1000;
}

static uint64_t now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return microseconds(&time) - microseconds(&began);
}

void phase_ended(enum fact which) {
	facts[which] = now();
}

static bool send_message(int to, uint32_t kind, const void *body, size_t size) {
	char message[LARGEST_MESSAGE];
	if (to < 0)
		return false;
	if (size > sizeof message - sizeof kind)
		size = sizeof message - sizeof kind;
	memcpy(message, &kind, sizeof kind);
	if (size)
		memcpy(message + sizeof kind, body, size);
	while (send(to, message, sizeof kind + size, MSG_NOSIGNAL) < 0)
		if (errno != EINTR)
			return false;
	return true;
}

bool tell(enum message_kind kind, const void *body, size_t size) {
	return send_message(upstream >= 0 ? upstream : control, kind, body, size);
}

bool tell_sentence(enum message_kind kind, const char *sentence) {
	return tell(kind, sentence, strlen(sentence) + 1);
}

bool send_descriptor(int to, uint32_t word, int fd) {
	char space[CMSG_SPACE(sizeof fd)] = {0};
	struct iovec piece = {&word, sizeof word};
	struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	struct cmsghdr *part = CMSG_FIRSTHDR(&header);
	part->cmsg_level = SOL_SOCKET;
	part->cmsg_type = SCM_RIGHTS;
	part->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(part), &fd, sizeof fd);
	return sendmsg(to, &header, MSG_NOSIGNAL) >= 0;
}

/* The payload can stop and continue as often as it likes, and nobody need be reading. */
static void tell_state(enum message_kind kind) {
	static unsigned told;
	uint32_t number = kind;
	int to = upstream >= 0 ? upstream : control;
	if (to >= 0 && (to != control || told++ < MOST_STATES))
		(void)!send(to, &number, sizeof number, MSG_NOSIGNAL | MSG_DONTWAIT);
}

bool supervised(void) {
	return upstream >= 0;
}

bool is_top(void) {
	return upstream < 0 || upstream == control;
}

static void end_failed(const char *sentence, const char *fix) {
	if (!is_top())
		return;
	cgroup_end();
	facts[FACT_CAUSE] = CAUSE_START;
	facts[FACT_CLASS] = judge();
	phase_ended(FACT_ENDED_US);
	receipt_write(sentence, fix);
}

static void send_failure(int to, const char *sentence, const char *fix) {
	char body[LARGEST_MESSAGE - 8];
	uint32_t class = speech.failure;
	size_t used = sizeof class;
	memcpy(body, &class, sizeof class);
	used += (size_t)snprintf(body + used, 5000, "%s", sentence) + 1;
	used = used > 5000 ? 5000 : used;
	int length = snprintf(body + used, sizeof body - used, "%s", fix);
	used += (size_t)length < sizeof body - used ? (size_t)length + 1 : sizeof body - used;
	send_message(to, MESSAGE_FAILED, body, used);
}

/* Of this process alone: whoever supervises it ends the rest and writes what is to be written. */
void tell_failure(const char *sentence, const char *fix) {
	static bool telling;
	if (telling)
		return;
	telling = true;
	send_failure(upstream >= 0 ? upstream : control, sentence, fix);
	end_failed(sentence, fix);
}

/* ---- before the namespaces ---- */

/* By whoever stays; the payload's exec closes them. */
static void hold_descriptors(void) {
	for (size_t i = 0; i < plan->count; i++) {
		if (plan->records[i].id != OP_HOLD)
			continue;
		int fd = (int)number(&plan->records[i], 0);
		if (fd == procfs || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			die("open it before the start", EBADF, "fcntl", "hold descriptor %s", plan->records[i].field[0]);
		keep(fd);
	}
}

static _Noreturn void caller_gone(void) {
	speech.failure = CLASS_KILLED;
	die("", 0, "the process that asked for it has ended", "start");
}

static void watch_caller(const struct record *record) {
	pid_t wanted = (pid_t)number(record, 0);
	caller_pid = getppid();
	if (wanted && wanted != caller_pid)
		caller_gone();
	caller_pidfd = (int)syscall(NR_PIDFD_OPEN, caller_pid, 0); /* Linux 5.3; before, we look who our parent is */
	if (caller_pidfd < 0 && errno == ESRCH)
		caller_gone();
	keep(caller_pidfd);
	if (getppid() != caller_pid)
		caller_gone();
}

void supervision_prepare(const struct plan *of, int socket) {
	struct timespec time;
	plan = of;
	clock_gettime(CLOCK_MONOTONIC, &began);
	clock_gettime(CLOCK_REALTIME, &time);
	for (unsigned i = 0; i < FACT_COUNT; i++)
		facts[i] = UNKNOWN;
	facts[FACT_STARTED_US] = microseconds(&time);
	facts[FACT_CREDENTIALS_RENEWED] = 0;
	facts[FACT_CAUSE] = CAUSE_ITSELF;
	if (socket >= 0) {
		control = socket;
		speech.mute = true;
		keep(control);
	}
	hold_descriptors();
	receipt_open(plan);
	if (find(plan, OP_DIE_WITH_CALLER))
		watch_caller(find(plan, OP_DIE_WITH_CALLER));
	credentials_prepare(plan);
}

/* ---- watching ---- */

static pid_t child;        /* init, or the payload */
static bool child_is_init;
static int news = -1;      /* from it */
static bool about_to;      /* the payload's process was about to execute it */
static bool executed;      /* the payload runs */
static bool start_failed;
static char failure[LARGEST_MESSAGE];
static int64_t wall_end, kill_at, last_at, slow_at, cpu_limit; /* milliseconds since we began; 0: none */
static int64_t cpu_grace, wall_grace;
static int processes = -1; /* /proc of the new pid namespace */

static int64_t milliseconds(void) {
	return (int64_t)(now() / 1000);
}

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
	if (info->ssi_signo == SIGHUP && getsid(0) == getpid())
		return true; /* a terminal that hangs up tells the leader of its session, and nobody else */
	switch (info->ssi_signo) {
	case SIGTERM: case SIGINT: case SIGHUP: case SIGQUIT: case SIGUSR1: case SIGUSR2: case SIGALRM:
	case SIGCONT: case SIGTSTP: case SIGWINCH:
		return own_session || info->ssi_code <= 0; /* SI_USER and the like; SI_KERNEL is positive */
	}
	return false;
}

static int signals = -1;

static void watch_signals(void) {
	sigset_t all;
	sigfillset(&all);
	need_call(sigprocmask(SIG_SETMASK, &all, NULL), "sigprocmask");
	signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		die("", errno, "signalfd", "watch for signals");
	keep(signals);
}

/* The processor time of all processes of the payload, in milliseconds: of those that live, with what they waited
 * for, and of those that init waited for. */
static int64_t processor_time(void) {
	struct rusage waited;
	getrusage(RUSAGE_CHILDREN, &waited);
	int64_t total = (int64_t)(waited.ru_utime.tv_sec + waited.ru_stime.tv_sec) * 1000
		+ (waited.ru_utime.tv_usec + waited.ru_stime.tv_usec) / 1000, ticks = 0;
	int listing = openat(processes, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = listing < 0 ? NULL : fdopendir(listing);
	bool hindered = !dir && errno != ENFILE;
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char path[280], text[1024];
		if (*entry->d_name < '1' || *entry->d_name > '9' || !strcmp(entry->d_name, "1"))
			continue;
		snprintf(path, sizeof path, "%s/stat", entry->d_name);
		int fd = openat(processes, path, O_RDONLY | O_CLOEXEC);
		ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
		hindered |= fd < 0 && errno == EMFILE;
		if (fd >= 0)
			close(fd);
		text[got < 0 ? 0 : got] = 0;
		char *field = strrchr(text, ')'); /* the name may hold anything */
		for (int skip = 0; field && skip < 12; skip++)
			field = strchr(field + 1, ' ');
		for (int i = 0; field && i < 4; i++)
			ticks += strtoll(field, &field, 10);
	}
	if (dir)
		closedir(dir);
	/* Only the payload can have taken our descriptors or memory, by our limits: then it has used up what it was given. */
	return hindered ? INT64_MAX : total + ticks * 1000 / sysconf(_SC_CLK_TCK);
}

/* A stopped process looks at no clock, and without init there is nobody else: the kernel continues us in time, and again,
 * since stopping takes away a SIGCONT that came just before. */
static void wake_up_at(int64_t at) {
	static timer_t timer;
	static bool made;
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGCONT};
	int64_t left = at - milliseconds();
	if (is_init)
		return; /* nobody can stop it */
	left = left > 0 ? left : 1;
	made = made || !timer_create(CLOCK_MONOTONIC, &event, &timer);
	if (made)
		timer_settime(timer, 0, &(struct itimerspec){.it_interval.tv_sec = 1,
			.it_value = {left / 1000, left % 1000 * 1000000}}, NULL);
}

static bool killing;
static unsigned others_killed;

/* Whoever became us may have had children: a shell with background jobs that execs us. They are not ours to end. */
static pid_t *strangers;
static size_t stranger_count;

static bool is_stranger(pid_t pid) {
	for (size_t i = 0; i < stranger_count; i++)
		if (strangers[i] == pid)
			return true;
	return false;
}

static void note_stranger(pid_t pid) {
	if (pid == child)
		return;
	strangers = room_for_one(strangers, stranger_count, sizeof *strangers);
	strangers[stranger_count++] = pid;
}

static unsigned still_ours;

static void kill_ours(pid_t pid) {
	if (!is_stranger(pid)) {
		kill(pid, SIGKILL);
		still_ours++;
	}
}

static void each_child(void (*act)(pid_t pid)) {
	char path[60], text[4096];
	snprintf(path, sizeof path, "self/task/%d/children", (int)getpid());
	int fd = openat(procfs, path, O_RDONLY | O_CLOEXEC);
	size_t used = 0;
	for (ssize_t got; fd >= 0 && (got = read(fd, text + used, sizeof text - 1 - used)) > 0;) {
		char *at = text;
		text[used += (size_t)got] = 0;
		for (char *end; (end = strchr(at, ' ')); at = end + 1) { /* a number without one goes on in the next piece */
			pid_t pid = (pid_t)strtol(at, NULL, 10);
			if (pid > 0)
				act(pid);
		}
		used = strlen(at);
		memmove(text, at, used);
	}
	if (fd >= 0)
		close(fd);
}

/* Everything that descends from the payload. */
static void kill_all(void) {
	killing = true;
	if (is_init) {
		kill(-1, SIGKILL);
		return;
	}
	if (child_is_init) {
		char word = WORD_KILL;
		if (send(news, &word, 1, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
			kill(child, SIGKILL);
		return;
	}
	still_ours = 0;
	each_child(kill_ours);
	if (child > 0)
		kill(child, SIGKILL);
}

/* Of a child that is not the payload. */
static void count_other(pid_t pid, int status) {
	if (!server_ended(pid, status, executed))
		others_killed += killing && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

static void end_everything(enum cause cause) {
	if (facts[FACT_CAUSE] == CAUSE_ITSELF)
		facts[FACT_CAUSE] = cause;
	if (!last_at)
		last_at = milliseconds() + (child_is_init ? LAST_WAIT : UNKILLABLE);
	kill_all();
}

/* A limit is reached: first politely. */
static void end_politely(enum cause cause, int64_t time) {
	facts[FACT_CAUSE] = cause;
	wall_end = cpu_limit = 0;
	kill_at = milliseconds() + time + 1;
	wake_up_at(kill_at);
	kill(child, SIGTERM);
	kill(child, SIGCONT);
}

/* Until a child ends, or the time is over. SIGCHLD is blocked: what came before this call ends it at once. */
static void wait_for_child(int64_t time) {
	sigset_t ended;
	sigemptyset(&ended);
	sigaddset(&ended, SIGCHLD);
	sigtimedwait(&ended, NULL, &(struct timespec){time / 1000, time % 1000 * 1000000});
}

/* What the payload left: killed, waited for, counted. */
static void end_leftovers(void) {
	int64_t until = milliseconds() + LAST_WAIT;
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		count_other(pid, status); /* unless it had ended before */
	for (pid = 0; pid >= 0 && milliseconds() <= until; wait_for_child(pid < 0 ? 0 : 1)) {
		kill_all();
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0 && milliseconds() <= until)
			count_other(pid, status);
		if (!pid && !is_init && !still_ours)
			break;
	} /* nobody is left, or hangs in the kernel: the end of init takes care of it */
	facts[FACT_LEFTOVERS] = others_killed;
}

static void fact_usage(void) {
	struct rusage used;
	getrusage(RUSAGE_CHILDREN, &used);
	facts[FACT_USER_US] = (uint64_t)used.ru_utime.tv_sec * 1000000 + (uint64_t)used.ru_utime.tv_usec;
	facts[FACT_SYSTEM_US] = (uint64_t)used.ru_stime.tv_sec * 1000000 + (uint64_t)used.ru_stime.tv_usec;
	facts[FACT_MAX_RSS_BYTES] = (uint64_t)used.ru_maxrss * 1024;
	facts[FACT_MINOR_FAULTS] = (uint64_t)used.ru_minflt;
	facts[FACT_MAJOR_FAULTS] = (uint64_t)used.ru_majflt;
	facts[FACT_READ_BYTES] = (uint64_t)used.ru_inblock * 512;
	facts[FACT_WRITTEN_BYTES] = (uint64_t)used.ru_oublock * 512;
	facts[FACT_VOLUNTARY_SWITCHES] = (uint64_t)used.ru_nvcsw;
	facts[FACT_INVOLUNTARY_SWITCHES] = (uint64_t)used.ru_nivcsw;
}

static bool foreground;

/* Reads what nobody will obey: a peer whose words are left unread is told ECONNRESET before what we said last. */
static void hang_up(int from) {
	char word;
	if (from >= 0 && !shutdown(from, SHUT_RD))
		while (recv(from, &word, 1, MSG_DONTWAIT) > 0)
			;
}

/* The last act of the process that watches over the payload; of the outer one, where init did that, with init's facts. */
static _Noreturn void finish(int status) {
	if (start_failed) {
		uint32_t class;
		memcpy(&class, failure, sizeof class);
		const char *sentence = failure + sizeof class;
		speech.failure = (enum failure)class;
		facts[FACT_STATUS] = UNKNOWN;
		servers_end(false);
		end_failed(sentence, sentence + strlen(sentence) + 1);
		_exit(speech.code);
	}
	facts[FACT_STATUS] = (uint64_t)status;
	servers_end(executed);
	if (is_top())
		cgroup_end();
	phase_ended(FACT_ENDED_US);
	facts[FACT_CLASS] = judge();
	if (is_top())
		receipt_write(NULL, NULL);
	tell(MESSAGE_ENDED, facts, sizeof facts);
	hang_up(upstream);
	hang_up(control);
	if (is_init)
		_exit(WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status)); /* the kernel ends the rest */
	/* A shell inside cannot give the terminal back: our group has no number there. Nor is there anybody in the one that
	 * has it, unless that is a shell's outside, or another job's. */
	pid_t owner = foreground ? tcgetpgrp(2) : -1;
	if (owner > 0 && kill(-owner, 0) < 0 && errno == ESRCH)
		tcsetpgrp(2, getpgrp());
	end_like(status);
}

static void take_facts(const char *body, size_t size, size_t from) {
	uint64_t found[FACT_COUNT];
	uint64_t renewed = facts[FACT_CREDENTIALS_RENEWED], cause = facts[FACT_CAUSE];
	if (size != from + sizeof found)
		return;
	memcpy(found, body + from, sizeof found);
	memcpy(facts, found, sizeof facts);
	facts[FACT_CREDENTIALS_RENEWED] = renewed;
	if (cause != CAUSE_ITSELF)
		facts[FACT_CAUSE] = cause;
}

static void begin_limits(void) {
	const struct record *record = find(plan, OP_WALL_TIME);
	executed = true;
	phase_ended(FACT_EXECUTED_US);
	if (record) {
		wall_end = milliseconds() + (int64_t)number(record, ARG_WALL_TIME_MILLISECONDS);
		wall_grace = (int64_t)number(record, ARG_WALL_TIME_GRACE);
		wake_up_at(wall_end);
	}
	record = find(plan, OP_CPU_TIME);
	if (record) {
		cpu_limit = (int64_t)number(record, ARG_CPU_TIME_MILLISECONDS);
		cpu_grace = (int64_t)number(record, ARG_CPU_TIME_GRACE);
	}
	tell(MESSAGE_EXECUTED, facts, sizeof facts);
}

/* For the shell that waits for us. Where no shell looks after our process group the kernel takes no notice of SIGTSTP.
 * One that SIGSTOP had stopped there would bring SIGHUP to the whole group, our caller's own, when the payload ends. */
static void stop_ourselves(void) {
	sigset_t only;
	sigemptyset(&only);
	sigaddset(&only, SIGTSTP);
	sigaction(SIGTSTP, &(struct sigaction){.sa_handler = SIG_DFL}, NULL);
	kill(getpid(), SIGTSTP);
	sigprocmask(SIG_UNBLOCK, &only, NULL);
	sigprocmask(SIG_BLOCK, &only, NULL);
}

/* True when somebody wants us to continue; a message does that, too, by its own SIGCONT. */
static bool forward(void) {
	struct signalfd_siginfo info;
	bool continued = false;
	/* No more than these at once: a payload can send faster than we read, and the clock must be looked at. */
	for (int turn = 0; turn < AT_ONCE && read(signals, &info, sizeof info) == sizeof info; turn++) {
		if (info.ssi_signo == SIGCONT && info.ssi_code >= POLL_IN && info.ssi_code <= POLL_HUP)
			continue; /* a message's own */
		continued |= info.ssi_signo == SIGCONT;
		if (info.ssi_signo == SIGCONT && (info.ssi_code == SI_TIMER || (caller_pid && !is_init && getppid() != caller_pid)))
			continue; /* for our own clock, or of the caller's end */
		/* From inside: the payload's own signals are for itself. Only with these codes the kernel writes the sender's pid. */
		if (is_init && (info.ssi_pid || (info.ssi_code != SI_USER && info.ssi_code != SI_TKILL)))
			continue;
		if (is_top() && facts[FACT_CAUSE] == CAUSE_ITSELF && (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT
		    || info.ssi_signo == SIGHUP || info.ssi_signo == SIGQUIT))
			facts[FACT_CAUSE] = CAUSE_TOLD;
		if (!child_is_init && own_session && (info.ssi_signo == SIGTSTP || info.ssi_signo == SIGCONT)) /* no shell is there to do it */
			kill(-child, info.ssi_signo == SIGTSTP ? SIGSTOP : SIGCONT);
		else if (to_forward(&info))
			kill(child, (int)info.ssi_signo);
		if (info.ssi_signo == SIGHUP && info.ssi_code > 0)
			kill(child, SIGCONT); /* as the kernel does after it, for those that are stopped */
	}
	return continued;
}

/* The payload stopped: so do we, for the shell that waits for us. */
static void stopped(void) {
	char next;
	tell_state(MESSAGE_STOPPED);
	if (is_init || control >= 0)
		return;
	forward();
	/* A message wakes us even while we are stopped: the payload can be continued or ended from inside. Only then: a
	 * SIGCONT takes back each SIGTSTP that was not read yet. */
	fcntl(news, F_SETFL, O_ASYNC);
	for (int tries = 0; tries < 10; tries++) { /* the SIGCONT of a message may come late */
		if (child_is_init && recv(news, &next, 1, MSG_DONTWAIT | MSG_PEEK) >= 0)
			break;
		stop_ourselves();
		if (forward())
			break;
	}
	fcntl(news, F_SETFL, 0);
}

/* One message of the child; false when there is none now. */
static bool hear(void) {
	static char message[LARGEST_MESSAGE];
	char space[CMSG_SPACE(sizeof(int))];
	struct iovec piece = {message, sizeof message - 1};
	struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	uint32_t kind;
	ssize_t got;
	do /* reset: it ended without reading what we had sent; what it had said comes next */
		got = recvmsg(news, &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (got < 0 && errno == ECONNRESET);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return false;
	if (got < (ssize_t)sizeof kind) { /* the other end is closed: by exec, or by death */
		unkeep(news);
		close(news);
		news = -1;
		if (about_to && !start_failed) /* else it was killed before */
			begin_limits();
		return false;
	}
	memcpy(&kind, message, sizeof kind);
	size_t size = (size_t)got;
	message[size] = 0;
	switch (kind) {
	case MESSAGE_FAILED:
		if (start_failed)
			break;
		start_failed = true;
		memcpy(failure, message + sizeof kind, size - sizeof kind);
		failure[size - sizeof kind] = 0;
		failure[sizeof failure - 1] = 0;
		tell(MESSAGE_FAILED, message + sizeof kind, size - sizeof kind);
		break;
	case MESSAGE_EXECUTED:
		take_facts(message, size, sizeof kind);
		about_to = !child_is_init;
		if (child_is_init) {
			executed = true;
			tell(MESSAGE_EXECUTED, message + sizeof kind, size - sizeof kind);
		}
		break;
	case MESSAGE_ENDED: { /* of init: the payload has ended, and everybody else */
		take_facts(message, size, sizeof kind);
		for (int64_t until = milliseconds() + LAST_WAIT; !waitpid(child, NULL, WNOHANG) && milliseconds() < until;)
			wait_for_child(100); /* longer when a process of its hangs in the kernel: nobody can end that */
		finish((int)facts[FACT_STATUS]);
	}
	case MESSAGE_STOPPED: stopped(); break;
	case MESSAGE_CONTINUED: tell_state(MESSAGE_CONTINUED); break;
	case MESSAGE_WARNING:
		tell((enum message_kind)kind, message + sizeof kind, size - sizeof kind);
		break;
	case PRIVATE_MESSAGE:
		if (CMSG_FIRSTHDR(&header) && CMSG_FIRSTHDR(&header)->cmsg_type == SCM_RIGHTS) {
			memcpy(&credentials, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof credentials);
			keep(credentials);
			credentials_renew(credentials); /* what the first copies were of */
			facts[FACT_CREDENTIALS_RENEWED] = 0;
		}
		break;
	default: break;
	}
	return true;
}

/* The starter, or the outer process. */
static void obey(int from) {
	char word;
	ssize_t got = recv(from, &word, 1, MSG_DONTWAIT);
	if (got < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (got <= 0) { /* it let go of us */
		unkeep(from);
		close(from);
		if (from == control)
			control = -1;
		if (from == upstream)
			upstream = -1;
		if (caller_pid)
			end_everything(CAUSE_CALLER);
	} else if (word == WORD_KILL) {
		end_everything(CAUSE_TOLD);
	} else if (word == WORD_REFRESH && credentials >= 0) {
		credentials_renew(credentials);
	}
}

static bool wait_again; /* the last wait failed, and no signal will call for another one */

static bool more_to_reap;

/* Whoever ended; the payload's end is the end of everything. */
static void reap(void) {
	int status;
	for (int turn = 0; turn < AT_ONCE; turn++) {
		pid_t pid = waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
		wait_again = pid < 0 && child > 0;
		more_to_reap = pid > 0;
		if (pid <= 0)
			return;
		if (pid != child) {
			count_other(pid, status);
			continue;
		}
		if (WIFSTOPPED(status) && !child_is_init)
			stopped();
		if (WIFCONTINUED(status) && !child_is_init)
			tell_state(MESSAGE_CONTINUED);
		if (WIFSTOPPED(status) || WIFCONTINUED(status))
			continue;
		while (news >= 0 && hear())
			; /* what it said before */
		child = 0;
		if (child_is_init) /* killed, or it would have told */
			finish(status);
		end_leftovers();
		fact_usage();
		finish(status);
	}
}

static int next_event(void) {
	int64_t next = INT_MAX, here = milliseconds();
	const int64_t at[] = {wall_end, kill_at, last_at, slow_at};
	for (size_t i = 0; i < sizeof at / sizeof *at; i++)
		if (at[i] && at[i] - here < next)
			next = at[i] > here ? at[i] - here : 0;
	if (((executed && cpu_limit) || wait_again || credentials >= 0 || (caller_pid && caller_pidfd < 0)) && next > TICK)
		next = TICK;
	return more_to_reap ? 0 : next == INT_MAX ? -1 : (int)next;
}

/* Every process of the user may lower our limit of descriptors, so may the payload, and poll refuses to look at more
 * than that; select does not ask. */
static void wait_for(struct pollfd *wait, size_t count, int time) {
	fd_set ready;
	unsigned end = 0;
	if (poll(wait, count, time) >= 0)
		return;
	FD_ZERO(&ready);
	for (size_t i = 0; i < count; i++) {
		unsigned fd = (unsigned)wait[i].fd;
		if (fd < FD_SETSIZE)
			FD_SET(fd, &ready);
		if (fd < FD_SETSIZE && fd >= end)
			end = fd + 1;
	}
	time = time < 0 || time > TICK ? TICK : time;
	if (select((int)end, &ready, NULL, NULL, &(struct timeval){time / 1000, time % 1000 * 1000}) < 0)
		FD_ZERO(&ready);
	for (size_t i = 0; i < count; i++) {
		unsigned fd = (unsigned)wait[i].fd;
		wait[i].revents = fd < FD_SETSIZE && FD_ISSET(fd, &ready) ? POLLIN : 0;
	}
}

static void look_at_the_clock(void) {
	static bool init_killed;
	static int64_t ticked;
	int64_t here = milliseconds();
	bool tick = here - ticked >= TICK;
	if (tick)
		ticked = here;
	if (slow_at && (executed || here >= slow_at)) {
		slow_at = 0;
		if (!executed)
			servers_slow();
	}
	if (wall_end && here >= wall_end)
		end_politely(CAUSE_WALL_TIME, wall_grace);
	if (tick && executed && cpu_limit && processor_time() >= cpu_limit)
		end_politely(CAUSE_CPU_TIME, cpu_grace);
	if (kill_at && here >= kill_at) {
		kill_at = 0;
		last_at = here + UNKILLABLE;
		kill_all();
	}
	if (last_at && here >= last_at && child_is_init && !init_killed) { /* it did not manage: its end is everybody's */
		init_killed = true;
		last_at = here + UNKILLABLE;
		kill(child, SIGKILL);
	} else if (last_at && here >= last_at) { /* who hangs in a file system whose server does not answer */
		fact_usage();
		finish(SIGKILL);
	}
	if (caller_pid && caller_pidfd < 0 && !is_init && getppid() != caller_pid) {
		caller_pid = 0;
		end_everything(CAUSE_CALLER);
	}
	if (tick && credentials >= 0)
		credentials_renew(credentials);
}

static _Noreturn void watch(void) {
	if (!is_top())
		caller_pidfd = -1, caller_pid = 0; /* the outer process looks after that */
	for (;;) {
		enum { NEWS, SIGNALS, CALLER, STARTER };
		int starter = upstream >= 0 ? upstream : control;
		struct pollfd wait[] = {
			[NEWS] = {.fd = news, .events = POLLIN}, [SIGNALS] = {.fd = signals, .events = POLLIN},
			[CALLER] = {.fd = caller_pidfd, .events = POLLIN}, [STARTER] = {.fd = starter, .events = POLLIN}};
		wait_for(wait, sizeof wait / sizeof *wait, next_event());
		for (int turn = 0; wait[NEWS].revents && turn < AT_ONCE && news >= 0 && hear(); turn++)
			;
		if (wait[CALLER].revents) {
			close(caller_pidfd);
			unkeep(caller_pidfd);
			caller_pidfd = -1;
			caller_pid = 0;
			end_everything(CAUSE_CALLER);
		}
		if (wait[STARTER].revents)
			obey(starter);
		forward();
		reap();
		look_at_the_clock();
	}
}

/* ---- becoming who stays ---- */

/* What only the start needed, the caller's environment above all. */
static void forget(void) {
	speech.plan = NULL;
	release(call.text);
}

/* Only then the new process goes on: the other end knows it, and lives. */
static void let_begin(int socket) {
	char go = 1;
	while (send(socket, &go, 1, MSG_NOSIGNAL) < 0 && errno != EPIPE)
		if (errno != EINTR)
			die("", errno, "send", "let the container begin");
}

/* False when whoever should have said so is gone. */
static bool may_begin(int socket, const char *whom) {
	char go;
	ssize_t got;
	while ((got = recv(socket, &go, 1, 0)) < 0)
		if (errno != EINTR)
			die("", errno, "recv", "wait for the %s", whom);
	return got;
}

static _Noreturn void outer_process(void) {
	disarm_watchdog();
	foreground = tcgetpgrp(2) == getpgrp();
	watch_signals();
	prctl(PR_SET_DUMPABLE, 0);
	if (caller_pid)
		prctl(PR_SET_PDEATHSIG, SIGCONT); /* a payload that stops has us stop, too: to see the caller's end in spite of that */
	if (!child_is_init && prctl(PR_SET_CHILD_SUBREAPER, 1) < 0)
		die("", errno, "prctl PR_SET_CHILD_SUBREAPER", "look after what the payload leaves");
	forget();
	if (chdir("/") < 0)
		die("", errno, "chdir", "leave the working directory");
	keep(news);
	keep(procfs);
	servers_keep();
	slow_at = servers_patience();
	let_go_of_descriptors(!speech.mute);
	if (!child_is_init)
		each_child(note_stranger);
	let_begin(news);
	fcntl(news, F_SETOWN, getpid());
	fcntl(news, F_SETSIG, SIGCONT);
	watch();
}

/* A pair of sockets and a child that is tied to us; in the child 0, with its end in `upstream`. */
static pid_t fork_tied(const char *what) {
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		die("", errno, "socketpair", "start %s", what);
	pid_t pid = fork();
	if (pid < 0)
		die(errno == EAGAIN ? "raise the limit of processes (ulimit -u)" : "", errno, "fork", "start %s", what);
	close(ends[pid ? 1 : 0]);
	if (pid)
		news = ends[0];
	else
		upstream = ends[1];
	return pid;
}

static bool stays_outside(bool pid_namespace) {
	static const enum operation_id always[] = {OP_SUPERVISE, OP_RECEIPT, OP_CREDENTIALS, OP_CGROUP, OP_IMAGE_FILE};
	static const enum operation_id otherwise[] = {OP_DIE_WITH_CALLER, OP_WALL_TIME};
	for (size_t i = 0; i < sizeof always / sizeof *always; i++)
		if (find(plan, always[i]))
			return true;
	if (pid_namespace)
		return control < 0 || !find(plan, OP_INIT);
	for (size_t i = 0; i < sizeof otherwise / sizeof *otherwise; i++)
		if (find(plan, otherwise[i]))
			return true;
	return false;
}

/* Init as a child of the starter: the launcher's own process ends here. */
static void clone_for_starter(void) {
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		die("", errno, "socketpair", "start init");
	uint32_t pid = (uint32_t)syscall(SYS_clone, (unsigned long)(CLONE_PARENT | SIGCHLD), 0, 0, 0, 0);
	if ((int32_t)pid < 0)
		die(errno == EAGAIN ? "raise the limit of processes (ulimit -u)" : "", errno, "clone", "start init");
	if (pid) {
		if (!tell(MESSAGE_INIT, &pid, sizeof pid))
			die("", errno, "send", "tell of init"); /* which ends with us */
		let_begin(ends[0]);
		_exit(0);
	}
	/* It says nothing before its starter knows its pid, and is nothing when the launcher was killed before that. */
	close(ends[0]);
	if (!may_begin(ends[1], "launcher"))
		_exit(speech.code);
	close(ends[1]);
	upstream = control;
	keep_none();
	keep(upstream);
	keep(caller_pidfd);
	hold_descriptors();
}

void supervision_enter(const struct plan *of) {
	bool pid_namespace = words(find(of, OP_UNSHARE), 0) & WORD_UNSHARE_NAMESPACES_PID;
	bool outside = stays_outside(pid_namespace);
	own_session = find(of, OP_NEW_SESSION);
	if (!outside && !pid_namespace)
		return;
	null_open();
	sigset_t early; /* what comes from now on waits until there is a payload, or ends the start */
	sigfillset(&early);
	sigdelset(&early, SIGALRM);
	need_call(sigprocmask(SIG_SETMASK, &early, NULL), "sigprocmask");
	if (!outside) {
		clone_for_starter();
	} else {
		child = fork_tied("init");
		if (child) {
			child_is_init = pid_namespace && find(of, OP_INIT);
			outer_process();
		}
		servers_disown();
		control = -1;
		keep_none();
		keep(upstream);
	}
	is_init = pid_namespace;
	arm_watchdog();
	if (!outside)
		return;
	/* First the tie to the parent, then proof that it was alive when the tie was made: its end is open. */
	char more;
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
		die("", errno, "prctl", "tie init to its parent");
	if (!may_begin(upstream, "outer process") || !recv(upstream, &more, 1, MSG_DONTWAIT))
		_exit(speech.code); /* nobody is left who could be told */
}

/* A signal that came during the start, for which pid 1 has no default action. */
static void end_if_told(void) {
	static const int ends[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
	sigset_t pending;
	need_call(sigpending(&pending), "sigpending");
	for (size_t i = 0; is_init && i < sizeof ends / sizeof *ends; i++) {
		struct sigaction action;
		need_call(sigaction(ends[i], NULL, &action), "sigaction");
		if (!sigismember(&pending, ends[i]) || action.sa_handler == SIG_IGN)
			continue;
		facts[FACT_STATUS] = (uint64_t)ends[i];
		facts[FACT_CAUSE] = CAUSE_TOLD;
		facts[FACT_CLASS] = judge();
		tell(MESSAGE_ENDED, facts, sizeof facts);
		_exit(128 + ends[i]);
	}
}

/* The new namespace's own /proc, for the processor time. */
static void open_processes(void) {
	struct statfs found;
	char self[8] = "";
	processes = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (processes < 0 || fstatfs(processes, &found) < 0 || found.f_type != PROC_MAGIC
	    || readlinkat(processes, "self", self, sizeof self) != 1 || *self != '1')
		die("leave /proc to the container, or the limit of processor time out", 0, "/proc is not that of its processes",
			"limit the payload's processor time");
	keep(processes);
}

void init_stay(const struct plan *of) {
	const struct record *record = find(of, OP_INIT);
	end_if_told();
	if (!is_init || !record) /* without an init of ours, pid 1 is the payload itself */
		return;
	prctl(PR_SET_NAME, record->field[0]);
	if (find(of, OP_CPU_TIME))
		open_processes();
	watch_signals();
	prctl(PR_SET_DUMPABLE, 0); /* before the payload can look */
	int above = upstream;
	child = fork_tied("the payload");
	if (!child) {
		prctl(PR_SET_DUMPABLE, 1); /* /proc/self is ours again */
		close(signals);
		close(above);
		is_init = false;
		arm_watchdog();
		return;
	}
	disarm_watchdog();
	forget();
	/* What is sent to the caller's process group reaches the payload once, not through us too. A session of our own: a
	 * parent in the payload's session would pass for the shell that looks after its group. */
	setsid();
	keep(news);
	let_go_of_descriptors(false);
	watch();
}

/* ---- credentials ---- */

void hand_over_credentials(int directory) {
	if (!send_descriptor(upstream, PRIVATE_MESSAGE, directory))
		die("", errno, "sendmsg", "hand over the credentials' directory");
}
