"""The options in front of the command: which engine, which configuration, how much is said."""

from __future__ import annotations

import os

from sampan.cli import session
from sampan.cli.flags import BOOL, STR, Flag, UsageError, parse

FLAGS = (
    Flag("config", "", STR, "Location of client config files", "~/.docker"),
    Flag("context", "c", STR, "Name of the context whose engine to connect to (overrides SAMPAN_HOST and context use)"),
    Flag("debug", "D", BOOL, "Say on standard error what is asked of the engine"),
    Flag("help", "h", BOOL, "Print usage"),
    Flag("host", "H", STR, "Socket of the engine to connect to (unix://PATH)"),
    Flag("log-level", "l", STR, 'Set the logging level ("debug", "info", "warn", "error", "fatal")', "info"),
    Flag("tls", "", BOOL, "Use TLS (refused: the engine is asked over its unix socket)"),
    Flag("tlscacert", "", STR, "Trust certs signed only by this CA (refused, as --tls)"),
    Flag("tlscert", "", STR, "Path to TLS certificate file (refused, as --tls)"),
    Flag("tlskey", "", STR, "Path to TLS key file (refused, as --tls)"),
    Flag("tlsverify", "", BOOL, "Use TLS and verify the remote (refused, as --tls)"),
    Flag("version", "v", BOOL, "Print version information and quit"),
)


_LEVELS = ("debug", "info", "warn", "error", "fatal")


def take(words: list[str]) -> list[str]:
    """Does what the options say. Returns the command line that is left: none after --version, --help without a command."""
    values, rest = parse(FLAGS, words, interspersed=False)
    for name in ("tls", "tlscacert", "tlscert", "tlskey", "tlsverify"):
        if values.on(name):
            raise UsageError(
                f"--{name}: the engine is asked over its unix socket (-H unix://PATH), which has no TLS", 1
            )
    if "config" in values.given:
        os.environ["DOCKER_CONFIG"] = values.text("config")
    if "host" in values.given and "context" in values.given:
        raise UsageError("conflicting options: cannot specify both --host and --context", 1)
    if "host" in values.given:
        _connect_to(values.text("host"))
    if "context" in values.given:
        from sampan.cli import contexts

        os.environ.pop("SAMPAN_HOST", None)
        os.environ["SAMPAN_CONTEXT"] = values.text("context")
        contexts.follow(values.text("context"))
    level = values.text("log-level")
    if level not in _LEVELS:
        raise UsageError(f'unable to parse log-level: "{level}": {", ".join(_LEVELS)}', 1)
    session.warnings = level not in ("error", "fatal")
    if values.on("debug") or level == "debug":
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
