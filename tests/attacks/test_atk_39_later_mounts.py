"""ATK-39: mounts that the host makes while a payload runs, and mounts that the payload makes."""
from __future__ import annotations

from pathlib import Path

import pytest

from attacks.battle import Ours
from containers.front import Front

pytestmark = pytest.mark.kernel

# Around the start: a shared file system of the host's, on which something is mounted when the payload says so.
SCRIPT = """
set -e
mount -t tmpfs host {bound}; mount --make-shared {bound}; mkdir {bound}/late
"$@" &
while [ ! -e {signal}/ready ]; do sleep 0.05; done
mount -t tmpfs late {bound}/late; touch {bound}/late/arrived {signal}/go
wait $!
while read -r _ _ _ _ place _; do [ $place != /mnt ] || echo "on the host: $place"; done < /proc/self/mountinfo
"""


@pytest.mark.requirement("ATK-39", "HRD-27", "PRO-06", "R14")
def test_mounts_of_host_and_payload(mode: Ours, arena: Path, tmp_path: Path) -> None:
    """The host's arrive in an exec, as automounts must, and not in a strict payload. The payload's never leave."""
    bound, signal = tmp_path / "bound", tmp_path / "signal"
    bound.mkdir()
    signal.mkdir()
    words = "nested + try tmpfs /mnt + try create /ro/ready + await /ro/go + ls /opt/late"
    command = mode.arguments(arena, "/bin/payload", *words.split(),
                             options=["-B", f"{bound}:/opt", "-B", f"{signal}:/ro"])
    wrap = ["unshare", "-Urm", "--propagation", "shared", "sh", "-c", SCRIPT.format(bound=bound, signal=signal), "sh"]
    done = Front(Path("/usr/bin/env"))("PATH=/usr/sbin:/usr/bin:/sbin:/bin", *wrap, mode.front, *command)
    assert done.well().lines == ["ok", "ok", "ok", "" if mode.strict else "arrived"]
