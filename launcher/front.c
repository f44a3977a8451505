/*
 * dunnage (also under the names apptainer and singularity): the front.
 *
 * It saves what the caller handed over (arguments, environment, ignored
 * signals) in a sealed memfd, finds the Python and the package that belong to
 * this file, and becomes
 *
 *     PYTHON -I -S -c CODE FD PACKAGE_PARENT LAUNCHER FRONT
 *
 * with an empty environment. Pilots call us with LD_PRELOAD, LD_LIBRARY_PATH or
 * PYTHONHOME of another software stack, or with nothing set at all: neither can
 * reach our own code this way, and both still reach the payload (CLI-03, CLI-04).
 *
 * The environment is read nowhere here, and there is no namespace code.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "operations.h"

#ifndef MFD_NOEXEC_SEAL
#define MFD_NOEXEC_SEAL 8U /* Linux 6.3 */
#endif
#define PROC_SUPER_MAGIC 0x9fa0
#define OLD_PYTHON "--dunnage-old-python="

/*
 * What Python runs first. Valid Python 3.4, so that an older one than we need can
 * be refused by name: the front is started again to say so. The package comes
 * first in the path only while it is found itself, so that nothing lying beside it
 * in a site-packages directory can pose as a module of the standard library.
 */
static char code[] =
	"import sys\n"
	"if sys.version_info < (3, 9):\n"
	"    import posix\n"
	"    name = posix.pread(int(sys.argv[1]), 65536, 0).split(b'\\0')[1]\n"
	"    posix.execv(sys.argv[4], [name, '" OLD_PYTHON "%d.%d' % sys.version_info[:2]])\n"
	"sys.path.insert(0, sys.argv[2])\n"
	"import dunnage\n"
	"sys.path.append(sys.path.pop(0))\n"
	"from dunnage.start import main\n"
	"sys.exit(main(int(sys.argv[1]), sys.argv[3].encode('utf-8', 'surrogateescape')))\n";

/* Messages ---------------------------------------------------------------- */

/* Cut instead of overflowing, always with a NUL behind; one fatal line is all we ever print. */
struct text {
	size_t length;
	char bytes[3 * PATH_MAX];
};

static struct text reason, advice;
static bool foreign; /* called as apptainer or singularity: clients parse one line (CLI-20, CLI-23) */

static void add(struct text *text, const char *string)
{
	while (*string && text->length < sizeof text->bytes - 1)
		text->bytes[text->length++] = *string++;
}

/*
 * A path, printable. Clients keep 400 bytes of the line and expect the reason
 * in the first 200, so under the foreign names the middle of a long one gives way.
 */
static void add_path(struct text *text, const char *path)
{
	static const char hex[] = "0123456789abcdef";
	size_t length = strlen(path);
	size_t head = length, tail = length;

	if (foreign && length > 90) {
		head = 30;
		tail = length - 57;
	}
	for (size_t i = 0; i < length; i++) {
		unsigned char byte = (unsigned char)path[i];
		if (i == head) {
			add(text, "...");
			i = tail - 1;
		} else if (byte >= ' ' && byte < 0x7f) {
			add(text, (char[]){path[i], 0});
		} else {
			add(text, (char[]){'\\', 'x', hex[byte >> 4], hex[byte & 15], 0});
		}
	}
}

struct digits {
	char bytes[24];
};

/* Where in `digits` the number begins; it ends with a NUL at their end. */
static char *format(struct digits *digits, uint64_t number, unsigned base)
{
	char *digit = digits->bytes + sizeof digits->bytes - 1;

	*digit = 0;
	do {
		*--digit = "0123456789abcdef"[number % base];
		number /= base;
	} while (number);
	return digit;
}

/* Symbolic: the C library's texts are what clients take for other failures (CLI-30). */
static void add_errno(struct text *text, int error)
{
#define NAME(e) case e: add(text, #e); return;
	switch (error) { ERRNO_NAMES(NAME) }
#undef NAME
	add(text, "errno ");
	add(text, format(&(struct digits){0}, (uint64_t)error, 10));
}

/*
 * Pilots search the output for these and draw their own conclusions; a path of
 * ours can contain one (CLI-35). None is ever meant here, so every hit is broken.
 */
static void break_phrases(struct text *text)
{
	static const char *const phrases[] = {CLIENT_PHRASES};

	for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++) {
		size_t length = strlen(phrases[i]);
		char *hit = text->bytes;
		while ((hit = memmem(hit, text->length - (size_t)(hit - text->bytes), phrases[i], length)))
			*hit ^= 0x20;
	}
}

/* `what` completes "cannot ..."; `reason` and `advice` are composed by then. */
static _Noreturn void fail(const char *what)
{
	static struct text line;

	if (foreign) {
		add(&line, "FATAL:   cannot ");
		add(&line, what);
		add(&line, ": error: ");
		add(&line, reason.bytes);
		add(&line, "; ");
	} else {
		add(&line, "dunnage: cannot ");
		add(&line, what);
		add(&line, ": ");
		add(&line, reason.bytes);
		add(&line, isatty(2) ? "\nfix: " : "; fix: ");
	}
	add(&line, advice.bytes);
	break_phrases(&line);
	if (foreign && line.length > 399)
		line.length = 399;
	line.bytes[line.length++] = '\n';
	for (size_t done = 0; done < line.length;) {
		ssize_t written = write(2, line.bytes + done, line.length - done);
		if (written > 0)
			done += (size_t)written;
		else if (errno != EINTR)
			break;
	}
	_exit(EXIT_FAILED);
}

static _Noreturn void fail_call(const char *what, const char *call, const char *fix)
{
	add_errno(&reason, errno);
	add(&reason, " on ");
	add(&reason, call);
	add(&advice, fix);
	fail(what);
}

/* What we were given ------------------------------------------------------- */

/* Descriptors 0 to 2 exist from here on: the next file opened must not become somebody's stderr. */
static void repair_descriptors(void)
{
	struct stat status;

	for (int fd = 0; fd <= 2; fd++) {
		if (fstat(fd, &status) == 0) {
			if (fd == 0 && S_ISDIR(status.st_mode)) {
				/* Python would end here, with a message of its own and code 1. */
				add(&reason, "standard input is a directory");
				add(&advice, "redirect it from a file or from /dev/null");
				fail("start");
			}
		} else if (errno == EBADF && open("/dev/null", O_RDWR) != fd) {
			fail_call("start with a standard stream closed", "open of /dev/null",
			          "make /dev/null accessible");
		}
	}
}

/*
 * Ignored signals (bit n - 1 for signal n): Python ignores some more, and the payload gets
 * the caller's. The raw call, because libraries keep a few real-time signals for themselves;
 * the handler is the first word of the kernel's structure on every architecture we support.
 */
static uint64_t ignored_signals(void)
{
	uint64_t mask = 0;

	for (int number = 1; number <= 64; number++) {
		uintptr_t action[8] = {0};
		if (syscall(SYS_rt_sigaction, number, NULL, action, 8) == 0 && action[0] == 1)
			mask |= UINT64_C(1) << (number - 1);
	}
	return mask;
}

/* Strings that lie behind each other in memory, as the kernel places them, are written at once. */
struct block {
	int fd;
	const char *start;
	size_t length;
};

static void flush(struct block *block)
{
	while (block->length) {
		ssize_t written = write(block->fd, block->start, block->length);
		if (written < 0 && errno == EINTR)
			continue;
		if (written < 0)
			fail_call("save the environment", "write to a memfd",
			          errno == EFBIG ? "raise the limit of file sizes (ulimit -f)" : "raise the limit of memory");
		block->start += written;
		block->length -= (size_t)written;
	}
}

static void put(struct block *block, const char *string)
{
	if (string != block->start + block->length) {
		flush(block);
		block->start = string;
	}
	block->length += strlen(string) + 1;
}

/* The sealed call block: see docs/plan-format.md. Inherited by Python, hence not close-on-exec. */
static int save_call(int argc, char **argv, char **environment)
{
	static const char magic[] = "dunnage-call 1";
	const char *name = argc ? argv[0] : "";
	struct digits digits[2];
	const char *ignored = format(&digits[0], ignored_signals(), 16);
	struct block block = {.start = magic, .length = sizeof magic};

	/* A limit of file sizes counts for memfds too: let it be an error. Python ignores the signal anyway. */
	signal(SIGXFSZ, SIG_IGN);
	block.fd = memfd_create("dunnage-call", MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL);
	if (block.fd < 0 && errno == EINVAL)
		block.fd = memfd_create("dunnage-call", MFD_ALLOW_SEALING);
	if (block.fd < 0)
		fail_call("save the environment", "memfd_create", "raise the limit of open files or of memory");

	put(&block, name);
	put(&block, ignored);
	put(&block, format(&digits[1], (uint64_t)(argc ? argc - 1 : 0), 10));
	for (int i = 1; i < argc; i++)
		put(&block, argv[i]);
	for (char **entry = environment; *entry; entry++)
		put(&block, *entry);
	flush(&block);
	if (lseek(block.fd, 0, SEEK_SET) < 0
	    || fcntl(block.fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		fail_call("save the environment", "sealing a memfd", "use a kernel with memfd sealing (3.17)");
	return block.fd;
}

/* What belongs to us -------------------------------------------------------- */

static char front[PATH_MAX];     /* this file, link-free */
static char directory[PATH_MAX]; /* where it lies: B */
static char prefix[PATH_MAX];    /* the directory above: P */
static char python[PATH_MAX];
static char package_parent[PATH_MAX];
static char launcher[PATH_MAX];

static bool is_program(const char *path)
{
	struct stat status;
	return access(path, X_OK) == 0 && stat(path, &status) == 0 && S_ISREG(status.st_mode);
}

/* BASE/BELOW; false if that is too long to be a path. */
static bool join(char path[PATH_MAX], const char *base, const char *below)
{
	size_t length = strlen(base), more = strlen(below);

	if (length + 1 + more >= PATH_MAX)
		return false;
	memmove(path, base, length);
	path[length] = '/';
	memcpy(path + length + 1, below, more + 1);
	return true;
}

static bool holds_package(const char *parent)
{
	char path[PATH_MAX];
	return join(path, parent, "dunnage/__main__.py") && access(path, R_OK) == 0;
}

/* The part of a path above its last component; "" for the root itself. */
static void copy_parent(char to[PATH_MAX], const char *path)
{
	const char *slash = strrchr(path, '/');
	size_t length = slash ? (size_t)(slash - path) : 0;

	memcpy(to, path, length);
	to[length] = 0;
}

/* Never by argv[0], which is the caller's, nor by PATH: only the kernel knows which file runs. */
static void find_front(void)
{
	struct statfs proc;
	int fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	ssize_t length = -1;

	if (fd < 0)
		fail_call("find its own files", "open of /proc", "mount /proc");
	if (fstatfs(fd, &proc) < 0 || proc.f_type != PROC_SUPER_MAGIC) {
		add(&reason, "/proc is not a proc file system");
		add(&advice, "mount /proc");
		fail("find its own files");
	}
	length = readlinkat(fd, "self/exe", front, sizeof front - 1);
	if (length < 0)
		fail_call("find its own files", "readlink of /proc/self/exe", "mount /proc, or install under a shorter path");
	if (length == sizeof front - 1 || front[0] != '/') {
		add(&reason, "/proc/self/exe holds no usable path");
		add(&advice, "install under a shorter path");
		fail("find its own files");
	}
	front[length] = 0;
	close(fd);
	copy_parent(directory, front);
	copy_parent(prefix, directory);
}

/*
 * The sidecar: a script beside us whose first line the installer rewrote to name
 * its Python. Shapes seen: `#!/path`, with blanks in the path (pip), with
 * options behind it (rpm), and `#!/bin/sh` + `'''exec' "/path" "$0" "$@"` for
 * paths that the kernel would not take. An editable installation adds a line
 * `# package: DIRECTORY`.
 */
static void read_sidecar(void)
{
	static char content[4 * PATH_MAX];
	char path[PATH_MAX];
	char *line, *end;
	ssize_t length;
	int fd;

	if (!join(path, directory, "dunnage-python"))
		return;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	length = read(fd, content, sizeof content - 1);
	close(fd);
	if (length < 0)
		return;
	content[length] = 0;

	line = strstr(content, "\n# package: ");
	if (line) {
		line += strlen("\n# package: ");
		end = line + strcspn(line, "\r\n");
		if (end - line < PATH_MAX) {
			memcpy(package_parent, line, (size_t)(end - line));
			package_parent[end - line] = 0;
		}
	}

	if (strncmp(content, "#!", 2) != 0)
		return;
	line = content + 2 + strspn(content + 2, " \t");
	end = line + strcspn(line, "\r\n");
	if (strncmp(line, "/bin/sh\n'''exec' ", 17) == 0) {
		const char *stop = " \n";
		line += 17;
		if (*line == '"' || *line == '\'')
			stop = *line++ == '"' ? "\"\n" : "'\n";
		end = line + strcspn(line, stop);
	}
	while (end > line && (end[-1] == ' ' || end[-1] == '\t'))
		end--;
	if (*line != '/' || end - line >= PATH_MAX)
		return;
	*end = 0;
	/* The whole line, or else what stands before the options; never an `env` that would search PATH. */
	for (int i = 0; i < 2; i++) {
		if (strncmp(strrchr(line, '/'), "/py", 3) == 0 && is_program(line)) {
			strcpy(python, line);
			return;
		}
		line[strcspn(line, " \t")] = 0;
	}
}

static void find_python(void)
{
	if (python[0] || (join(python, directory, "python3") && is_program(python)))
		return;
	strcpy(python, "/usr/bin/python3");
	if (is_program(python))
		return;
	add(&reason, "there is no /usr/bin/python3 and no python3 beside ");
	add_path(&reason, front);
	add(&advice, "install python3 (3.9 or newer)");
	fail("find Python");
}

/*
 * Of several pythonX.Y directories that hold the package (`pip install --user` by several
 * Pythons) the one of our interpreter; its version shows in the name that it resolves to.
 */
static void find_in_library(const char *library)
{
	static const char *const kinds[] = {"site-packages", "dist-packages"};
	char path[PATH_MAX], packages[PATH_MAX], resolved[PATH_MAX];
	struct dirent *entry;
	DIR *stream;

	if (!join(path, prefix, library) || !(stream = opendir(path)))
		return;
	while ((entry = readdir(stream))) {
		if (strncmp(entry->d_name, "python3", 7) != 0)
			continue;
		for (int i = 0; i < 2; i++) {
			if (!join(packages, path, entry->d_name) || !join(packages, packages, kinds[i])
			    || !holds_package(packages))
				continue;
			if (!package_parent[0]
			    || (realpath(python, resolved) && strcmp(strrchr(resolved, '/') + 1, entry->d_name) == 0))
				strcpy(package_parent, packages);
		}
	}
	closedir(stream);
}

static bool is_source_tree(void)
{
	size_t length = strlen(directory);
	return length > 15 && strcmp(directory + length - 15, "/launcher/build") == 0;
}

/*
 * Where each way of installing puts things is written down in docs/architecture.md. Launcher
 * and package are taken from the same one, also where several share a prefix.
 */
static void find_files(void)
{
	if (join(launcher, directory, "dunnage-launch") && access(launcher, X_OK) == 0) {
		if (package_parent[0] && holds_package(package_parent)) /* editable: the sidecar said so */
			return;
		if (is_source_tree()) {
			copy_parent(package_parent, prefix);
			if (join(package_parent, package_parent, "src") && holds_package(package_parent))
				return;
		}
		package_parent[0] = 0;
		find_in_library("lib"); /* pip */
		if (!package_parent[0])
			find_in_library("lib64");
		if (!package_parent[0] && holds_package(prefix)) /* pip install --target */
			strcpy(package_parent, prefix);
		if (package_parent[0])
			return;
	} else if (join(launcher, prefix, "lib/dunnage/dunnage-launch") && access(launcher, X_OK) == 0
	           && join(package_parent, prefix, "lib/dunnage/python") && holds_package(package_parent)) {
		return; /* make install */
	}
	add(&reason, "dunnage-launch or dunnage/__main__.py that belong to ");
	add_path(&reason, front);
	add(&reason, " are missing or may not be read");
	add(&advice, "install dunnage again, all of it together");
	fail("find its own files");
}

/* Nothing here needs any privilege, and nothing here was written to hold one (HRD-02). */
static void refuse_privilege(void)
{
	struct stat status;
	/* EOVERFLOW: capabilities that belong to another user namespace. */
	bool capable = getxattr(front, "security.capability", NULL, 0) >= 0 || errno == EOVERFLOW;
	bool setid = stat(front, &status) == 0 && status.st_mode & (S_ISUID | S_ISGID);

	if (getauxval(AT_SECURE) == 0 && getuid() == geteuid() && getgid() == getegid() && !capable)
		return;
	if (capable || setid) {
		add(&reason, capable ? "it is installed with file capabilities" : "it is installed set-user-ID or set-group-ID");
		add(&advice, capable ? "setcap -r " : "chmod ug-s ");
		add_path(&advice, front);
	} else {
		add(&reason, "real and effective ids differ");
		add(&advice, "call it with one identity");
	}
	fail("start with privileges");
}

static _Noreturn void refuse_python(const char *version)
{
	bool by_sidecar = python[0];

	find_python();
	add_path(&reason, python);
	add(&reason, " is Python ");
	add_path(&reason, version);
	add(&reason, ", older than 3.9");
	if (by_sidecar) {
		add(&advice, "install dunnage with a newer Python");
	} else {
		add(&advice, "ln -sf /usr/bin/python3.9 "); /* or whichever newer one the system offers */
		add_path(&advice, directory);
		add(&advice, "/python3");
	}
	fail("start");
}

int main(int argc, char **argv)
{
	const char *name = argc ? argv[0] : "";
	const char *slash = strrchr(name, '/');
	struct digits number;
	char *fd;

	name = slash ? slash + 1 : name;
	foreign = strcmp(name, "apptainer") == 0 || strcmp(name, "singularity") == 0;
	repair_descriptors();
	find_front();
	refuse_privilege();
	read_sidecar();
	if (argc == 2 && strncmp(argv[1], OLD_PYTHON, strlen(OLD_PYTHON)) == 0)
		refuse_python(argv[1] + strlen(OLD_PYTHON));
	find_python();
	find_files();
	fd = format(&number, (uint64_t)save_call(argc, argv, environ), 10);
	execve(python, (char *[]){python, "-I", "-S", "-c", code, fd, package_parent, launcher, front, NULL},
	       (char *[]){NULL});
	add_errno(&reason, errno);
	add(&reason, " on execve of ");
	add_path(&reason, python);
	add(&advice, "install Python 3.9 or newer again");
	fail("start Python");
}
