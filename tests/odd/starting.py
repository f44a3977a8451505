"""Starting the payload of the test images by the command itself, in one line."""
from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from containers.front import Front
from containers.launch import Ended


def payload(front: Front, image: Path | str | bytes, *options: Any, commands: str, before: Sequence[Any] = (),
            **others: Any) -> Ended:
    """`exec` to the end, with options `before` the verb; `commands` are those of payload.c."""
    return front(*before, "exec", *options, image, "/bin/payload", *commands.split(), **others)


def start_payload(front: Front, image: Path | str, *options: Any, commands: str,
                  **others: Any) -> subprocess.Popen[bytes]:
    """`exec`, only started; the payload reads what the test writes."""
    others.setdefault("stdin", subprocess.PIPE)
    others.setdefault("cwd", "/")
    return front.start("exec", *options, image, "/bin/payload", *commands.split(), **others)
