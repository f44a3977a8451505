"""`dunnage-launch` in memory, ready to be started any number of times (R17)."""
from __future__ import annotations

import os
import sys

from dunnage.api.descriptors import MemoryFile
from dunnage.errors import DunnageError
from dunnage.messages import errno_name, escape, remedy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Union

    Path = Union[str, bytes, os.PathLike[str], os.PathLike[bytes]]

NAME = b"dunnage-launch"


class Launcher:
    """The launcher, kept as one sealed file in memory.

    A start from there does not wait for a network file system, nobody can exchange the program under a running
    pilot, and no payload can reach its file. May be shared by any number of payloads and threads, and is usable
    after a fork. Where the machine forbids programs in memory, the file itself is started.

    path    file of the launcher; that of this installation when it is not given
    sealed  False: always start the file itself

    Raises SetupError when there is no such file.
    """

    __slots__ = ("path", "_file")

    def __init__(self, path: Path | None = None, *, sealed: bool = True) -> None:
        self.path = os.path.abspath(os.fsencode(path)) if path is not None else find()
        self._file: MemoryFile | None = self._load() if sealed else None

    def __repr__(self) -> str:
        return f"dunnage.Launcher({os.fsdecode(self.path)!r})"

    def program(self) -> MemoryFile | bytes:
        """What to start: hold it until that is done."""
        file = self._file
        if file is None:
            return self.path
        if not file.there():  # everything above 2 was closed, as daemons do
            self._file = file = self._load()
        return file or self.path

    def _load(self) -> MemoryFile | None:
        try:
            with open(self.path, "rb", buffering=0) as file:
                content = file.read()
        except OSError as error:
            why = errno_name(error.errno or 0)
            raise _unusable(self.path, why) from None
        try:
            return MemoryFile("dunnage-launch", content, program=True)
        except OSError as error:
            why = errno_name(error.errno or 0)
            if why in ("EACCES", "ENOSYS", "EPERM"):
                return None
            raise _unusable(self.path, f"{why} on a memfd") from None


def find() -> bytes:
    """Path of this installation's launcher, whatever its layout; SetupError."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(os.fsencode(__file__))))
    parent = os.path.dirname(package)
    above = os.path.dirname(parent)
    places = [
        above + b"/launcher/build",                                 # source tree
        above,                                                      # make install: PREFIX/lib/dunnage/python
        os.path.dirname(os.path.dirname(above)) + b"/bin",          # pip: PREFIX/lib/pythonX.Y/site-packages
        parent + b"/bin",                                           # pip --target
        os.fsencode(sys.prefix) + b"/bin",                          # editable
    ]
    for place in places:
        path = place + b"/" + NAME
        if os.access(path, os.X_OK):
            return path
    raise _unusable(places[0] + b"/" + NAME, "ENOENT, nor is it in the other places of an installation")


def _unusable(path: bytes, why: str) -> DunnageError:
    from dunnage.api.failures import SetupError

    return SetupError(
        f"start the launcher {escape(path)}", why,
        remedy(why) or "install Dunnage again, run `make` in its source tree, or give dunnage.Launcher its path",
    )
