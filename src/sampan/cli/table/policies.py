"""Commands on the operator's rules."""

from __future__ import annotations

from sampan.cli.flags import STR, Command, Flag
from sampan.cli.table.running import RUN

_EXPLAIN = (
    Flag("as", "", STR, "The user to ask for"),
    Flag("format", "", STR, "Format output: 'json'"),
)

COMMANDS = (
    Command(
        "policy check",
        "policy:check",
        "Say what the operator's rules are, or whether a file of rules is right",
        "[FILE]",
        most=1,
    ),
    Command(
        "policy explain",
        "policy:explain",
        "Say which kernel a container would get, and why: the options are those of run",
        "IMAGE [COMMAND] [ARG...]",
        flags=(*RUN, *_EXPLAIN),
        least=1,
        most=None,
        interspersed=False,
    ),
)
