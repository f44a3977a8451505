/* What the files that make the new root share. */
#ifndef DUNNAGE_PLACE_H
#define DUNNAGE_PLACE_H

#include "launch.h"

/* ---- scratch.c: tmpfs of ours ---- */

extern int scratch;
extern const char *scratch_place; /* its path on the host */

void scratch_choose(const struct plan *plan);
void scratch_make(const struct record *record);
/* An empty directory in the scratch, and its name. */
int scratch_dir(const char *format, unsigned which, char name[24]);
/* A tmpfs of its own in the scratch. */
int scratch_tmpfs(const char *name, uint64_t bytes, uint64_t inodes, int flags);
/* On a path, or else on an object. */
int tmpfs_make(const char *place, int point, mode_t mode, uint64_t bytes, uint64_t inodes);
/* The fd's is one of ours from now on; does not return when nothing new was mounted. */
void tmpfs_note(int fd);
bool tmpfs_is_ours(dev_t device);

/* ---- objects.c: what can be attached ---- */

struct object {
	const struct record *record;
	struct tree tree;   /* of a source: its clone, until it is attached */
	bool staged;        /* a clone of it lies in the scratch */
	bool late;          /* cloned only when attached: descriptors are scarce */
};
extern struct object *objects; /* by their numbers */

/* Of a source, or an image file. */
unsigned request_of(const struct record *record);
void images_show(const struct plan *plan);
void session_make(const struct record *record);
void object_generate(const struct record *record);
void object_make_private(const struct record *record);
void object_copy_credentials(void);
void object_stage(const struct record *record);
/* The object as a tree that can be attached now. */
struct tree object_take(struct object *object, unsigned request, const char *inside);
/* Once that tree is attached. */
void object_hide_scratch(const struct object *object, const struct tree *tree);
void objects_close(const struct plan *plan);

/* ---- opened.c: directories of ours that show those of the image ---- */

struct opened {
	const struct record *record;
	/* Descriptors, until it is filled: there may be many opened directories. */
	int backing;        /* the directory of the image */
	int base;           /* where points are made: scratch, or the point itself when that is on our tmpfs */
	struct tree top;    /* our own mount over the point; fd -1 when there is none */
	bool in_place, mounted, overlay;
	dev_t device;       /* of base */
	ino_t inode;
	const char *first_point;
	size_t taken;       /* mounts that were made for entries */
};
extern struct opened *opened; /* by their numbers */

void opened_prepare(const struct plan *plan);
void opened_begin(const struct record *record);
void opened_point(const struct record *record, const char *below, bool dir, mode_t mode);
void opened_expect_no_dir(const struct record *record);
void opened_fill(const struct record *record);
void opened_seal(const struct record *record);

/* ---- promises.c: what the plan says of each mount ---- */

/* Ends the start where a point would be made on the host below what is yet to become read-only. */
void expect_writable(const struct plan *plan, const char *inside, unsigned request);
/* Reads back what the kernel shows, and sets what mount(2) could not: of the stages, of the root that was entered. */
void promises_hold_stages(const struct plan *plan);
void promises_hold_root(const struct plan *plan);

/* ---- place.c: the new root ---- */

extern int root; /* -1 before it is made */

/* The point at `inside`, of whatever kind. */
int open_point(const char *inside, int flags, unsigned request);

#endif
