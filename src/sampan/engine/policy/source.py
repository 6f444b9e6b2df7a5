"""The policy's file, read again whenever it has changed."""

from __future__ import annotations

import logging
import os
import stat
import time

from sampan.engine.policy.model import Policy, PolicyError, parse

_log = logging.getLogger(__name__)

_LARGEST = 1 << 20
_FRESH = 0.002  # seconds: a create asks ten times


class Source:
    """The policy in a file. A file that is wrong changes nothing: the policy before it stays."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.error = ""
        self._policy: Policy | None = None
        self._seen: tuple[int, int, int] | None = None
        self._existed = False
        self._fresh_until = 0.0

    def look(self) -> None:
        """A request begins: it goes by the file as it is now, which all that it asks at once need not look at again."""
        self._fresh_until = 0.0
        self._refresh()
        self._fresh_until = time.monotonic() + _FRESH

    @property
    def active(self) -> bool:
        """Whether there is a policy, or one was meant."""
        self._refresh()
        return self._policy is not None or bool(self.error)

    def policy(self) -> Policy:
        """The policy now. Raises PolicyError when there is none that could be used."""
        self._refresh()
        if self._policy is None:
            raise PolicyError(f"{self.path}: {self.error}")
        return self._policy

    def _refresh(self) -> None:
        """Looks whether the file is another one (stat(2)), which is cheap enough for every request."""
        if time.monotonic() < self._fresh_until:
            return
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            if self._existed and self._seen is not None:
                self._fail("the file is gone: what it said last holds until the daemon starts anew")
                self._seen = None
            return
        except OSError as error:
            self._fail(str(error.strerror))
            return
        self._existed = True
        key = (found.st_ctime_ns, found.st_size, found.st_ino)
        if key == self._seen:
            return
        self._seen = key
        try:
            self._policy = parse(_read(self.path))
            self.error = ""
        except PolicyError as error:
            self._fail(str(error))

    def _fail(self, text: str) -> None:
        if text != self.error:
            self.error = text
            _log.error(f"{self.path}: {text}")


def _read(path: str) -> str:
    """The file's text, if nobody else can have written it. Raises PolicyError."""
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid not in (0, os.geteuid()) or found.st_mode & 0o022:
                raise PolicyError("it must be a file that only its owner, the engine's user, can write: chmod go-w")
            data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:  # a part of it would be a policy without some of its rules
                raise PolicyError(f"it is longer than {_LARGEST >> 20} MiB, the most that is read: shorten it")
            return data.decode()
    except OSError as error:
        raise PolicyError(str(error.strerror)) from None
    except UnicodeDecodeError:
        raise PolicyError("it is no UTF-8 text") from None
