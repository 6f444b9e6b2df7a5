"""What a layer's directory should hold: written when its files are on disk, compared when there is doubt about them.

After a power cut a file system may show a directory whole and its files empty. A layer without a record has never been
synced; one whose record says something else has lost some of it. Names, types, modes, owners, sizes and times are
compared, not contents: a layer of ten thousand files takes a twentieth of a second.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat

from sampan.linux import durable, filetree
from sampan.linux.files import regular

_FORMAT = 1


def write(directory: str) -> None:
    """Notes what is in `directory`/fs now. The caller has synced the files, and syncs the record."""
    entries, digest = _fingerprint(f"{directory}/fs")
    body = {"format": _FORMAT, "entries": entries, "digest": digest}
    durable.replace(f"{directory}/record.json", json.dumps(body))


def exists(directory: str) -> bool:
    """Whether there is a record: the layer was on disk once."""
    return os.path.exists(f"{directory}/record.json")


def matches(directory: str) -> bool:
    """Whether a layer has a record and all that it says."""
    try:
        with open(f"{directory}/record.json", "rb", opener=regular) as file:
            body = json.loads(file.read(4096))
        entries, digest = _fingerprint(f"{directory}/fs")
        return bool(body["entries"] == entries and body["digest"] == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _fingerprint(path: str) -> tuple[int, str]:
    """(number of entries, a digest of them), whatever the order in which the file system lists them."""
    count, total = 0, 0
    for fd, entries in filetree.walk(path):
        rows = []
        for entry in entries:
            info = os.stat(entry.name, dir_fd=fd, follow_symlinks=False)
            size = 0 if stat.S_ISDIR(info.st_mode) else info.st_size
            rows.append(f"{entry.name}\0{info.st_mode:o} {info.st_uid} {info.st_gid} {size} {info.st_mtime_ns}")
        count += len(rows)
        listing = "\n".join(sorted(rows)).encode("utf-8", "surrogateescape")
        total = (total + int.from_bytes(hashlib.sha256(listing).digest(), "big")) % (1 << 256)
    return count, f"{total:064x}"
