"""A composed plan as one that is stored (R13, UND-370). Pure.

It holds what a launch is made of: paths, kinds, link texts. Devices and inodes are left out, so a
replaced directory is no reason to refuse; what would change the result is named, for the launcher to
look at: links that were followed, and directories that the plan makes up.
"""
from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from dunnage.plan.environment import Operation
    from dunnage.plan.underlay import Resolved


def freeze(
    operations: Iterable[Operation], resolved: Iterable[Resolved], renewal: bytes, *, here: bool,
    passed: Iterable[bytes] = (),
) -> list[Operation]:
    """`operations` of a plan for storing.

    resolved  where each request landed, request 1 first
    renewal   command that makes the plan anew, for the launcher's messages
    here      start in the directory of whoever starts it, rather than in the planned one
    passed    names of variables that it gets from whoever starts it, whatever else it gets
    """
    frozen: list[Operation] = []
    made: dict[bytes, dict[bytes, None]] = {}  # opened directory: names that lead to points and were missing
    for operation in operations:
        name = operation[0]
        if name == b"source":
            operation = (*operation[:3], b"0", b"0", *operation[5:])
        elif name == b"image-file":
            operation = (*operation[:2], b"0", b"0", *operation[4:])
        elif name in (b"point-dir", b"point-file"):
            above, slash, _ = operation[3].partition(b"/")
            if slash:
                made.setdefault(operation[1], {})[above] = None
        elif name == b"fill":
            frozen += [(b"expect-no-dir", operation[1], above) for above in made.pop(operation[1], ())]
        elif name == b"enter":
            frozen += _links(resolved)
        elif name == b"workdir" and here and operation[1] == b"warn":
            operation = (*operation[:2], b".")
        frozen.append(operation)
        if name == b"speak":
            frozen.append((b"renew", renewal))
        elif name == b"enter":
            frozen += [(b"env-pass", variable) for variable in passed]
    return frozen


def _links(resolved: Iterable[Resolved]) -> list[Operation]:
    """Every link on the way to a mount, once."""
    found: dict[bytes, Operation] = {}
    for number, each in enumerate(resolved, 1):
        for path, text in () if each.skipped else each.links:
            found.setdefault(path, (b"expect-link", b"%d" % number, text, path))
    return list(found.values())
