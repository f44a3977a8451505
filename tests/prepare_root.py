"""Make the images that belong to root. `make test` started by root does so before it becomes somebody else.

Usage: python3 tests/prepare_root.py DIRECTORY

An image on a site belongs to whoever published it. What a payload can do to files of others, and what a
setuid file or a device node in an image is worth, cannot be tested with files of one's own.
"""
from __future__ import annotations

import os
import stat
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from containers.images import compile_payload, conformance_trees, payload_image  # noqa: E402 - needs the path above

# As setcap writes them, version 2: all of them permitted, and effective at once.
ALL_CAPABILITIES = struct.pack("<5I", 0x02000001, 0xffffffff, 0, 0xffffffff, 0)


def prepare(top: Path) -> None:
    """`conformance` holds the trees of the cases, `image` the payload's image with what only root can put there."""
    top.mkdir(parents=True)
    conformance_trees(top / "conformance")
    payload = compile_payload(top / "payload")
    image = payload_image(top / "image", payload)
    (image / "bin/setuid").write_bytes(payload.read_bytes())
    (image / "bin/setuid").chmod(0o6755)
    (image / "bin/capable").write_bytes(payload.read_bytes())
    (image / "bin/capable").chmod(0o755)
    os.setxattr(image / "bin/capable", "security.capability", ALL_CAPABILITIES)
    odd = image / "odd"
    odd.mkdir()
    os.mknod(odd / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(odd / "whiteout", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    (odd / "secret").write_text("root's own\n")
    (odd / "secret").chmod(0o600)
    (odd / "locked").mkdir(mode=0o700)
    (odd / "plain").write_text("plain\n")
    (odd / "negative").write_text("not for the group\n")
    (odd / "negative").chmod(0o707)
    os.chown(odd / "negative", 0, os.stat(top.parent).st_gid)  # who tests owns that directory


if __name__ == "__main__":
    os.umask(0o022)
    prepare(Path(sys.argv[1]))
