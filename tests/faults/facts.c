/* What a payload sees of its sandbox, one fact a line: the invariants of the fault sweep.
 *
 *   facts ABSTRACT KEYRING NAMESPACE...
 *
 * Of the host: ABSTRACT is an abstract socket on which somebody listens, KEYRING the number of the session keyring,
 * NAMESPACEs are links as in /proc/self/ns. There is no C library, hence no start-up that a fault could hit; the facts differ in nothing between two
 * launches of one plan.
 */
#include <asm/unistd.h>
#include <stddef.h>

enum { AT_CWD = -100, WRITE_ONLY = 1, CREATE = 0100, EXCLUSIVE = 0200, DIRECTORY = 00200000 };
#if defined(__aarch64__)
#undef DIRECTORY
enum { DIRECTORY = 040000 };
#endif

static long call6(long number, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
	register long r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return result;
#else
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b, x2 __asm__("x2") = c,
		x3 __asm__("x3") = d, x4 __asm__("x4") = e, x5 __asm__("x5") = f;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
	return x0;
#endif
}
#define CALL(number, a, b, c, d) call6(number, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

static char out[1 << 16], text[1 << 16];
static size_t used;

static size_t length(const char *of) {
	size_t bytes = 0;
	while (of[bytes])
		bytes++;
	return bytes;
}

static int same(const char *one, const char *other) {
	while (*one && *one == *other)
		one++, other++;
	return *one == *other;
}

static int begins(const char *line, const char *with) {
	while (*with && *line == *with)
		line++, with++;
	return !*with;
}

static void put(const char *from, size_t bytes) {
	for (size_t i = 0; i < bytes && used < sizeof out; i++)
		out[used++] = from[i];
}

static void say(const char *from) {
	put(from, length(from));
}

static void number(long value) {
	char digits[24];
	size_t at = sizeof digits;
	unsigned long rest = value < 0 ? 0UL - (unsigned long)value : (unsigned long)value;
	do
		digits[--at] = (char)('0' + rest % 10);
	while (rest /= 10);
	if (value < 0)
		digits[--at] = '-';
	put(digits + at, sizeof digits - at);
}

static void fact(const char *name, long value) {
	say(name);
	say(" ");
	number(value);
	say("\n");
}

/* Whole, NUL-terminated in `text`; empty when it cannot be read. */
static const char *content(const char *path) {
	size_t bytes = 0;
	long fd = CALL(__NR_openat, AT_CWD, path, 0, 0), got = fd;
	while (fd >= 0 && (got = CALL(__NR_read, fd, text + bytes, sizeof text - 1 - bytes, 0)) > 0)
		bytes += (size_t)got;
	if (fd >= 0)
		CALL(__NR_close, fd, 0, 0, 0);
	text[bytes] = 0;
	return text;
}

/* Lines of a file, those that begin with a word of the list if there is one. */
static void lines(const char *path, const char *const *only) {
	for (const char *line = content(path); *line;) {
		size_t bytes = 0;
		while (line[bytes] && line[bytes] != '\n')
			bytes++;
		int wanted = !only;
		for (const char *const *word = only; word && *word; word++)
			wanted |= begins(line, *word);
		if (wanted) {
			put(line, bytes);
			say("\n");
		}
		line += bytes + (line[bytes] == '\n');
	}
}

/* Numbers of mounts and peer groups differ from launch to launch. */
static void mounts(void) {
	for (char *line = (char *)(size_t)content("/proc/self/mountinfo"); *line; line++) {
		say("mount");
		for (int field = 0; *line && *line != '\n'; field++) {
			char *word = line;
			while (*line && *line != ' ' && *line != '\n')
				line++;
			size_t bytes = (size_t)(line - word);
			for (char *each = word; field > 5 && each < line; each++)
				if (*each == ':') /* shared:N, master:N */
					bytes = (size_t)(each - word);
			if (field > 2 && !begins(word, "propagate_from")) {
				say(" ");
				put(word, bytes);
			}
			if (*line == ' ')
				line++;
			if (*word == '-') { /* the type is enough of the rest */
				word = line;
				while (*line && *line != ' ' && *line != '\n')
					line++;
				say(" ");
				put(word, (size_t)(line - word));
				while (*line && *line != '\n')
					line++;
			}
		}
		say("\n");
	}
}

static void names(const char *path) {
	char entries[4096];
	long fd = CALL(__NR_openat, AT_CWD, path, DIRECTORY, 0), got;
	say(path);
	while (fd >= 0 && (got = CALL(__NR_getdents64, fd, entries, sizeof entries, 0)) > 0)
		for (char *entry = entries; entry < entries + got; entry += *(unsigned short *)(void *)(entry + 16)) {
			say(" ");
			say(entry + 19);
		}
	CALL(__NR_close, fd, 0, 0, 0);
	say("\n");
}

static void file_system(const char *path) {
	long found[32] = {0};
	long result = CALL(__NR_statfs, path, found, 0, 0);
	say(path);
	say(" type ");
	number(result < 0 ? result : found[0]);
	say(" flags ");
	number(found[10] & ~0x20); /* but ST_VALID */
	say("\n");
}

static void can_make(const char *path) {
	long fd = CALL(__NR_openat, AT_CWD, path, WRITE_ONLY | CREATE | EXCLUSIVE, 0600);
	say("make ");
	say(path);
	fact("", fd < 0 ? fd : 0);
	if (fd < 0)
		return;
	CALL(__NR_close, fd, 0, 0, 0);
	CALL(__NR_unlinkat, AT_CWD, path, 0, 0);
}

static void abstract_socket(const char *name) {
	struct { unsigned short family; char path[108]; } address = {1, {0}};
	for (size_t i = 0; name[i] && i < 100; i++)
		address.path[i + 1] = name[i];
	long fd = CALL(__NR_socket, 1, 1, 0, 0);
	fact("abstract socket of the host", CALL(__NR_connect, fd, &address, 3 + length(name), 0));
	CALL(__NR_close, fd, 0, 0, 0);
}

static void namespaces(char **host) {
	static const char *const all[] = {"user", "mnt", "pid", "ipc", "uts", "net", "cgroup", "time"};
	for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
		char path[40] = "/proc/self/ns/", link[64];
		size_t at = length(path);
		for (const char *from = all[i]; *from;)
			path[at++] = *from++;
		path[at] = 0;
		long got = CALL(__NR_readlinkat, AT_CWD, path, link, sizeof link - 1);
		link[got < 0 ? 0 : got] = 0;
		int shared = 0;
		for (char **each = host; *each; each++)
			shared |= same(*each, link);
		say("namespace ");
		say(all[i]);
		say(got < 0 ? " unreadable\n" : shared ? " of the host\n" : " new\n");
	}
}

static void keyring(const char *of_host) {
	long found = CALL(__NR_keyctl, 0 /* KEYCTL_GET_KEYRING_ID */, -3 /* session */, 0, 0), given = 0;
	for (; *of_host; of_host++)
		given = given * 10 + (*of_host - '0');
	if (found < 0)
		fact("keyring", found);
	else
		say(found == given ? "keyring of the host\n" : "keyring new\n");
}

static const char *const pids_of_status[] = {"Pid:", "NSpid:", "PPid:", "NStgid:", "NSsid:", NULL};
static const char *const of_status[] = {"Uid:", "Gid:", "Groups:", "SigPnd:", "ShdPnd:", "SigBlk:", "SigIgn:",
	"SigCgt:", "Cap", "NoNewPrivs:", "Seccomp", "Umask:", "CoreDumping:", NULL};
static const char *const of_limits[] = {"Max core", "Max open", "Max processes", "Max address", "Max cpu", NULL};

__attribute__((used)) static void facts(long *stack) {
	char **arguments = (char **)(stack + 1), **environment = arguments + stack[0] + 1;
	say("facts begin\n");
	if (CALL(__NR_getpid, 0, 0, 0, 0) < 100) { /* else every launch has others */
		fact("session", CALL(__NR_getsid, 0, 0, 0, 0));
		fact("group", CALL(__NR_getpgid, 0, 0, 0, 0));
		lines("/proc/self/status", pids_of_status);
	} else {
		say("pids of the host\n");
	}
	lines("/proc/self/status", of_status);
	lines("/proc/self/limits", of_limits);
	lines("/proc/self/uid_map", NULL);
	lines("/proc/self/gid_map", NULL);
	lines("/proc/self/setgroups", NULL);
	lines("/proc/self/oom_score_adj", NULL);
	names("/proc/self/fd");
	names("/");
	names("/dev");
	names("/mnt");
	names("/tmp");
	lines("/proc/sysvipc/shm", NULL);
	lines("/proc/sys/kernel/hostname", NULL);
	file_system("/");
	file_system("/tmp");
	file_system("/dev");
	file_system("/proc");
	file_system("/mnt");
	can_make("/made");
	can_make("/dev/made");
	can_make("/tmp/made");
	can_make("/mnt/made");
	long other = CALL(__NR_openat, AT_CWD, "/proc/1/environ", 0, 0);
	fact("open /proc/1/environ", other < 0 ? other : 0);
	fact("signal to 1", CALL(__NR_kill, 1, 0, 0, 0));
	fact("TIOCSTI", CALL(__NR_ioctl, 0, 0x5412, "x", 0));
	keyring(arguments[2]);
	abstract_socket(arguments[1]);
	namespaces(arguments + 3);
	mounts();
	for (; *environment; environment++) {
		say("environment ");
		say(*environment);
		say("\n");
	}
	fact("nested user namespace", CALL(__NR_unshare, 0x10000000, 0, 0, 0));
	say("facts end\n");
	for (size_t done = 0; done < used;) {
		long wrote = CALL(__NR_write, 1, out + done, used - done, 0);
		if (wrote <= 0)
			break;
		done += (size_t)wrote;
	}
	for (;;)
		CALL(__NR_exit_group, 0, 0, 0, 0);
}

#if defined(__x86_64__)
__asm__(".globl _start\n_start:\n\txor %ebp, %ebp\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall facts\n");
#else
__asm__(".globl _start\n_start:\n\tmov x0, sp\n\tbl facts\n");
#endif
