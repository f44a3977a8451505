"""The quota of keys, which all processes of a user share."""
from __future__ import annotations

import os
import time
from pathlib import Path

from containers.launch import TIMEOUT


def wait_for_keys() -> None:
    """Until other work of this user leaves room in its quota of keys: every contained payload has one."""
    for _ in range(10 * TIMEOUT):
        for line in Path("/proc/key-users").read_text().splitlines():
            user, _, _, used, _ = line.replace(":", " ").split()[:5] if line.count("/") == 3 else ("", "", "", "", "")
            if user == str(os.getuid()):
                have, most = map(int, used.split("/"))
                break
        else:
            return
        if have < 0.8 * most:
            return
        time.sleep(0.1)
