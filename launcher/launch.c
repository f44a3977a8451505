/* dunnage-launch: executes a plan.
 *
 *   dunnage-launch --plan-fd N [--call-fd M] [--control-fd K]    as the front and the Python API use it
 *   dunnage-launch PLAN [-- COMMAND ...]      a stored plan; environment and arguments are our own
 *   dunnage-launch --list-ops | --self-check | --version | --help
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch.h"

enum { MAX_PLAN = 64 << 20, MAX_CALL = 64 << 20 };

extern char **environ;

static char *read_whole(int fd, size_t limit, size_t *size, const char *what) {
	struct stat status;
	if (fstat(fd, &status) < 0)
		die("", errno, "fstat", "read the %s", what);
	if (!S_ISREG(status.st_mode))
		die("give a regular file", 0, "it is not a regular file", "read the %s", what);
	if (status.st_size < 0 || (size_t)status.st_size > limit)
		die("", 0, "it is larger than 64 MiB", "read the %s", what);
	char *text = reserve((size_t)status.st_size + 1, 1);
	for (*size = 0; *size < (size_t)status.st_size;) {
		ssize_t got = pread(fd, text + *size, (size_t)status.st_size - *size, (off_t)*size);
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			die("", got ? errno : EIO, "read", "read the %s", what);
		*size += (size_t)got;
	}
	text[*size] = 0;
	close(fd);
	return text;
}

/* Fields: magic, argv[0], ignored signals, argument count, arguments, environment. */
static void read_call(int fd) {
	size_t size, fields = 0, at = 0;
	char *text = read_whole(fd, MAX_CALL, &size, "call");
	for (size_t i = 0; i < size; i++)
		fields += !text[i];
	if (!size || text[size - 1] || fields < 4 || strcmp(text, "dunnage-call 1"))
		die("", 0, "it is malformed", "read the call");
	char **field = reserve(fields + 1, sizeof *field);
	for (char *start = text; at < fields; start += strlen(start) + 1)
		field[at++] = start;
	char *end;
	call.program = field[1];
	call.ignored = strtoull(field[2], &end, 16);
	unsigned long long count = *end ? ULLONG_MAX : strtoull(field[3], &end, 10);
	if (*end || count > fields - 4)
		die("", 0, "it is malformed", "read the call");
	call.arguments = reserve((size_t)count + 1, sizeof *call.arguments);
	memcpy(call.arguments, field + 4, (size_t)count * sizeof *field);
	call.argument_count = (size_t)count;
	call.environment = field + 4 + count;
	call.environment_count = fields - 4 - (size_t)count;
	call.known = true;
	call.text = text;
}

static void own_call(void) {
	call.program = "dunnage-launch";
	call.environment = environ;
	while (environ[call.environment_count])
		call.environment_count++;
}

/* Closed standard descriptors would be reused for our own files. */
static void fill_standard_descriptors(void) {
	for (int fd = 0; fd <= 2; fd++)
		while (fcntl(fd, F_GETFD) < 0 && errno == EBADF) {
			int null = open("/dev/null", O_RDWR);
			if (null < 0 || null > fd)
				die("", null < 0 ? errno : EBADF, "open of /dev/null", "replace closed standard descriptors");
		}
}

static void refuse_privilege(void) {
	if (getauxval(AT_SECURE) || getuid() != geteuid() || getgid() != getegid())
		die("remove the setuid and setgid bits and file capabilities from dunnage-launch", 0,
			"it was given privileges and must not have any", "start");
}

static void print_operations(void) {
	for (unsigned i = 0; i < OPERATION_COUNT; i++) {
		printf("%s", operations[i].name);
		for (unsigned k = 0; k < operations[i].field_count; k++)
			printf(" %s:%s", operations[i].fields[k].name, operations[i].fields[k].type_text);
		printf("\n");
	}
}

/* Runs the checks of a small plan and asks the kernel what it has. */
static int self_check(void) {
	static const char sample[] = "dunnage-plan\0001\0unshare\0user,mount\0source\0000\0dir\0000\0000\0ro,private\0000\0/\0"
		"scratch-place\0/tmp\0scratch\0004096\00016\0root\0000\0enter\0argument\0/bin/true\0end";
	char *text = reserve(sizeof sample, 1);
	memcpy(text, sample, sizeof sample);
	struct plan plan;
	plan_parse(&plan, text, sizeof sample);
	printf("dunnage-launch %s, plan version %d, %d operations\n", DUNNAGE_VERSION, PLAN_VERSION, OPERATION_COUNT);
	int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC), fd = open_below(root, "proc", O_PATH);
	printf("openat2: %s\n", lacking & LACK_OPENAT2 ? "no, walking instead" : "yes");
	close(fd);
	close(root);
	fflush(stdout);
	pid_t child = fork();
	if (child < 0)
		die("", errno, "fork", "check itself");
	if (!child) {
		process_prepare();
		namespaces_enter(&plan);
		mounts_choose(false);
		printf("user namespaces: yes\nmount calls: %s\n", classic ? "mount(2)" : "open_tree, move_mount, mount_setattr");
		fflush(stdout);
		_exit(0);
	}
	int status;
	waitpid(child, &status, 0);
	return WIFEXITED(status) ? WEXITSTATUS(status) : EXIT_FAILED;
}

static void usage(void) {
	printf("Usage: dunnage-launch PLAN [-- COMMAND [ARGUMENT ...]]\n"
		"       dunnage-launch --plan-fd N [--call-fd M] [--control-fd K]\n"
		"       dunnage-launch --list-ops | --self-check | --version\n\n"
		"Executes a plan that dunnage made; see dunnage-launch(1) and the plan format.\n");
	fflush(stdout); /* what die() says comes after it, and ends us without */
}

static int descriptor(const char *text) {
	char *end;
	long value = strtol(text, &end, 10);
	if (!*text || *end || value < 3 || value > INT_MAX || fcntl((int)value, F_SETFD, FD_CLOEXEC) < 0)
		die("", 0, "it is not an open descriptor above 2", "use descriptor %s", text);
	return (int)value;
}

static void set_speech(const struct plan *plan) {
	speech.plan = plan;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_SPEAK) {
			speech.name = record->field[ARG_SPEAK_NAME];
			speech.foreign = words(record, ARG_SPEAK_SHAPE) == WORD_SPEAK_SHAPE_FOREIGN;
			speech.level = small(record, ARG_SPEAK_LEVEL);
			speech.code = (int)number(record, ARG_SPEAK_CODE);
		} else if (record->id == OP_WITHOUT) {
			lacking |= 1u << words(record, 0);
		}
	}
}

static char **command(const struct plan *plan, char **given) {
	size_t count = 0, led = 0, at = 0;
	while (given && given[count])
		count++;
	bool planned = !count;
	for (size_t i = 0; i < plan->count; i++) {
		led += plan->records[i].id == OP_LEAD;
		count += planned && plan->records[i].id == OP_ARGUMENT;
	}
	char **arguments = reserve(led + count + 1, sizeof *arguments);
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_LEAD || (planned && plan->records[i].id == OP_ARGUMENT))
			arguments[at++] = plan->records[i].field[0];
	if (!planned)
		memcpy(arguments + led, given, count * sizeof *given);
	if (!count)
		die("give one: dunnage-launch PLAN -- COMMAND", 0, "the plan names no command", "start");
	return arguments;
}

/* Whoever can change a stored plan decides what its user runs. */
static void refuse_untrusted(int fd, const char *path) {
	struct stat status;
	if (fstat(fd, &status) < 0 || !S_ISREG(status.st_mode))
		return; /* read_whole says so */
	if (status.st_uid && status.st_uid != getuid())
		die("make one of your own with dunnage freeze", 0, "it belongs to somebody else", "trust the plan %s", path);
	if (status.st_mode & (S_IWGRP | S_IWOTH))
		die("chmod go-w, once you know that nobody changed it", 0, "others may write to it", "trust the plan %s", path);
}

int main(int argc, char **argv) {
	static struct plan plan;
	int plan_fd = -1, call_fd = -1, control_fd = -1;
	char **given = NULL;
	fill_standard_descriptors();
	refuse_privilege();
	if (argc >= 3 && argc % 2 && !strcmp(argv[1], "--plan-fd")) {
		plan_fd = descriptor(argv[2]);
		for (int i = 3; i < argc; i += 2) {
			int *which = !strcmp(argv[i], "--call-fd") ? &call_fd : !strcmp(argv[i], "--control-fd") ? &control_fd : NULL;
			if (!which || *which >= 0)
				die("see dunnage-launch --help", 0, "the arguments are not as expected", "start");
			*which = descriptor(argv[i + 1]);
		}
	} else if (argc == 2 && !strcmp(argv[1], "--list-ops")) {
		print_operations();
		return 0;
	} else if (argc == 2 && !strcmp(argv[1], "--self-check")) {
		return self_check();
	} else if (argc == 2 && !strcmp(argv[1], "--version")) {
		printf("dunnage-launch %s\n", DUNNAGE_VERSION);
		return 0;
	} else if (argc == 2 && !strcmp(argv[1], "--help")) {
		usage();
		return 0;
	} else if (argc >= 2 && argv[1][0] != '-' && (argc == 2 || !strcmp(argv[2], "--"))) {
		plan_fd = open(argv[1], O_RDONLY | O_CLOEXEC | O_NONBLOCK);
		if (plan_fd < 0)
			die("check its path", errno, "open", "read the plan %s", argv[1]);
		speech.stored = argv[1];
		refuse_untrusted(plan_fd, argv[1]);
		given = argc > 3 ? argv + 3 : NULL;
	} else {
		usage();
		die("see dunnage-launch --help", 0, "the arguments are not as expected", "start");
	}
	if (call_fd >= 0)
		read_call(call_fd);
	else
		own_call();
	size_t size;
	char *text = read_whole(plan_fd, MAX_PLAN, &size, "plan");
	plan_parse(&plan, text, size);
	set_speech(&plan);
	char **arguments = command(&plan, given);

	process_prepare();
	supervision_prepare(&plan, control_fd);
	process_protect_descriptors(&plan);
	objects_compare(&plan);
	servers_start(&plan);
	phase_ended(FACT_COMPARED_US);
	cgroup_make(&plan);
	namespaces_enter(&plan);
	phase_ended(FACT_NAMESPACES_US);
	bool force = false;
	for (size_t i = 0; i < plan.count; i++)
		force |= plan.records[i].id == OP_MECHANISM && words(&plan.records[i], 0) == WORD_MECHANISM_API_CLASSIC;
	mounts_choose(force);
	supervision_enter(&plan);
	objects_clone(&plan);
	root_assemble(&plan);
	phase_ended(FACT_MOUNTED_US);
	root_enter(&plan);
	init_stay(&plan);
	become_payload(&plan, arguments);
}
