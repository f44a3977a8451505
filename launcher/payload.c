/* The payload's own process: environment, limits, protections, exec. */
#define _GNU_SOURCE
#include <dirent.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "launch.h"

#define KEYCTL_JOIN_SESSION_KEYRING 1

/* ---- the payload's environment ---- */

struct variable {
	const char *name, *value;
	size_t order;
};
struct variables {
	struct variable *all;
	size_t count;
};

static int by_name(const void *a, const void *b) {
	const struct variable *one = a, *other = b;
	int order = strcmp(one->name, other->name);
	return order ? order : (one->order > other->order) - (one->order < other->order);
}

/* Sorted by name; of several with one name the last is kept. */
static struct variables variables_of(const struct plan *plan, enum operation_id which, struct variable extra) {
	struct variables found = {.count = 0};
	for (size_t i = 0; i < plan->count; i++)
		found.count += plan->records[i].id == which;
	found.all = reserve(found.count + 1, sizeof *found.all);
	found.count = 0;
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == which)
			found.all[found.count++] = (struct variable){plan->records[i].field[0],
				which == OP_ENV_SET ? plan->records[i].field[ARG_ENV_SET_VALUE] : NULL, i};
	if (extra.name)
		found.all[found.count++] = extra;
	qsort(found.all, found.count, sizeof *found.all, by_name);
	size_t kept = 0;
	for (size_t i = 0; i < found.count; i++)
		if (i + 1 == found.count || strcmp(found.all[i].name, found.all[i + 1].name))
			found.all[kept++] = found.all[i];
	found.count = kept;
	return found;
}

/* Does the list hold the name of this NAME=VALUE? */
static bool names(const struct variables *list, const char *entry) {
	size_t length = strcspn(entry, "=");
	for (size_t low = 0, high = list->count; low < high;) {
		size_t middle = (low + high) / 2;
		const char *wanted = list->all[middle].name;
		int order = strncmp(entry, wanted, length);
		if (!order && wanted[length])
			order = -1; /* the entry's name is shorter */
		if (!order)
			return true;
		if (order < 0)
			high = middle;
		else
			low = middle + 1;
	}
	return false;
}

static char **build_environment(const struct plan *plan, const char *workdir) {
	const struct variable none = {.name = NULL};
	struct variables except = variables_of(plan, OP_ENV_EXCEPT, none), pass = variables_of(plan, OP_ENV_PASS, none),
		prefixes = variables_of(plan, OP_ENV_EXCEPT_PREFIX, none),
		set = variables_of(plan, OP_ENV_SET, (struct variable){"PWD", workdir, SIZE_MAX});
	size_t used = 0;
	bool all = false;
	for (size_t i = 0; i < plan->count; i++)
		all |= plan->records[i].id == OP_ENV_ALL;
	char **environment = reserve(call.environment_count + set.count + 1, sizeof *environment);
	for (size_t i = 0; i < call.environment_count; i++) {
		char *entry = call.environment[i];
		if (*entry == '=' || !strchr(entry, '=') || names(&set, entry))
			continue;
		bool passes = all && !names(&except, entry);
		for (size_t k = 0; passes && k < prefixes.count; k++)
			passes = strncmp(entry, prefixes.all[k].name, strlen(prefixes.all[k].name));
		if (passes || names(&pass, entry))
			environment[used++] = entry;
	}
	for (size_t i = 0; i < set.count; i++) {
		size_t name_length = strlen(set.all[i].name), value_length = strlen(set.all[i].value);
		char *entry = reserve(name_length + value_length + 2, 1);
		memcpy(entry, set.all[i].name, name_length);
		entry[name_length] = '=';
		memcpy(entry + name_length + 1, set.all[i].value, value_length + 1);
		environment[used++] = entry;
	}
	return environment;
}

/* ---- protections of the payload ---- */

struct filter { uint16_t code; uint8_t jt, jf; uint32_t k; };
struct program { unsigned short length; struct filter *filter; };

/* TIOCSTI and TIOCLINUX push input into the caller's terminal. The kernel compares the low 32 bits of
 * the ioctl number only, and so do we. */
static int filter_terminal(void) {
	enum { LOAD = 0x20, EQUAL = 0x15, AT_LEAST = 0x35, RETURN = 0x06, ALLOW = 0x7fff0000, REFUSE = 0x00050000 | EPERM };
#if defined(__x86_64__)
	enum { ARCH = (int)0xc000003e, IOCTL = 16, OTHER_ARCH = 0x40000003, OTHER_IOCTL = 54 };
	const uint32_t x32 = 0x40000000;
#elif defined(__aarch64__)
	enum { ARCH = (int)0xc00000b7, IOCTL = 29, OTHER_ARCH = 0x40000028, OTHER_IOCTL = 54 };
	const uint32_t x32 = 0xffffffff;
#else
#error "name this architecture's audit number and ioctl number"
#endif
	struct filter code[] = {
		{LOAD, 0, 0, 4},                             /*  0 architecture */
		{EQUAL, 2, 0, (uint32_t)ARCH},               /*  1 native: 4 */
		{EQUAL, 4, 0, OTHER_ARCH},                   /*  2 32 bits: 7 */
		{RETURN, 0, 0, ALLOW},                       /*  3 */
		{LOAD, 0, 0, 0},                             /*  4 native call number */
		{AT_LEAST, 3, 0, x32},                       /*  5 x32: 9, its numbers for ioctl are compared there */
		{EQUAL, 5, 8, IOCTL},                        /*  6 ioctl: 12, else 15 */
		{LOAD, 0, 0, 0},                             /*  7 32-bit call number */
		{EQUAL, 3, 6, OTHER_IOCTL},                  /*  8 ioctl: 12, else 15 */
		{EQUAL, 2, 0, 0x40000000u | 514},            /*  9 x32 ioctl: 12 */
		{EQUAL, 1, 0, 0x40000000u | IOCTL},          /* 10 */
		{RETURN, 0, 0, ALLOW},                       /* 11 */
		{LOAD, 0, 0, 24},                            /* 12 low half of the second argument */
		{EQUAL, 2, 0, 0x5412},                       /* 13 TIOCSTI: 16 */
		{EQUAL, 1, 0, 0x541c},                       /* 14 TIOCLINUX: 16 */
		{RETURN, 0, 0, ALLOW},                       /* 15 */
		{RETURN, 0, 0, REFUSE},                      /* 16 */
	};
	struct program program = {sizeof code / sizeof *code, code};
	return prctl(PR_SET_SECCOMP, 2 /* SECCOMP_MODE_FILTER */, &program, 0, 0);
}

/* An abstract socket from before the domain cannot be reached from within, nor can the parent be signalled. */
static void read_back_scopes(unsigned scopes, int listener, const struct sockaddr_un *address, socklen_t size) {
	int fd = listener < 0 ? -1 : socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	bool reached = listener >= 0 && (fd < 0 || connect(fd, (const struct sockaddr *)address, size) == 0);
	if (fd >= 0)
		close(fd);
	pid_t parent = getppid(); /* 0: outside, where signals do not reach anyway */
	if (reached || (scopes & WORD_LANDLOCK_SCOPE_SCOPES_SIGNAL && parent > 0 && kill(parent, 0) == 0))
		die("", 0, "the kernel took the rules, and they do not hold", "scope abstract sockets or signals by Landlock");
}

static int scope_landlock(unsigned scopes) {
	struct { uint64_t fs, net, scoped; } attributes = {0, 0, scopes};
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t size = sizeof address.sun_family; /* the kernel picks an abstract name */
	int listener = -1;
	if (scopes & WORD_LANDLOCK_SCOPE_SCOPES_ABSTRACT) {
		listener = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
		if (listener < 0 || bind(listener, (struct sockaddr *)&address, size) < 0
		    || (size = sizeof address, getsockname(listener, (struct sockaddr *)&address, &size)) < 0)
			die("", errno, "bind of an abstract socket", "prove the scope of abstract sockets");
	}
	int ruleset = (int)syscall(NR_LANDLOCK_CREATE_RULESET, &attributes, sizeof attributes, 0);
	int result = ruleset < 0 ? -1 : (int)syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0);
	int error = errno;
	if (ruleset >= 0)
		close(ruleset);
	if (!result)
		read_back_scopes(scopes, listener, &address, size);
	if (listener >= 0)
		close(listener);
	errno = error;
	return result;
}

static void drop_capabilities(void) {
	struct { uint32_t version; int pid; } header = {0x20080522, 0};
	struct { uint32_t effective, permitted, inheritable; } none[2] = {{0, 0, 0}, {0, 0, 0}};
	for (int capability = 0; prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) == 0; capability++)
		;
	if (errno != EINVAL) /* which ends the kernel's list; read_back proves it */
		die("", errno, "prctl PR_CAPBSET_DROP", "drop capabilities");
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capset, &header, none) < 0)
		die("", errno, "capset", "drop capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		die("", errno, "prctl PR_SET_NO_NEW_PRIVS", "give up new privileges");
}

/* Best-effort ends where the kernel has the call: then a failure is one. EPERM is how seccomp says no. */
static void protection_missing(bool fatal, enum fact which, const char *what, const char *failed) {
	facts[which] = (uint64_t)errno;
	speech.failure = fatal ? CLASS_POLICY : CLASS_SETUP;
	if (fatal || (errno != ENOSYS && errno != EPERM && errno != EOPNOTSUPP && errno != EINVAL && errno != E2BIG))
		die(errno == EDQUOT ? "raise kernel.keys.maxkeys: every contained payload has a keyring of its own"
			: "ask for it only where the kernel has it", errno, failed, "%s", what);
	note("cannot %s here: %s", what, errno_name((int)facts[which]));
	speech.failure = CLASS_SETUP;
}

/* A call that returned 0 is no proof. Before what is looked for stand the groups, of which there may be thousands. */
static void read_back(bool filtered) {
	static const char *const wanted[] = {"CapInh:\t0000000000000000\n", "CapPrm:\t0000000000000000\n",
		"CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n",
		"NoNewPrivs:\t1\n", "Seccomp:\t2\n"};
	enum { CUT = 32 }; /* a line that goes on in the next piece is shorter */
	char text[4096];
	size_t used = 0, count = sizeof wanted / sizeof *wanted - !filtered;
	unsigned missing = (1u << count) - 1;
	int fd = openat(procfs, "self/status", O_RDONLY | O_CLOEXEC);
	for (ssize_t got; missing && fd >= 0 && (got = read(fd, text + used, sizeof text - 1 - used)) > 0;) {
		text[used += (size_t)got] = 0;
		for (size_t i = 0; i < count; i++)
			missing &= strstr(text, wanted[i]) ? ~(1u << i) : ~0u;
		size_t cut = used < CUT ? used : CUT;
		memmove(text, text + used - cut, cut);
		used = cut;
	}
	for (size_t i = 0; i < count; i++)
		if (missing & 1u << i)
			die("", 0, "the kernel does not show it in /proc/self/status", "protect the payload, %.*s",
				(int)strcspn(wanted[i], ":"), wanted[i]);
	if (fd >= 0)
		close(fd);
}

/* A descriptor that would stay open is one that close_range only pretended to mark. */
static void read_back_descriptors(const struct plan *plan) {
	const struct record *others = find(plan, OP_DESCRIPTORS);
	if (!others || words(others, 0) != WORD_DESCRIPTORS_OTHERS_CLOSE)
		return;
	int listing = openat(procfs, "self/fd", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = listing < 0 ? NULL : fdopendir(listing);
	if (!dir)
		die("", errno, "listing /proc/self/fd", "see which descriptors the payload gets");
	for (struct dirent *entry; errno = 0, entry = readdir(dir);) {
		int fd = atoi(entry->d_name), flags = fd > 2 ? fcntl(fd, F_GETFD) : FD_CLOEXEC;
		for (size_t i = 0; !(flags & FD_CLOEXEC) && i < plan->count; i++)
			if (plan->records[i].id == OP_KEEP_DESCRIPTOR && (int)number(&plan->records[i], 0) == fd)
				flags = FD_CLOEXEC;
		if (!(flags & FD_CLOEXEC))
			die("", 0, "it would stay open", "close descriptor %d", fd);
	}
	if (errno)
		die("", errno, "readdir of /proc/self/fd", "see which descriptors the payload gets");
	closedir(dir);
}

static void forbid_user_namespaces(void) {
	static const char file[] = "sys/user/max_user_namespaces";
	char text[8] = "";
	if (write_once(procfs, file, "0") < 0)
		die("", errno, "write to /proc/sys/user/max_user_namespaces", "forbid user namespaces to the payload");
	int fd = openat(procfs, file, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || read(fd, text, sizeof text - 1) < 1 || strcmp(text, "0\n"))
		die("", 0, "the kernel does not show it", "forbid user namespaces to the payload");
	close(fd);
}

static void protect(const struct plan *plan) {
	bool filtered = false;
	const struct record *record = find(plan, OP_NEW_KEYRING);
	if (record && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) > 0) /* its number */
		facts[FACT_KEYRING_ERRNO] = 0;
	else if (record)
		protection_missing(words(record, 0) == WORD_NEW_KEYRING_MISSING_FATAL, FACT_KEYRING_ERRNO, "make a new session keyring", "keyctl");
	cgroup_enter(plan);
	if (find(plan, OP_NO_USER_NAMESPACES))
		forbid_user_namespaces();
	drop_capabilities();
	for (size_t i = 0; i < plan->count; i++) {
		record = &plan->records[i];
		if (record->id == OP_LANDLOCK_SCOPE) {
			unsigned scopes = words(record, ARG_LANDLOCK_SCOPE_SCOPES);
			bool fatal = words(record, ARG_LANDLOCK_SCOPE_MISSING) == WORD_LANDLOCK_SCOPE_MISSING_FATAL, abstract = scopes & WORD_LANDLOCK_SCOPE_SCOPES_ABSTRACT;
			enum fact which = abstract ? FACT_ABSTRACT_ERRNO : FACT_SIGNAL_ERRNO;
			facts[which] = 0;
			if (scope_landlock(scopes) < 0)
				protection_missing(fatal, which, "scope abstract sockets or signals by Landlock", "landlock_create_ruleset");
			if (abstract && scopes & WORD_LANDLOCK_SCOPE_SCOPES_SIGNAL)
				facts[FACT_SIGNAL_ERRNO] = facts[which];
		} else if (record->id == OP_TERMINAL_FILTER) {
			filtered = !filter_terminal();
			facts[FACT_TERMINAL_ERRNO] = 0;
			if (!filtered)
				protection_missing(words(record, 0) == WORD_TERMINAL_FILTER_MISSING_FATAL, FACT_TERMINAL_ERRNO,
					"filter terminal injection", "prctl PR_SET_SECCOMP");
		}
	}
	read_back(filtered);
	read_back_descriptors(plan);
}

/* ---- limits ---- */

static void set_limits(const struct plan *plan) {
	static const int resources[] = {
		[WORD_LIMIT_RESOURCE_CORE] = RLIMIT_CORE, [WORD_LIMIT_RESOURCE_CPU] = RLIMIT_CPU, [WORD_LIMIT_RESOURCE_DATA] = RLIMIT_DATA,
		[WORD_LIMIT_RESOURCE_FILE_SIZE] = RLIMIT_FSIZE, [WORD_LIMIT_RESOURCE_ADDRESS_SPACE] = RLIMIT_AS,
		[WORD_LIMIT_RESOURCE_FILES] = RLIMIT_NOFILE, [WORD_LIMIT_RESOURCE_LOCKED] = RLIMIT_MEMLOCK,
		[WORD_LIMIT_RESOURCE_PROCESSES] = RLIMIT_NPROC, [WORD_LIMIT_RESOURCE_STACK] = RLIMIT_STACK};
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_LIMIT)
			continue;
		int resource = resources[words(record, ARG_LIMIT_RESOURCE)];
		struct rlimit limit, found;
		rlim_t soft = number(record, ARG_LIMIT_SOFT), hard = number(record, ARG_LIMIT_HARD);
		if (getrlimit(resource, &found) == 0) {
			limit.rlim_max = hard < found.rlim_max ? hard : found.rlim_max;
			limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
			if (setrlimit(resource, &limit) == 0 && getrlimit(resource, &found) == 0
			    && found.rlim_cur == limit.rlim_cur && found.rlim_max == limit.rlim_max)
				continue;
		}
		die("", errno, "setrlimit", "limit %s", record->field[ARG_LIMIT_RESOURCE]);
	}
}

static void take_terminal(const struct plan *plan) {
	const struct record *record = find(plan, OP_CONTROLLING_TERMINAL);
	if (record && ioctl(0, TIOCSCTTY, 0) < 0 && words(record, 0) == WORD_CONTROLLING_TERMINAL_MISSING_FATAL)
		die("give a terminal as standard input that is of no other session", errno, "TIOCSCTTY", "take the terminal");
}

/* ---- exec ---- */

static const char *enter_workdir(const struct plan *plan) {
	int missed = 0;
	const char *first = NULL;
	for (size_t i = 0; i < plan->count; i++) {
		const struct record *record = &plan->records[i];
		if (record->id != OP_WORKDIR)
			continue;
		const char *path = record->field[ARG_WORKDIR_INSIDE];
		if (!strcmp(path, "."))
			path = caller.directory;
		int fd = open_workdir(path);
		if (fd >= 0 && fchdir(fd) == 0) {
			close(fd);
			if (first)
				warn("the working directory %s cannot be entered (%s), using %s", first, errno_name(missed), path);
			return path;
		}
		int error = errno;
		if (fd >= 0)
			close(fd);
		unsigned missing = words(record, ARG_WORKDIR_MISSING);
		if (missing == WORD_WORKDIR_MISSING_FATAL) {
			char dunnage[PATH_MAX + 80], foreign[PATH_MAX + 80];
			snprintf(dunnage, sizeof dunnage, "cannot set working directory %s: %s", path, errno_name(error));
			snprintf(foreign, sizeof foreign, "cannot set working directory %s: error: %s", path, errno_name(error));
			die_sentence(dunnage, foreign, "name a directory that exists in the container, or bind one there");
		}
		if (missing == WORD_WORKDIR_MISSING_WARN && !first) {
			first = path;
			missed = error;
		}
	}
	return "/";
}

static const char *machine_name(unsigned machine) {
	switch (machine) {
	case EM_X86_64: return "x86-64";
	case EM_386: return "32-bit x86";
	case EM_AARCH64: return "aarch64";
	case EM_ARM: return "32-bit ARM";
	case EM_PPC64: return "ppc64";
	case EM_S390: return "s390";
	case EM_RISCV: return "RISC-V";
	}
	return "another architecture";
}

#if defined(__x86_64__)
enum { OUR_MACHINE = EM_X86_64 };
#else
enum { OUR_MACHINE = EM_AARCH64 };
#endif

static _Noreturn void cannot_execute(const char *path, int error) {
	char why[200], dunnage[PATH_MAX + 300], foreign[PATH_MAX + 300];
	const char *fix = "give the path of a program in the image";
	struct stat found;
	unsigned char head[20] = {0};
	snprintf(why, sizeof why, "%s", errno_name(error));
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	ssize_t got = fd < 0 ? -1 : pread(fd, head, sizeof head, 0);
	unsigned machine = head[5] == 2 ? (unsigned)head[18] << 8 | head[19] : (unsigned)head[19] << 8 | head[18];
	bool elf = got == sizeof head && !memcmp(head, "\177ELF", 4);
	if (!stat(path, &found) && S_ISDIR(found.st_mode)) {
		snprintf(why, sizeof why, "EACCES, it is a directory");
	} else if (error == ENOENT && !access(path, F_OK)) {
		snprintf(why, sizeof why, "ENOENT, the %s that it needs is not in the image", elf ? "loader" : "interpreter in its first line");
		fix = elf ? "run it in the image it was built for, or link it statically" : "correct its first line, or bind the interpreter in";
	} else if (error == ENOEXEC && elf && machine != OUR_MACHINE) {
		snprintf(why, sizeof why, "ENOEXEC, it is built for %s and this machine is %s", machine_name(machine), machine_name(OUR_MACHINE));
		fix = "use an image for this architecture";
	} else if (error == ENOEXEC) {
		snprintf(why, sizeof why, "ENOEXEC, it is neither a program nor a script with an interpreter");
	} else if (error == EACCES) {
		fix = "make it executable (chmod +x), and check that its file system allows execution";
	} else if (error == E2BIG) {
		fix = "shorten the arguments or the environment; ulimit -s raises the limit";
	}
	snprintf(dunnage, sizeof dunnage, "cannot execute %s: %s", path, why);
	snprintf(foreign, sizeof foreign, "cannot execute %s: error: %s", path, why);
	die_sentence(dunnage, foreign, fix);
}

static void try_exec(const char *path, char **arguments, char **environment, bool *found, int *error) {
	execve(path, arguments, environment);
	if (errno == ENOEXEC) { /* as execvp does: a script without #! is the shell's */
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		char head[4] = {0};
		bool script = fd >= 0 && pread(fd, head, 4, 0) >= 0 && memcmp(head, "\177ELF", 4);
		if (fd >= 0)
			close(fd);
		size_t count = 0;
		while (arguments[count])
			count++;
		if (script) {
			char **again = reserve(count + 2, sizeof *again);
			again[0] = (char *)(uintptr_t)"sh";
			again[1] = (char *)(uintptr_t)path;
			if (count)
				memcpy(again + 2, arguments + 1, (count - 1) * sizeof *again);
			execve("/bin/sh", again, environment);
		}
		errno = ENOEXEC;
	}
	if (errno != ENOENT && errno != ENOTDIR) {
		*found = true;
		*error = errno;
	} else if (!access(path, F_OK)) {
		*found = true;
		*error = ENOENT;
	}
}

_Noreturn static void execute(const struct plan *plan, char **arguments, char **environment) {
	const char *command = arguments[0];
	bool found = false;
	int error = ENOENT;
	if (strchr(command, '/')) {
		try_exec(command, arguments, environment, &found, &error);
		cannot_execute(command, error);
	}
	char path[PATH_MAX], last[PATH_MAX] = "";
	for (size_t i = 0; *command && i < plan->count; i++) {
		if (plan->records[i].id != OP_SEARCH)
			continue;
		int length = snprintf(path, sizeof path, "%s/%s", plan->records[i].field[0], command);
		if (length < 0 || (size_t)length >= sizeof path)
			continue;
		bool here = false;
		int why = 0;
		try_exec(path, arguments, environment, &here, &why);
		struct stat status;
		if (here && !stat(path, &status) && S_ISDIR(status.st_mode))
			continue;
		if (here && (!found || why != EACCES)) {
			found = true;
			error = why;
			memcpy(last, path, sizeof last);
		}
		if (here && why != EACCES)
			break;
	}
	if (found)
		cannot_execute(last, error);
	char dunnage[400], foreign[400];
	snprintf(dunnage, sizeof dunnage, "cannot execute %.200s: it is not in the container's PATH", command);
	snprintf(foreign, sizeof foreign, "\"%.200s\": executable file not found in $PATH", command);
	die_sentence(dunnage, foreign, speech.foreign ? "" : "give its full path, or set PATH with --env PATH=...");
}

static void give_umask(const struct plan *plan) {
	for (size_t i = 0; i < plan->count; i++)
		if (plan->records[i].id == OP_UMASK)
			caller.umask = mode_of(&plan->records[i], 0);
}

_Noreturn void become_payload(const struct plan *plan, char **arguments) {
	speech.doing = "starting the payload";
	if (own_session && setsid() != getpid())
		die("", errno, "setsid", "leave the caller's session");
	take_terminal(plan);
	protect(plan);
	speech.failure = CLASS_IMAGE; /* what fails now is of its command and its directories */
	const char *workdir = enter_workdir(plan);
	char **environment = build_environment(plan, workdir);
	give_umask(plan);
	close(procfs);
	restore_limits();
	set_limits(plan);
	restore_signals();
	if (supervised())
		tell(MESSAGE_EXECUTED, facts, sizeof facts); /* it is true when the socket closes and nothing else was said */
	execute(plan, arguments, environment);
}
