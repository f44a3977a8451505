/* Memory of a process that lives for a millisecond: the first 64 KiB come from its own zeroed pages, since every
 * allocation of the C library costs one mmap and its page faults, a tenth of the whole launch together. */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "launch.h"

#ifdef __SANITIZE_ADDRESS__
enum { ARENA = 16 }; /* let the sanitizer see every allocation */
#else
enum { ARENA = 64 << 10 };
#endif

static _Alignas(16) char arena[ARENA];
static size_t used;

void *reserve(size_t count, size_t size) {
	size_t wanted = count && size > SIZE_MAX / 2 / count ? SIZE_MAX / 2 : (count * size | 15) + 1; /* never 0 */
	void *memory = arena + used;
	if (wanted <= sizeof arena - used) {
		used += wanted;
		return memory;
	}
	memory = calloc(wanted, 1);
	if (!memory)
		die("free some memory, or raise the limit of it (ulimit -v)", ENOMEM, "calloc", "start the container, at %s", speech.doing);
	return memory;
}

void *room_for_one(void *list, size_t count, size_t size) {
	if (count && (count < 16 || count & (count - 1)))
		return list;
	void *larger = reserve(count ? 2 * count : 16, size);
	if (count)
		memcpy(larger, list, count * size);
	release(list);
	return larger;
}

void release(void *memory) {
	uintptr_t at = (uintptr_t)memory, first = (uintptr_t)arena;
	if (at - first >= sizeof arena) /* what lies in the arena stays */
		free(memory);
}
