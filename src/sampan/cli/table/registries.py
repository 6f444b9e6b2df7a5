"""Commands on registries."""

from __future__ import annotations

from sampan.cli.flags import BOOL, INT, LIST, STR, Command, Flag

COMMANDS = (
    Command(
        "image pull",
        "registries:pull",
        "Download an image from a registry",
        "NAME[:TAG|@DIGEST]",
        flags=[
            Flag("all-tags", "a", BOOL, "Download all tagged images in the repository"),
            Flag("platform", "", STR, "Set platform if server is multi-platform capable"),
            Flag("quiet", "q", BOOL, "Suppress verbose output"),
        ],
        aliases=("pull",),
        least=1,
        most=1,
    ),
    Command(
        "image push",
        "registries:push",
        "Upload an image to a registry",
        "NAME[:TAG]",
        flags=[
            Flag("all-tags", "a", BOOL, "Push all tags of an image to the repository"),
            Flag(
                "platform",
                "",
                STR,
                "Push only if the image is for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
            Flag("quiet", "q", BOOL, "Suppress verbose output"),
        ],
        aliases=("push",),
        least=1,
        most=1,
    ),
    Command(
        "login",
        "registries:login",
        "Authenticate to a registry.",
        "[SERVER]",
        flags=[
            Flag("password", "p", STR, "Password or Personal Access Token (PAT)"),
            Flag("password-stdin", "", BOOL, "Take the Password or Personal Access Token (PAT) from stdin"),
            Flag("username", "u", STR, "Username"),
        ],
        most=1,
    ),
    Command(
        "logout",
        "registries:logout",
        "Log out from a registry.",
        "[SERVER]",
        most=1,
    ),
    Command(
        "search",
        "registries:search",
        "Search a registry for images (HOST/TERM: that registry's catalogue)",
        "TERM",
        flags=[
            Flag("filter", "f", LIST, "Filter output based on conditions provided", word="filter"),
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("limit", "", INT, "Max number of search results"),
            Flag("no-trunc", "", BOOL, "Don't truncate output"),
        ],
        least=1,
        most=1,
    ),
)
