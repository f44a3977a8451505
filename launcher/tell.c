/* What is told of a run: facts, and messages to the starter or to whoever supervises this process. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "supervise.h"

enum { MOST_STATES = 100 };

uint64_t facts[FACT_COUNT];
int control = -1, upstream = -1;
static struct timespec began;

static uint64_t microseconds(const struct timespec *time) {
	return (uint64_t)time->tv_sec * 1000000 + (uint64_t)time->tv_nsec / 1000;
}

static uint64_t now(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return microseconds(&time) - microseconds(&began);
}

int64_t milliseconds(void) {
	return (int64_t)(now() / 1000);
}

void facts_begin(void) {
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &began);
	clock_gettime(CLOCK_REALTIME, &time);
	for (unsigned i = 0; i < FACT_COUNT; i++)
		facts[i] = UNKNOWN;
	facts[FACT_STARTED_US] = microseconds(&time);
	facts[FACT_CREDENTIALS_RENEWED] = 0;
	facts[FACT_CAUSE] = CAUSE_ITSELF;
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
void tell_state(enum message_kind kind) {
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

void end_failed(const char *sentence, const char *fix) {
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

void hand_over_credentials(int directory) {
	if (!send_descriptor(upstream, PRIVATE_MESSAGE, directory))
		die("", errno, "sendmsg", "hand over the credentials' directory");
}
