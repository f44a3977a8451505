/* What those who stay share: the processes and sockets that belong together. */
#ifndef DUNNAGE_SUPERVISE_H
#define DUNNAGE_SUPERVISE_H

#include "launch.h"

#define PRIVATE_MESSAGE 1000u /* with a descriptor, between our own processes */
enum { LARGEST_MESSAGE = 8192, LAST_WAIT = 2000 /* milliseconds */ };

/* ---- tell.c: what is told of a run ---- */

extern int control;  /* the starter's socket; -1: there is none */
extern int upstream; /* to whoever supervises this process; -1: nobody does */

/* From now on phases are measured. */
void facts_begin(void);
/* Since then. */
int64_t milliseconds(void);
void tell_state(enum message_kind kind);
/* Writes what is to be written of a start that failed. */
void end_failed(const char *sentence, const char *fix);

/* ---- leftovers.c: who is left when the payload ends ---- */

/* Our children now are those of whoever became us, and not ours to end. */
void leftovers_spare(void);
/* Everything that descends from the payload, and it. */
void leftovers_kill(void);
/* A child that is not the payload has ended. */
void leftovers_count(pid_t pid, int status);
/* After the payload's end: killed, waited for, counted. */
void leftovers_end(void);
/* Until a child ends, or the time is over. SIGCHLD is blocked: what came before this call ends it at once. */
void wait_for_child(int64_t time);

/* ---- watch.c: watching over the payload ---- */

extern pid_t child;        /* init, or the payload */
extern bool child_is_init;
extern int news;           /* from it; -1: it has said all */
extern bool executed;      /* the payload runs */
extern int signals;        /* descriptor that tells of them */
extern bool foreground;    /* our group had the terminal */

void watch_signals(void);
/* For the limit of processor time: the new namespace's own /proc. */
void watch_processes(void);
_Noreturn void watch(const struct plan *plan);

/* ---- supervise.c: becoming who stays ---- */

extern pid_t caller_pid; /* 0: its end does not matter */
extern int caller_pidfd; /* -1: the kernel has none, or its end does not matter */

#endif
