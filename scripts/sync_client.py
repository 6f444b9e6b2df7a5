"""Makes src/sampan/client/sync.py from asynchronous.py: the same client without async and await.

    python scripts/sync_client.py [--check]

With --check it writes nothing and fails when the file is not what it would write.
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
    (r"The client for asyncio:", "The client:"),
    (r"`sync` is made from this file by scripts/sync_client.py: change this one.",
     "Made from asynchronous.py by scripts/sync_client.py: change that one."),
]  # fmt: skip


def made(text: str) -> str:
    """The sync twin of the async client's source, formatted."""
    for pattern, replacement in RULES:
        text = re.sub(pattern, replacement, text)
    ruff = Path(sys.executable).parent / "ruff"
    for command in (["check", "--select", "I", "--fix", "-q"], ["format", "-q"]):
        text = subprocess.run(
            [ruff, *command, "--stdin-filename", str(CLIENT / "sync.py"), "-"],
            input=text, stdout=subprocess.PIPE, check=True, text=True,
        ).stdout  # fmt: skip
    return text


def main() -> None:
    """The entry."""
    text, twin = made((CLIENT / "asynchronous.py").read_text()), CLIENT / "sync.py"
    if "--check" not in sys.argv:
        twin.write_text(text)
    elif text != twin.read_text():
        sys.exit("src/sampan/client/sync.py is not what scripts/sync_client.py makes of asynchronous.py: run it")


if __name__ == "__main__":
    main()
