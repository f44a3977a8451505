"""The receipt of a run as an object. Its schema is that of the receipt file, `docs/receipts.md`."""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Optional

    from dunnage.api.course import Course
    from dunnage.plan.wire import Operation

    Number = Optional[int]

USAGE = (
    "user_us", "system_us", "max_rss_bytes", "minor_faults", "major_faults", "read_bytes", "written_bytes",
    "voluntary_switches", "involuntary_switches", "peak_processes", "peak_memory_bytes", "oom_kills",
)
PHASES = ("compared_us", "namespaces_us", "mounted_us", "entered_us", "executed_us", "ended_us")


class Receipt:
    """What ran, what was protected, what it used, and how it ended. None stands for what nobody knows.

    document       all of it, as of the JSON text
    failure_class  ``setup``, ``image``, ``policy``, ``payload``, ``limit``, ``killed``, ``out-of-memory``; None when
                   the payload ended with exit code 0
    exit_code      of the payload, None when a signal ended it
    signal         number of that signal, or None
    cause          why it ended: ``itself``, ``wall-time``, ``cpu-time``, ``caller``, ``told``, ``start``
    message, fix   of a failure before the payload ran, or None
    usage          name -> number: processor time in microseconds, bytes, counts
    phases         name -> microseconds since the launcher began
    started_us     when that was, in microseconds since 1970
    leftovers      number of processes that the payload left running, and that were killed
    protections    one object for each, as of `dunnage explain --json`
    warnings       sentences
    """

    __slots__ = ("document",)

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document

    def __repr__(self) -> str:
        return (f"<dunnage.Receipt failure_class={self.failure_class!r} exit_code={self.exit_code!r} "
                f"signal={self.signal!r} cause={self.cause!r}>")

    @property
    def _result(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["result"]
        return found

    @property
    def failure_class(self) -> str | None:
        found: str | None = self._result["failure_class"]
        return found

    @property
    def exit_code(self) -> Number:
        found: Number = self._result["exit_code"]
        return found

    @property
    def signal(self) -> Number:
        found: Number = self._result["signal"]
        return found

    @property
    def cause(self) -> str | None:
        found: str | None = self._result["cause"]
        return found

    @property
    def message(self) -> str | None:
        found: str | None = self._result["message"]
        return found

    @property
    def fix(self) -> str | None:
        found: str | None = self._result["fix"]
        return found

    @property
    def usage(self) -> dict[str, Number]:
        return {name: self._result[name] for name in USAGE}

    @property
    def phases(self) -> dict[str, Number]:
        return {name: self._result[name] for name in PHASES}

    @property
    def started_us(self) -> Number:
        found: Number = self._result["started_us"]
        return found

    @property
    def leftovers(self) -> Number:
        found: Number = self._result["leftovers"]
        return found

    @property
    def protections(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.document["protections"]
        return found

    @property
    def warnings(self) -> list[str]:
        found: list[str] = self.document.get("warnings", [])
        return found

    def to_json(self) -> str:
        """The text that the receipt file would hold, in one line."""
        import json

        return json.dumps(self.document, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> Receipt:
        """Of a receipt file's content; ValueError when it is none."""
        import json

        from dunnage.plan.receipt import SCHEMA

        document = json.loads(text)
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            raise ValueError("this is no receipt of Dunnage")
        return cls(document)


def document(begun: list[Operation], course: Course) -> dict[str, Any]:
    """What the launcher makes of `receipt` and `receipt-state` operations and of the end of a run."""
    import json

    from dunnage.messages import errno_name
    from dunnage.plan.receipt import result

    parts = [begun[0][3].decode()]
    for _, protection, there, missing in begun[1:]:
        error = course.facts[f"{protection.decode()}_errno"]
        if error == 0:
            parts.append(there.decode())
        else:
            why = "it did not come to that" if error is None else errno_name(error)
            parts.append(f'{missing.decode()}{why}"}}')
    found: dict[str, Any] = json.loads(",".join(parts).replace('"protections":[,', '"protections":[', 1) + "]}")
    _, message, fix = course.failure or ("", None, None)
    found["result"] = result(course.facts, message, fix or None)
    return found
