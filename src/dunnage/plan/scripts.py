"""The command line that lets an image's own /bin/sh run its environment scripts (CLI-65, CLI-111). Pure.

Nothing of the image is interpreted on the host. What was given for the container beats
the scripts, so it waits in ``DUNNAGE_SET_`` variables until they are done: in variables,
not in the text of the command, because anybody can read another process's arguments.
"""
from __future__ import annotations

from dunnage.messages import FORBIDDEN_PHRASES, QUIET, escape, guard
from dunnage.plan.environment import EXTENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.plan.environment import Environment, Operation

WAITING = b"DUNNAGE_SET_"
ANY = b"\0"  # in place of a command that is not known yet: that of a stored plan can be another one
CONVERTED = b"/10-docker2singularity.sh"  # only images that were OCI images have it

# assigning to one of these ends some shells
_READ_ONLY = (b"UID", b"EUID", b"PPID", b"SHELLOPTS", b"BASHOPTS", b"BASH_VERSINFO")

# A script that calls `exit`, or that the shell cannot read, ends the shell: the trap goes on from there.
# The scripts run in a function so that `set -- x` in one of them does not change the command.
_FRAME = b"""\
dunnage_scripts() {
%(source)s
}
dunnage_end() {
trap - EXIT
set +eu
%(assign)s
%(check)s
exec "$@"
}
dunnage_early() { printf '%%s\\n' %(early)s >&2; }
trap '%(warn)sdunnage_end "$@"' EXIT
dunnage_scripts "$@"
dunnage_end "$@"
"""

_CHECK_PATH = b"""\
[ -e %(command)s ] || { printf '%%s\\n' %(missing)s >&2; exit 255; }
{ [ -f %(command)s ] && [ -x %(command)s ]; } || { printf '%%s\\n' %(refused)s >&2; exit 255; }"""

_CHECK_NAME = b"""\
dunnage_found=
dunnage_ifs=$IFS; IFS=:; set -f
for dunnage_dir in $PATH; do
if [ -f "$dunnage_dir/"%(command)s ] && [ -x "$dunnage_dir/"%(command)s ]; then dunnage_found=1; break; fi
done
IFS=$dunnage_ifs; set +f
[ -n "$dunnage_found" ] || { printf '%%s\\n' %(missing)s >&2; exit 255; }"""


_CHECK_ANY = b"""\
case $1 in
*/*)
%s
;;
*)
%s
;;
esac"""

# The names are plain ones (_settable), so that eval sees nothing but names.
_SETTLE = b"""\
for dunnage_name in %s; do
eval "export $dunnage_name=\\"\\$%s$dunnage_name\\"; unset %s$dunnage_name"
done"""


def wrap(
    scripts: list[bytes], environment: Environment, command: list[bytes], foreign: bool, level: int,
) -> tuple[list[Operation], list[bytes]]:
    """Environment operations and the arguments that run `scripts`, settle the environment and become `command`.

    What the launcher would say of a command that cannot be run, the shell has to say here. Without `command` the
    arguments are for any that is put behind them.
    """
    later: dict[bytes, bytes] = {}
    direct: dict[bytes, bytes] = dict(environment.values)
    for name, value in (*environment.given.items(), *environment.final.items()):
        if _settable(name):
            later[name] = value
        else:
            direct[name] = value
    direct.update(environment.final)  # scripts may look at these
    # a loop, since one argument may be 128 KiB long and batch systems give thousands of variables
    assign = [_SETTLE % (b" ".join(name for name in later if name not in EXTENDING), WAITING, WAITING)]
    if any(script.endswith(CONVERTED) for script in scripts):
        assign.append(_DEFAULT_PATH)
    for name in (b"PATH", b"LD_LIBRARY_PATH"):
        assign += _extend(name, later)

    if command:
        check = _check(command[0], b"/" in command[0], foreign)
    else:
        check = _CHECK_ANY % (_check(ANY, True, foreign), _check(ANY, False, foreign))
    warning = "WARNING: " if foreign else "dunnage: warning: "
    frame = {
        b"source": b"\n".join(b". %s" % quoted(script) for script in scripts),
        b"assign": b"\n".join(assign),
        b"check": check,
        b"warn": b"dunnage_early\n" if level >= QUIET else b"",
        b"early": quoted(f"{warning}an environment script of the image ended early".encode()),
    }
    operations = list(environment.passing)
    operations += [(b"env-set", name, value) for name, value in direct.items()]
    operations += [(b"env-set", WAITING + name, value) for name, value in later.items()]
    return operations, [b"/bin/sh", b"-c", _FRAME % frame, b"sh", *command]


def _check(command: bytes, by_path: bool, foreign: bool) -> bytes:
    """Is there such a command, and can it be executed? With finished lines if not (CLI-37, CLI-39)."""
    shown = escape(command) if command != ANY else "\0"
    if foreign:
        fatal, error, nowhere = "FATAL:   ", "error: ", f'"{shown}": executable file not found in $PATH'
    else:
        fatal, error, nowhere = "dunnage: ", "", f"cannot execute {shown}: it is not in the container's PATH"
    missing = f"cannot execute {shown}: {error}ENOENT" if by_path else nowhere
    refused = f"cannot execute {shown}: {error}EACCES"
    words = [command] + [(fatal + guard(text, FORBIDDEN_PHRASES)).encode() for text in (missing, refused)]
    command, missed, refusal = (quoted(word).replace(ANY, b"'\"$1\"'") for word in words)
    return (_CHECK_PATH if by_path else _CHECK_NAME) % {
        b"command": command, b"missing": missed, b"refused": refusal,
    }


def quoted(text: bytes) -> bytes:
    """One word for a shell, whatever it contains."""
    return b"'" + text.replace(b"'", b"'\\''") + b"'"


def _settable(name: bytes) -> bool:
    plain = name.replace(b"_", b"a")
    return plain.isalnum() and not name[:1].isdigit() and name not in _READ_ONLY


def _extend(name: bytes, later: dict[bytes, bytes]) -> list[bytes]:
    lines = []
    for where in (b"PREPEND_", b"APPEND_"):
        if where + name in later:
            added = b"$%s%s%s" % (WAITING, where, name)
            if where == b"PREPEND_":
                lines.append(b'export %s="%s${%s:+:$%s}"' % (name, added, name, name))
            else:
                lines.append(b'export %s="${%s:+$%s:}%s"' % (name, name, name, added))
            lines.append(b"unset " + added[1:])
    return lines


# An image that was converted from an OCI image keeps that image's PATH; the usual places are added (CLI-61).
_DEFAULT_PATH = b"""\
for dunnage_dir in /usr/local/sbin /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
case ":$PATH:" in *":$dunnage_dir:"*) ;; *) PATH="${PATH:+$PATH:}$dunnage_dir" ;; esac
done
export PATH"""
