"""Would the launcher accept this plan? The same rules, said once more in Python.

Tests check every plan that the planner makes, and stored plans are checked when they are read.
"""
from __future__ import annotations

from dunnage.plan.operations import END, FRAME, NAMESPACES, OPERATIONS, PLACING, PROCESS, ROOT
from dunnage.plan.options import LONGEST
from dunnage.plan.wire import BadPlan, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.wire import Operation

MAX_RECORDS = 1 << 21
MAX_INDEX = 1 << 18
MAX_PATH = 4095
MAX_NAME = 255
MAX_DEPTH = 1024

TABLE = {name.encode(): (phase, fields) for name, phase, fields, _ in OPERATIONS}
ARITY = {name: len(fields) for name, (_, fields) in TABLE.items()}

ONLY_ONCE = frozenset((
    b"speak", b"unshare", b"scratch", b"session", b"root", b"enter", b"init", b"die-with-caller",
    b"supervise", b"wall-time", b"cpu-time", b"cgroup", b"receipt", b"credentials",
))
DIRECTORIES = ("source-dir", "image-file")  # that can be the root, and back opened directories
NEEDED_NAMESPACE = {
    b"hostname": b"uts", b"loopback": b"net", b"init": b"pid", b"mount-proc": b"pid",
    b"mount-mqueue": b"ipc", b"cpu-time": b"pid",
}


def check(operations: list[Operation]) -> None:
    """Raise BadPlan unless the launcher would accept these operations as a whole plan."""
    if len(operations) > MAX_RECORDS:
        raise BadPlan(f"more than {MAX_RECORDS} operations")
    if not operations or operations[0] != (b"dunnage-plan", b"1"):
        raise BadPlan("does not begin with 'dunnage-plan 1'")
    if operations[-1] != (b"end",):
        raise BadPlan("does not end with 'end'")
    story = _Story()
    for position, operation in enumerate(operations):
        try:
            story.tell(operation[0], check_record(operation))
        except BadPlan as error:
            raise BadPlan(f"operation {position} ({quote(operation[0])}): {error}") from None
    story.finish()


def check_record(operation: Operation) -> dict[str, bytes]:
    """The fields by name, each of its type; what they refer to is not looked at."""
    name, *values = operation
    _need(name in TABLE, "there is no such operation")
    fields = TABLE[name][1]
    _need(len(values) == len(fields), f"has {len(values)} fields instead of {len(fields)}")
    for (field, form), value in zip(fields, values):
        _need(_fits(form, value), f"{field} is no {form}: {quote(value)}")
    return {field: value for (field, _), value in zip(fields, values)}


def _fits(form: str, value: bytes) -> bool:
    if b"\0" in value:
        return False
    if form in ("index", "number"):
        limit = MAX_INDEX if form == "index" else (1 << 64) - 1
        return value.isdigit() and len(value) <= 20 and b"%d" % int(value) == value and int(value) <= limit
    if form == "mode":
        return 0 < len(value) <= 20 and not value.strip(b"01234567") and int(value, 8) <= 0o7777
    if form in ("inside", "path"):
        return value == b"/" or (value[:1] == b"/" and len(value) <= MAX_PATH and _is_below(value[1:]))
    if form == "below":
        return _is_below(value)
    if "|" in form:
        return value.decode("latin-1") in form.split("|")
    if "+" in form:
        words = value.decode("latin-1").split(",") if value else []
        return set(words) <= set(form.split("+")) and len(words) == len(set(words))
    return True  # text


def _is_below(path: bytes) -> bool:
    names = path.split(b"/")
    return len(path) <= MAX_PATH and len(names) <= MAX_DEPTH and all(
        0 < len(name) <= MAX_NAME and name not in (b".", b"..") for name in names)


class _Story:
    """What belongs together over the whole plan: its order, and the numbers of things."""

    def __init__(self) -> None:
        self.phase = FRAME
        self.seen: set[bytes] = set()
        self.namespaces: set[bytes] = set()
        self.requests = 0
        self.objects: dict[int, str] = {}  # number: source-dir, source-file, or the operation
        self.read_only: set[int] = set()
        self.staged: set[int] = set()
        self.attached: set[int] = set()
        self.root = False
        self.opened: dict[int, str] = {}   # number: open, filled or sealed

    def tell(self, name: bytes, fields: dict[str, bytes]) -> None:
        self._check_order(name)
        _check_limits(name, fields)
        if name == b"request":
            self.requests += 1
            _need(int(fields["request"]) == self.requests, "requests are numbered from 1 without gaps")
        _need(int(fields.get("request", b"0")) <= self.requests, "names a request that does not exist")
        if name == b"unshare":
            self.namespaces = set(fields["namespaces"].split(b","))
            _need({b"user", b"mount"} <= self.namespaces, "user and mount namespaces are obligatory")
        _need(name != b"new-session" or b"pid" in self.namespaces or b"supervise" in self.seen,
              "needs a pid namespace or supervision")
        _need(name != b"hold" or b"pid" in self.namespaces or b"supervise" in self.seen, "nobody stays to hold it")
        _need(name != b"receipt-state" or b"receipt" in self.seen, "there is no receipt")
        _need(name != b"controlling-terminal" or b"new-session" in self.seen, "needs a new session before it")
        if name == b"credential":
            _need(self.objects.get(int(fields["object"])) == "credentials", "is for another kind of object")
        elif "object" in fields:
            if name in (b"server-argument", b"server-reads"):
                _need(self.objects.get(int(fields["object"])) == "image-file", "is for another kind of object")
            elif name in (b"source", b"image-file", b"generated", b"private", b"credentials"):
                self._declare(name, fields)
            else:
                self._use(name, int(fields["object"]), fields)
        elif name == b"open":
            self._open(fields)
        elif "opened" in fields:
            self._go_on(name, int(fields["opened"]))

    def _check_order(self, name: bytes) -> None:
        phase = TABLE[name][0]
        alone = phase in (FRAME, END) and phase == self.phase and self.seen
        _need(phase >= self.phase and not alone, "comes too late in the plan")
        _need(name not in ONLY_ONCE or name not in self.seen, "comes twice")
        self.phase = phase
        self.seen.add(name)
        if phase > NAMESPACES and phase != END:
            _need(b"unshare" in self.seen, "nothing is done before the namespaces exist")
        needed = NEEDED_NAMESPACE.get(name)
        _need(not needed or needed in self.namespaces, "needs a namespace that is not made")
        if phase == ROOT or name == b"open":
            _need(b"scratch" in self.seen, "there is no scratch")
        elif phase == PLACING:
            _need(self.root, "there is no root")
        elif phase >= PROCESS and phase != END:
            _need(b"enter" in self.seen, "the root was not entered")
        if name == b"enter":
            _need(set(self.opened.values()) <= {"sealed"}, "an opened directory is not sealed")

    def _declare(self, name: bytes, fields: dict[str, bytes]) -> None:
        number = int(fields["object"])
        _need(number not in self.objects, "the object exists already")
        _need(name != b"private" or b"session" in self.seen, "private directories need a session before them")
        kind = fields.get("kind")
        self.objects[number] = f"{name.decode()}-{kind.decode()}" if kind else name.decode()
        if name == b"image-file" or b"ro" in fields.get("flags", b"").split(b","):
            self.read_only.add(number)

    def _use(self, name: bytes, number: int, fields: dict[str, bytes]) -> None:
        _need(number in self.objects, "names an object that does not exist")
        what = self.objects[number]
        if name == b"stage":
            _need(what in DIRECTORIES and number in self.read_only and number not in self.staged,
                  "only a read-only directory of the host or of an image file is staged, once")
            self.staged.add(number)
            return
        _need(number not in self.attached, "the object is attached already")
        self.attached.add(number)
        if name == b"root":
            _need(what in DIRECTORIES, "the root is a directory of the host")
            self.root = True
        else:
            _need((what in (*DIRECTORIES, "private", "credentials")) == (fields["kind"] == b"dir"),
                  "a directory goes on a directory, anything else does not")

    def _open(self, fields: dict[str, bytes]) -> None:
        number = int(fields["opened"])
        _need(number not in self.opened, "the directory is opened already")
        _need(int(fields["backing"]) in self.staged, "its backing is not staged")
        _need(not fields["below"] or _is_below(fields["below"]), "its path below the backing is malformed")
        _need((fields["inside"] == b"/") != self.root, "there is one root, and nothing is opened before it exists")
        self.root = True
        self.opened[number] = "open"

    def _go_on(self, name: bytes, number: int) -> None:
        expected = "filled" if name == b"seal" else "open"
        _need(self.opened.get(number) == expected, "the directory is not in that state")
        if name in (b"fill", b"seal"):
            self.opened[number] = "filled" if name == b"fill" else "sealed"

    def finish(self) -> None:
        if b"enter" not in self.seen:
            raise BadPlan("never enters a root")
        if b"cpu-time" in self.seen and b"init" not in self.seen:
            raise BadPlan("the limit of processor time needs an init")
        for what, numbers in (("objects", self.objects), ("opened directories", self.opened)):
            if sorted(numbers) != list(range(len(numbers))):
                raise BadPlan(f"{what} are not numbered without gaps")


def _check_limits(name: bytes, fields: dict[str, bytes]) -> None:
    """What single fields may hold, beyond being of their type."""
    if name in (b"uid-map", b"gid-map"):
        _need(all(int(value) < 2**32 - 1 for value in fields.values()), "an id is too large")
    elif name == b"speak":
        _need(int(fields["level"]) <= 5 and int(fields["code"]) <= 255, "level or code is out of range")
    elif name == b"die-with-caller":
        _need(int(fields["caller"]) < 2**31 - 1, "the caller's pid is too large")
    elif name in (b"wall-time", b"cpu-time"):
        _need(0 < int(fields["milliseconds"]) <= LONGEST and int(fields["grace"]) <= LONGEST,
              "the time is out of range")
    elif name in (b"receipt", b"credential"):
        _need(name != b"credential" or fields["name"] != b".new", "copies have that name while they are made")
        _need(b"/" not in fields["name"], "its name is more than a name")
    elif name == b"limit":
        _need(int(fields["soft"]) <= int(fields["hard"]), "its soft limit is above the hard one")
    elif name == b"hostname":
        _need(len(fields["name"]) <= 64, "the host name is longer than 64 bytes")
    elif name == b"init":
        _need(0 < len(fields["name"]) <= 15, "its name has 1 to 15 bytes")
    elif name in (b"env-set", b"env-pass"):
        _need(fields["name"] and b"=" not in fields["name"], "a variable's name is malformed")
    elif name == b"hold":
        _need(2 < int(fields["number"]) < 2**31 - 1, "there is no such descriptor")
    elif name == b"keep-descriptor":
        _need(int(fields["number"]) < 2**31 - 1, "the descriptor's number is too large")
    elif name == b"image-file":
        _need(not fields["below"] or _is_below(fields["below"]), "the path in it is malformed")
    elif name == b"open":
        _need(int(fields["seconds"]) < 2**63 and int(fields["nanoseconds"]) < 10**9,
              "its modification time is out of range")


def _need(condition: object, why: str) -> None:
    if not condition:
        raise BadPlan(why)
