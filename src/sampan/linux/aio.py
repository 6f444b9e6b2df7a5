"""fdatasync(2) by Linux's native asynchronous I/O: the kernel's own workers wait for the disk, and an eventfd tells the end.

A thread would do the same and cost more than the sync: on its way there and back two threads contend for the
interpreter, 0.2 to 0.7 ms each time. Source: io_submit(2), linux/aio_abi.h (IOCB_CMD_FDSYNC, since Linux 4.18).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct

from sampan.linux.syscall import syscall

_FDSYNC = 3
_RESFD = 1
_IOCB = struct.Struct("=QIIHhIQQqQII")  # struct iocb of a little-endian machine
_EVENT = struct.Struct("=QQqq")  # struct io_event
_DEPTH = 8


class Syncs:
    """A queue of syncs; `fd` becomes readable when one has ended."""

    def __init__(self) -> None:
        """Raises OSError: a kernel or a sandbox without it, or fs.aio-max-nr is used up."""
        self._context = ctypes.c_ulong(0)
        syscall("io_setup", ctypes.c_uint(_DEPTH), ctypes.byref(self._context))
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def submit(self, fd: int, key: int) -> None:
        """Begins to write a file's data to its disk; `key` names the request when it has ended. Raises OSError."""
        control = ctypes.create_string_buffer(
            _IOCB.pack(key, 0, 0, _FDSYNC, 0, fd, 0, 0, 0, 0, _RESFD, self.fd), _IOCB.size
        )
        pointer = ctypes.c_void_p(ctypes.addressof(control))
        syscall("io_submit", self._context, ctypes.c_long(1), ctypes.byref(pointer))

    def ended(self) -> list[tuple[int, int]]:
        """(key, error or 0) of those that have ended since it was asked last."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        found: list[tuple[int, int]] = []
        events = ctypes.create_string_buffer(_EVENT.size * _DEPTH)
        count = _DEPTH
        while count == _DEPTH:  # the kernel's ring may hold more than was asked for
            count = syscall("io_getevents", self._context, ctypes.c_long(0), ctypes.c_long(_DEPTH), events, None)
            rows = _EVENT.iter_unpack(events.raw[: count * _EVENT.size])
            found += [(key, max(-result, 0)) for key, _, result, _ in rows]
        return found

    def close(self) -> None:
        """Waits for those under way, and lets go of the queue."""
        syscall("io_destroy", self._context)
        os.close(self.fd)
