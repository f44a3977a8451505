/* The receipt: a head that Python rendered, and facts. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch.h"

static const struct plan *plan;
static const struct record *receipt;
static int directory = -1;

/* By the host's path, and while there still is one. */
void receipt_open(const struct plan *of) {
	plan = of;
	receipt = find(of, OP_RECEIPT);
	if (!receipt)
		return;
	directory = open_host(receipt->field[ARG_RECEIPT_DIRECTORY], O_RDONLY | O_DIRECTORY);
	if (directory < 0)
		die("give a directory that exists and that you may write to", errno, "open", "keep the receipt's directory %s",
			receipt->field[ARG_RECEIPT_DIRECTORY]);
	keep(directory);
}

enum failure judge(void) {
	int status = (int)facts[FACT_STATUS];
	switch ((enum cause)facts[FACT_CAUSE]) {
	case CAUSE_START: return speech.failure;
	case CAUSE_WALL_TIME: case CAUSE_CPU_TIME: return CLASS_LIMIT;
	case CAUSE_CALLER: case CAUSE_TOLD: return WIFEXITED(status) && !WEXITSTATUS(status) ? CLASS_NONE : CLASS_KILLED;
	case CAUSE_ITSELF: break;
	}
	if (!WIFSIGNALED(status))
		return WEXITSTATUS(status) ? CLASS_PAYLOAD : CLASS_NONE;
	if (WTERMSIG(status) == SIGKILL)
		return facts[FACT_OOM_KILLS] != UNKNOWN && facts[FACT_OOM_KILLS] ? CLASS_OUT_OF_MEMORY : CLASS_KILLED;
	return WTERMSIG(status) == SIGXCPU || WTERMSIG(status) == SIGXFSZ ? CLASS_LIMIT : CLASS_PAYLOAD;
}

/* ---- writing ---- */

static char buffer[4096];
static size_t used;
static bool failed;

static void flush(int fd) {
	for (size_t done = 0; done < used && !failed;) {
		ssize_t wrote = write(fd, buffer + done, used - done);
		if (wrote < 0 && errno != EINTR)
			failed = true;
		if (wrote > 0)
			done += (size_t)wrote;
	}
	used = 0;
}

static void put(int fd, const char *text) {
	for (; *text && !failed; text++) {
		if (used == sizeof buffer)
			flush(fd);
		buffer[used++] = *text;
	}
}

static void put_number(int fd, const char *name, uint64_t value) {
	char text[80];
	if (value == UNKNOWN)
		snprintf(text, sizeof text, ",\"%s\":null", name);
	else
		snprintf(text, sizeof text, ",\"%s\":%llu", name, (unsigned long long)value);
	put(fd, text);
}

/* Length of a UTF-8 sequence; 0 when it is none. */
static unsigned sequence(const unsigned char *at) {
	unsigned length = at[0] < 0x80 ? 1 : at[0] >= 0xc2 && at[0] < 0xe0 ? 2 : (at[0] & 0xf0) == 0xe0 ? 3 : at[0] >= 0xf0 && at[0] < 0xf5 ? 4 : 0;
	for (unsigned i = 1; i < length; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] > 0x9f) || (at[0] == 0xf0 && at[1] < 0x90)
	    || (at[0] == 0xf4 && at[1] > 0x8f))
		return 0; /* too long, a surrogate, or beyond Unicode */
	return length;
}

static void put_sentence(int fd, const char *name, const char *text) {
	char piece[16];
	put(fd, ",\"");
	put(fd, name);
	put(fd, text ? "\":\"" : "\":null");
	for (const unsigned char *at = (const unsigned char *)text; at && *at;) {
		unsigned length = sequence(at);
		if (length > 1)
			snprintf(piece, sizeof piece, "%.*s", (int)length, (const char *)at);
		else if (!length || *at < 32 || *at == 127)
			snprintf(piece, sizeof piece, "\\u%04x", length ? *at : 0xfffdu);
		else
			snprintf(piece, sizeof piece, *at == '"' || *at == '\\' ? "\\%c" : "%c", *at);
		put(fd, piece);
		at += length ? length : 1;
	}
	if (text)
		put(fd, "\"");
}

static void put_states(int fd) {
	static const enum fact errnos[] = {
		[WORD_RECEIPT_STATE_PROTECTION_KEYRING] = FACT_KEYRING_ERRNO,
		[WORD_RECEIPT_STATE_PROTECTION_ABSTRACT] = FACT_ABSTRACT_ERRNO,
		[WORD_RECEIPT_STATE_PROTECTION_SIGNAL] = FACT_SIGNAL_ERRNO,
		[WORD_RECEIPT_STATE_PROTECTION_TERMINAL] = FACT_TERMINAL_ERRNO,
		[WORD_RECEIPT_STATE_PROTECTION_CGROUP] = FACT_CGROUP_ERRNO};
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_RECEIPT_STATE)
			continue;
		uint64_t error = facts[errnos[words(record, ARG_RECEIPT_STATE_PROTECTION)]];
		put(fd, ",");
		if (!error) {
			put(fd, record->field[ARG_RECEIPT_STATE_ON]);
			continue;
		}
		put(fd, record->field[ARG_RECEIPT_STATE_MISSING]);
		put(fd, error == UNKNOWN ? "it did not come to that" : errno_name((int)error));
		put(fd, "\"}");
	}
}

static void put_result(int fd, const char *message, const char *fix) {
	static const char *const fact_names[] = {FACT_NAMES}, *const causes[] = {CAUSE_NAMES}, *const classes[] = {CLASS_NAMES};
	int status = (int)facts[FACT_STATUS];
	bool ran = facts[FACT_CAUSE] != CAUSE_START && facts[FACT_STATUS] != UNKNOWN;
	put(fd, "],\"result\":{\"failure_class\":");
	put(fd, facts[FACT_CLASS] == CLASS_NONE ? "null" : "\"");
	if (facts[FACT_CLASS] != CLASS_NONE) {
		put(fd, classes[facts[FACT_CLASS]]);
		put(fd, "\"");
	}
	put_number(fd, "exit_code", ran && WIFEXITED(status) ? (uint64_t)WEXITSTATUS(status) : UNKNOWN);
	put_number(fd, "signal", ran && WIFSIGNALED(status) ? (uint64_t)WTERMSIG(status) : UNKNOWN);
	put_sentence(fd, "cause", causes[facts[FACT_CAUSE]]);
	put_sentence(fd, "message", message);
	put_sentence(fd, "fix", fix);
	for (unsigned i = FACT_STARTED_US; i < FACT_COUNT; i++) /* those before it are said in words above */
		put_number(fd, fact_names[i], facts[i]);
	put(fd, "}}\n");
}

/* Only its rename makes it one: nobody reads half of it. */
void receipt_write(const char *message, const char *fix) {
	if (directory < 0)
		return;
	char temporary[60]; /* processes of other pid namespaces, or other machines, may have our number and this directory */
	snprintf(temporary, sizeof temporary, ".dunnage-receipt-%d-%llx", (int)getpid(), (unsigned long long)facts[FACT_STARTED_US]);
	int fd = openat(directory, temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd >= 0) {
		put(fd, receipt->field[ARG_RECEIPT_HEAD]);
		put_states(fd);
		put_result(fd, message, fix);
		flush(fd);
		failed |= close(fd) < 0; /* where NFS says that it is full */
	}
	if (fd >= 0 && !failed && !renameat(directory, temporary, directory, receipt->field[ARG_RECEIPT_NAME]))
		return;
	int error = errno;
	if (fd >= 0)
		unlinkat(directory, temporary, 0);
	warn("cannot write the receipt %s/%s: %s", receipt->field[ARG_RECEIPT_DIRECTORY], receipt->field[ARG_RECEIPT_NAME],
		errno_name(error));
}
