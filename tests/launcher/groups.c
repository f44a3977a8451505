/* Linked with the launcher, -Wl,--wrap=read: where it reads /proc/self/status, its user is in GROUPS groups more, as
 * only root could arrange. */
#include <string.h>
#include <unistd.h>

static const char group[] = "65534 ";
enum { GROUPS = 700, LARGEST = 4000 };

ssize_t __real_read(int fd, void *buffer, size_t size);
ssize_t __wrap_read(int fd, void *buffer, size_t size);

static char shown[LARGEST + GROUPS * (sizeof group - 1)];
static size_t length, at;

static void add(const char *from, size_t size) {
	memcpy(shown + length, from, size);
	length += size;
}

ssize_t __wrap_read(int fd, void *buffer, size_t size) {
	static char text[LARGEST + 1];
	if (at == length) {
		ssize_t got = __real_read(fd, buffer, size);
		char *groups;
		if (got < 5 || got > LARGEST || memcmp(buffer, "Name:", 5))
			return got;
		memcpy(text, buffer, (size_t)got);
		groups = strstr(text, "\nGroups:\t");
		if (!groups)
			return got;
		groups += strlen("\nGroups:\t");
		length = at = 0;
		add(text, (size_t)(groups - text));
		for (int i = 0; i < GROUPS; i++)
			add(group, sizeof group - 1);
		add(groups, (size_t)(text + got - groups));
	}
	size = size < length - at ? size : length - at;
	memcpy(buffer, shown + at, size);
	at += size;
	return (ssize_t)size;
}
