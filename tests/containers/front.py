"""Calling dunnage as its users do: the command itself, by any of its names."""
from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Union

from containers.launch import Ended, finish

Word = Union[str, bytes, Path]
PATH = "/usr/local/bin:/usr/bin:/bin"


class Front:
    """The front under one name. It gets no variable that the test does not give."""

    def __init__(self, path: Path, name: str = "dunnage") -> None:
        self.path = path
        self.name = name

    def start(self, *arguments: Word, env: Mapping[Any, Any] | None = None, **options: Any) -> subprocess.Popen[bytes]:
        """Only start it; `options` are those of Popen."""
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("stdout", subprocess.PIPE)
        options.setdefault("stderr", subprocess.PIPE)
        return subprocess.Popen([os.fsencode(self.path), *map(os.fsencode, arguments)], env=dict(env or {}), **options)

    def __call__(
        self, *arguments: Word, env: Mapping[Any, Any] | None = None, cwd: str | Path = "/", input: bytes = b"",
        wrap: Sequence[str | Path] = (), preexec_fn: Callable[[], object] | None = None, pass_fds: Sequence[int] = (),
    ) -> Ended:
        """Run to the end, from "/" unless told otherwise."""
        options: dict[str, Any] = {"cwd": cwd, "preexec_fn": preexec_fn, "pass_fds": pass_fds}
        if input:
            options["stdin"] = subprocess.PIPE
        if wrap:
            first, *rest = wrap
            return finish(Front(Path(first)).start(*rest, self.path, *arguments, env=env, **options), input)
        return finish(self.start(*arguments, env=env, **options), input)

    def fatal(self, *arguments: Word, **options: Any) -> str:
        """The one line of a start that is refused before any payload runs: exit code 255, its shape checked."""
        done = self(*arguments, **options)
        line = done.refused()
        assert line.startswith("dunnage: cannot " if self.name == "dunnage" else "FATAL:   "), line
        assert self.name == "dunnage" or len(line.encode()) <= 400, line
        for phrase in ("Operation not permitted", "No such file or directory", "Permission denied", "Traceback"):
            assert phrase not in line, line
        return line

    def usage(self, *arguments: Word, **options: Any) -> str:
        """The error of a command line that is wrong in itself: exit code 1, the usage on stdout (CLI-15)."""
        done = self(*arguments, **options)
        assert done.status == 1 and done.err.count("\n") == 1, done
        assert "sage" in done.out, done
        assert "unrecognized arguments" not in done.err and "command not found" not in done.err
        return done.err
