"""Which features of this kernel we may use: a table for people, no verdict.

Everything here is optional. Each call is made with arguments that cannot succeed, so
only its presence shows.
"""
from __future__ import annotations

import os

from dunnage.baseline import trial
from dunnage.baseline.readings import read_text
from dunnage.messages import errno_name

# Numbers from 403 on are the same on every architecture.
_CALLS = (
    ("open_tree", 428),
    ("fsopen", 430),
    ("pidfd_open", 434),
    ("close_range", 436),
    ("openat2", 437),
    ("mount_setattr", 442),
)
_LANDLOCK_CREATE_RULESET = 444
_BAD = 0xFFFFFFFF
SECONDS = 3.0


def table(nobody: bool, seconds: float) -> dict[str, str]:
    """All of them in the order to show; `nobody`: as an unprivileged user, for one who calls as root."""
    def look() -> dict[str, str]:
        if nobody:
            trial.become_nobody()
        return {
            **trial.in_child(calls, SECONDS), "overlay in user namespace": overlay(), "Landlock": landlock(),
            "cgroups": cgroups(), "/dev/fuse": fuse(),
        }

    try:
        found: dict[str, str] = trial.in_child(look, seconds)
    except (trial.Refused, trial.NoAnswer) as silence:
        return {"unknown": str(silence)}
    return found


def calls() -> dict[str, str]:
    """Call name to ``yes``, ``no`` (absent) or ``refused`` (by a seccomp filter). Enters namespaces."""
    refused = "refused"
    try:
        trial.enter("mnt")
    except trial.Refused:
        refused = "unknown"  # some of them ask for a capability first
    found = {}
    for name, number in _CALLS:
        # Descriptor -1 and flags that do not exist: EBADF or EINVAL from a call that is there.
        error = trial.system_call(number, _BAD, 0, _BAD, _BAD, _BAD)[1]
        found[name] = {"ENOSYS": "no", "EPERM": refused}.get(error, "yes")
    return found


def landlock() -> str:
    """ABI version, or ``no``."""
    version, error = trial.system_call(_LANDLOCK_CREATE_RULESET, 0, 0, 1)
    return f"no ({error})" if error else f"ABI {version}"


def overlay() -> str:
    """Read-only overlayfs in a user namespace (Linux 5.11)."""
    def attempt() -> None:
        trial.enter("mnt")
        trial.mount_overlay()

    try:
        trial.in_child(attempt, SECONDS)
    except trial.Refused as refused:
        return f"no ({refused.errno_name} on {refused.call})"
    except trial.NoAnswer as silence:
        return f"no ({silence})"
    return "yes"


def cgroups() -> str:
    """``version 2``, ``version 1``, ``version 1 and 2`` or ``no``."""
    lines = (read_text("/proc/self/cgroup") or "").splitlines()
    unified = any(line.startswith("0::") for line in lines) and os.path.ismount("/sys/fs/cgroup")
    legacy = any(not line.startswith("0::") for line in lines)
    versions = [name for name, there in (("1", legacy), ("2", unified)) if there]
    return "version " + " and ".join(versions) if versions else "no"


def fuse() -> str:
    """Can this user open /dev/fuse?"""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"no ({errno_name(error.errno or 0)})"
    return "yes"
