/* Image files: each is shown by a server, a programme of the host that speaks FUSE. It begins before the namespaces are
 * made and stays outside of them; the kernel wants /dev/fuse to be opened inside, so that descriptor is sent to it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "launch.h"

#define ADDRESS_SPACE ((rlim_t)2 << 30)
enum { FILE_FD = 3, FUSE_FD = 4, /* of the server */ LAST_WAIT = 2, /* seconds */ WORDS = 1 << 16,
	PATIENCE = 10000 };

struct server {
	const struct record *record;
	int file, socket; /* the image; to the server, until it has /dev/fuse */
	pid_t pid;
	bool untold;      /* it ended before anybody could know whether a payload needs it */
	int status;
};

static struct server *servers;
static size_t server_count;
static pid_t parent; /* of the servers */
static int said = -1; /* what they say, in a memory file: nobody has to be reading */

static const char *path_of(const struct server *server) {
	return server->record->field[ARG_IMAGE_FILE_PATH];
}

static _Noreturn void cannot_mount(const struct server *server, int error, const char *why, const char *fix) {
	const struct record *asked = speech.plan->request[small(server->record, ARG_IMAGE_FILE_REQUEST)];
	const char *name = asked ? asked->field[ARG_REQUEST_TEXT] : path_of(server);
	char dunnage[3000], foreign[3000];
	snprintf(dunnage, sizeof dunnage, "cannot mount the image %.1500s: %s%s%s", name, error ? errno_name(error) : "",
		error ? " on " : "", why);
	snprintf(foreign, sizeof foreign, "Failed to mount image %.1500s: error: %s%s%s", name, error ? errno_name(error) : "",
		error ? " on " : "", why);
	die_sentence(dunnage, foreign, fix);
}

/* ---- before the namespaces ---- */

void servers_disown(void) {
	for (size_t i = 0; i < server_count; i++)
		servers[i].pid = 0;
}

static void open_file(struct server *server) {
	struct stat found;
	uint64_t inode = number(server->record, ARG_IMAGE_FILE_INODE);
	const char *problem = "open";
	int error = 0;
	server->file = open_host(path_of(server), O_RDONLY | O_NONBLOCK | O_NOCTTY);
	if (server->file < 0 || fstat(server->file, &found) < 0)
		error = errno;
	else if (!S_ISREG(found.st_mode))
		problem = "it is no regular file any more";
	else if (inode && (found.st_ino != inode || found.st_dev != number(server->record, ARG_IMAGE_FILE_DEVICE)))
		problem = "it was replaced";
	else
		return;
	if (error != EMFILE && error != ENFILE)
		front_again("stale");
	speech.failure = CLASS_IMAGE;
	cannot_mount(server, error, problem, renewal("start it again; if it repeats, find out what keeps changing the file"));
}

/* What a flaw in the server could be used for: only what it needs, where the kernel has Landlock. */
static void confine(const struct server *server, const struct plan *plan) {
	enum { EXECUTE = 1, WRITE_FILE = 2, READ_FILE = 4, READ_DIR = 8, FIRST = 1 << 13, REFER = 1 << 13, TRUNCATE = 1 << 14, IOCTL = 1 << 15 };
	struct { uint64_t fs, net, scoped; } attributes = {.fs = FIRST - 1};
	struct { uint64_t access; int32_t fd; } __attribute__((packed)) rule = {.access = READ_FILE, .fd = server->file};
	long version = syscall(NR_LANDLOCK_CREATE_RULESET, NULL, 0, 1);
	bool reads = false;
	if (version < 1)
		return;
	attributes.fs |= (version >= 2 ? REFER : 0u) | (version >= 3 ? TRUNCATE : 0u) | (version >= 5 ? IOCTL : 0u);
	attributes.net = version >= 4 ? 3 : 0;    /* TCP: bind, connect */
	attributes.scoped = version >= 6 ? 3 : 0; /* abstract sockets, signals */
	for (size_t i = 0; i < plan->count; i++)
		reads |= plan->records[i].id == OP_SERVER_READS && small(&plan->records[i], 0) == small(server->record, 0);
	if (!reads)
		attributes.fs &= ~(uint64_t)(EXECUTE | READ_FILE | READ_DIR);
	int rules = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &attributes, sizeof attributes, 0);
	if (rules < 0)
		return;
	bool whole = !reads || !syscall(NR_LANDLOCK_ADD_RULE, rules, 1, &rule, 0);
	for (size_t i = 0; reads && whole && i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		struct stat found;
		if (record->id != OP_SERVER_READS || small(record, 0) != small(server->record, 0))
			continue;
		rule.fd = open(record->field[ARG_SERVER_READS_PATH], O_PATH | O_CLOEXEC);
		if (rule.fd < 0)
			continue; /* not everything is on every machine */
		rule.access = EXECUTE | READ_FILE | (!fstat(rule.fd, &found) && S_ISDIR(found.st_mode) ? READ_DIR : 0u);
		whole = !syscall(NR_LANDLOCK_ADD_RULE, rules, 1, &rule, 0);
		close(rule.fd);
	}
	if (whole)
		(void)syscall(NR_LANDLOCK_RESTRICT_SELF, rules, 0);
	close(rules);
}

/* The descriptor of /dev/fuse; -1 when nobody will send it any more. */
static int receive(int socket) {
	char space[CMSG_SPACE(sizeof(int))];
	uint32_t word;
	struct iovec piece = {&word, sizeof word};
	struct msghdr header = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
	ssize_t got;
	int fd = -1;
	while ((got = recvmsg(socket, &header, MSG_CMSG_CLOEXEC)) < 0 && errno == EINTR)
		;
	if (got > 0 && CMSG_FIRSTHDR(&header) && CMSG_FIRSTHDR(&header)->cmsg_type == SCM_RIGHTS)
		memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&header)), sizeof fd);
	return fd;
}

static _Noreturn void complain(const char *failed) {
	dprintf(2, "%s on %s\n", errno_name(errno), failed);
	_exit(127);
}

static void limit(int resource, rlim_t to) {
	struct rlimit found;
	if (getrlimit(resource, &found) < 0)
		complain("getrlimit");
	found.rlim_max = found.rlim_max < to ? found.rlim_max : to;
	found.rlim_cur = found.rlim_cur < to ? found.rlim_cur : to;
	if (setrlimit(resource, &found) < 0)
		complain("setrlimit");
}

/* The server's process. It knows nothing of ours that it does not need, and ends with its parent. */
static _Noreturn void serve(const struct server *server, int socket, const struct plan *plan) {
	sigset_t none;
	sigemptyset(&none);
	servers_disown();
	signal(SIGALRM, SIG_DFL);
	if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0 || getppid() != parent)
		_exit(127);
	keep_none();
	keep(said);
	keep(server->file);
	keep(socket);
	let_go_of_descriptors(false);
	if (dup2(said, 2) < 0)
		_exit(127);
	setsid(); /* what a terminal sends is for the payload */
	if (chdir("/") < 0)
		complain("chdir");
	limit(RLIMIT_FSIZE, WORDS);
	if (sigprocmask(SIG_SETMASK, &none, NULL) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		complain("prctl");
	confine(server, plan);
	int fuse = receive(socket);
	if (fuse < 0)
		_exit(127); /* the start has failed */
	/* Upwards first: each of them may lie where another one belongs. All others close at exec. */
	int file = fcntl(server->file, F_DUPFD_CLOEXEC, FUSE_FD + 1);
	fuse = fcntl(fuse, F_DUPFD_CLOEXEC, FUSE_FD + 1);
	if (file < 0 || fuse < 0 || dup2(file, FILE_FD) < 0 || dup2(fuse, FUSE_FD) < 0)
		complain("dup2");
	const char *program = server->record->field[ARG_IMAGE_FILE_PROGRAM];
	size_t count = 1;
	for (size_t i = 0; i < plan->count; i++)
		count += plan->records[i].id == OP_SERVER_ARGUMENT;
	char **arguments = reserve(count + 1, sizeof *arguments), *environment[] = {NULL};
	arguments[0] = (char *)(uintptr_t)program;
	count = 1;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_SERVER_ARGUMENT && small(&plan->records[i], 0) == small(server->record, 0))
			arguments[count++] = plan->records[i].field[ARG_SERVER_ARGUMENT_TEXT];
	limit(RLIMIT_AS, ADDRESS_SPACE);
	execve(program, arguments, environment);
	complain("execve of the programme that shows it");
}

static void start_server(struct server *server, const struct plan *plan) {
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		cannot_mount(server, errno, "socketpair", "");
	server->pid = fork();
	if (server->pid < 0)
		cannot_mount(server, errno, "fork", errno == EAGAIN ? "raise the limit of processes (ulimit -u)" : "");
	if (!server->pid) {
		close(ends[0]);
		serve(server, ends[1], plan);
	}
	close(ends[1]);
	close(server->file);
	server->socket = ends[0];
}

void servers_start(const struct plan *plan) {
	for (size_t i = 0; i < plan->count; i++)
		server_count += plan->records[i].id == OP_IMAGE_FILE;
	if (!server_count)
		return;
	servers = reserve(server_count, sizeof *servers);
	server_count = 0;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_IMAGE_FILE) {
			servers[server_count] = (struct server){.record = &plan->records[i], .socket = -1};
			open_file(&servers[server_count++]);
		}
	said = memfd_create("dunnage-server", MFD_CLOEXEC);
	if (said < 0)
		cannot_mount(servers, errno, "memfd_create", "raise the limit of open files");
	null_open();
	parent = getpid();
	for (size_t i = 0; i < server_count; i++)
		start_server(&servers[i], plan);
}

/* ---- in the namespaces ---- */

static struct server *server_of(const struct record *record) {
	for (size_t i = 0; i < server_count; i++)
		if (servers[i].record == record)
			return &servers[i];
	die("", 0, "it has no server", "mount an image file");
}

void image_mount(const struct record *record, int point) {
	struct server *server = server_of(record);
	const char *name = strrchr(record->field[ARG_IMAGE_FILE_PROGRAM], '/') + 1;
	static const char fix[] = "give --unsquash to unpack it instead; `dunnage check` tells what is missing";
	char options[120], type[64];
	int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0)
		cannot_mount(server, errno, "open of /dev/fuse", fix);
	snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=%u,group_id=%u,default_permissions", fuse, getuid(), getgid());
	snprintf(type, sizeof type, "fuse.%.50s", name);
	if (mount_new(type, point, MS_RDONLY | MS_NOSUID | MS_NODEV, options) < 0)
		cannot_mount(server, errno, "mount", fix);
	if (!send_descriptor(server->socket, 0, fuse) && errno != EPIPE) /* then it ended, and has said why */
		cannot_mount(server, errno, "sendmsg", "");
	close(server->socket);
	server->socket = -1;
	close(fuse); /* else nobody would be told of the server's end */
}

/* The last line that a server said. */
static const char *last_words(char text[400]) {
	struct stat found;
	ssize_t got = said < 0 || fstat(said, &found) < 0 ? -1
		: pread(said, text, 399, found.st_size > 399 ? found.st_size - 399 : 0);
	while (got > 0 && (text[got - 1] == '\n' || text[got - 1] == ' '))
		got--;
	text[got < 0 ? 0 : got] = 0;
	const char *line = strrchr(text, '\n');
	return line ? line + 1 : text;
}

void image_answers(const struct record *record, int top) {
	struct server *server = server_of(record);
	struct stat found;
	char text[400], why[600];
	speech.doing = path_of(server);
	if (!fstat(top, &found)) /* waits for as long as the server lives */
		return;
	int error = errno;
	const char *words = last_words(text);
	bool ended = error == ENOTCONN || error == ECONNABORTED;
	snprintf(why, sizeof why, "%s%s%s", ended ? "its server ended" : "its server", *words ? ": " : "", words);
	speech.failure = CLASS_IMAGE;
	cannot_mount(server, ended ? 0 : error, why, renewal("check that the file is whole, and is an image"));
}

/* ---- the end ---- */

static void complain_of(const struct server *server) {
	char text[400];
	int status = server->status;
	const char *words = last_words(text);
	warn("the server of the image %s ended (%s %d)%s%s: what is not in memory can be read no more (ENOTCONN)", path_of(server),
		WIFSIGNALED(status) ? "signal" : "exit code", WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status),
		*words ? ", " : "", words);
}

bool server_ended(pid_t pid, int status, bool in_use) {
	for (size_t i = 0; i < server_count; i++) {
		if (servers[i].pid != pid)
			continue;
		if (!WIFEXITED(status) && !WIFSIGNALED(status))
			return true; /* somebody stopped it, or continued it */
		servers[i].pid = 0;
		servers[i].untold = !in_use;
		servers[i].status = status;
		if (in_use)
			complain_of(&servers[i]);
		return true;
	}
	return false;
}

/* Is it about to end, or has it? A payload notices before its parent is told. */
static bool exiting(pid_t pid) {
	enum { PF_EXITING = 4, FLAGS = 7 };
	char path[40], text[512];
	snprintf(path, sizeof path, "%d/stat", pid);
	int fd = openat(procfs, path, O_RDONLY | O_CLOEXEC);
	ssize_t got = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
	if (fd >= 0)
		close(fd);
	text[got < 0 ? 0 : got] = 0;
	const char *field = strrchr(text, ')');
	for (int i = 0; field && i < FLAGS; i++)
		field = strchr(field + 1, ' ');
	return field && strtoul(field, NULL, 10) & PF_EXITING;
}

int64_t servers_patience(void) {
	return server_count ? PATIENCE : 0;
}

void servers_slow(void) {
	inform("still waiting for the image %s; it is read through the file system that it lies in", path_of(servers));
}

void servers_keep(void) {
	keep(said);
}

static void end_server(struct server *server, bool in_use, const sigset_t *ended, int64_t until) {
	bool by_itself = in_use && exiting(server->pid);
	pid_t found;
	struct timespec now;
	kill(server->pid, SIGKILL);
	/* It may hang in the file system of the image; then the kernel ends it later. */
	while (!(found = waitpid(server->pid, &server->status, WNOHANG)) && (clock_gettime(CLOCK_MONOTONIC, &now), now.tv_sec < until))
		sigtimedwait(ended, NULL, &(struct timespec){.tv_nsec = 100000000});
	server->untold = found > 0 && by_itself;
	server->pid = 0;
}

void servers_end(bool in_use) {
	sigset_t ended, before;
	struct timespec now;
	sigemptyset(&ended);
	sigaddset(&ended, SIGCHLD);
	for (size_t i = 0; i < server_count; i++) {
		if (servers[i].pid > 0) {
			clock_gettime(CLOCK_MONOTONIC, &now);
			sigprocmask(SIG_BLOCK, &ended, &before);
			end_server(&servers[i], in_use, &ended, now.tv_sec + LAST_WAIT);
			sigprocmask(SIG_SETMASK, &before, NULL);
		}
		if (in_use && servers[i].untold)
			complain_of(&servers[i]);
		servers[i].untold = false;
	}
}
