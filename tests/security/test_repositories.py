"""Repositories as contexts: git sees its directory and the network, and nothing else of the machine (S024)."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from pathlib import Path

import pytest

from sampan.build import fetching
from sampan.build.errors import BuildError
from tests.conftest import eventually
from tests.support.processes import command_lines

# What runs in git's place, as a hook, a filter or a broken git would.
LOOK = r"""
set +e
printf '{"uid": %s, "root": "%s", "home": "%s", ' "$(id -u)" "$(ls / | tr '\n' ' ')" "$(ls -A $HOME)"
for path in /etc/shadow /root /proc/1/environ /run /var /home; do
    printf '"%s": "%s", ' $path "$(ls -d $path 2>/dev/null)"
done
touch made /usr/made 2>/dev/null
printf '"settings": %s, "files": "%s"}' "$(git config --list | wc -l)" "$(ls)"
"""


def test_git_in_the_jail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_CLONE", LOOK)
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'core.sshCommand=touch /tmp/x'")
    source = fetching.parse_git("https://example.invalid/r.git")
    found = json.loads(asyncio.run(fetching.clone(source, str(tmp_path), keep_git_dir=True)))
    assert found.pop("uid") not in (0, os.getuid())
    assert set(found.pop("root").split()) <= {"bin", "dev", "etc", "lib", "lib64", "sbin", "tmp", "usr", "work"}
    assert found.pop("settings") == len(fetching._CONFIGURATION)
    assert found.pop("files") == "made"
    assert set(found.values()) == {""}
    assert not Path("/usr/made").exists()


def test_other_transports_are_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for url in ("ext::sh -c touch% /tmp/x", f"file://{tmp_path}", str(tmp_path), "http://127.0.0.1:1/x.git"):
        source = fetching.GitSource(url, "", "")
        with pytest.raises(BuildError, match="failed to fetch"):
            asyncio.run(fetching.clone(source, str(tmp_path / "out")))


def test_a_server_that_says_nothing_holds_nobody(tmp_path: Path) -> None:
    """A build whose client has gone leaves no git behind."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/r.git"

        async def cancelled() -> None:
            task = asyncio.ensure_future(fetching.clone(fetching.parse_git(url), str(tmp_path)))
            connection, _ = await asyncio.to_thread(listening.accept)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            connection.close()

        asyncio.run(cancelled())
        eventually(lambda: not any(url.encode() in line for line in command_lines()))
