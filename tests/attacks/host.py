"""The host around an attack: things that must not change, processes that must not stay."""
from __future__ import annotations

from pathlib import Path

from containers.processes import holding, until


class Valuables:
    """A directory of the same user that no test may touch: names, content, mode, time and number of links."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "deep").mkdir(parents=True)
        for name in ("secret", "deep/secret", "passwd", "x"):
            (place / name).write_text(f"valuable {name}\n")
        (place / "deep").chmod(0o711)
        self.before = self.look()

    def look(self) -> dict[str, tuple[int, int, int, bytes]]:
        found = {}
        for path in [self.place, *self.place.rglob("*")]:
            status = path.lstat()
            content = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (status.st_mode, status.st_mtime_ns, status.st_nlink, content)
        return found

    def assert_untouched(self) -> None:
        assert self.look() == self.before


def wait_for(token: str, *, count: int) -> list[int]:
    """Until so many processes have it among their arguments: those, or at the end of patience what there is."""
    until(lambda: len(holding(token)) == count)
    return holding(token)
