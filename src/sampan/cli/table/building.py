"""Commands on builds."""

from __future__ import annotations

from sampan.cli.flags import BOOL, INT, LIST, STR, Command, Flag

COMMANDS = (
    Command(
        "image build",
        "build:build",
        "Build an image from a Dockerfile",
        "PATH | URL | -",
        flags=[
            Flag("add-host", "", LIST, 'Add a custom host-to-IP mapping ("host:ip")'),
            Flag("allow", "", LIST, "Allow entitlements: network.host, security.insecure"),
            Flag("build-arg", "", LIST, "Set build-time variables"),
            Flag("build-context", "", LIST, "Additional contexts: name=docker-image://IMAGE"),
            Flag("cache-from", "", LIST, "Images to consider as cache sources: IMAGE or type=registry,ref=IMAGE"),
            Flag("cache-to", "", LIST, "type=inline: write the cache into the image, for --cache-from"),
            Flag("cpu-period", "", INT, "Limit the CPU CFS (Completely Fair Scheduler) period"),
            Flag("cpu-quota", "", INT, "Limit the CPU CFS (Completely Fair Scheduler) quota"),
            Flag("cpu-shares", "c", INT, "CPU shares (relative weight)"),
            Flag("cpuset-cpus", "", STR, "CPUs in which to allow execution (0-3, 0,1)"),
            Flag("cpuset-mems", "", STR, "MEMs in which to allow execution (0-3, 0,1)"),
            Flag("file", "f", STR, 'Name of the Dockerfile (Default is "PATH/Dockerfile")'),
            Flag("force-rm", "", BOOL, "Leave no container of a build step behind, as ever"),
            Flag("iidfile", "", STR, "Write the image ID to the file"),
            Flag("label", "", LIST, "Set metadata for an image"),
            Flag("load", "", BOOL, "Put the result into the engine's images, where it is without it"),
            Flag("memory", "m", STR, "Memory limit", word="bytes"),
            Flag(
                "memory-swap",
                "",
                STR,
                "Swap limit equal to memory plus swap: -1 to enable unlimited swap",
                word="bytes",
            ),
            Flag("network", "", STR, "Set the networking mode for the RUN instructions during build", "default"),
            Flag("no-cache", "", BOOL, "Do not use cache when building the image"),
            Flag("no-cache-filter", "", LIST, "Do not cache specified stages"),
            Flag(
                "output",
                "o",
                LIST,
                "Output: type=image|local|tar|oci|docker, dest=PATH, or a directory, or - for a tar",
            ),
            Flag("platform", "", STR, "Set platform if server is multi-platform capable"),
            Flag("progress", "", STR, "Type of progress output (auto, plain, quiet)", "auto"),
            Flag("pull", "", BOOL, "Always attempt to pull a newer version of the image"),
            Flag("push", "", BOOL, "Push the image when it is built"),
            Flag("quiet", "q", BOOL, "Suppress the build output and print image ID on success"),
            Flag("rm", "", BOOL, "Leave no container of a build step behind after a success, as ever", True),
            Flag("secret", "", LIST, "Secret to expose to the build: id=NAME[,src=FILE|,env=VARIABLE]"),
            Flag("shm-size", "", STR, 'Size of "/dev/shm"', word="bytes"),
            Flag("squash", "", BOOL, "Squash newly built layers into a single new layer"),
            Flag("ssh", "", LIST, "SSH agent socket to expose: default or ID=SOCKET"),
            Flag("tag", "t", LIST, 'Name and optionally a tag in the "name:tag" format'),
            Flag("target", "", STR, "Set the target build stage to build."),
            Flag("ulimit", "", LIST, "Ulimit options", word="ulimit"),
        ],
        aliases=(
            "build",
            "builder build",
        ),
        least=1,
        most=1,
    ),
    Command(
        "builder prune",
        "pruning:builder",
        "Remove build cache",
        flags=[
            Flag("all", "a", BOOL, "Remove all unused build cache, not just dangling ones"),
            Flag("filter", "", LIST, 'Provide filter values (e.g. "until=24h")', word="filter"),
            Flag("force", "f", BOOL, "Do not prompt for confirmation"),
            Flag("keep-storage", "", STR, "Amount of disk space to keep for cache", word="bytes"),
        ],
    ),
)
