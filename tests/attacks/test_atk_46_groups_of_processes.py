"""ATK-46: signals and priorities for whole groups, sessions and users."""
from __future__ import annotations

import fcntl
import os
import pty
import subprocess
import termios
from pathlib import Path

import pytest

from attacks.battle import Battle, Ours
from containers.terminal import read_until

pytestmark = pytest.mark.kernel

# A pilot that starts a payload in the foreground of its own terminal, as part of its own process group.
PILOT = "trap 'echo hit' USR1; \"$@\"; echo end"
ATTACK = "trap '' USR1; kill -USR1 0; echo sent"


@pytest.mark.requirement("ATK-46", "ATK-11")
def test_process_groups_of_pilot_and_neighbour(battle: Battle) -> None:
    """What arrived by kill(0), kill(-1), setpriority of user and group is counted in ATK-09 and ATK-10."""
    battle.shared_unless_contained("46.p.group 46.b.group", "ESRCH")


@pytest.mark.requirement("ATK-46", "ATK-09", "PRO-19")
def test_group_on_a_terminal(contained: Ours, shelled: Path) -> None:
    """Groups know no pid namespace. `exec -C` keeps the caller's terminal, and with it its group, as documented; a
    strict payload has its own."""
    leader, follower = pty.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)

    command = [contained.front, *contained.arguments(shelled, "/bin/busybox", "sh", "-c", ATTACK)]
    with subprocess.Popen(["/bin/sh", "-c", PILOT, "pilot", *command], stdin=follower, stdout=follower,
                          stderr=follower, preexec_fn=take_terminal, env={}):
        os.close(follower)
        said = read_until(leader, b"end")
    os.close(leader)
    assert b"sent" in said and (b"hit" in said) is not contained.strict, said
