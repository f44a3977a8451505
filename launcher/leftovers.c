/* What descends from the payload and is left when it ends: found, killed, waited for, counted. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "supervise.h"

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

static bool killing;
static unsigned still_ours, others_killed;

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

void leftovers_spare(void) {
	each_child(note_stranger);
}

void leftovers_kill(void) {
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

void leftovers_count(pid_t pid, int status) {
	if (!server_ended(pid, status, executed))
		others_killed += killing && WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
}

void wait_for_child(int64_t time) {
	sigset_t ended;
	sigemptyset(&ended);
	sigaddset(&ended, SIGCHLD);
	sigtimedwait(&ended, NULL, &(struct timespec){time / 1000, time % 1000 * 1000000});
}

void leftovers_end(void) {
	int64_t until = milliseconds() + LAST_WAIT;
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		leftovers_count(pid, status); /* unless it had ended before */
	for (pid = 0; pid >= 0 && milliseconds() <= until; wait_for_child(pid < 0 ? 0 : 1)) {
		leftovers_kill();
		while ((pid = waitpid(-1, &status, WNOHANG)) > 0 && milliseconds() <= until)
			leftovers_count(pid, status);
		if (!pid && !is_init && !still_ours)
			break;
	} /* nobody is left, or hangs in the kernel: the end of init takes care of it */
	facts[FACT_LEFTOVERS] = others_killed;
}
