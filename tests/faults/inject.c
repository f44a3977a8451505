/* Runs a command and lets one of its system calls fail, in one chosen process of it.
 *
 *   inject LOG - COMMAND...                             log every call: "process index number"
 *   inject LOG PROCESS:INDEX:NUMBER:FAULT COMMAND...    that call of that process, or the next one of this number: two
 *                                                       starts read a mount table in more or in fewer pieces
 *   inject LOG NUMBER:FAULT COMMAND...                  every call of that number, in all processes
 *
 * FAULT is eERRNO (the call is not made and fails), rVALUE (it is not made and returns that), k (SIGKILL instead of
 * the call) or dMICROSECONDS (it is made later). In LOG stand "executed process" where the payload began
 * to run, "hit process index number" per fault, "crash process signal" of whichever crashed, "ended process STATUS" of each, negative for a signal, and
 * "alive process" for whatever lives seconds longer than the last of those that have to stay; it is killed then. That
 * is the first process, unless it ended with 0: then it may have left the others to us, its parent.
 *
 * Processes are numbered as they are forked, from 0. Calls count from the first exec to the second one of each process:
 * what the payload does is left alone. strace counts per kind of call and cannot choose the process, so it never gets
 * to a call of a child whose parent fails at the same count.
 *
 * Needs PTRACE_GET_SYSCALL_INFO (Linux 5.3). Exit status: 0; 125 for our own failures, 126 when something
 * survived. Everything that is traced ends with us.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef PTRACE_GET_SYSCALL_INFO
#define PTRACE_GET_SYSCALL_INFO 0x420e
#endif
#ifndef PTRACE_EVENT_STOP
#define PTRACE_EVENT_STOP 128
#endif
enum { MAX_PROCESSES = 16, SECONDS_OF_SURVIVORS = 20 }; /* the kernel needs milliseconds; other work may come between */

struct info { /* of PTRACE_GET_SYSCALL_INFO, as far as it is used here */
	uint8_t op, pad[3];
	uint32_t arch;
	uint64_t instruction, stack, number, arguments[6];
};
enum { OP_ENTRY = 1 };

struct process {
	pid_t pid;
	int number;       /* -1: it stopped before its parent said that it was forked */
	unsigned calls;
	unsigned execs;
	bool gone, inside, faked;
	double held;      /* until when; 0: it is not */
	long result;      /* of a faked call */
	long call;        /* number of the call it is in */
};

static struct process processes[MAX_PROCESSES];
static int process_count, numbered;
static FILE *log_file;
static struct {
	bool any, done;
	int process, index; /* process -1: all calls of the number */
	long number, value;
	char kind;
} fault = {.process = -1};
static double first_ended; /* when; 0 while it runs */

static _Noreturn void give_up(const char *what) {
	fprintf(stderr, "inject: %s: %s\n", what, strerror(errno));
	_exit(125);
}

static double now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* Interrupts the wait for processes, again and again, so that no ring can be missed. */
static void ring(int signal) {
	(void)signal;
}

static void ring_every(long microseconds) {
	struct timeval time = {.tv_usec = microseconds};
	setitimer(ITIMER_REAL, &(struct itimerval){time, time}, NULL);
}

static struct process *find(pid_t pid) {
	for (int i = 0; i < process_count; i++)
		if (processes[i].pid == pid && !processes[i].gone)
			return &processes[i];
	if (process_count == MAX_PROCESSES) {
		errno = E2BIG;
		give_up("more processes than expected");
	}
	processes[process_count] = (struct process){.pid = pid, .number = -1};
	return &processes[process_count++];
}

/* Whoever was killed while it was stopped is gone for ptrace; the next wait says so. */
static void need(long result, const char *what) {
	if (result < 0 && errno != ESRCH)
		give_up(what);
}

/* The call is not made: no call has number -1. */
static void skip_call(pid_t pid) {
#if defined(__x86_64__)
	need(ptrace(PTRACE_POKEUSER, pid, (void *)offsetof(struct user_regs_struct, orig_rax), (void *)-1L), "skipping a call");
#else
	int none = -1;
	struct iovec set = {&none, sizeof none};
	need(ptrace(PTRACE_SETREGSET, pid, (void *)0x404 /* NT_ARM_SYSTEM_CALL */, &set), "skipping a call");
#endif
}

static void set_result(pid_t pid, long value) {
#if defined(__x86_64__)
	need(ptrace(PTRACE_POKEUSER, pid, (void *)offsetof(struct user_regs_struct, rax), (void *)value), "setting a result");
#else
	struct user_regs_struct registers;
	struct iovec set = {&registers, sizeof registers};
	if (ptrace(PTRACE_GETREGSET, pid, (void *)NT_PRSTATUS, &set) < 0)
		return;
	registers.regs[0] = (unsigned long)value;
	need(ptrace(PTRACE_SETREGSET, pid, (void *)NT_PRSTATUS, &set), "setting a result");
#endif
}

static void resume(struct process *process, int signal) {
	/* Stops cost most of the time: whose calls are of no interest, or not any more, runs without them. */
	bool watched = process->execs == 1 && (process->faked || (!fault.done && (fault.process < 0 || fault.process == process->number)));
	need(ptrace(watched ? PTRACE_SYSCALL : PTRACE_CONT, process->pid, NULL, (void *)(long)signal), "going on");
}

/* True when the process may go on at once. */
static bool entered(struct process *process, long number) {
	unsigned index = process->calls++;
	process->call = number;
	if (!fault.any) {
		fprintf(log_file, "%d %u %ld\n", process->number, index, number);
		return true;
	}
	if (number != fault.number || fault.done || (fault.process >= 0
	    && (process->number != fault.process || index < (unsigned)fault.index)))
		return true;
	fault.done = fault.process >= 0;
	fprintf(log_file, "hit %d %u %ld\n", process->number, index, number);
	switch (fault.kind) {
	case 'k':
		kill(process->pid, SIGKILL);
		return true;
	case 'd':
		process->held = now() + (double)fault.value / 1e6;
		ring_every(5000);
		return false;
	case 'e':
	case 'r':
		skip_call(process->pid);
		process->faked = true;
		process->result = fault.kind == 'e' ? -fault.value : fault.value;
	}
	return true;
}

static void at_call(struct process *process) {
	struct info info;
	if (ptrace(PTRACE_GET_SYSCALL_INFO, process->pid, (void *)sizeof info, &info) < 0) {
		if (errno != ESRCH)
			give_up("PTRACE_GET_SYSCALL_INFO");
		return;
	}
	if (info.op == OP_ENTRY) {
		if (entered(process, (long)info.number))
			resume(process, 0);
		return;
	}
	if (process->faked)
		set_result(process->pid, process->result);
	process->faked = false;
	resume(process, 0);
}

static void forked(struct process *parent) {
	unsigned long pid;
	if (ptrace(PTRACE_GETEVENTMSG, parent->pid, NULL, &pid) < 0)
		return;
	struct process *child = find((pid_t)pid);
	bool waits = child->inside;
	child->number = ++numbered;
	child->execs = parent->execs;
	child->inside = true;
	if (waits)
		resume(child, 0);
}

static void stopped(pid_t pid, int status) {
	struct process *process = find(pid);
	int signal = WSTOPSIG(status), event = status >> 16;
	if (signal == (SIGTRAP | 0x80)) {
		at_call(process);
		return;
	}
	switch (event) {
	case PTRACE_EVENT_FORK: case PTRACE_EVENT_VFORK: case PTRACE_EVENT_CLONE:
		forked(process);
		break;
	case PTRACE_EVENT_EXEC:
		if (++process->execs == 2)
			fprintf(log_file, "executed %d\n", process->number);
		break;
	case PTRACE_EVENT_STOP:
		if (process->number < 0) { /* it waits for its number */
			process->inside = true;
			return;
		}
		if (signal == SIGSTOP || signal == SIGTSTP || signal == SIGTTIN || signal == SIGTTOU) {
			ptrace(PTRACE_LISTEN, pid, NULL, NULL);
			return;
		}
		break;
	case 0:
		/* The kernel keeps a traced init alive, which would run into the same fault for ever. */
		if (signal == SIGSEGV || signal == SIGBUS || signal == SIGILL || signal == SIGFPE || signal == SIGABRT) {
			fprintf(log_file, "crash %d %d\n", process->number, signal);
			kill(pid, SIGKILL);
		}
		resume(process, signal);
		return;
	}
	resume(process, 0);
}

static void look_at_the_time(void) {
	double time = now();
	bool late = first_ended > 0 && time > first_ended + SECONDS_OF_SURVIVORS;
	for (struct process *process = processes; process < processes + process_count; process++) {
		if (process->gone)
			continue;
		if (process->held > 0 && time >= process->held) {
			process->held = 0;
			resume(process, 0);
		}
		if (late)
			fprintf(log_file, "alive %d\n", process->number);
	}
	fflush(log_file);
	if (late)
		_exit(126); /* and so does whoever is left */
}

static void parse_fault(const char *text) {
	char *at;
	if (!strcmp(text, "-"))
		return;
	fault.any = true;
	fault.number = strtol(text, &at, 10);
	if (*at++ != ':')
		goto wrong;
	if (*at >= '0' && *at <= '9') {
		fault.process = (int)fault.number;
		fault.index = (int)strtol(at, &at, 10);
		fault.number = *at == ':' ? strtol(at + 1, &at, 10) : -1;
		if (*at++ != ':')
			goto wrong;
	}
	fault.kind = *at;
	fault.value = *at ? strtol(at + 1, NULL, 10) : 0;
	if (fault.kind && strchr("erkd", fault.kind))
		return;
wrong:
	errno = EINVAL;
	give_up(text);
}

/* Also those of threads, which the C library does not let go of. */
static void default_actions(void) {
	struct { void *handler; unsigned long flags; void *restorer; uint64_t mask; } action = {0};
	for (int signal = 1; signal <= 64; signal++)
		syscall(SYS_rt_sigaction, signal, &action, NULL, sizeof action.mask);
}

static pid_t start(char **command) {
	int ready[2];
	char go;
	if (pipe(ready) < 0)
		give_up("pipe");
	pid_t pid = fork();
	if (pid < 0)
		give_up("fork");
	if (!pid) {
		close(ready[1]);
		if (read(ready[0], &go, 1) == 1) {
			close(ready[0]);
			default_actions();
			execv(command[0], command);
		}
		give_up(command[0]);
	}
	close(ready[0]);
	long options = PTRACE_O_TRACESYSGOOD | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE
		| PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL;
	if (ptrace(PTRACE_SEIZE, pid, NULL, (void *)options) < 0)
		give_up("PTRACE_SEIZE");
	*find(pid) = (struct process){.pid = pid, .number = 0, .inside = true};
	if (write(ready[1], "", 1) != 1)
		give_up("write");
	close(ready[1]);
	return pid;
}

int main(int argc, char **argv) {
	if (argc < 4) {
		errno = EINVAL;
		give_up("usage");
	}
	log_file = fopen(argv[1], "we");
	if (!log_file)
		give_up(argv[1]);
	parse_fault(argv[2]);
	sigaction(SIGALRM, &(struct sigaction){.sa_handler = ring}, NULL); /* interrupts the wait */
	pid_t first = start(argv + 3);
	bool handed_over = false;
	int status;
	for (;;) {
		pid_t pid = waitpid(-1, &status, __WALL);
		if (pid < 0 && errno == EINTR) {
			look_at_the_time();
			continue;
		}
		if (pid < 0)
			break; /* nobody is left */
		if (WIFSTOPPED(status)) {
			stopped(pid, status);
			continue;
		}
		struct process *ended = find(pid);
		int result = WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
		ended->gone = true;
		fprintf(log_file, "ended %d %d\n", ended->number, result);
		if (pid == first && !result)
			handed_over = true;
		else if (pid == first || (handed_over && ended->number == 1)) {
			first_ended = now();
			ring_every(100000);
		}
	}
	if (fclose(log_file))
		give_up("log");
	return 0;
}
