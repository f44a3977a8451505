/* Messages: Python is gone when these are needed, so the plan says which shape they take. */
#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "launch.h"

struct speech speech = {.name = "dunnage-launch", .level = 2, .code = EXIT_FAILED, .doing = "starting", .failure = CLASS_SETUP};

/* Never strerror(): clients of the foreign names act on the C library's texts. */
const char *errno_name(int error) {
#define NAME(e) case e: return #e;
	switch (error) { ERRNO_NAMES(NAME) }
#undef NAME
	return "an unexpected error";
}

enum { LINE = 4000 };

struct text {
	char bytes[LINE];
	size_t used;
};

/* Appends; bytes that could disturb a terminal or a line-based reader are escaped. */
static void append(struct text *text, const char *from) {
	for (; *from && text->used < LINE - 8; from++) {
		unsigned char byte = (unsigned char)*from;
		if (byte == '\n')
			text->used += (size_t)sprintf(text->bytes + text->used, "\\n");
		else if (byte < 32 || byte == 127)
			text->used += (size_t)sprintf(text->bytes + text->used, "\\x%02x", byte);
		else
			text->bytes[text->used++] = (char)byte;
	}
	text->bytes[text->used] = 0;
}

static void append_format(struct text *text, const char *format, va_list arguments) {
	char line[LINE];
	vsnprintf(line, sizeof line, format, arguments);
	append(text, line);
}

static void PRINTF(2, 3) appendf(struct text *text, const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	append_format(text, format, arguments);
	va_end(arguments);
}

static void emit(struct text *text) {
	text->bytes[text->used++] = '\n';
	for (size_t done = 0; done < text->used;) {
		ssize_t wrote = write(2, text->bytes + done, text->used - done);
		if (wrote < 0 && errno != EINTR)
			return;
		if (wrote > 0)
			done += (size_t)wrote;
	}
}

/* Phrases that clients take for a verdict when they see them on stderr; paths can contain them. */
static void guard(char *line, bool is_fatal) {
	static const char *const phrases[] = {CLIENT_PHRASES};
	for (size_t i = 0; i < (is_fatal ? FORBIDDEN_PHRASES : sizeof phrases / sizeof *phrases); i++)
		for (char *hit; (hit = strstr(line, phrases[i]));)
			*hit = (char)(isupper((unsigned char)*hit) ? tolower((unsigned char)*hit) : toupper((unsigned char)*hit));
	for (char *hit; !is_fatal && (hit = strstr(line, "error: "));)
		hit[5] = ';';
}

/* Clients keep 400 bytes of the line and look for the cause in it: of a long one the middle gives way. */
enum { SENTENCE = 260, HEAD = 70 };

_Noreturn static void fatal(const char *dunnage, const char *foreign, const char *fix) {
	struct text text = {.used = 0};
	bool hint = fix && *fix;
	appendf(&text, "%s", dunnage);
	tell_failure(text.bytes, hint ? fix : "");
	servers_end(false);
	if (speech.mute)
		_exit(speech.code);
	text.used = 0;
	if (speech.foreign) {
		size_t length = strlen(foreign);
		if (length > SENTENCE)
			appendf(&text, "FATAL:   %.*s...%s", HEAD, foreign, foreign + length - (SENTENCE - HEAD));
		else
			appendf(&text, "FATAL:   %s", foreign);
		appendf(&text, "%s%s", hint ? "; " : "", hint ? fix : "");
		if (text.used > 399)
			text.bytes[text.used = 399] = 0;
	} else {
		appendf(&text, "%s: %s", speech.name, dunnage);
		if (hint && isatty(2)) {
			guard(text.bytes, true);
			emit(&text);
			text.used = 0;
			appendf(&text, "fix: %s", fix);
		} else if (hint) {
			appendf(&text, "; fix: %s", fix);
		}
	}
	guard(text.bytes, true);
	emit(&text);
	_exit(speech.code);
}

_Noreturn void die_sentence(const char *sentence_dunnage, const char *sentence_foreign, const char *fix) {
	fatal(sentence_dunnage, sentence_foreign, fix);
}

_Noreturn void die(const char *fix, int error, const char *failed, const char *what, ...) {
	struct text subject = {.used = 0}, dunnage = {.used = 0}, foreign = {.used = 0};
	va_list arguments;
	va_start(arguments, what);
	append_format(&subject, what, arguments);
	va_end(arguments);
	char why[200];
	if (error && failed)
		snprintf(why, sizeof why, "%s on %s", errno_name(error), failed);
	else
		snprintf(why, sizeof why, "%s", error ? errno_name(error) : failed);
	appendf(&dunnage, "cannot %s: %s", subject.bytes, why);
	appendf(&foreign, "cannot %s: error: %s", subject.bytes, why);
	fatal(dunnage.bytes, foreign.bytes, fix);
}

const char *renewal(const char *otherwise) {
	static struct text hint;
	for (size_t i = 0; speech.plan && i < speech.plan->count && !hint.used; i++)
		if (speech.plan->records[i].id == OP_RENEW)
			appendf(&hint, "renew it with: %.2500s%s", speech.plan->records[i].field[0],
				strlen(speech.plan->records[i].field[0]) > 2500 ? " ... (dunnage explain --frozen shows all of it)" : "");
	return hint.used ? hint.bytes : otherwise;
}

static bool stale;

_Noreturn void die_stale(unsigned request, const char *inside, int error, const char *why) {
	stale = true;
	die_request(request, inside, error, why);
}

_Noreturn void die_request(unsigned request, const char *inside, int error, const char *why) {
	struct text dunnage = {.used = 0}, foreign = {.used = 0};
	const struct record *asked = speech.plan ? speech.plan->request[request] : NULL;
	bool by_user = asked && words(asked, ARG_REQUEST_BY) == WORD_REQUEST_BY_USER;
	const char *name = error ? errno_name(error) : "";
	const char *on = error && why ? " on " : "";
	const char *fix = error == EMFILE || error == ENFILE ? "raise the limit of open files (ulimit -n)"
		: speech.stored ? renewal("make it anew with dunnage freeze")
		: error != ENOSPC ? "check that nothing changes the image or the sources during the start; -d shows the plan"
		: why && !strncmp(why, "mk", 2) /* mkdirat and the like: no mounts are lacking, but space */
		? "free some space there; if it is not full, start again: a directory of the image grew meanwhile"
		: "raise fs.mount-max or bind fewer things";
	if (speech.stored)
		appendf(&dunnage, "cannot start from %s: %s%s: %s%s%s", speech.stored, stale ? "it is stale: " : "", inside,
			name, on, why ? why : "");
	else
		appendf(&dunnage, "cannot mount %s: %s%s%s", inside, name, on, why ? why : "");
	appendf(&foreign, "%s %s: error: %s%s%s", by_user ? "Not mounting requested bind point" : "cannot mount", inside,
		name, on, why ? why : "");
	if (asked) {
		appendf(&dunnage, " (%s%s)", by_user ? "asked for by " : "", asked->field[ARG_REQUEST_TEXT]);
		appendf(&foreign, " (%s)", asked->field[ARG_REQUEST_TEXT]);
	}
	fatal(dunnage.bytes, foreign.bytes, fix);
}

static void say(unsigned level, const char *word, const char *format, va_list arguments) {
	if (speech.level < level)
		return;
	struct text body = {.used = 0}, text = {.used = 0};
	append_format(&body, format, arguments);
	if (speech.mute) {
		if (level < 4)
			tell_sentence(MESSAGE_WARNING, body.bytes);
		return;
	}
	guard(body.bytes, false);
	if (speech.foreign)
		appendf(&text, "%s:%*s%s", word, (int)(8 - strlen(word)), "", body.bytes);
	else
		appendf(&text, "%s: %s%s", speech.name, *word == 'W' ? "warning: " : "", body.bytes);
	emit(&text);
}

void warn(const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	say(2, "WARNING", format, arguments);
	va_end(arguments);
}

void inform(const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	say(2, "INFO", format, arguments);
	va_end(arguments);
}

void note(const char *format, ...) {
	va_list arguments;
	va_start(arguments, format);
	say(4, "VERBOSE", format, arguments);
	va_end(arguments);
}
