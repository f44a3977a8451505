/* Feeds bytes to the launcher's plan parser (launcher/plan.c).
 *
 * Every allocation is the sanitizer's own and exactly as large as asked for. Of a plan that is accepted,
 * everything is read that the rest of the launcher reads without checking it again. Most mutations are of whole records
 * or fields, since those of bytes seldom leave a plan in which anything is worth a second look.
 */
#define _GNU_SOURCE
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fuzz.h"
#include "launch.h"

struct speech speech;
int outcome;
static jmp_buf refused;
static void *allocated[16];
static size_t allocations;

void *reserve(size_t count, size_t size) {
	void *memory = calloc(count ? count : 1, size);
	if (!memory || allocations == sizeof allocated / sizeof *allocated)
		abort();
	return allocated[allocations++] = memory;
}

void release(void *memory) {
	for (size_t i = 0; i < allocations; i++)
		if (allocated[i] == memory)
			allocated[i] = NULL;
	free(memory);
}

_Noreturn void die(const char *fix, int error, const char *failed, const char *what, ...) {
	(void)error;
	if (!*fix || !*failed || !*what)
		abort(); /* a refusal says why, and what helps */
	longjmp(refused, 1);
}

static void require(bool condition) {
	if (!condition)
		abort();
}

/* What the launcher takes for granted of a plan that was checked. */
static void read_all(const struct plan *plan, const char *text, size_t size) {
	size_t objects = 0, requests = 0, bytes = 0;
	require(plan->count >= 2 && plan->records[0].id == OP_DUNNAGE_PLAN && plan->records[plan->count - 1].id == OP_END);
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		require(record->id < OPERATION_COUNT && (!i || operations[record->id].phase >= operations[record[-1].id].phase));
		bytes += strlen(operations[record->id].name) + 1;
		for (unsigned k = 0; k < operations[record->id].field_count; k++) {
			const struct field *field = &operations[record->id].fields[k];
			const char *value = record->field[k];
			require(value >= text && value < text + size);
			bytes += strlen(value) + 1;
			if (field->type == FIELD_NUMBER || field->type == FIELD_INDEX)
				require(strtoull(value, NULL, 10) == number(record, k));
			if (field->type == FIELD_MODE)
				require(mode_of(record, k) <= 07777);
			if (field->type == FIELD_WORD || field->type == FIELD_WORDS)
				words(record, k);
			if (field->type == FIELD_INSIDE || field->type == FIELD_PATH)
				require(*value == '/' && !strstr(value, "/../") && !strstr(value, "//") && strlen(value) < 4096);
			if (field->type == FIELD_BELOW)
				require(*value && *value != '/' && strncmp(value, "../", 3) && strcmp(value, ".."));
			if (!strcmp(field->name, "request"))
				require(number(record, k) <= plan->requests);
			if (!strcmp(field->name, "object"))
				require(number(record, k) < plan->objects);
			if (!strcmp(field->name, "opened"))
				require(number(record, k) < plan->opened);
		}
		objects += operations[record->id].phase == PHASE_OBJECTS && operations[record->id].field_count
			&& !strcmp(operations[record->id].fields[0].name, "object") && record->id != OP_STAGE;
		requests += record->id == OP_REQUEST;
	}
	require(bytes == size && requests == plan->requests && objects >= plan->objects);
	for (size_t i = 1; i <= plan->requests; i++)
		require(plan->request[i] && plan->request[i]->id == OP_REQUEST);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
	(void)argc;
	(void)argv;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
	struct plan plan;
	allocations = 0;
	char *text = reserve(size + 1, 1); /* as the launcher reads it: a NUL behind */
	memcpy(text, data, size);
	outcome = 0;
	if (!setjmp(refused)) {
		plan_parse(&plan, text, size);
		read_all(&plan, text, size);
		outcome = 1;
	}
	for (size_t i = 0; i < allocations; i++)
		free(allocated[i]);
	return 0;
}

/* ---- mutations of whole records ---- */

static uint32_t chance;

static size_t pick(size_t below) {
	chance = chance * 1664525u + 1013904223u;
	return below ? (chance >> 8) % below : 0;
}

struct piece {
	size_t at, size;
};

enum { MAX_PIECES = 512, MAX_SIZE = 1 << 16 };

static unsigned fields_of(const uint8_t *name) {
	for (unsigned i = 0; i < OPERATION_COUNT; i++)
		if (!strcmp(operations[i].name, (const char *)name))
			return operations[i].field_count;
	return 0;
}

/* Fields, or records where all of them can be told; every piece ends in a NUL. */
static size_t cut(const uint8_t *data, size_t size, struct piece *pieces, bool records) {
	size_t count = 0;
	for (size_t at = 0; at < size && count < MAX_PIECES;) {
		size_t start = at;
		for (unsigned fields = records && memchr(data + at, 0, size - at) ? fields_of(data + at) : 0; at < size; fields--) {
			const uint8_t *end = memchr(data + at, 0, size - at);
			at = end ? (size_t)(end - data) + 1 : size;
			if (!fields)
				break;
		}
		pieces[count++] = (struct piece){start, at - start};
	}
	return count;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t limit, unsigned seed) {
	static struct piece pieces[MAX_PIECES];
	static uint8_t made[MAX_SIZE];
	chance = seed;
	size_t used = 0, kind = pick(8), count;
	if (kind > 5 || size > MAX_SIZE / 2)
		return LLVMFuzzerMutate(data, size, limit);
	count = cut(data, size, pieces, kind < 4);
	size_t one = pick(count), other = pick(count);
	for (size_t i = 0; i < count; i++) {
		struct piece piece = pieces[i], before = {0, 0};
		if (i == one && kind == 0)
			continue; /* left out */
		if (i == one && kind == 1)
			before = piece; /* twice */
		if (i == one && kind == 2)
			before = pieces[other]; /* another one before it */
		if ((i == one || i == other) && kind == 3)
			piece = pieces[i == one ? other : one]; /* exchanged */
		if (i == one && kind == 4)
			piece = pieces[other]; /* a field from somewhere else */
		memcpy(made + used, data + before.at, before.size);
		used += before.size;
		if (i == one && kind == 5 && piece.size) { /* a field of its own making */
			size_t room = sizeof made - used - size - 1;
			memcpy(made + used, data + piece.at, piece.size - 1);
			used += LLVMFuzzerMutate(made + used, piece.size - 1, room < 4200 ? room : 4200);
			made[used++] = 0;
			continue;
		}
		memcpy(made + used, data + piece.at, piece.size);
		used += piece.size;
	}
	if (used > limit)
		return LLVMFuzzerMutate(data, size, limit);
	memcpy(data, made, used);
	return used;
}
