"""Standard streams: joined to a process in a container, and what a command says there of a failure."""

from __future__ import annotations

import os
import sys

from sampan.client.http import Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def fail(error: Exception, code: int = 125) -> int:
    """Prints an error as Docker's CLI does. Returns the exit code."""
    print(f"sampan: {error}", file=sys.stderr)
    return code


warnings = True  # whether they are said: not where --log-level asks for errors only


def warn(text: str) -> None:
    """Prints a warning on standard error."""
    if warnings:
        print(f"WARNING: {text}", file=sys.stderr)


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


def _raw_terminal() -> Callable[[], None]:
    """Puts our terminal into raw mode. Returns what puts it back."""
    import termios
    import tty

    before = termios.tcgetattr(0)
    tty.setraw(0)
    return lambda: termios.tcsetattr(0, termios.TCSADRAIN, before)


def window_size() -> tuple[int, int]:
    """(rows, columns) of our terminal, (0, 0) when it is none."""
    try:
        columns, rows = os.get_terminal_size(1)
    except OSError:
        return 0, 0
    return rows, columns


def converse(response: Response, stdin: bool, tty: bool, resize: Callable[[int, int], object] | None) -> None:
    """Copies both ways until the process closes its output. With a tty in raw mode and resized along."""
    restore = _raw_terminal() if tty and stdin and os.isatty(0) else None
    try:
        if tty and resize is not None:
            _follow_size(resize)
        if stdin:
            _both_ways(response)
        else:
            copy_output(response)
    finally:
        if restore is not None:
            restore()


def _follow_size(resize: Callable[[int, int], object]) -> None:
    def changed(*_: object) -> None:
        try:
            resize(*window_size())
        except Exception:
            return  # the process is gone, or not there yet

    import signal

    signal.signal(signal.SIGWINCH, changed)
    changed()


def _both_ways(response: Response) -> None:
    import threading

    def feed() -> None:
        try:
            while data := os.read(0, 65536):
                response.sock.sendall(data)
            response.sock.shutdown(1)  # SHUT_WR
        except OSError:
            return

    # A daemon thread: a read of our stdin that never returns must not keep us alive (P047 d).
    threading.Thread(target=feed, daemon=True).start()
    copy_output(response)


_ENOUGH = 3  # times that somebody asks for the end


def forward_signals(send: Callable[[str], object]) -> None:
    """Passes the signals we get on to the container. Who asks three times that it ends, as Docker's users do, is let go at once."""
    import signal

    asked = 0

    def handler(number: int, _: object) -> None:
        nonlocal asked
        asked += number in (signal.SIGINT, signal.SIGTERM)
        if asked == _ENOUGH:
            os.write(2, b"\ngot 3 SIGTERM/SIGINTs, forcefully exiting\n")
            os._exit(1)
        try:
            send(str(number))
        except Exception:
            return  # it has ended meanwhile

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, handler)
