"""Commands on images."""

from __future__ import annotations

from sampan.cli.flags import BOOL, LIST, STR, STRINGS, Command, Flag

COMMANDS = (
    Command(
        "image ls",
        "images:images",
        "List images",
        "[REPOSITORY[:TAG]]",
        flags=[
            Flag("all", "a", BOOL, "Show all images (default hides intermediate images)"),
            Flag("digests", "", BOOL, "Show digests"),
            Flag("filter", "f", LIST, "Filter output based on conditions provided", word="filter"),
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("no-trunc", "", BOOL, "Don't truncate output"),
            Flag("quiet", "q", BOOL, "Only show image IDs"),
            Flag("tree", "", BOOL, "List images with the platforms that they are for as a tree"),
        ],
        aliases=(
            "image list",
            "images",
        ),
        most=1,
    ),
    Command(
        "image history",
        "images:history",
        "Show the history of an image",
        "IMAGE",
        flags=[
            Flag("format", "", STR, "Format output: 'json', 'table', 'table TEMPLATE' or a Go template"),
            Flag("human", "H", BOOL, "Print sizes and dates in human readable format", True),
            Flag("no-trunc", "", BOOL, "Don't truncate output"),
            Flag(
                "platform",
                "",
                STR,
                "Show the history only if the image is for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
            Flag("quiet", "q", BOOL, "Only show image IDs"),
        ],
        aliases=("history",),
        least=1,
        most=1,
    ),
    Command(
        "image import",
        "archives:import_image",
        "Import the contents from a tarball to create a filesystem image",
        "file|URL|- [REPOSITORY[:TAG]]",
        flags=[
            Flag("change", "c", LIST, "Apply Dockerfile instruction to the created image"),
            Flag("message", "m", STR, "Set commit message for imported image"),
            Flag(
                "platform",
                "",
                STR,
                "Set the platform that the image is for: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
        ],
        aliases=("import",),
        least=1,
        most=2,
    ),
    Command(
        "image inspect",
        "inspect:images",
        "Display detailed information on one or more images",
        "IMAGE [IMAGE...]",
        flags=[
            Flag("format", "f", STR, "Format output: 'json' or a Go template"),
            Flag(
                "platform",
                "",
                STR,
                "Inspect only what is for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
        ],
        least=1,
        most=None,
    ),
    Command(
        "image load",
        "archives:load",
        "Load an image from a tar archive or STDIN",
        flags=[
            Flag("input", "i", STR, "Read from tar archive file, instead of STDIN"),
            Flag(
                "platform",
                "",
                STR,
                "Load only the images for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
            Flag("quiet", "q", BOOL, "Suppress the load output"),
        ],
        aliases=("load",),
    ),
    Command(
        "image prune",
        "pruning:images",
        "Remove unused images",
        flags=[
            Flag("all", "a", BOOL, "Remove all unused images, not just dangling ones"),
            Flag("filter", "", LIST, 'Provide filter values (e.g. "until=<timestamp>")', word="filter"),
            Flag("force", "f", BOOL, "Do not prompt for confirmation"),
        ],
    ),
    Command(
        "image rm",
        "images:rmi",
        "Remove one or more images",
        "IMAGE [IMAGE...]",
        flags=[
            Flag("force", "f", BOOL, "Force removal of the image"),
            Flag("no-prune", "", BOOL, "Do not delete untagged parents (no image has any)"),
            Flag(
                "platform",
                "",
                STRINGS,
                "Remove the image only if it is for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
        ],
        aliases=(
            "image remove",
            "rmi",
        ),
        least=1,
        most=None,
    ),
    Command(
        "image save",
        "archives:save",
        "Save one or more images to a tar archive (streamed to STDOUT by default)",
        "IMAGE [IMAGE...]",
        flags=[
            Flag("output", "o", STR, "Write to a file, instead of STDOUT"),
            Flag(
                "platform",
                "",
                STR,
                "Save only if the images are for this platform: OS[/ARCHITECTURE[/VARIANT]], as 'linux/amd64'",
            ),
        ],
        aliases=("save",),
        least=1,
        most=None,
    ),
    Command(
        "image tag",
        "images:tag",
        "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
        "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
        aliases=("tag",),
        least=2,
        most=2,
    ),
    Command(
        "image bootstrap",
        "images:bootstrap",
        "Make a base image from this host's packages, without any registry",
        "debian:SUITE|ubuntu:SUITE|busybox [...]",
        aliases=("bootstrap",),
        least=1,
        most=None,
    ),
)
