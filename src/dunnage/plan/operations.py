"""THE table of plan operations: names, phases, fields and meaning.

The Python encoder and decoder, the launcher's parser (through the header that
``launcher/generate.py`` writes) and ``docs/plan-format.md`` all read it.

A plan is a sequence of records. A record is the operation's name followed by
its fields, each ended by one NUL byte; the number of fields is fixed, so no
field needs quoting. Phases never decrease from one record to the next.

Field types:
  ``index``   decimal number of an object, no sign
  ``number``  decimal number below 2**64
  ``mode``    octal permission bits, at most 7777
  ``inside``  absolute path inside the container: link-free when planned, no
              empty, ``.`` or ``..`` part, no trailing slash except ``/`` itself
  ``path``    absolute host path of the same form
  ``below``   relative path of names that are not empty, ``.`` or ``..``
  ``text``    any bytes but NUL
  ``a|b``     one of these words
  ``a+b``     any of these words, comma-separated, possibly none
"""
from __future__ import annotations

VERSION = 1

FRAME, SPEAKING, MECHANISM, NAMESPACES, SUPERVISION, OBJECTS, ROOT, PLACING, PROCESS, COMMAND, END = range(11)

CALLS = "openat2|open_tree|mount_setattr|close_range"

# name, phase, ((field, type), ...), meaning
OPERATIONS: tuple[tuple[str, int, tuple[tuple[str, str], ...], str], ...] = (
    ("dunnage-plan", FRAME, (("version", "number"),),
     "First record of every plan; any other version is refused."),

    ("speak", SPEAKING,
     (("name", "text"), ("shape", "dunnage|foreign"), ("level", "number"), ("code", "number")),
     "How the launcher words its messages once Python is gone: program name, shape, "
     "level (0 silent, 1 quiet, 2 normal, 4 verbose, 5 debug) and the exit code of its own failures."),
    ("front", SPEAKING, (("program", "path"),),
     "Front to start again, once, when the plan turns out stale before any effect, or to explain "
     "why namespaces are refused."),
    ("renew", SPEAKING, (("command", "text"),),
     "Of a stored plan: the command that makes it anew, for messages."),
    ("request", SPEAKING, (("request", "index"), ("by", "user|default"), ("text", "text")),
     "What the user typed, or what a default is called, for messages; numbered from 1 without gaps. "
     "Request 0 means none."),

    ("mechanism", MECHANISM, (("api", "auto|classic"),),
     "`classic` forces mount(2); for tests and broken kernels."),
    ("without", MECHANISM, (("call", CALLS),),
     "Behave as if the kernel lacked this call. Can only take features away."),

    ("unshare", NAMESPACES, (("namespaces", "user+mount+pid+ipc+uts+cgroup+net"),),
     "New namespaces; `user` and `mount` are obligatory."),
    ("uid-map", NAMESPACES, (("inside", "number"), ("outside", "number"), ("count", "number")), "One line of uid_map."),
    ("gid-map", NAMESPACES, (("inside", "number"), ("outside", "number"), ("count", "number")), "One line of gid_map."),
    ("hostname", NAMESPACES, (("name", "text"),), "sethostname in the new UTS namespace."),
    ("loopback", NAMESPACES, (), "Bring up lo in the new network namespace."),

    ("die-with-caller", SUPERVISION, (("caller", "number"),),
     "Everything ends when the process that started us does. It must have this pid; 0 stands for any."),
    ("supervise", SUPERVISION, (),
     "Keep an outer process for the whole run, also where nothing else needs one: it ends what the payload leaves behind. "
     "Without a pid namespace it does so as a subreaper."),
    ("hold", SUPERVISION, (("number", "number"),),
     "Keep this descriptor open for the whole run, and from the payload: a lock on the image stays as long as somebody "
     "can use it. Needs a pid namespace or `supervise`."),
    ("wall-time", SUPERVISION, (("milliseconds", "number"), ("grace", "number")),
     "SIGTERM to the payload this long after its start, SIGKILL to everything `grace` milliseconds later."),
    ("cpu-time", SUPERVISION, (("milliseconds", "number"), ("grace", "number")),
     "The same once all processes of the payload together have used this much processor time; needs `init`."),
    ("cgroup", SUPERVISION,
     (("memory", "number"), ("pids", "number"), ("missing", "fatal|quiet"), ("parent", "path")),
     "A new cgroup (version 2) in `parent` for the payload, removed after its end. Bytes, processes; 0: no limit."),
    ("receipt", SUPERVISION, (("directory", "path"), ("name", "below"), ("head", "text")),
     "File that tells how it went: `head`, the states below, then a `result` object that closes the document. It appears "
     "whole, by a rename, when everything has ended. An outer process stays for it."),
    ("receipt-state", SUPERVISION,
     (("protection", "keyring|abstract|signal|terminal|cgroup"), ("on", "text"), ("missing", "text")),
     "Which text the receipt says of a best-effort protection: `on`, or `missing`, the errno's name and a closing `\"}`."),

    ("source", OBJECTS,
     (("object", "index"), ("kind", "dir|file"), ("device", "number"), ("inode", "number"),
      ("flags", "ro+dev+private+trigger"), ("request", "index"), ("path", "path")),
     "Object from the host, cloned recursively, always nosuid, nodev unless `dev`, slave unless "
     "`private`. `trigger`: access it once before the namespaces exist, so that an automount "
     "happens. Device and inode are compared before and after unshare; inode 0 means not recorded."),
    ("image-file", OBJECTS,
     (("object", "index"), ("device", "number"), ("inode", "number"), ("request", "index"), ("below", "text"),
      ("program", "path"), ("path", "path")),
     "Read-only directory from an image file: `below` in what `program` shows, or all of it if that is empty. The program is "
     "started before the namespaces exist and stays outside of them, with the file as descriptor 3, /dev/fuse as 4, and what it "
     "says kept for messages. An outer process stays, and ends it. Device and inode are compared as those of a source."),
    ("server-argument", OBJECTS, (("object", "index"), ("text", "text")), "One argument of that program, in order."),
    ("server-reads", OBJECTS, (("object", "index"), ("path", "path")),
     "What the program may read and execute, itself and its libraries, where the kernel has Landlock. Without any it may read all; "
     "it may change nothing, open no TCP connection and reach no process in either case."),
    ("scratch-place", OBJECTS, (("path", "path"),), "Candidate directory for the scratch, in order of preference."),
    ("scratch", OBJECTS, (("bytes", "number"), ("inodes", "number")), "Size of the launch's private tmpfs."),
    ("session", OBJECTS, (("bytes", "number"), ("inodes", "number")),
     "Size of the tmpfs that backs all `private` directories."),
    ("generated", OBJECTS, (("object", "index"), ("mode", "mode"), ("content", "text")),
     "Read-only file with this content, in the scratch."),
    ("private", OBJECTS, (("object", "index"), ("mode", "mode")), "Empty writable directory in the session tmpfs."),

    ("credentials", OBJECTS, (("object", "index"),),
     "Directory on a small tmpfs of its own that shows current copies of files, read-only to the payload. An outer process stays, "
     "and copies again when a file changes or is replaced."),
    ("credential", OBJECTS, (("object", "index"), ("name", "below"), ("request", "index"), ("path", "path")),
     "A file of that directory, and the host file that it follows; links are followed anew each time."),

    ("stage", ROOT, (("object", "index"),),
     "Attach a read-only clone of a source inside the scratch, as backing of opened directories."),
    ("root", ROOT, (("object", "index"),), "This source, unopened, is the container's root."),

    ("open", PLACING,
     (("opened", "index"), ("backing", "index"), ("below", "text"), ("strategy", "overlay|binds"),
      ("fallback", "binds|none"), ("mode", "mode"), ("seconds", "number"), ("nanoseconds", "number"),
      ("request", "index"), ("inside", "inside")),
     "Begin to open the directory at `inside`: what follows for this number makes its points. "
     "`below` (empty for the top) is the directory's path below the staged object `backing`; "
     "mode and modification time are copied to the opened directory."),
    ("point-dir", PLACING, (("opened", "index"), ("mode", "mode"), ("below", "below")), "Empty directory in the opened directory."),
    ("point-file", PLACING, (("opened", "index"), ("mode", "mode"), ("below", "below")), "Empty file in the opened directory."),
    ("expect-no-dir", PLACING, (("opened", "index"), ("name", "below")),
     "Of a stored plan: points are made below `name`, which was missing. A directory of that name in the backing would be "
     "hidden by them: the plan is stale."),
    ("fill", PLACING, (("opened", "index"),),
     "Show the backing's entries, except where a point of that name was made: one read-only overlay, or one bind "
     "per entry (links are recreated)."),
    ("attach", PLACING,
     (("object", "index"), ("kind", "dir|file|link"), ("link", "text"), ("request", "index"), ("inside", "inside")),
     "Mount an object on the point at `inside`, which must be of this kind; `link`: cover the "
     "symbolic link itself, whose text must be the given one."),
    ("expect-link", PLACING, (("request", "index"), ("text", "text"), ("inside", "inside")),
     "Of a stored plan: this link was followed. Without it, or with another text in it, the plan is stale."),
    ("make-dir", PLACING, (("mode", "mode"), ("inside", "inside")), "Directory on a tmpfs of ours; refused anywhere else."),
    ("make-file", PLACING, (("mode", "mode"), ("inside", "inside")), "Empty file on a tmpfs of ours; refused anywhere else."),
    ("make-link", PLACING, (("text", "text"), ("inside", "inside")), "Symbolic link on a tmpfs of ours; refused anywhere else."),
    ("host-dir", PLACING, (("request", "index"), ("inside", "inside")),
     "Create a mount point 0755 inside a writable bind, that is on the host. Exists already: fine if of this kind."),
    ("host-file", PLACING, (("request", "index"), ("inside", "inside")), "The same for a file, 0644."),
    ("mount-proc", PLACING, (("inside", "inside"),), "New proc, nosuid nodev noexec; needs a new pid namespace."),
    ("mount-tmpfs", PLACING,
     (("mode", "mode"), ("bytes", "number"), ("inodes", "number"), ("inside", "inside")), "New tmpfs, nosuid nodev."),
    ("mount-devpts", PLACING, (("inside", "inside"),), "New devpts instance, nosuid noexec."),
    ("mount-mqueue", PLACING, (("inside", "inside"),), "New mqueue, nosuid nodev noexec; needs a new ipc namespace."),
    ("seal", PLACING, (("opened", "index"),),
     "Copy mode and modification time, then make the opened directory's top mount read-only. Children first."),

    ("enter", PROCESS, (), "pivot_root into the new root, detach the old one, verify the mount table."),
    ("workdir", PROCESS, (("missing", "fatal|warn|quiet"), ("inside", "text")),
     "Working directory; several are tried in order. `PWD` is set to the one that was entered. `.` is the caller's, by its path."),
    ("env-all", PROCESS, (), "Pass the caller's environment, except what the next two operations name."),
    ("env-except", PROCESS, (("name", "text"),), "Do not pass this variable."),
    ("env-except-prefix", PROCESS, (("prefix", "text"),), "Do not pass variables that begin so."),
    ("env-pass", PROCESS, (("name", "text"),), "Pass this variable if the caller has it."),
    ("env-set", PROCESS, (("name", "text"), ("value", "text")), "Set this variable; wins over what is passed."),
    ("descriptors", PROCESS, (("others", "keep|close"),), "What happens to inherited descriptors above 2; default keep."),
    ("keep-descriptor", PROCESS, (("number", "number"),), "With `descriptors close`: keep this one; it must be open."),
    ("umask", PROCESS, (("mask", "mode"),), "umask of the payload; default the caller's."),
    ("new-session", PROCESS, (),
     "The payload leaves the caller's session, process group and terminal; needs a pid namespace or `supervise`. Signals from the "
     "terminal are then forwarded."),
    ("controlling-terminal", PROCESS, (("missing", "fatal|quiet"),), "Standard input, if it is one, becomes the new session's controlling terminal."),
    ("limit", PROCESS,
     (("resource", "core|cpu|data|file-size|address-space|files|locked|processes|stack"), ("soft", "number"), ("hard", "number")),
     "Resource limit of the payload; 18446744073709551615 is none. Never above the limit that it has already."),
    ("no-user-namespaces", PROCESS, (), "The payload can make no user namespaces of its own."),
    ("new-keyring", PROCESS, (("missing", "fatal|quiet"),), "Join a new, empty session keyring."),
    ("landlock-scope", PROCESS, (("scopes", "abstract+signal"), ("missing", "fatal|quiet")),
     "Landlock domain that only scopes abstract unix sockets and signals."),
    ("terminal-filter", PROCESS, (("missing", "fatal|quiet"),), "seccomp filter: TIOCSTI and TIOCLINUX give EPERM."),
    ("init", PROCESS, (("name", "text"),),
     "With a pid namespace: pid 1 is an init of this name that reaps and forwards; without this record the payload is pid 1."),
    ("search", PROCESS, (("directory", "inside"),), "Where a command without a slash is looked for, in order."),

    ("lead", COMMAND, (("text", "text"),), "Word that stands before the payload's arguments, whoever gives those."),
    ("argument", COMMAND, (("text", "text"),), "The payload's arguments; the first is the command. May be given to a stored plan instead."),

    ("end", END, (), "Last record; nothing may follow."),
)
