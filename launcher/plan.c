/* Reading a plan: everything is checked before anything is done. */
#define _GNU_SOURCE
#define OPERATION_TABLE
#include <limits.h>
#include <string.h>

#include "launch.h"

enum { MAX_MILLISECONDS = INT_MAX }; /* 24 days, and what poll takes */
enum { MAX_RECORDS = 1 << 21, MAX_OBJECTS = 1 << 18, MAX_INSIDE_DEPTH = 1024 };

_Noreturn static void refuse(const struct plan *plan, const char *why) {
	const char *name = plan->count ? operations[plan->records[plan->count - 1].id].name : "start";
	die("make the plan anew with this version of dunnage", 0, why, "read the plan (record %zu, %s)", plan->count, name);
}

/* ---- fields ---- */

static bool parse_number(const char *text, unsigned base, uint64_t limit, uint64_t *result) {
	uint64_t value = 0;
	if (!*text || strlen(text) > 20 || (text[0] == '0' && text[1] && base == 10))
		return false;
	for (; *text; text++) {
		unsigned digit = (unsigned)(*text - '0');
		if (digit >= base || value > (UINT64_MAX - digit) / base)
			return false;
		value = value * base + digit;
	}
	*result = value;
	return value <= limit;
}

static bool entry_name(const char *text, size_t length) {
	return length && length <= NAME_MAX && !(length == 1 && text[0] == '.')
		&& !(length == 2 && text[0] == '.' && text[1] == '.');
}

/* Names separated by single slashes. */
static bool relative_path(const char *text) {
	if (strlen(text) >= PATH_MAX)
		return false;
	for (unsigned depth = 0; depth < MAX_INSIDE_DEPTH; depth++) {
		size_t length = strcspn(text, "/");
		if (!entry_name(text, length))
			return false;
		if (!text[length])
			return true;
		text += length + 1;
	}
	return false;
}

static bool absolute_path(const char *text) {
	return text[0] == '/' && (!text[1] || relative_path(text + 1)) && strlen(text) < PATH_MAX;
}

static bool one_word(const char *const *list, const char *text, size_t length, unsigned *which) {
	for (*which = 0; list[*which]; ++*which)
		if (strlen(list[*which]) == length && !memcmp(list[*which], text, length))
			return true;
	return false;
}

static bool word_set(const char *const *list, const char *text, unsigned *bits) {
	*bits = 0;
	while (*text) {
		unsigned which;
		size_t length = strcspn(text, ",");
		if (!one_word(list, text, length, &which) || *bits & 1u << which)
			return false;
		*bits |= 1u << which;
		text += length;
		if (*text && !*++text)
			return false;
	}
	return true;
}

static bool field_valid(const struct field *field, const char *text) {
	uint64_t value;
	unsigned word;
	switch (field->type) {
	case FIELD_INDEX: return parse_number(text, 10, MAX_OBJECTS, &value);
	case FIELD_NUMBER: return parse_number(text, 10, UINT64_MAX, &value);
	case FIELD_MODE: return parse_number(text, 8, 07777, &value);
	case FIELD_INSIDE:
	case FIELD_PATH: return absolute_path(text);
	case FIELD_BELOW: return relative_path(text);
	case FIELD_TEXT: return true;
	case FIELD_WORD: return one_word(field->words, text, strlen(text), &word);
	case FIELD_WORDS: return word_set(field->words, text, &word);
	}
	return false;
}

uint64_t number(const struct record *record, unsigned argument) {
	uint64_t value = 0;
	parse_number(record->field[argument], operations[record->id].fields[argument].type == FIELD_MODE ? 8 : 10,
		UINT64_MAX, &value);
	return value;
}

unsigned small(const struct record *record, unsigned argument) {
	return (unsigned)number(record, argument);
}

mode_t mode_of(const struct record *record, unsigned argument) {
	return (mode_t)number(record, argument);
}

unsigned words(const struct record *record, unsigned argument) {
	const struct field *field = &operations[record->id].fields[argument];
	const char *text = record->field[argument];
	unsigned result = 0;
	if (field->type == FIELD_WORD)
		one_word(field->words, text, strlen(text), &result);
	else
		word_set(field->words, text, &result);
	return result;
}

const struct record *find(const struct plan *plan, enum operation_id id) {
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == id)
			return &plan->records[i];
	return NULL;
}

/* ---- what belongs together ---- */

enum { HAS_OBJECT = 1, IS_SOURCE = 2, IS_STAGED = 4, IS_ATTACHED = 8, IS_DIR = 16, IS_RO = 32, IS_CREDENTIALS = 64, IS_SERVED = 128 };
enum { OPEN_BEGUN = 1, OPEN_FILLED, OPEN_SEALED };

struct check {
	struct plan *plan;
	unsigned char *objects, *opened;
	bool user, mount, pid, ipc, uts, net, session, scratch, root, entered, speak, init, own_session;
	unsigned supervision; /* bits of the operations that come once */
};

static void need(struct check *check, bool condition, const char *why) {
	if (!condition)
		refuse(check->plan, why);
}

static void once(struct check *check, enum operation_id id) {
	unsigned bit = 1u << (id - OP_DIE_WITH_CALLER);
	need(check, !(check->supervision & bit), "it is said once");
	check->supervision |= bit;
}

static bool said(const struct check *check, enum operation_id id) {
	return check->supervision & 1u << (id - OP_DIE_WITH_CALLER);
}

static unsigned char *object(struct check *check, const struct record *record, unsigned argument) {
	unsigned which = small(record, argument);
	need(check, which < check->plan->objects, "it names an object that does not exist");
	return &check->objects[which];
}

static unsigned char *opened(struct check *check, const struct record *record) {
	unsigned which = small(record, 0);
	need(check, which < check->plan->opened, "it names a directory that was not opened");
	return &check->opened[which];
}

static void declare(struct check *check, const struct record *record, unsigned what) {
	unsigned char *state = object(check, record, 0);
	need(check, !*state, "the object exists already");
	*state = (unsigned char)(HAS_OBJECT | what);
}

static void request_exists(struct check *check, const struct record *record) {
	const struct operation *operation = &operations[record->id];
	for (unsigned i = 0; i < operation->field_count; i++)
		if (!strcmp(operation->fields[i].name, "request"))
			need(check, small(record, i) <= check->plan->requests, "it names a request that does not exist");
}

static void check_record(struct check *check, const struct record *record) {
	unsigned char *state;
	switch (record->id) {
	case OP_UNSHARE: {
		unsigned which = words(record, ARG_UNSHARE_NAMESPACES);
		need(check, !check->user, "namespaces are made once");
		check->user = which & WORD_UNSHARE_NAMESPACES_USER;
		check->mount = which & WORD_UNSHARE_NAMESPACES_MOUNT;
		check->pid = which & WORD_UNSHARE_NAMESPACES_PID;
		check->ipc = which & WORD_UNSHARE_NAMESPACES_IPC;
		check->uts = which & WORD_UNSHARE_NAMESPACES_UTS;
		check->net = which & WORD_UNSHARE_NAMESPACES_NET;
		need(check, check->user && check->mount, "user and mount namespaces are obligatory");
		break;
	}
	case OP_UID_MAP:
	case OP_GID_MAP:
		for (unsigned i = 0; i < 3; i++)
			need(check, number(record, i) < UINT32_MAX, "an id is too large");
		break;
	case OP_HOSTNAME:
		need(check, check->uts, "a host name needs a uts namespace");
		need(check, strlen(record->field[0]) <= 64, "the host name is longer than 64 bytes");
		break;
	case OP_DIE_WITH_CALLER:
		once(check, record->id);
		need(check, number(record, 0) < INT_MAX, "the caller's pid is too large");
		break;
	case OP_CPU_TIME: need(check, check->pid, "it needs a pid namespace"); /* fall through */
	case OP_WALL_TIME:
		once(check, record->id);
		need(check, number(record, 0) && number(record, 0) <= MAX_MILLISECONDS && number(record, 1) <= MAX_MILLISECONDS,
			"the time is out of range");
		break;
	case OP_SUPERVISE: case OP_CGROUP: once(check, record->id); break;
	case OP_HOLD:
		need(check, check->pid || said(check, OP_SUPERVISE), "nobody stays to hold it");
		need(check, number(record, 0) > 2 && number(record, 0) < INT_MAX, "there is no such descriptor");
		break;
	case OP_RECEIPT:
		once(check, record->id);
		need(check, !strchr(record->field[ARG_RECEIPT_NAME], '/'), "its name is more than a name");
		break;
	case OP_RECEIPT_STATE: need(check, said(check, OP_RECEIPT), "there is no receipt"); break;
	case OP_LOOPBACK: need(check, check->net, "it needs a net namespace"); break;
	case OP_SOURCE: {
		unsigned flags = words(record, ARG_SOURCE_FLAGS);
		bool dir = words(record, ARG_SOURCE_KIND) == WORD_SOURCE_KIND_DIR;
		declare(check, record, IS_SOURCE | (dir ? IS_DIR : 0u) | (flags & WORD_SOURCE_FLAGS_RO ? IS_RO : 0u));
		break;
	}
	case OP_IMAGE_FILE:
		declare(check, record, IS_SOURCE | IS_DIR | IS_RO | IS_SERVED);
		need(check, !record->field[ARG_IMAGE_FILE_BELOW][0] || relative_path(record->field[ARG_IMAGE_FILE_BELOW]),
			"the path in it is malformed");
		break;
	case OP_SERVER_ARGUMENT: case OP_SERVER_READS:
		need(check, *object(check, record, 0) & IS_SERVED, "it is for another kind of object");
		break;
	case OP_SCRATCH: need(check, !check->scratch, "there is one scratch"); check->scratch = true; break;
	case OP_SESSION: need(check, !check->session, "there is one session"); check->session = true; break;
	case OP_GENERATED: declare(check, record, IS_RO); break;
	case OP_PRIVATE:
		need(check, check->session, "private directories need a session before them");
		declare(check, record, IS_DIR);
		break;
	case OP_CREDENTIALS:
		once(check, record->id);
		declare(check, record, IS_DIR | IS_CREDENTIALS);
		break;
	case OP_CREDENTIAL:
		need(check, *object(check, record, 0) & IS_CREDENTIALS, "it is for another kind of object");
		need(check, !strchr(record->field[ARG_CREDENTIAL_NAME], '/'), "its name is more than a name");
		need(check, strcmp(record->field[ARG_CREDENTIAL_NAME], ".new"), "copies have that name while they are made");
		break;
	case OP_STAGE:
		state = object(check, record, ARG_STAGE_OBJECT);
		need(check, *state & IS_SOURCE && *state & IS_DIR && *state & IS_RO && !(*state & IS_STAGED),
			"only a read-only directory of the host or of an image file is staged, once");
		*state |= IS_STAGED;
		break;
	case OP_ROOT:
		state = object(check, record, ARG_ROOT_OBJECT);
		need(check, *state & IS_SOURCE && *state & IS_DIR && !(*state & IS_ATTACHED) && !check->root,
			"the root is one directory of the host");
		*state |= IS_ATTACHED;
		check->root = true;
		break;
	case OP_OPEN:
		state = opened(check, record);
		need(check, !*state, "the directory was opened already");
		*state = OPEN_BEGUN;
		need(check, *object(check, record, ARG_OPEN_BACKING) & IS_STAGED, "its backing is not staged");
		need(check, !record->field[ARG_OPEN_BELOW][0] || relative_path(record->field[ARG_OPEN_BELOW]),
			"its path below the backing is malformed");
		need(check, number(record, ARG_OPEN_SECONDS) <= INT64_MAX && number(record, ARG_OPEN_NANOSECONDS) < 1000000000,
			"its modification time is out of range");
		if (record->field[ARG_OPEN_INSIDE][1]) {
			need(check, check->root, "nothing can be opened before the root exists");
		} else {
			need(check, !check->root, "there is one root");
			check->root = true;
		}
		break;
	case OP_POINT_DIR:
	case OP_POINT_FILE:
	case OP_EXPECT_NO_DIR:
	case OP_FILL:
		state = opened(check, record);
		need(check, *state == OPEN_BEGUN, "the directory is not being opened");
		if (record->id == OP_FILL)
			*state = OPEN_FILLED;
		break;
	case OP_SEAL:
		state = opened(check, record);
		need(check, *state == OPEN_FILLED, "the directory was not filled, or is sealed already");
		*state = OPEN_SEALED;
		break;
	case OP_ATTACH: {
		state = object(check, record, ARG_ATTACH_OBJECT);
		need(check, *state & HAS_OBJECT && !(*state & IS_ATTACHED), "the object does not exist or is attached already");
		need(check, !(*state & IS_DIR) == (words(record, ARG_ATTACH_KIND) != WORD_ATTACH_KIND_DIR),
			"a directory goes on a directory, anything else does not");
		*state |= IS_ATTACHED;
		break;
	}
	case OP_MOUNT_PROC: need(check, check->pid, "a new proc needs a pid namespace"); break;
	case OP_MOUNT_MQUEUE: need(check, check->ipc, "mqueue needs an ipc namespace"); break;
	case OP_ENTER:
		need(check, !check->entered, "the root is entered once");
		for (size_t i = 0; i < check->plan->opened; i++)
			need(check, check->opened[i] == OPEN_SEALED, "an opened directory was not sealed");
		check->entered = true;
		break;
	case OP_NEW_SESSION:
		need(check, check->pid || said(check, OP_SUPERVISE), "a new session needs a pid namespace or supervision");
		check->own_session = true;
		break;
	case OP_CONTROLLING_TERMINAL: need(check, check->own_session, "it needs a new session before it"); break;
	case OP_LIMIT:
		need(check, number(record, ARG_LIMIT_SOFT) <= number(record, ARG_LIMIT_HARD), "its soft limit is above the hard one");
		break;
	case OP_INIT:
		need(check, check->pid && !check->init, "one init, and only with a pid namespace");
		need(check, record->field[0][0] && strlen(record->field[0]) <= 15, "its name has 1 to 15 bytes");
		check->init = true;
		break;
	case OP_ENV_SET:
	case OP_ENV_PASS:
		need(check, record->field[0][0] && !strchr(record->field[0], '='), "a variable's name is malformed");
		break;
	case OP_KEEP_DESCRIPTOR:
		need(check, number(record, 0) < INT_MAX, "the descriptor's number is too large");
		break;
	case OP_SPEAK:
		need(check, !check->speak, "it speaks once");
		need(check, number(record, ARG_SPEAK_LEVEL) <= 5 && number(record, ARG_SPEAK_CODE) <= 255, "level or code is out of range");
		check->speak = true;
		break;
	case OP_REQUEST: {
		unsigned which = small(record, 0);
		need(check, which == check->plan->requests + 1, "requests are numbered from 1 without gaps");
		check->plan->request[++check->plan->requests] = record;
		break;
	}
	default: break;
	}
	if (operations[record->id].phase > PHASE_NAMESPACES)
		need(check, check->user, "nothing is done before the namespaces exist");
	if (operations[record->id].phase == PHASE_ROOT || record->id == OP_OPEN)
		need(check, check->scratch, "there is no scratch");
	if (operations[record->id].phase == PHASE_PLACING && record->id != OP_OPEN)
		need(check, check->root, "there is no root");
	if (operations[record->id].phase >= PHASE_PROCESS && record->id != OP_ENTER)
		need(check, check->entered, "the root was not entered");
	if (operations[record->id].phase == PHASE_PLACING || record->id == OP_SOURCE || record->id == OP_IMAGE_FILE
	    || record->id == OP_CREDENTIAL)
		request_exists(check, record);
}

/* ---- records ---- */

static bool lookup(const char *name, enum operation_id *id) {
	for (unsigned i = 0; i < OPERATION_COUNT; i++)
		if (!strcmp(operations[i].name, name)) {
			*id = (enum operation_id)i;
			return true;
		}
	return false;
}

void plan_parse(struct plan *plan, char *text, size_t size) {
	*plan = (struct plan){.records = NULL};
	size_t fields = 0;
	for (size_t i = 0; i < size; i++)
		fields += !text[i];
	if (!size || text[size - 1])
		refuse(plan, "it does not end in a NUL byte");
	if (fields > MAX_RECORDS)
		refuse(plan, "it is too long");
	char **field = reserve(fields, sizeof *field);
	for (size_t i = 0, start = 0, at = 0; i < size; i++)
		if (!text[i]) {
			field[at++] = text + start;
			start = i + 1;
		}
	plan->records = reserve(fields, sizeof *plan->records);
	enum phase phase = PHASE_FRAME;
	for (size_t at = 0; at < fields;) {
		struct record *record = &plan->records[plan->count];
		bool known = lookup(field[at], &record->id);
		if (!known)
			refuse(plan, "the record after it is of an unknown operation");
		plan->count++;
		const struct operation *operation = &operations[record->id];
		record->field = &field[++at];
		if (operation->field_count > fields - at)
			refuse(plan, "it is cut short");
		at += operation->field_count;
		if (operation->phase < phase || (plan->count > 1 && operation->phase == PHASE_FRAME))
			refuse(plan, "it comes too late in the plan");
		if (plan->count == 1 && (record->id != OP_DUNNAGE_PLAN || strcmp(record->field[0], "1")))
			refuse(plan, "this is not a plan, or not of this version");
		phase = operation->phase;
		for (unsigned i = 0; i < operation->field_count; i++)
			if (!field_valid(&operation->fields[i], record->field[i]))
				refuse(plan, operation->fields[i].name);
		switch (record->id) { /* numbers are dense, so counting is sizing */
		case OP_SOURCE: case OP_IMAGE_FILE: case OP_GENERATED: case OP_PRIVATE: case OP_CREDENTIALS: plan->objects++; break;
		case OP_OPEN: plan->opened++; break;
		default: break;
		}
		if (record->id == OP_END && at != fields)
			refuse(plan, "something follows the end");
	}
	if (!plan->count || plan->records[plan->count - 1].id != OP_END)
		refuse(plan, "it has no end");

	struct check check = {.plan = plan};
	check.objects = reserve(plan->objects, 1);
	check.opened = reserve(plan->opened, 1);
	plan->request = reserve(plan->count + 1, sizeof *plan->request);
	size_t total = plan->count;
	for (plan->count = 0; plan->count < total;) {
		const struct record *record = &plan->records[plan->count++];
		check_record(&check, record);
	}
	need(&check, check.entered, "it never enters a root");
	need(&check, check.init || !said(&check, OP_CPU_TIME), "the limit of processor time needs an init");
	release(check.objects);
	release(check.opened);
}
