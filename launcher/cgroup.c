/* A cgroup (version 2) for the payload alone, where the user was given one to make it in. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

#define CGROUP2_MAGIC 0x63677270
static const char prefix[] = "dunnage-";

static int parent = -1, own = -1, processes = -1;
static char name[32];

bool cgroup_wanted(void) {
	return own >= 0;
}

/* A whole small file; empty when it cannot be read. */
static void get(const char *file, char *text, size_t size) {
	int fd = openat(own, file, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? 0 : read(fd, text, size - 1);
	text[got < 0 ? 0 : got] = 0;
	if (fd >= 0)
		close(fd);
}

static int limit(const char *file, uint64_t value) {
	char text[32], found[32];
	if (!value)
		return 0;
	snprintf(text, sizeof text, "%llu", (unsigned long long)value);
	if (write_once(own, file, text) < 0)
		return -1;
	get(file, found, sizeof found);
	uint64_t set = strtoull(found, NULL, 10);
	if (*found && set <= value && set + 65536 > value) /* memory comes in pages */
		return 0;
	errno = EINVAL;
	return -1;
}

/* What a launch left that was killed: nobody is in it, and its maker is gone. */
static void collect(void) {
	int listing = openat(parent, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = listing < 0 ? NULL : fdopendir(listing);
	for (struct dirent *entry; dir && (entry = readdir(dir));) {
		char maker[32];
		struct stat found;
		const char *digits = entry->d_name + sizeof prefix - 1;
		if (strncmp(entry->d_name, prefix, sizeof prefix - 1) || !*digits || digits[strspn(digits, "0123456789")])
			continue; /* a site may call others as it likes */
		pid_t pid = atoi(digits);
		snprintf(maker, sizeof maker, "%d", pid);
		if (pid == getpid() || fstatat(procfs, maker, &found, 0) < 0) /* one of our number is older than we are */
			unlinkat(parent, entry->d_name, AT_REMOVEDIR);
	}
	if (dir)
		closedir(dir);
}

static int make(const struct record *record, const char **why) {
	struct statfs found;
	*why = "open";
	parent = open_host(record->field[ARG_CGROUP_PARENT], O_RDONLY | O_DIRECTORY);
	if (parent < 0)
		return -1;
	*why = "it is not on a cgroup2 file system";
	errno = EINVAL;
	if (fstatfs(parent, &found) < 0 || found.f_type != CGROUP2_MAGIC)
		return -1;
	collect();
	*why = "mkdirat";
	snprintf(name, sizeof name, "%s%d", prefix, (int)getpid());
	if (mkdirat(parent, name, 0755) < 0)
		return -1;
	*why = "openat";
	own = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	processes = own < 0 ? -1 : openat(own, "cgroup.procs", O_WRONLY | O_CLOEXEC);
	if (processes < 0)
		return -1;
	*why = "memory.max";
	if (limit("memory.max", number(record, ARG_CGROUP_MEMORY)) < 0)
		return -1;
	if (number(record, ARG_CGROUP_MEMORY)) {
		write_once(own, "memory.swap.max", "0"); /* a limit that swaps is none; absent where there is no swap */
		write_once(own, "memory.oom.group", "1");
	}
	*why = "pids.max";
	return limit("pids.max", number(record, ARG_CGROUP_PIDS));
}

void cgroup_make(const struct plan *plan) {
	const struct record *record = find(plan, OP_CGROUP);
	const char *why;
	if (!record)
		return;
	facts[FACT_CGROUP_ERRNO] = 0;
	if (make(record, &why) == 0) {
		keep(own);
		keep(parent);
		return;
	}
	int error = errno;
	cgroup_end();
	facts[FACT_CGROUP_ERRNO] = (uint64_t)error;
	speech.failure = CLASS_POLICY;
	if (words(record, ARG_CGROUP_MISSING) == WORD_CGROUP_MISSING_FATAL)
		die("have a cgroup delegated to you with the memory and pids controllers (systemd: Delegate=yes), or leave the limit out",
			error, why, "make a cgroup in %s", record->field[ARG_CGROUP_PARENT]);
	speech.failure = CLASS_SETUP;
	note("cannot make a cgroup in %s: %s on %s", record->field[ARG_CGROUP_PARENT], errno_name(error), why);
}

void cgroup_enter(const struct plan *plan) {
	if (!cgroup_wanted())
		return;
	if (write(processes, "0", 1) != 1)
		die("", errno, "write to cgroup.procs", "enter the payload's cgroup");
	close(processes);
	if (words(find(plan, OP_UNSHARE), 0) & WORD_UNSHARE_NAMESPACES_CGROUP && unshare(CLONE_NEWCGROUP) < 0)
		die("", errno, "unshare", "make a cgroup namespace");
}

static uint64_t value_of(const char *text, const char *key) {
	size_t length = strlen(key);
	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (!strncmp(line, key, length) && line[length] == ' ')
			return strtoull(line + length + 1, NULL, 10);
	return UNKNOWN;
}

static uint64_t peak(const char *file) {
	char text[64];
	get(file, text, sizeof text);
	return *text >= '0' && *text <= '9' ? strtoull(text, NULL, 10) : UNKNOWN;
}

void cgroup_end(void) {
	char text[1024];
	if (own >= 0) {
		write_once(own, "cgroup.kill", "1"); /* since Linux 5.14; everybody is dead already unless something failed */
		facts[FACT_PEAK_MEMORY_BYTES] = peak("memory.peak");
		facts[FACT_PEAK_PROCESSES] = peak("pids.peak");
		get("memory.events", text, sizeof text);
		facts[FACT_OOM_KILLS] = value_of(text, "oom_kill");
		close(own);
		own = -1;
	}
	for (int tries = 0; parent >= 0 && *name && unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno == EBUSY && tries < 100; tries++)
		nanosleep(&(struct timespec){.tv_nsec = 10 * 1000 * 1000}, NULL); /* the ended leave it a moment later */
}
