/* Who stays while the payload runs: the outer process, which is the client's child, and init, which is process 1 of a
 * new pid namespace. Either can be the one that watches over the payload: init where there is one. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "supervise.h"

#define NR_PIDFD_OPEN 434

bool is_init, own_session;
pid_t caller_pid;
int caller_pidfd = -1;
static const struct plan *plan;

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
	plan = of;
	facts_begin();
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
	let_go_of_descriptors(!speech.mute);
	if (!child_is_init)
		leftovers_spare();
	let_begin(news);
	fcntl(news, F_SETOWN, getpid());
	fcntl(news, F_SETSIG, SIGCONT);
	watch(plan);
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

void init_stay(const struct plan *of) {
	const struct record *record = find(of, OP_INIT);
	end_if_told();
	if (!is_init || !record) /* without an init of ours, pid 1 is the payload itself */
		return;
	prctl(PR_SET_NAME, record->field[0]);
	if (find(of, OP_CPU_TIME))
		watch_processes();
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
	watch(plan);
}
