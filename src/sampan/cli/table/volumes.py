"""Commands on volumes."""

from __future__ import annotations

from sampan.cli.flags import BOOL, LIST, STR, Command, Flag

COMMANDS = (
    Command(
        "volume create",
        "volumes:create",
        "Create a volume",
        "[VOLUME]",
        flags=[
            Flag("driver", "d", STR, "Specify volume driver name", "local"),
            Flag("label", "", LIST, "Set metadata for a volume"),
            Flag("opt", "o", LIST, "Set driver specific options", word="map"),
        ],
        most=1,
    ),
    Command(
        "volume inspect",
        "inspect:volumes",
        "Display detailed information on one or more volumes",
        "VOLUME [VOLUME...]",
        flags=[
            Flag("format", "f", STR, "Format output: 'json' or a Go template"),
        ],
        least=1,
        most=None,
    ),
    Command(
        "volume ls",
        "volumes:ls",
        "List volumes",
        flags=[
            Flag("filter", "f", LIST, 'Provide filter values (e.g. "dangling=true")', word="filter"),
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("quiet", "q", BOOL, "Only display volume names"),
        ],
        aliases=("volume list",),
    ),
    Command(
        "volume prune",
        "pruning:volumes",
        "Remove unused local volumes",
        flags=[
            Flag("all", "a", BOOL, "Remove all unused volumes, not just anonymous ones"),
            Flag("filter", "", LIST, 'Provide filter values (e.g. "label=<label>")', word="filter"),
            Flag("force", "f", BOOL, "Do not prompt for confirmation"),
        ],
    ),
    Command(
        "volume rm",
        "volumes:rm",
        "Remove one or more volumes. You cannot remove a volume that is in use by a container.",
        "VOLUME [VOLUME...]",
        flags=[
            Flag("force", "f", BOOL, "Force the removal of one or more volumes"),
        ],
        aliases=("volume remove",),
        least=1,
        most=None,
    ),
)
