"""Commands on checkpoints."""

from __future__ import annotations

from sampan.cli.flags import BOOL, STR, Command, Flag

_DIRECTORY = Flag("checkpoint-dir", "", STR, "Use a custom checkpoint storage directory")

COMMANDS = (
    Command(
        "checkpoint create",
        "checkpoints:create",
        "Create a checkpoint from a running container (refused: an experimental feature)",
        "CONTAINER CHECKPOINT",
        flags=[_DIRECTORY, Flag("leave-running", "", BOOL, "Leave the container running after checkpoint")],
        least=2,
        most=2,
    ),
    Command(
        "checkpoint ls",
        "checkpoints:ls",
        "List checkpoints for a container (refused: an experimental feature)",
        "CONTAINER",
        flags=[_DIRECTORY],
        aliases=("checkpoint list",),
        least=1,
        most=1,
    ),
    Command(
        "checkpoint rm",
        "checkpoints:rm",
        "Remove a checkpoint (refused: an experimental feature)",
        "CONTAINER CHECKPOINT",
        flags=[_DIRECTORY],
        aliases=("checkpoint remove",),
        least=2,
        most=2,
    ),
)
