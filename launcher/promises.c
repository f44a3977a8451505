/* What the plan promises of each mount, and whether the kernel shows it. */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "place.h"

/* ---- promises ---- */

struct promise { /* flags, of mount(2), that mounts at and below a path must have */
	const char *place;
	unsigned long flags;
	unsigned request;
	bool seen;
};

static int by_place(const void *a, const void *b) {
	return strcmp(((const struct promise *)a)->place, ((const struct promise *)b)->place);
}

static struct promise *promise_for(struct promise *promises, size_t count, const char *path) {
	char above[PATH_MAX];
	size_t length = strlen(path);
	if (length >= sizeof above)
		return NULL;
	memcpy(above, path, length + 1);
	for (;;) {
		struct promise wanted = {.place = *above ? above : "/"};
		struct promise *found = bsearch(&wanted, promises, count, sizeof *promises, by_place);
		if (found || !*above)
			return found;
		*strrchr(above, '/') = 0;
	}
}

static struct promise promise(const char *place, const struct record *object, unsigned request) {
	unsigned given = object->id == OP_SOURCE ? words(object, ARG_SOURCE_FLAGS) : 0;
	bool ro = object->id == OP_GENERATED || object->id == OP_CREDENTIALS || object->id == OP_IMAGE_FILE
		|| given & WORD_SOURCE_FLAGS_RO;
	return (struct promise){.place = place, .request = request,
		.flags = MS_NOSUID | (given & WORD_SOURCE_FLAGS_DEV ? 0 : MS_NODEV) | (ro ? MS_RDONLY : 0)};
}

/* Sorted. */
static struct promise *of_root(const struct plan *plan, size_t *count) {
	struct promise *promises = reserve(plan->count + 1, sizeof *promises);
	size_t made = 0;
	promises[made++] = (struct promise){.place = "/", .flags = MS_RDONLY | MS_NOSUID | MS_NODEV};
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id == OP_ATTACH)
			promises[made++] = promise(record->field[ARG_ATTACH_INSIDE],
				objects[small(record, ARG_ATTACH_OBJECT)].record, small(record, ARG_ATTACH_REQUEST));
		else if (record->id == OP_MOUNT_PROC || record->id == OP_MOUNT_MQUEUE)
			promises[made++] = (struct promise){.place = record->field[0], .flags = MS_NOSUID | MS_NODEV};
		else if (record->id == OP_MOUNT_DEVPTS)
			promises[made++] = (struct promise){.place = record->field[0], .flags = MS_NOSUID};
		else if (record->id == OP_MOUNT_TMPFS)
			promises[made++] = (struct promise){.place = record->field[ARG_MOUNT_TMPFS_INSIDE], .flags = MS_NOSUID | MS_NODEV};
	}
	qsort(promises, made, sizeof *promises, by_place);
	*count = made;
	return promises;
}

/* What mount(2) mounted is not read-only yet. */
void expect_writable(const struct plan *plan, const char *inside, unsigned request) {
	static struct promise *promises;
	static size_t count;
	char above[PATH_MAX];
	if (!promises)
		promises = of_root(plan, &count);
	snprintf(above, sizeof above, "%s", inside);
	*strrchr(above, '/') = 0;
	const struct promise *promised = promise_for(promises, count, above);
	if (!promised || promised->flags & MS_RDONLY)
		die_request(request, inside, EROFS, "mkdirat or mknodat of its mount point in the writable bind");
}

/* ---- entries that were taken over ---- */

struct filled { /* an opened directory with such entries: each of them is a mount, too */
	const char *inside;
	unsigned request;
	size_t made, shown; /* mounts directly in it: all that were made; those that the kernel shows */
};

static int by_inside(const void *a, const void *b) {
	return strcmp(((const struct filled *)a)->inside, ((const struct filled *)b)->inside);
}

/* The one in which this is; NULL when there is none. */
static struct filled *filled_around(struct filled *sorted, size_t count, const char *path) {
	size_t low = 0, high = count, length = (size_t)(strrchr(path, '/') - path);
	while (low < high) {
		size_t middle = (low + high) / 2;
		const char *inside = sorted[middle].inside;
		inside += !inside[1]; /* that of the root has no slash before its entries */
		int order = strncmp(path, inside, length);
		if (!order && inside[length])
			order = -1;
		if (!order)
			return &sorted[middle];
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return NULL;
}

/* Sorted. Other mounts in them may cover the entries: all are counted. */
static size_t filled_directories(const struct plan *plan, struct filled *sorted, const struct promise *promises, size_t promised) {
	size_t count = 0;
	struct filled *around;
	for (size_t i = 0; i < plan->opened; i++)
		if (opened[i].taken)
			sorted[count++] = (struct filled){.inside = opened[i].record->field[ARG_OPEN_INSIDE],
				.request = small(opened[i].record, ARG_OPEN_REQUEST), .made = opened[i].taken};
	qsort(sorted, count, sizeof *sorted, by_inside);
	for (size_t i = 0; i < plan->opened; i++) {
		const char *inside = opened[i].record->field[ARG_OPEN_INSIDE];
		if (inside[1] && (opened[i].mounted || opened[i].overlay) && (around = filled_around(sorted, count, inside)))
			around->made++;
	}
	for (size_t i = 0; i < promised; i++)
		if (promises[i].place[1] && (around = filled_around(sorted, count, promises[i].place)))
			around->made++;
	return count;
}

/* ---- keeping what was promised ---- */

enum { ROUNDS = 5 };

/* A call that returned 0 is no proof: read back what the kernel shows. mount(2) has set no flags yet, and mounts can
 * come while we look: a round that finds nothing to change ends it. `whole`: there is nothing but what was promised,
 * and entries of `filled` directories. */
static void hold(struct promise *promises, size_t count, bool whole, struct filled *filled, size_t filled_count) {
	bool changed = true;
	for (unsigned round = 0; changed; round++) {
		struct mount_table table;
		changed = false;
		for (size_t i = 0; i < filled_count; i++)
			filled[i].shown = 0;
		if (mount_table_read(&table) < 0 || !table.count)
			die("", errno, "reading mountinfo", "verify the mounts");
		for (size_t i = 0; i < table.count; i++) {
			const struct mount_entry *entry = &table.entries[i];
			struct promise *promised = promise_for(promises, count, entry->point);
			bool exactly = promised && !strcmp(promised->place, entry->point);
			struct filled *around = entry->point[1] ? filled_around(filled, filled_count, entry->point) : NULL;
			if (exactly)
				promised->seen = true;
			if (around)
				around->shown++;
			unsigned long missing = promised ? promised->flags & ~entry->flags : 0;
			if ((promised ? !missing : !whole) || mount_hidden(&table, entry))
				continue; /* what another mount covers, the payload cannot reach either */
			if (!promised)
				die_request(0, entry->point, 0, "the mount came out without a place in the plan");
			int error = 0;
			if (classic && round < ROUNDS) {
				error = mount_restrict(entry, promised->flags) < 0 ? errno : 0;
				changed = true;
				if (!error || error == ESTALE || error == ENOENT) /* the next round tells */
					continue;
			}
			char why[100];
			snprintf(why, sizeof why, "%s%s", error ? "the remount that makes it " : "the mount came out without ",
				missing & MS_RDONLY ? "ro" : missing & MS_NOSUID ? "nosuid" : "nodev");
			die_request(promised->request, entry->point, error, why);
		}
		mount_table_free(&table);
	}
	for (size_t i = 0; i < count; i++)
		if (!promises[i].seen)
			die_request(promises[i].request, promises[i].place, 0, "it is not among the mounts after all were made");
	for (size_t i = 0; i < filled_count; i++)
		if (filled[i].shown < filled[i].made)
			die_request(filled[i].request, filled[i].inside, 0, "one of its entries is not among the mounts after all were made");
}

/* What is taken from the stages has their flags. */
void promises_hold_stages(const struct plan *plan) {
	struct promise *promises = reserve(plan->objects, sizeof *promises);
	char top[PATH_MAX], link[32];
	size_t count = 0, size = PATH_MAX + 24;
	ssize_t length = readlink(proc_path(link, scratch), top, sizeof top - 1);
	if (length < 0)
		die("", errno, "readlink", "find the scratch");
	top[length] = 0;
	for (size_t i = 0; i < plan->objects; i++)
		if (objects[i].staged) {
			char *place = reserve(size, 1);
			snprintf(place, size, "%s/s%zu", top, i);
			promises[count++] = promise(place, objects[i].record, request_of(objects[i].record));
		}
	qsort(promises, count, sizeof *promises, by_place);
	hold(promises, count, false, NULL, 0);
	for (size_t i = 0; i < count; i++)
		release((void *)(uintptr_t)promises[i].place);
	release(promises);
}

void promises_hold_root(const struct plan *plan) {
	size_t count;
	struct promise *promises = of_root(plan, &count);
	struct filled *filled = reserve(plan->opened, sizeof *filled);
	hold(promises, count, true, filled, filled_directories(plan, filled, promises, count));
	release(filled);
	release(promises);
}
