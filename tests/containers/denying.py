"""Run a command for which some system calls fail: an old kernel, or an outer container's seccomp profile.

Usage: python3 denying.py ERRNO CALL,CALL... COMMAND [ARGUMENT ...]

With SUCCESS as ERRNO the calls return 0 and do nothing.
"""
from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys

# x86-64 and aarch64 have the same numbers from 424 on
NUMBERS = {
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "close_range": 436, "openat2": 437, "mount_setattr": 442,
    "landlock_create_ruleset": 444,
    "renameat2": {"x86_64": 316, "aarch64": 276}.get(os.uname().machine, -1),
    "flock": {"x86_64": 73, "aarch64": 32}.get(os.uname().machine, -1),
    "mkdirat": {"x86_64": 258, "aarch64": 34}.get(os.uname().machine, -1),
    "linkat": {"x86_64": 265, "aarch64": 37}.get(os.uname().machine, -1),
    "pwrite64": {"x86_64": 18, "aarch64": 68}.get(os.uname().machine, -1),
    "keyctl": {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1),
    "unshare": {"x86_64": 272, "aarch64": 97}.get(os.uname().machine, -1),
    "mount": {"x86_64": 165, "aarch64": 40}.get(os.uname().machine, -1),
    "pivot_root": {"x86_64": 155, "aarch64": 41}.get(os.uname().machine, -1),
    "seccomp": {"x86_64": 317, "aarch64": 277}.get(os.uname().machine, -1),
}
LOAD, EQUAL, RETURN, ALLOW, FAIL = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, MODE_FILTER = 22, 38, 2


def deny(calls: list[str], error: int) -> None:
    """From now on, for this process and what it becomes."""
    code = [struct.pack("HBBI", LOAD, 0, 0, 0)]
    for position, call in enumerate(calls):
        code.append(struct.pack("HBBI", EQUAL, len(calls) - position, 0, NUMBERS[call]))
    code += [struct.pack("HBBI", RETURN, 0, 0, ALLOW), struct.pack("HBBI", RETURN, 0, 0, FAIL | error)]
    program = ctypes.create_string_buffer(b"".join(code))
    head = ctypes.create_string_buffer(struct.pack("HP", len(code), ctypes.addressof(program)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, MODE_FILTER, head, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    deny(sys.argv[2].split(","), 0 if sys.argv[1] == "SUCCESS" else getattr(errno, sys.argv[1]))
    os.execv(sys.argv[3], sys.argv[3:])
