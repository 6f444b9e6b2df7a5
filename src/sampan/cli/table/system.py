"""Commands on the engine as a whole, and on this program."""

from __future__ import annotations

from sampan.cli.flags import BOOL, INT, LIST, STR, Command, Flag

COMMANDS = (
    Command(
        "system df",
        "usage:df",
        "Show disk usage",
        flags=[
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("verbose", "v", BOOL, "Show detailed information on space usage"),
        ],
    ),
    Command(
        "system events",
        "events:events",
        "Get real time events from the server",
        flags=[
            Flag("filter", "f", LIST, "Filter output based on conditions provided", word="filter"),
            Flag("format", "", STR, "Format output: 'json' or a Go template"),
            Flag("since", "", STR, "Show all events created since timestamp"),
            Flag("until", "", STR, "Stream events until this timestamp"),
        ],
        aliases=("events",),
    ),
    Command(
        "system info",
        "system:info",
        "Display system-wide information",
        flags=[
            Flag("format", "f", STR, "Format output: 'json' or a Go template"),
        ],
        aliases=("info",),
    ),
    Command(
        "system prune",
        "pruning:system",
        "Remove unused data",
        flags=[
            Flag("all", "a", BOOL, "Remove all unused images not just dangling ones"),
            Flag("filter", "", LIST, 'Provide filter values (e.g. "label=<key>=<value>")', word="filter"),
            Flag("force", "f", BOOL, "Do not prompt for confirmation"),
            Flag("volumes", "", BOOL, "Prune anonymous volumes"),
        ],
    ),
    Command(
        "inspect",
        "inspect:anything",
        "Return low-level information on Docker objects",
        "NAME|ID [NAME|ID...]",
        flags=[
            Flag("format", "f", STR, "Format output: 'json' or a Go template"),
            Flag("size", "s", BOOL, "Display total file sizes if the object is a container"),
            Flag("type", "", STR, "Only inspect objects of the given type"),
        ],
        least=1,
        most=None,
    ),
    Command(
        "version",
        "system:version",
        "Show the versions of client and engine",
        flags=[Flag("format", "f", STR, "Format output: 'json' or a Go template")],
    ),
    Command(
        "system daemon",
        "system:daemon",
        "Run the engine in the foreground",
        "[OPTIONS OF sampand...]",
        aliases=("daemon",),
        most=None,
        interspersed=False,
    ),
    Command(
        "doctor",
        "doctor:doctor",
        "Say what this machine can and can't do, and the command that fixes it",
    ),
    Command(
        "ui",
        "ui:ui",
        "Serve the page for the browser",
        flags=[
            Flag("off", "", BOOL, "Take it away again"),
            Flag("open", "", BOOL, "Open it in a browser"),
            Flag("port", "", INT, "Its port; any that is free without it"),
        ],
    ),
    Command(
        "compare",
        "compare:compare",
        "Measure native, container and virtual machine side by side",
        "[IMAGE] [-- COMMAND]",
        flags=[
            Flag("cold-starts", "", INT, "Cold starts of each kind (3); they drop the kernel's caches"),
            Flag("format", "", STR, "table, json, csv or html"),
            Flag("from", "", STR, "Show a comparison kept as JSON instead of measuring"),
            Flag("instances", "", INT, "Instances at once, for the memory of a further one (4)"),
            Flag("output", "o", STR, "The file to write; standard output without it"),
            Flag("quick", "q", BOOL, "2 rounds, 5 starts, no cold start, 2 instances"),
            Flag("rounds", "", INT, "Rounds over all kinds (5)"),
            Flag("starts", "", INT, "Warm starts of each kind (10)"),
            Flag("system-vm", "", BOOL, "Also a virtual machine with firmware, boot loader and guest OS"),
        ],
        most=None,
    ),
    Command(
        "completion",
        "completion:completion",
        "Print the completion of a shell, to be sourced",
        "bash|fish|zsh",
        least=1,
        most=1,
    ),
)
