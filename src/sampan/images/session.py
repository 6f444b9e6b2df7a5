"""Whether the host stopped while the store was open: then what was written last may be on no disk, and is compared before it is used."""

from __future__ import annotations

import contextlib
import json
import os

from sampan.linux import durable
from sampan.linux.files import regular


class Session:
    """One use of a store, from its opening to its closing. A file of it lies in the store while it lasts."""

    def __init__(self, root: str, token_path: str = "") -> None:
        """`token_path`: a file that does not outlive a stop of the host; "": the kernel's boot id is enough."""
        self._root, self._token_path = root, token_path
        self.cut_short = self._was_cut_short()

    def _was_cut_short(self) -> bool:
        """Whether the host stopped while the store was open, or before all that this made doubtful had been checked."""
        try:
            with open(f"{self._root}/opened", "rb", opener=regular) as file:
                found = json.loads(file.read(4096))
            with open(self._token_path or os.devnull, encoding="ascii") as file:
                token = file.read(100)
            return bool(
                found["boot"] != boot_id() or found["suspect"] or (self._token_path and found["token"] != token)
            )
        except FileNotFoundError:
            return os.path.exists(f"{self._root}/opened")
        except (OSError, ValueError, KeyError, TypeError):
            return True

    def begin(self, doubtful: bool) -> None:
        """Notes that the store is open. `doubtful`: something of it is still to be compared."""
        token = os.urandom(16).hex()
        with contextlib.suppress(OSError):  # read-only: nothing will become doubtful
            if self._token_path:
                durable.replace(self._token_path, token)
            body = {"boot": boot_id(), "token": token, "suspect": doubtful}
            durable.write(f"{self._root}/opened", json.dumps(body))

    def end(self) -> None:
        """Notes that all is on disk and nothing of it is doubtful. Raises OSError."""
        os.unlink(f"{self._root}/opened")
        durable.sync_directory(self._root)


def boot_id() -> str:
    """The id of this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
