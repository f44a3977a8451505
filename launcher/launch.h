/* What the parts of dunnage-launch share. The programme executes a plan and decides nothing:
 * no environment variable, no configuration file and no default changes what it does. */
#ifndef DUNNAGE_LAUNCH_H
#define DUNNAGE_LAUNCH_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "operations.h"

#define NR_LANDLOCK_CREATE_RULESET 444
#define NR_LANDLOCK_ADD_RULE 445
#define NR_LANDLOCK_RESTRICT_SELF 446
#define PRINTF(at, first) __attribute__((format(printf, at, first)))

/* ---- plan.c: reading and checking ---- */

struct record {
	enum operation_id id;
	char **field;
};

struct plan {
	struct record *records;
	size_t count;
	size_t objects, opened, requests;
	const struct record **request; /* [requests + 1]; the first is NULL */
};

/* Checks everything; does not return when the plan is wrong. */
void plan_parse(struct plan *plan, char *text, size_t size);
uint64_t number(const struct record *record, unsigned argument);
unsigned small(const struct record *record, unsigned argument);
mode_t mode_of(const struct record *record, unsigned argument);
/* One-of: number of the word; set: bits. The field has been checked before. */
unsigned words(const struct record *record, unsigned argument);
/* The first record of this operation, or NULL. */
const struct record *find(const struct plan *plan, enum operation_id id);

/* ---- memory.c ---- */

/* Zeroed. Ends the programme when there is none. */
void *reserve(size_t count, size_t size);
void release(void *memory);
/* The list, with room for one more than the `count` that it holds; it began as NULL. */
void *room_for_one(void *list, size_t count, size_t size);

/* ---- report.c: messages ---- */

struct speech {
	const char *name;
	bool foreign;
	unsigned level;
	int code;
	const struct plan *plan;
	const char *stored; /* path of a stored plan */
	const char *doing;  /* for the watchdog */
	enum failure failure; /* whose fault it is if it ends here */
	bool mute;          /* nothing on stderr: whoever supervises is told */
};
extern struct speech speech;

const char *errno_name(int error);
/* cannot WHAT: WHY; fix: FIX. `why` may be NULL when error is given with the call that failed. */
_Noreturn void die(const char *fix, int error, const char *call, const char *what, ...) PRINTF(4, 5);
/* The same for a mount that somebody asked for. */
_Noreturn void die_request(unsigned request, const char *inside, int error, const char *why);
/* The same where the world is not that of the plan. */
_Noreturn void die_stale(unsigned request, const char *inside, int error, const char *why);
/* The fix that a stored plan names. */
const char *renewal(const char *otherwise);
_Noreturn void die_sentence(const char *sentence_dunnage, const char *sentence_foreign, const char *fix);
void warn(const char *format, ...) PRINTF(1, 2);
void inform(const char *format, ...) PRINTF(1, 2);
void note(const char *format, ...) PRINTF(1, 2);

/* ---- tell.c: what is told of a run ---- */

/* What is known so far; UNKNOWN before. */
extern uint64_t facts[FACT_COUNT];
/* Microseconds since the launcher began. */
void phase_ended(enum fact which);
/* Does somebody wait for what this process tells? */
bool supervised(void);
/* The process that nobody of ours supervises: it removes and writes what is to be removed and written. */
bool is_top(void);
/* To whoever supervises this process, or starts it; false when there is nobody. */
bool tell(enum message_kind kind, const void *body, size_t size);
bool tell_sentence(enum message_kind kind, const char *sentence);
/* The end of a start that failed. */
void tell_failure(const char *sentence, const char *fix);
/* Over a socket, with a word. */
bool send_descriptor(int to, uint32_t word, int fd);
/* To the outer process: where it can write the payload's credentials. */
void hand_over_credentials(int directory);

/* ---- supervise.c: outer process and init ---- */

/* Before the namespaces: whatever is reached by the host's paths later. `control` is -1 or the starter's socket. */
void supervision_prepare(const struct plan *plan, int control);
/* Forks where somebody has to stay; returns in the process that goes on to the payload. */
void supervision_enter(const struct plan *plan);
/* Forks where that process has to stay as init. Returns in what becomes the payload. */
void init_stay(const struct plan *plan);
extern bool is_init, own_session;

/* ---- image.c: image files, and the programmes that show them ---- */

/* Before the namespaces: compares the files with the plan and starts a server for each. */
void servers_start(const struct plan *plan);
/* On an empty directory of ours; does not wait for the server. */
void image_mount(const struct record *record, int point);
/* Waits until the server answers for this, the top of what it shows. */
void image_answers(const struct record *record, int top);
/* Was it one of them? Says so if the payload still needs it. */
bool server_ended(pid_t pid, int status, bool in_use);
/* Their last words, for the process that stays beside them. */
void servers_keep(void);
/* Milliseconds after which people should be told what a start waits for; 0: not for an image. */
int64_t servers_patience(void);
void servers_slow(void);
/* In a process that is not their parent. */
void servers_disown(void);
/* Says so if one ended before, and the payload still needed it. */
void servers_end(bool in_use);

/* ---- receipt.c ---- */

void receipt_open(const struct plan *plan);
void receipt_write(const char *message, const char *fix);
enum failure judge(void);

/* ---- credentials.c ---- */

/* Before the namespaces. */
void credentials_prepare(const struct plan *plan);
/* The first copies, into an open directory; each must succeed. */
void credentials_copy(int directory);
/* Again what has changed since. */
void credentials_renew(int directory);

/* ---- cgroup.c ---- */

void cgroup_make(const struct plan *plan);
/* The calling process, and its cgroup namespace. */
void cgroup_enter(const struct plan *plan);
bool cgroup_wanted(void);
/* Ends who is left in it, reads what was used, removes it. */
void cgroup_end(void);

/* ---- paths.c: resolving without links ---- */

enum lacking { LACK_OPENAT2 = 1 << WORD_WITHOUT_CALL_OPENAT2, LACK_OPEN_TREE = 1 << WORD_WITHOUT_CALL_OPEN_TREE,
	LACK_MOUNT_SETATTR = 1 << WORD_WITHOUT_CALL_MOUNT_SETATTR, LACK_CLOSE_RANGE = 1 << WORD_WITHOUT_CALL_CLOSE_RANGE };
extern unsigned lacking; /* what the plan took away or the kernel turned out not to have */

/* `path` below `dir` without following any link; the last part may itself be one (O_PATH). -1 and errno. */
int open_below(int dir, const char *path, int flags);
/* An absolute host path, link-free. */
int open_host(const char *path, int flags);
/* The directory part below `dir`; *name is the last part, inside `path`. */
int open_parent(int dir, const char *path, const char **name);
/* Links followed below `root`, as if that were /. */
int open_in_root(int root, const char *path, int flags);
/* A path given by its user, links followed, but never a magic one. */
int open_workdir(const char *path);

/* ---- mounts.c: one interface over both mount APIs ---- */

/* FLAG_PLAIN: the top mount only, with the flags it has; FLAG_AS_IS: all mounts, with the flags they have. */
enum mount_flags { FLAG_RO = 1 << 0, FLAG_DEV = 1 << 1, FLAG_PRIVATE = 1 << 2, FLAG_PLAIN = 1 << 3, FLAG_AS_IS = 1 << 4 };

struct tree {
	int fd;         /* new API: the detached, later attached clone; classic: O_PATH of the source */
	unsigned flags;
};

extern bool classic;
extern int procfs; /* checked /proc of the host */

void mounts_choose(bool force_classic);
/* Copy of the mounts at dir/name (name "" for dir itself). */
int tree_clone(struct tree *tree, int dir, const char *name, unsigned flags);
/* Mount on the object that `point` refers to and that lies at dir/way; then the tree's fd, which tree_close closes,
 * refers to the new mount. A way of NULL: the fd is not needed any more. The flags of what mount(2) mounted are those
 * of its source: mount_restrict. */
int tree_attach(struct tree *tree, int point, int dir, const char *way);
/* Of a mount of the scratch's own tmpfs. */
int mount_readonly(int top);
void tree_close(struct tree *tree);
/* New file system on the object `point`. */
int mount_new(const char *type, int point, unsigned long flags, const char *options);
char *proc_path(char buffer[32], int fd);
/* /proc/self/mountinfo, parsed; the caller frees it. */
struct mount_entry {
	unsigned id, parent;
	char *point;
	unsigned long flags; /* of mount(2) */
};
struct mount_table {
	char *text;
	struct mount_entry *entries;
	size_t count;
	const struct mount_entry **by_id, **by_place; /* made when first needed */
	unsigned last_id;
};
int mount_table_read(struct mount_table *table);
void mount_table_free(struct mount_table *table);
/* Does the path of this one lead to another mount? */
bool mount_hidden(struct mount_table *table, const struct mount_entry *entry);
/* With mount(2): adds flags to the mount, which must be reached by its path. Leaves the working directory elsewhere. */
int mount_restrict(const struct mount_entry *entry, unsigned long wanted);
/* Does the fd lie on a mount below our root? */
bool mount_is_ours(int fd);
/* Is nothing above the fd's mount, as with an initramfs? */
bool mount_is_uppermost(int fd);
bool mount_is_same(int one, int other);

/* ---- objects.c: what can be attached ---- */

void objects_compare(const struct plan *plan);
void objects_clone(const struct plan *plan);

/* ---- place.c: the new root ---- */

void root_assemble(const struct plan *plan);
void root_enter(const struct plan *plan);

/* ---- payload.c ---- */

/* Environment, limits, protections, exec. */
_Noreturn void become_payload(const struct plan *plan, char **arguments);

/* ---- process.c: the surroundings ---- */

struct call {            /* what the front saved, or our own arguments and environment */
	const char *program; /* argv[0] as the user gave it */
	char **arguments;
	size_t argument_count;
	char **environment;
	size_t environment_count;
	uint64_t ignored;    /* signals the caller ignored, bit n-1 for signal n */
	bool known;          /* read from a call block */
	char *text;          /* which all of this points into */
};
extern struct call call;

struct caller { /* what the payload gets back */
	mode_t umask;
	struct rlimit core, files;
	sigset_t mask;
	struct sigaction action[65]; /* by signal */
	unsigned alarm;
	char directory[4096]; /* empty when it was deleted */
};
extern struct caller caller;

void process_prepare(void);
/* Ends the programme when a call for the caller's signals and limits failed. */
void need_call(int result, const char *name);
void restore_signals(void);
void restore_limits(void);
void arm_watchdog(void);
void disarm_watchdog(void);
/* A process that stays keeps this descriptor when it lets go of the others. */
void keep(int fd);
void unkeep(int fd);
void keep_none(void);
/* Before the namespaces; then: the others are closed, and the standard ones become /dev/null, but for stderr if it is to be kept. */
void null_open(void);
void let_go_of_descriptors(bool keep_stderr);
/* A whole text into a small file below `dir`. */
int write_once(int dir, const char *file, const char *text);
void process_protect_descriptors(const struct plan *plan);
void namespaces_enter(const struct plan *plan);
/* Starts the front again; returns when the plan names none or it cannot be started. */
void front_again(const char *reason);

#endif
