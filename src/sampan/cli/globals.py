"""The options in front of the command: which engine, which configuration, how much is said."""

from __future__ import annotations

import os

from sampan.cli.flags import BOOL, STR, Flag, UsageError, parse

FLAGS = (
    Flag("config", "", STR, "Location of client config files", "~/.docker"),
    Flag("debug", "D", BOOL, "Say on standard error what is asked of the engine"),
    Flag("help", "h", BOOL, "Print usage"),
    Flag("host", "H", STR, "Socket of the engine to connect to (unix://PATH)"),
    Flag("version", "v", BOOL, "Print version information and quit"),
)


def take(words: list[str]) -> list[str]:
    """Does what the options say. Returns the command line that is left: none after --version, --help without a command."""
    values, rest = parse(FLAGS, words, interspersed=False)
    if "config" in values.given:
        os.environ["DOCKER_CONFIG"] = values.text("config")
    if "host" in values.given:
        _connect_to(values.text("host"))
    if values.on("debug"):
        from sampan.cli import tracing

        tracing.start()
    if values.on("version"):
        import sampan

        print(f"Sampan version {sampan.__version__}")
        return []
    return ["--help"] if values.on("help") or not rest else rest


def _connect_to(host: str) -> None:
    if not host.startswith("unix://"):
        raise UsageError(f'invalid argument "{host}" for "-H, --host" flag: only unix:// sockets')
    os.environ["SAMPAN_HOST"] = host
