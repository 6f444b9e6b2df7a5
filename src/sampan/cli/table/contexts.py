"""Commands on contexts: names of engines."""

from __future__ import annotations

from sampan.cli.flags import BOOL, LIST, STR, Command, Flag

_DESCRIPTION = Flag("description", "", STR, "Description of the context")
_ENDPOINT = Flag("docker", "", LIST, "Set the engine: host=unix://PATH, or from=CONTEXT", word="stringToString")
_FORMAT = "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"

COMMANDS = (
    Command(
        "context create",
        "context:create",
        "Create a context",
        "CONTEXT",
        flags=[_DESCRIPTION, _ENDPOINT, Flag("from", "", STR, "Create context from a named context")],
        least=1,
        most=1,
    ),
    Command(
        "context export",
        "context:export",
        "Export a context to a tar archive FILE or a tar stream on STDOUT",
        "CONTEXT [FILE|-]",
        least=1,
        most=2,
    ),
    Command(
        "context import",
        "context:import_context",
        "Import a context from a tar or zip file",
        "CONTEXT FILE|-",
        least=2,
        most=2,
    ),
    Command(
        "context inspect",
        "context:inspect",
        "Display detailed information on one or more contexts",
        "[CONTEXT] [CONTEXT...]",
        flags=[Flag("format", "f", STR, "Format output: 'json' or a Go template")],
        most=None,
    ),
    Command(
        "context ls",
        "context:ls",
        "List contexts",
        flags=[Flag("format", "", STR, _FORMAT), Flag("quiet", "q", BOOL, "Only show context names")],
        aliases=("context list",),
    ),
    Command(
        "context rm",
        "context:rm",
        "Remove one or more contexts",
        "CONTEXT [CONTEXT...]",
        flags=[Flag("force", "f", BOOL, "Force the removal of a context in use")],
        aliases=("context remove",),
        least=1,
        most=None,
    ),
    Command("context show", "context:show", "Print the name of the current context"),
    Command(
        "context update",
        "context:update",
        "Update a context",
        "CONTEXT",
        flags=[_DESCRIPTION, _ENDPOINT],
        least=1,
        most=1,
    ),
    Command("context use", "context:use", "Set the current context", "CONTEXT", least=1, most=1),
)
