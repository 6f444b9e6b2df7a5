"""Where an engine keeps things: the machine's, run by root, or an ordinary user's own."""

from __future__ import annotations

import os


def runtime_directory() -> str:
    """Sockets and what need not survive a reboot (file-hierarchy(7), XDG_RUNTIME_DIR)."""
    if os.geteuid() == 0:
        return "/run/sampan"
    base = os.environ.get("XDG_RUNTIME_DIR")
    return f"{base}/sampan" if base else f"/tmp/sampan-{os.geteuid()}"


def data_directory() -> str:
    """Images, containers and volumes."""
    if os.geteuid() == 0:
        return "/var/lib/sampan"
    return f"{os.environ.get('XDG_DATA_HOME') or os.path.expanduser('~/.local/share')}/sampan"


def policy() -> str:
    """The isolation policy."""
    if os.geteuid() == 0:
        return "/etc/sampan/policy.toml"
    return f"{os.environ.get('XDG_CONFIG_HOME') or os.path.expanduser('~/.config')}/sampan/policy.toml"


def socket() -> str:
    """The engine's socket."""
    return f"{runtime_directory()}/sampan.sock"
