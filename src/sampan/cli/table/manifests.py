"""Commands on manifests in registries."""

from __future__ import annotations

from sampan.cli.flags import BOOL, STR, STRINGS, Command, Flag

_INSECURE = Flag("insecure", "", BOOL, "Allow an insecure registry, which sampand --insecure-registry names")

COMMANDS = (
    Command(
        "manifest annotate",
        "manifests:annotate",
        "Add additional information to a local image manifest",
        "MANIFEST_LIST MANIFEST",
        flags=[
            Flag("arch", "", STR, "Set architecture"),
            Flag("os", "", STR, "Set operating system"),
            Flag("os-features", "", STRINGS, "Set operating system feature"),
            Flag("os-version", "", STR, "Set operating system version"),
            Flag("variant", "", STR, "Set architecture variant"),
        ],
        least=2,
        most=2,
    ),
    Command(
        "manifest create",
        "manifests:create",
        "Create a local manifest list for annotating and pushing to a registry",
        "MANIFEST_LIST MANIFEST [MANIFEST...]",
        flags=[Flag("amend", "a", BOOL, "Amend an existing manifest list"), _INSECURE],
        least=2,
        most=None,
    ),
    Command(
        "manifest inspect",
        "manifests:inspect",
        "Display an image manifest, or manifest list",
        "[MANIFEST_LIST] MANIFEST",
        flags=[_INSECURE, Flag("verbose", "v", BOOL, "Output additional info including layers and platform")],
        least=1,
        most=2,
    ),
    Command(
        "manifest push",
        "manifests:push",
        "Push a manifest list to a repository",
        "MANIFEST_LIST",
        flags=[_INSECURE, Flag("purge", "p", BOOL, "Remove the local manifest list after push")],
        least=1,
        most=1,
    ),
    Command(
        "manifest rm",
        "manifests:rm",
        "Delete one or more manifest lists from local storage",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        least=1,
        most=None,
    ),
)
