"""Requests to an engine by other users of the host."""

from __future__ import annotations

import json
import os
from typing import Any

from sampan.client.http import APIError, Http
from tests.conftest import Daemon


def as_user(daemon: Daemon, uid: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """(status, answer) of a request by a user of group root, in a process that really is that user."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            try:
                answer = (200, Http(daemon.socket).call(method, path, body))
            except APIError as error:
                answer = (error.status, str(error))
            os.write(writer, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with open(reader, "rb") as file:
        status, found = json.loads(file.read())
    os.waitpid(pid, 0)
    return status, found
