"""A terminal or pipes joined to a process in a container."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

from sampan.client.http import Response


def write_all(fd: int, data: bytes) -> None:
    """Writes everything; a reader that is gone ends us quietly, like any filter."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except BrokenPipeError:
        sys.exit(141)


def copy_output(response: Response) -> None:
    """Writes a process's streams to ours until they end."""
    for stream, data in response.frames():
        write_all(2 if stream == 2 else 1, data)


@contextlib.contextmanager
def raw_terminal() -> Iterator[None]:
    """Our terminal in raw mode, put back whatever happens."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    try:
        tty.setraw(0)
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def window_size() -> tuple[int, int]:
    """(rows, columns) of our terminal, (0, 0) when it is none."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 0, 0
    return rows, columns


def converse(response: Response, stdin: bool, tty: bool, resize: Callable[[int, int], Any] | None) -> None:
    """Copies both ways until the process closes its output. With a tty in raw mode and resized along."""
    with contextlib.ExitStack() as stack:
        if tty and stdin and os.isatty(0):
            stack.enter_context(raw_terminal())
        if tty and resize is not None:

            def changed(*_: object) -> None:
                with contextlib.suppress(Exception):
                    resize(*window_size())

            signal.signal(signal.SIGWINCH, changed)
            changed()
        if not stdin:
            copy_output(response)
            return
        _both_ways(response)


def _both_ways(response: Response) -> None:
    import threading

    def feed() -> None:
        try:
            while data := os.read(0, 65536):
                response.sock.sendall(data)
            response.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return

    # A daemon thread: a read of our stdin that never returns must not keep us alive (P047 d).
    threading.Thread(target=feed, daemon=True).start()
    copy_output(response)


def forward_signals(send: Callable[[str], Any]) -> None:
    """Passes the signals we get on to the container."""

    def handler(number: int, _: object) -> None:
        with contextlib.suppress(Exception):
            send(str(number))

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, handler)
