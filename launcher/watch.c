/* Watching over the payload: its messages and end, signals for it, its limits, its starter and the caller. The process
 * that does so is init where there is one, and the outer process watches over init in the same way. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "supervise.h"

#define PROC_MAGIC 0x9fa0
enum { UNKILLABLE = 10000, TICK = 1000, AT_ONCE = 64 };

pid_t child;
bool child_is_init, executed, foreground;
int news = -1, signals = -1;
static const struct plan *plan;
static bool about_to;      /* the payload's process was about to execute it */
static bool start_failed;
static char failure[LARGEST_MESSAGE];
static int64_t wall_end, kill_at, last_at, slow_at, cpu_limit; /* milliseconds since we began; 0: none */
static int64_t cpu_grace, wall_grace;
static int processes = -1;   /* /proc of the new pid namespace */
static int credentials = -1; /* directory where the outer process writes them */

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

void watch_signals(void) {
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

void watch_processes(void) {
	struct statfs found;
	char self[8] = "";
	processes = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (processes < 0 || fstatfs(processes, &found) < 0 || found.f_type != PROC_MAGIC
	    || readlinkat(processes, "self", self, sizeof self) != 1 || *self != '1')
		die("leave /proc to the container, or the limit of processor time out", 0, "/proc is not that of its processes",
			"limit the payload's processor time");
	keep(processes);
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

static void end_everything(enum cause cause) {
	if (facts[FACT_CAUSE] == CAUSE_ITSELF)
		facts[FACT_CAUSE] = cause;
	if (!last_at)
		last_at = milliseconds() + (child_is_init ? LAST_WAIT : UNKILLABLE);
	leftovers_kill();
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
		wall_end = milliseconds() + (int64_t)number(record, ARG_WALL_TIME_MILLISECONDS) + 1; /* never before */
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
			leftovers_count(pid, status);
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
		leftovers_end();
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
		leftovers_kill();
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

_Noreturn void watch(const struct plan *of) {
	plan = of;
	slow_at = is_init ? 0 : servers_patience();
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
