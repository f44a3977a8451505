"""Any command line, environment, site, host and image: a plan that the launcher would accept, or one clear error."""
from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, event, given, note, settings
from hypothesis import strategies as st

from dunnage import settings as table
from dunnage.errors import DunnageError
from dunnage.host.site import KEYS
from dunnage.plan.compose import Composition
from dunnage.plan.identity import Account
from dunnage.plan.isolation import ALWAYS, PROTECTIONS, rows
from dunnage.plan.wire import decode, describe, encode, parse
from unit.composing import ANN, ROOT_MOUNT, Machine, fields
from unit.memory_tree import MemoryTree

VERBS = (b"exec", b"exec", b"run", b"shell", b"payload", b"payload", b"freeze", b"explain")

# What means something to some option; each is offered to all of them.
WORDS = (
    b"", b"/", b".", b"..", b"rel", b"/data", b"/data/in", b"/no/such", b"/etc", b"/etc/hosts", b"/proc", b"/dev/null",
    b"/tmp", b"/home/ann", b"/data:/in", b"/data:/in:ro", b"/data:/etc", b"/data/in:/data", b"/etc/hosts:/etc/new",
    b"/etc/hosts:/usr/bin/new", b"/etc/hosts:/etc/passwd", b"/data:/deep/er/still", b"/data:/", b"/data:/proc/x",
    b"/data:/a/../../b", b"/data:/loop/x", b"/data:relative", b"/data:/in:rw,ro", b":", b"::", b",", b"a,b,,c",
    b"/data:/in,/etc/hosts:/in/hosts", b"/data,/home/ann", b"/data:/x\\:y", b"type=bind,src=/data,dst=/m,ro",
    b"type=bind,source=/data", b"type=tmpfs", b"src=", b"A=B", b"A=", b"=B", b"A=\xff\n", b"HOME=/x", b"PATH=:::",
    b"none", b"yes", b"true", b"false", b"1", b"0", b"-1", b"99999999999999999999", b"10M", b"3G", b"5m", b"1:30:00",
    b"60", b"nofile=64", b"nofile=64:128", b"core=0", b"as=unlimited", b"cpu=1", b"tmp", b"home", b"home,tmp,proc,sys",
    b"bind-paths", b"cwd,/data", b"auto", b"binds", b"overlay", b"classic", b"ISO-21", b"PRO-22", b"landlock", b"3",
    b"2", b"100000", b"null", b"/dev/fuse", b"X=/etc/hosts", b"X=/data", b"node7", b"n" * 65, b"n" * 300,
    b"/p" * 2100, b"\xff\xfe\n", b"'\"$(id)",
)
PATHS = (
    b"/proc", b"/sys", b"/dev", b"/tmp", b"/var/tmp", b"/home", b"/home/ann", b"/root", b"/opt", b"/usr/bin", b"/data",
    b"/etc", b"/in", b"/srv", b"/run", b"/.singularity.d/env", b"/deep", b"/bin", b"/loop", b"/etc/passwd",
    b"/etc/group", b"/etc/hosts", b"/etc/resolv.conf", b"/etc/localtime", b"/etc/hostname", b"/usr/bin/sh", b"/bin/sh",
    b"/usr/bin/bash", b"/.singularity.d/runscript", b"/.singularity.d/env/10.sh", b"/.singularity.d/libs",
    b"/singularity", b"/environment", b"/usr/bin/true", b"/dev/null", b"/dev/pts", b"/dev/shm", b"/dev/mqueue",
)
TEXTS = (b"", b"/", b"..", b"usr/bin", b"/usr/bin", b"/nowhere", b"loop", b"/loop", b"../../..", b"/etc", b"/proc/self",
         b"/data/in", b"passwd")
CONTENTS = (b"", b"root:x:0:0:root:/root:/bin/bash\n", b"ann:x:1000:100::/h:/b\n", b"no newline", b"::::::\n\n:\xff:\n",
            b"#!/bin/sh\n", b"\x7fELF", b"a\0b")
AUTOFS = b"30 22 0:40 / %s rw,relatime %s- autofs /etc/auto rw,fd=1\n"

raw = st.binary(max_size=12).map(lambda word: word.replace(b"\0", b"0"))
values = st.one_of(st.sampled_from(WORDS), st.sampled_from(WORDS), raw)


@st.composite
def command_lines(draw: Any) -> list[bytes]:
    verb = draw(st.sampled_from(VERBS))
    known = {**(table.PAYLOAD if verb == b"payload" else table.ACTION), **table.OWN.get(verb, {})}
    usable = sorted(name for name, row in known.items() if row[1] not in (table.IGNORED, table.REFUSED, "help"))
    words = [verb]
    for name in draw(st.lists(st.sampled_from(usable), max_size=7)):
        if known[name][0] == table.FLAG:
            words.append(b"--" + name)
        else:
            words.append(b"--" + name + b"=" + draw(values))
    command = draw(st.lists(values, min_size=1, max_size=3))
    if verb == b"explain" and draw(st.booleans()):
        words.insert(1, draw(st.sampled_from(VERBS)))
    return [*words, draw(st.sampled_from((b"/images/debian", b"image"))), *command]


@st.composite
def environments(draw: Any) -> dict[bytes, bytes]:
    twins = sorted({key for row in table.ACTION.values() if row[1] not in (table.IGNORED, table.REFUSED)
                    for key in row[2]})
    names = st.one_of(
        st.builds(bytes.__add__, st.sampled_from((b"APPTAINER_", b"SINGULARITY_")), st.sampled_from(twins)),
        st.sampled_from((b"HOME", b"PATH", b"LD_LIBRARY_PATH", b"TERM", b"APPTAINERENV_A", b"SINGULARITYENV_PATH",
                         b"APPTAINERENV_", b"SINGULARITYENV_HOME", b"APPTAINER_MESSAGELEVEL", b"APPTAINER_CONTAINER",
                         b"USER", b"http_proxy", b"BASH_FUNC_f%%")),
        raw.map(lambda word: word.replace(b"=", b"_") or b"_"))
    return draw(st.dictionaries(names, values, max_size=4))  # type: ignore[no-any-return]


@st.composite
def sites(draw: Any) -> bytes:
    lines = []
    for key in draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=4)):
        right = st.sampled_from([word.encode() for word in KEYS[key][1]])
        lines.append(key + b" = " + draw(st.one_of(right, right, values)).replace(b"\n", b" "))
    return b"\n".join(lines) + b"\n"


def grow(tree: MemoryTree, draw: Any, often: bool) -> None:
    """Some of the paths, of any kind, where they can exist."""
    for path in PATHS:
        kind = draw(st.sampled_from(("usual",) * (12 if often else 2) + ("none", "dir", "file", "link")))
        above = os.path.dirname(path)
        while tree.kind(above) is None:
            above = os.path.dirname(above)
        if kind == "none" or tree.kind(above) != "dir" or tree.kind(path):
            continue
        if kind == "usual":
            kind = "dir" if path in PATHS[:PATHS.index(b"/bin")] else "link" if path in (b"/bin", b"/loop") else "file"
            text = b"usr/bin" if path == b"/bin" else b"loop"
        else:
            text = draw(st.sampled_from(TEXTS))
        if kind == "dir":
            tree.dir(path)
        elif kind == "link":
            tree.link(path, text)
        else:
            tree.file(path, draw(st.sampled_from(CONTENTS)), draw(st.sampled_from((0o644, 0o755))))
    for refused in (tree.unlistable, tree.unsearchable, tree.unwritable):
        refused.update(draw(st.lists(st.sampled_from(PATHS), max_size=2 if refused is tree.unwritable else 1)))


@st.composite
def machines(draw: Any) -> Machine:
    machine = Machine()
    machine.image = MemoryTree()
    grow(machine.image, draw, draw(st.booleans()))
    if draw(st.booleans()):
        machine.host = type(machine.host)()
        grow(machine.host, draw, True)
        machine.host.refused = draw(st.dictionaries(st.sampled_from(PATHS), st.sampled_from((2, 13, 40, 107, 116)),
                                                    max_size=1))
    machine.environment = draw(environments())
    machine.cwd = draw(st.sampled_from((b"/home/ann/job", b"/", b"/data", b"/gone", b"/tmp", b"/\xff\n")))
    machine.mountinfo = ROOT_MOUNT * draw(st.sampled_from((1, 1, 40))) + b"".join(draw(st.lists(st.builds(
        lambda path, shared: AUTOFS % (path, shared), st.sampled_from((*PATHS, b"/images", b"/d\\040x")),
        st.sampled_from((b"", b"shared:7 "))), max_size=2)))
    machine.maximum = draw(st.sampled_from((0, 10, 100_000, 100_000)))
    machine.terminals = draw(st.sampled_from(((), (0, 1, 2), (2,))))
    machine.controlled = draw(st.booleans())
    machine.account = draw(st.sampled_from((
        ANN, None, Account(b"", 0, 0, b"", b"", b"", b""), Account(b"a:b\n", 7, 7, b"\xff", b"rel", b":", b"g:"))))
    machine.front = draw(st.sampled_from((b"", b"/usr/bin/dunnage")))
    machine.cgroup = draw(st.sampled_from((b"", b"/sys/fs/cgroup/ann")))
    return machine


@pytest.mark.requirement("FUZ-10", "D1", "ISO-50", "ISO-51", "CLI-30", "CLI-39", "UND-355")
@settings(max_examples=500, deadline=None, suppress_health_check=list(HealthCheck),
          phases=set(Phase) - {Phase.explain})  # which takes trees that are drawn name by name for others
@given(machines(), command_lines(), sites(), st.sampled_from((b"dunnage", b"apptainer", b"singularity")))
def test_anything_gives_a_good_plan_or_a_clear_error(machine: Machine, line: list[bytes], site: bytes,
                                                     name: bytes) -> None:
    note(f"{name!r} {line}\nenvironment {machine.environment}\nsite {site!r}")
    try:
        machine.site(site.decode("latin-1"))
        prepared, options = machine.prepare("", name, line)  # checks the plan as the launcher does
    except DunnageError as error:
        event("refused")
        shown = f"{error.what} {error.why} {error.fix}"
        assert error.what and error.why and "\n" not in shown and shown.isprintable(), shown
        return
    event(f"{line[0].decode()}: a plan")
    composition = prepared.composition
    operations = composition.operations
    assert decode(encode(operations)) == operations == parse(describe(operations))
    for text in composition.warnings + composition.notes:
        assert text.isprintable(), text
    found = rows(options, machine.policy, prepared.facts, prepared.reference, composition)
    assert [row["id"] for row in found] == [number for number, *_ in PROTECTIONS]
    on = {row["id"] for row in found if row["planned"] == "on"}
    evidence = evident(composition, options.strict)
    assert on & set(evidence) == {number for number, there in evidence.items() if there}
    assert on >= set(ALWAYS)
    if options.strict:  # whatever else is asked for, off is only what was switched off
        kept = {"PRO-08": options.host_pid, "PRO-09": options.host_ipc, "PRO-16": options.keep_keyring,
                "PRO-17": options.no_landlock, "PRO-28": options.no_die_with_caller}
        assert {number for number, wish in kept.items() if not wish} <= on
        assert {"PRO-07", "PRO-14", "PRO-15", "PRO-22"} <= on


def evident(composition: Composition, strict: bool) -> dict[str, bool]:
    """What the plan itself says of protections."""
    names = {each[0] for each in composition.operations}
    namespaces = fields(composition, b"unshare")[0][0].split(b",")
    own = {"PRO-08": b"pid", "PRO-09": b"ipc", "PRO-21": b"net", "PRO-22": b"cgroup", "PRO-24": b"uts"}
    done = {"PRO-16": b"new-keyring", "PRO-17": b"landlock-scope", "PRO-20": b"terminal-filter",
            "PRO-30": b"no-user-namespaces", "ISO-21": b"cgroup"}
    return {
        **{number: name in namespaces for number, name in own.items()},
        **{number: name in names for number, name in done.items()},
        "PRO-07": not names & {b"host-dir", b"host-file"},
        "PRO-14": b"env-all" not in names,
        "PRO-15": (b"close",) in fields(composition, b"descriptors"),
        "PRO-28": not strict or b"die-with-caller" in names,
    }
