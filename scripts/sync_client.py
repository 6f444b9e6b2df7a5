"""Makes the package src/sampan/client/sync from asynchronous: the same client without async and await.

    python scripts/sync_client.py [--check]

With --check it writes nothing and fails when a module is not what it would write.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

CLIENT = Path(__file__).parent.parent / "src/sampan/client"
RULES = [
    (r"\basync (def|for|with) ", r"\1 "),
    (r"\bawait ", ""),
    (r"\b__a(enter|exit)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basynctransport\b", "transport"),
    (r"\bclient\.asynchronous\b", "client.sync"),
    (r"\bclient for asyncio\b", "client"),
    (r"\n\n`sync` is made from this package.*\n", ""),
]  # fmt: skip


def made(text: str, name: str) -> str:
    """The sync twin of a module of the async client, formatted."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    text = f"# Made from asynchronous/{name} by scripts/sync_client.py: change that one.\n{text}"
    ruff = Path(sys.executable).parent / "ruff"
    ours = "lint.isort.known-first-party = ['sampan']"  # also what is not there yet
    for command in (["check", "--select", "I,RUF022", "--fix", "-q", "--config", ours], ["format", "-q"]):
        text = subprocess.run(
            [ruff, *command, "--stdin-filename", str(CLIENT / "sync" / name), "-"],
            input=text, stdout=subprocess.PIPE, check=True, text=True,
        ).stdout  # fmt: skip
    return text


def main() -> None:
    """The entry."""
    twins = {path.name: made(path.read_text(), path.name) for path in (CLIENT / "asynchronous").glob("*.py")}
    there = {path.name: path.read_text() for path in (CLIENT / "sync").glob("*.py")}
    if "--check" not in sys.argv:
        (CLIENT / "sync").mkdir(exist_ok=True)
        for name in there.keys() - twins.keys():
            (CLIENT / "sync" / name).unlink()
        for name, text in twins.items():
            (CLIENT / "sync" / name).write_text(text)
    elif twins != there:
        sys.exit("src/sampan/client/sync is not what scripts/sync_client.py makes of asynchronous: run it")


if __name__ == "__main__":
    main()
