/* Credentials: copies of host files that follow renames, in a directory that the payload can only read. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "launch.h"

enum { LARGEST = 1 << 20, PAGE = 65536 }; /* the largest page that a machine has */

struct credential {
	const struct record *record;
	struct stat copied;
};

static struct credential *credentials;
static size_t count;
static int host = -1; /* its root: after pivot_root it has no path here */

void credentials_prepare(const struct plan *plan) {
	for (size_t i = 0; i < plan->count; i++)
		count += plan->records[i].id == OP_CREDENTIAL;
	if (!count)
		return;
	credentials = reserve(count, sizeof *credentials);
	count = 0;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_CREDENTIAL)
			credentials[count++].record = &plan->records[i];
	host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (host < 0)
		die("", errno, "open of /", "follow the credentials");
	keep(host);
}

static bool same(const struct stat *a, const struct stat *b) {
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size
		&& a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec
		&& a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* What is there now, unless that is what was copied last: 1 when copied, 0 when the same, -1 and `why`. */
static int copy(struct credential *credential, int directory, const char **why) {
	static _Alignas(PAGE) char content[LARGEST + PAGE];
	static const char temporary[] = ".new";
	struct stat found;
	*why = "open";
	int from = open_in_root(host, credential->record->field[ARG_CREDENTIAL_PATH] + 1, O_RDONLY | O_NONBLOCK);
	if (from < 0)
		return -1;
	int result = -1, to = -1;
	size_t size = 0;
	if (fstat(from, &found) < 0) {
		*why = "fstat";
	} else if (same(&found, &credential->copied)) {
		result = 0;
	} else if (!S_ISREG(found.st_mode) || found.st_size > LARGEST) {
		*why = S_ISREG(found.st_mode) ? "it is larger than 1 MiB" : "it is not a regular file";
		errno = 0;
	} else {
		ssize_t got = 1;
		for (*why = "read"; got > 0 && size <= LARGEST; size += got > 0 ? (size_t)got : 0)
			got = read(from, content + size, LARGEST + 1 - size);
		if (!got && size <= LARGEST) {
			*why = "writing the copy";
			to = openat(directory, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0400);
		}
	}
	close(from);
	bool written = to >= 0;
	for (size_t done = 0; written && done < size;) {
		ssize_t wrote = write(to, content + done, size - done);
		written = wrote > 0;
		done += written ? (size_t)wrote : 0;
	}
	int error = errno;
	if (madvise(content, sizeof content, MADV_DONTNEED) < 0) /* nothing of it stays with us, neither secret nor memory */
		memset(content, 0, size);
	errno = error;
	if (to < 0)
		return result;
	close(to);
	if (!written || renameat(directory, temporary, directory, credential->record->field[ARG_CREDENTIAL_NAME]) < 0)
		return -1;
	credential->copied = found;
	return 1;
}

void credentials_copy(int directory) {
	for (size_t i = 0; i < count; i++) {
		const struct record *record = credentials[i].record;
		const char *why;
		if (copy(&credentials[i], directory, &why) < 0)
			die_request(small(record, ARG_CREDENTIAL_REQUEST), record->field[ARG_CREDENTIAL_PATH], errno, why);
	}
}

/* What cannot be read now, or not yet, stays as it was. */
void credentials_renew(int directory) {
	for (size_t i = 0; i < count; i++) {
		const char *why;
		if (copy(&credentials[i], directory, &why) > 0)
			facts[FACT_CREDENTIALS_RENEWED]++;
	}
}
