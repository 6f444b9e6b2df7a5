"""What ADD and a remote context bring from elsewhere: URLs and git repositories."""

from __future__ import annotations

import asyncio
import email.utils
import hashlib
import os
import posixpath
import re
import shutil
import tempfile
from dataclasses import dataclass
from typing import IO
from urllib.parse import SplitResult, unquote, urlsplit

from sampan.build.errors import BuildError
from sampan.images import compression
from sampan.linux import filetree
from sampan.runtime import jail

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_SSH_FORM = re.compile(r"(?:ssh://)?[A-Za-z0-9_.-]+@[A-Za-z0-9_.-]+[:/].+")
# Nothing of the machine's or the user's configuration, no hooks, no other transports (P025, S024).
_CONFIGURATION = {
    "core.hooksPath": "/dev/null", "core.fsmonitor": "false", "protocol.allow": "never", "protocol.http.allow": "always",
    "protocol.https.allow": "always", "protocol.ssh.allow": "always", "protocol.git.allow": "always", "core.symlinks": "true",
    "advice.detachedHead": "false", "init.defaultBranch": "main", "credential.helper": "", "gc.auto": "0",
}  # fmt: skip
# In a jail of its own with the directory and the network. The second fetch is for servers that give no parts of a history, or
# no single commits.
_CLONE = """set -e
git init -q .
git remote add origin "$1"
git fetch -q --depth=1 --no-tags origin "$2" 2>/dev/null || git fetch -q $4 origin ${5:+"$5"}
git checkout -q "$3"
git submodule update -q --init --recursive
git rev-parse HEAD
"""
_LIMITS = jail.Limits(seconds=3600, memory=16 << 30)
_MOST_SAID = 64 << 10


@dataclass(frozen=True, slots=True)
class Download:
    """A file from a URL, which lasts as long as it is open."""

    name: str
    file: IO[bytes]
    mtime: int  # nanoseconds; 0 when the server does not say


@dataclass(frozen=True, slots=True)
class GitSource:
    """A repository, what of it, and the directory inside."""

    url: str
    ref: str
    subdir: str


def is_url(text: str) -> bool:
    """Whether an ADD source is a URL of a file. Raises BuildError."""
    return text.startswith(("http://", "https://")) and not is_git(text)


def is_git(text: str) -> bool:
    """Whether it names a git repository: git://, ssh, user@host:path, or http(s) ending in .git (before #ref). Raises BuildError."""
    before = text.partition("#")[0]
    if text.startswith(("git://", "ssh://")) or _SSH_FORM.fullmatch(before):
        return True
    return text.startswith(("http://", "https://")) and _split(before).path.endswith(".git")


def _split(url: str) -> SplitResult:
    """The parts of a URL. Raises BuildError for one that has none."""
    try:
        return urlsplit(url)
    except ValueError as error:
        raise BuildError(f"invalid URL {url[:200]!r}: {error}") from None


def parse_git(text: str) -> GitSource:
    """Reads URL#REF:SUBDIR. A ref that looks like an option is refused (S024). Raises BuildError."""
    url, _, fragment = text.partition("#")
    ref, _, subdir = fragment.partition(":")
    if ref.startswith("-") or url.startswith("-") or any(char.isspace() for char in ref + url):
        raise BuildError(f"invalid git reference {ref or url!r}")
    cleaned = posixpath.normpath("/" + subdir).lstrip("/") if subdir else ""
    if ".." in subdir.split("/"):
        raise BuildError(f"invalid git subdirectory {subdir!r}: it leaves the repository")
    return GitSource(url, ref, cleaned)


async def download(url: str, checksum: str, directory: str) -> Download:
    """A URL's content, in a file on the file system of `directory`, checked against "sha256:...". Raises BuildError."""
    import aiohttp

    shown = _without_credentials(url)
    file = tempfile.TemporaryFile(dir=directory)
    left = compression.room(file.fileno())
    try:
        async with (
            aiohttp.ClientSession(trust_env=True, headers={"User-Agent": "sampan"}) as session,
            session.get(url) as answer,
        ):
            if answer.status >= 400:
                raise BuildError(f"failed to fetch {shown}: {answer.status} {answer.reason}")
            async for block in answer.content.iter_chunked(1 << 20):
                left -= len(block)
                if left < 0:
                    raise BuildError(f"failed to fetch {shown}: no space left on device")
                await asyncio.to_thread(file.write, block)
            file.seek(0)
            disposition = answer.content_disposition.filename if answer.content_disposition else None
            modified = answer.headers.get("Last-Modified", "")
    except (TimeoutError, aiohttp.ClientError, ValueError) as error:
        raise BuildError(f"failed to fetch {shown}: {error}") from None
    if checksum:
        await asyncio.to_thread(check_digest, file, checksum, shown)
    name = posixpath.basename(disposition or "") or posixpath.basename(unquote(_split(url).path)) or "download"
    return Download(name, file, _moment(modified))


def _moment(text: str) -> int:
    """A Last-Modified header in nanoseconds since the epoch; 0 for none, or one that makes no sense."""
    try:
        return max(int(email.utils.parsedate_to_datetime(text).timestamp()), 0) * 10**9 if text else 0
    except (ValueError, TypeError, OverflowError):
        return 0


def check_digest(file: IO[bytes], checksum: str, what: str) -> None:
    """Raises BuildError when a file's content has another digest than "sha256:...", or the digest is none."""
    algorithm, _, expected = checksum.partition(":")
    if algorithm not in ("sha256", "sha384", "sha512") or not re.fullmatch(r"[0-9a-f]+", expected):
        raise BuildError(f"invalid checksum {checksum!r}: expected sha256:...")
    total = hashlib.new(algorithm)
    for block in iter(lambda: file.read(1 << 20), b""):
        total.update(block)
    found = total.hexdigest()
    file.seek(0)
    if found != expected:
        raise BuildError(f"digest mismatch {algorithm}:{found}: {checksum} of {what}")


def _without_credentials(url: str) -> str:
    parts = _split(url)
    return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1) if "@" in parts.netloc else url


async def clone(source: GitSource, target: str, keep_git_dir: bool = False) -> str:
    """Checks a repository out below `target`. Returns the commit. Raises BuildError that names the ref."""
    shown = f"{_without_credentials(source.url)}#{source.ref or 'HEAD'}"
    wanted = source.ref or "HEAD"
    commit = bool(_COMMIT.fullmatch(wanted))
    words = [
        source.url,
        wanted,
        wanted if commit else "FETCH_HEAD",
        "--tags" if commit else "",
        "" if commit else wanted,
    ]
    fd = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        found = (await _git(fd, words, shown)).strip()
    finally:
        os.close(fd)
    if not keep_git_dir:
        filetree.remove(f"{target}/.git", ignore_errors=True)
    return found


async def _git(directory: int, words: list[str], shown: str) -> str:
    if shutil.which("git") is None:
        raise BuildError("git is not installed: apt-get install git")
    environment = {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_TERMINAL_PROMPT": "0",
                   "GIT_LFS_SKIP_SMUDGE": "1", "GIT_CONFIG_COUNT": str(len(_CONFIGURATION))}  # fmt: skip
    for number, (key, value) in enumerate(_CONFIGURATION.items()):
        environment |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    given = [jail.Given(directory, "/work", writable=True, owned=True)]
    limits = jail.Limits(_LIMITS.seconds, compression.room(directory), _LIMITS.memory)
    command = jail.arguments(["sh", "-c", _CLONE, "sh", *words], given, limits, jail.Ways(True, environment, "/work"))
    process = await asyncio.create_subprocess_exec(
        *command, pass_fds=[directory], stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        said = asyncio.gather(_last(process.stdout), _last(process.stderr))
        out, error = await asyncio.wait_for(said, _LIMITS.seconds)
        await process.wait()
    except TimeoutError:
        raise BuildError(f"failed to fetch {shown}: git took longer than {_LIMITS.seconds} seconds") from None
    finally:
        if process.returncode is None:  # nobody waits for it any more
            process.kill()
            await process.wait()
    if process.returncode:
        text = error.decode(errors="replace").strip()
        if re.search(r"repository '/.*' does not exist", text):  # in the jail, where no other directory is
            text = f"transport 'file' not allowed: repositories come from servers only\n{text}"
        raise BuildError(f"failed to fetch {shown}: {text or f'git exited with {process.returncode}'}")
    return out.decode(errors="replace")


async def _last(stream: asyncio.StreamReader) -> bytes:
    """The end of what a process says."""
    data = b""
    while block := await stream.read(_MOST_SAID):
        data = (data + block)[-_MOST_SAID:]
    return data
