"""Starting the payload of the test images by the command itself, in one line; also within an outer namespace."""
from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Union

from containers.front import Front
from containers.launch import Ended

Command = list[Union[str, Path]]
OUTER = ["/usr/bin/unshare", "--user", "--map-root-user", "--mount"]


def in_outer(script: str, *options: str) -> Command:
    """A wrap: `script` runs first, as root of a user and mount namespace around the start."""
    return [*OUTER, *options, "/bin/sh", "-ec", script + '\nexec "$@"', "sh"]


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
