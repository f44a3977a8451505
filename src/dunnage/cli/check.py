"""`dunnage check`: can this machine run containers; if not, why, and what changes it (CHK-01)."""
from __future__ import annotations

import os

import dunnage
from dunnage.baseline import checks
from dunnage.baseline.report import FAIL, WARN, to_json, to_text
from dunnage.cli import binds
from dunnage.cli.parse import usage
from dunnage.errors import CHECK_FAILED, DunnageError
from dunnage.messages import answer, escape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dunnage.cli.call import Call
    from dunnage.messages import Voice
    from dunnage.plan.options import Options

VARIABLES = (b"APPTAINER_BINDPATH", b"SINGULARITY_BINDPATH")


def main(call: Call, verb: bytes, options: Options, positionals: list[bytes], voice: Voice) -> int:
    """Print the report on stdout; 1 when something fails, with --strict also when something is remarked."""
    profile = os.fsdecode(options.profile) or checks.PROFILES[0]
    if profile not in checks.PROFILES:
        raise usage(f"unknown profile '{escape(options.profile)}'", f"one of {', '.join(checks.PROFILES)}")
    report = checks.run(_installation(call), call.environment, _bind_paths(call), profile)
    color = os.isatty(1) and not options.nocolor and not call.environment.get(b"NO_COLOR")
    answer(to_json(report) + "\n" if options.json else to_text(report, color))
    return CHECK_FAILED if report.verdict in ((FAIL, WARN) if options.strict else (FAIL,)) else 0


def _installation(call: Call) -> checks.Installation:
    package = os.path.dirname(os.path.abspath(dunnage.__file__))
    return checks.Installation(os.fsdecode(call.front), os.fsdecode(call.launcher), package)


def _bind_paths(call: Call) -> checks.BindPaths:
    values = [call.environment.get(name) for name in VARIABLES]
    sources, broken = [], ""
    try:
        for name, value in zip(VARIABLES, values):
            sources += [(name.decode(), bind.source) for bind in binds.parse(value or b"", name)]
    except DunnageError as error:
        broken = f"cannot {error.what}: {error.why}"
    return checks.BindPaths(values[0], values[1], tuple(sources), broken)
