"""QEMU's monitor: a command, an answer, in order; events are passed over. Standard library only.

A guest may have taken QEMU over: what comes is of bounded length and of the shape that QMP has, or it is an error.
"""

from __future__ import annotations

import socket
import time

from sampan import quickjson
from sampan.vm.errors import VmError
from sampan.vm.protocol import one_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.keeper.fields import Message


_MAX_LINE, _MAX_EVENTS, _MAX_TEXT = 1 << 20, 10_000, 1000


class Monitor:
    """One connection to a monitor that speaks QMP (docs/interop/qmp-spec in QEMU). Calls block."""

    def __init__(self, sock: socket.socket, timeout: float = 30.0) -> None:
        sock.settimeout(timeout)
        self._sock = sock
        self._buffer = b""
        self._line()  # the greeting
        self.run("qmp_capabilities")

    def run(self, command: str, fd: int = -1, **arguments: object) -> object:
        """Runs a command, `fd` beside it if it takes one, and returns its result. Raises VmError."""
        return self._execute(command, arguments, fd)

    def human(self, line: str) -> None:
        """A command of the monitor for people, which says something only when it fails. Raises VmError."""
        said = str(self._execute("human-monitor-command", {"command-line": line})).strip()
        if said:
            raise VmError(f"qemu: {one_line(said)[:_MAX_TEXT]}")

    def _execute(self, command: str, arguments: Message, fd: int = -1) -> object:
        request = quickjson.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
        try:
            if fd >= 0:
                socket.send_fds(self._sock, [request], [fd])
            else:
                self._sock.sendall(request)
            for _ in range(_MAX_EVENTS):
                answer = quickjson.loads(self._line())
                if not isinstance(answer, dict):
                    raise TypeError(answer)
                if "error" in answer:
                    raise VmError(f"qemu: {command}: {one_line(str(answer['error']['desc']))[:_MAX_TEXT]}")
                if "return" in answer:
                    return answer["return"]
        except OSError as error:
            raise VmError(f"qemu: {command}: {error}") from error
        except (ValueError, TypeError, KeyError, RecursionError, MemoryError):
            raise VmError(f"qemu: {command}: its monitor answers what is no QMP") from None
        raise VmError(f"qemu: {command}: its monitor does not answer, but goes on telling of events")

    def _line(self) -> bytes:
        while b"\n" not in self._buffer:
            try:
                data = self._sock.recv(65536)
            except OSError as error:
                raise VmError(f"qemu: its monitor does not answer: {error}") from error
            if not data:
                raise VmError("qemu has ended")
            if len(self._buffer) > _MAX_LINE:
                raise VmError("qemu: its monitor sends a line without an end")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def restore(self, state: int) -> None:
        """Reads the devices' state of a template from the descriptor `state`; the memory is there. Raises VmError."""
        self._migrate_without_memory()
        self.run("getfd", fd=state, fdname="state")
        self.run("migrate-incoming", uri="fd:state")
        self._until_moved()

    def save(self, state: int) -> None:
        """Stops the machine and writes its devices' state to the descriptor `state`. Raises VmError."""
        self.run("stop")
        self._migrate_without_memory()
        self.run("migrate-set-parameters", **{"max-bandwidth": 1 << 40})
        self.run("getfd", fd=state, fdname="state")
        self.run("migrate", uri="fd:state")
        self._until_moved()

    def _migrate_without_memory(self) -> None:
        self.run("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])

    def _until_moved(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            found = self.run("query-migrate")
            if not isinstance(found, dict):
                break
            if found.get("status") == "completed":
                return
            if found.get("status") in ("failed", "cancelled"):
                raise VmError(
                    f"qemu: the state could not be moved: {found.get('error-desc', 'it does not say why')}"[:_MAX_TEXT]
                )
            time.sleep(0.002)
        raise VmError("qemu: the state was not moved in time")
