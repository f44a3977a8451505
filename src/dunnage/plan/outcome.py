"""THE table of what the launcher tells of a run: messages, facts, causes, classes of failure.

The launcher (through the header that ``launcher/generate.py`` writes), the Python API
and ``docs/receipts.md`` all read it.

Messages go over a socket of type SOCK_SEQPACKET, from init to the outer process and from either to a
starter that gave ``--control-fd``. A message is its kind as a native 32-bit number and what
follows by its kind. The starter may send single bytes.
"""
from __future__ import annotations

# kind, what follows, meaning. Numbers are positions, from 0.
MESSAGES: tuple[tuple[str, str, str], ...] = (
    ("init", "a 32-bit pid",
     "Init was made, as a child of the starter. The launcher itself ends at once, with 0."),
    ("executed", "the facts so far", "The payload runs."),
    ("failed", "a 32-bit class of failure, the sentence and the fix, each ended by NUL",
     "It does not come to a payload."),
    ("stale", "", "Nothing was done: the host or the image is not that of the plan. Plan again."),
    ("refused", "the call and the errno's name with a colon between them, ended by NUL",
     "Nothing was done: the kernel refuses user namespaces. `dunnage check` explains it."),
    ("warning", "a sentence ended by NUL", "Something that the user should know; the start goes on."),
    ("stopped", "", "The payload was stopped."),
    ("continued", "", "The payload was continued."),
    ("ended", "all facts", "Everything has ended. Nothing follows."),
)
REFRESH, KILL = b"R", b"K"  # from the starter: copy credentials again; end everything now

# Each a native 64-bit number, in this order; UNKNOWN where nobody knows. Name (as in receipts), meaning.
UNKNOWN = 2**64 - 1
FACTS: tuple[tuple[str, str], ...] = (
    ("status", "wait status of the payload"),
    ("cause", "why it ended, a position in CAUSES"),
    ("class", "class of failure, a position in CLASSES"),
    ("started_us", "when the launcher began, in microseconds since 1970"),
    ("compared_us", "from there to the end of the comparison of host and plan"),
    ("namespaces_us", "from the launcher's begin to the namespaces"),
    ("mounted_us", "to the assembled root"),
    ("entered_us", "to the entered root"),
    ("executed_us", "to the payload's exec"),
    ("ended_us", "to the end of everything"),
    ("user_us", "processor time in user mode, of all that was waited for"),
    ("system_us", "processor time in the kernel"),
    ("max_rss_bytes", "resident memory of the largest process"),
    ("minor_faults", "page faults without input"),
    ("major_faults", "page faults with input"),
    ("read_bytes", "read from block devices"),
    ("written_bytes", "written to block devices"),
    ("voluntary_switches", "context switches by waiting"),
    ("involuntary_switches", "context switches by preemption"),
    ("leftovers", "processes that the payload left running, and that were killed"),
    ("peak_processes", "most processes at once (cgroup)"),
    ("peak_memory_bytes", "most memory at once (cgroup)"),
    ("oom_kills", "processes killed because the memory limit was reached (cgroup)"),
    ("credentials_renewed", "how often a credential was copied again"),
    ("keyring_errno", "best effort: 0 when the new session keyring was made, else the errno"),
    ("abstract_errno", "the same of the scope of abstract sockets"),
    ("signal_errno", "the same of the scope of signals"),
    ("terminal_errno", "the same of the terminal filter"),
    ("cgroup_errno", "the same of the cgroup with its limits"),
)

CAUSES: tuple[tuple[str, str], ...] = (
    ("itself", "the payload ended by itself, or by a signal that was not ours"),
    ("wall-time", "the limit of wall time"),
    ("cpu-time", "the limit of processor time"),
    ("caller", "whoever started it has ended"),
    ("told", "a signal to Dunnage, or the starter, asked for the end"),
    ("start", "the start failed"),
)

CLASSES: tuple[tuple[str, str], ...] = (
    ("none", "no failure: exit code 0"),
    ("setup", "Dunnage could not set the container up"),
    ("image", "the image, or the command in it, cannot be run"),
    ("policy", "the site's configuration or a required protection forbids it"),
    ("payload", "the payload itself: exit code other than 0, or a signal of its own making such as SIGSEGV"),
    ("limit", "killed because of a limit: wall time, processor time"),
    ("killed", "killed from outside: a signal to us, the end of the caller, or a SIGKILL from elsewhere"),
    ("out-of-memory", "killed because the memory limit was reached"),
)
