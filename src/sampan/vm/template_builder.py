"""A process that boots a guest once: to save it as a template, or to see whether it boots at all."""

from __future__ import annotations

import os
import sys
import time

from sampan import quickjson
from sampan.linux import namespaces as ns
from sampan.linux import tap
from sampan.linux.eventloop import Loop
from sampan.vm import confine, protocol, requests
from sampan.vm.console import ConsoleLog
from sampan.vm.errors import VmError
from sampan.vm.hypervisor import DISK_SIZE, SLOTS, Machine, Parts, Shape, microvm
from sampan.vm.mux import Mux
from sampan.vm.progress import STANDSTILL, Progress

TYPE_CHECKING = False
if TYPE_CHECKING:
    from sampan.runtime.requests import Launch

ENTRY = """
import sys
sys.path.insert(0, sys.argv[1])
from sampan.vm.template_builder import main
main(sys.argv[2])
"""


def main(text: str) -> None:
    """`text`: {"shape", "directory", "timeout"} and, to save a template, "expect": the container it is for.

    Ends with 0, or with 1 and the reason on stderr.
    """
    request = quickjson.loads(text.encode())
    loop = Loop()
    log = ConsoleLog(loop, request["directory"] + "/console")
    errors = os.dup(2)
    try:
        make(loop, log, Shape(**request["shape"]), request["directory"], request["timeout"], request.get("expect"))
    except (VmError, OSError) as error:
        os.write(errors, f"{error}: {log.last()}\n".encode(errors="replace"))
        sys.exit(1)


def make(loop: Loop, log: ConsoleLog, shape: Shape, directory: str, timeout: float, expect: Launch | None) -> None:
    """Boots a guest with the memory and the empty disk that are in `directory` or come there.

    With `expect` writes its devices' state to `state` when it is ready for such a container.
    """
    memory = _file(f"{directory}/memory", shape.memory << 20)
    fresh = _file(f"{directory}/disk", DISK_SIZE)
    state = os.open(f"{directory}/state", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600) if expect else -1
    ns.unshare(ns.CLONE_NEWNET)  # nobody else is where its taps are
    taps = [tap.new(f"slot{number}") for number in range(SLOTS)]
    program = confine.compiled(resolver=False)
    user = confine.identity()
    machine = microvm(user, shape, Parts(memory, -1, fresh, -1, taps), restored=False)
    log.follow(machine.console, machine.errors)
    progress = Progress(machine.pid)
    assert machine.monitor  # it is in its jail, and ends when we do
    confine.enter(user, program)
    try:
        guest = _Guest(loop, machine, time.monotonic() + timeout, progress)
        guest.hear()
        if expect is not None:
            guest.ask(requests.Expect(expect))
            machine.monitor.save(state)
    finally:
        log.last()  # what there is to say of its end
        log.follow()
        machine.end()


def _file(path: str, size: int) -> int:
    """A sparse file. QEMU has a user of its own and opens it by our descriptor: nobody else reaches the directory."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    os.fchmod(fd, 0o666)
    os.truncate(path, size)
    return fd


class _Guest:
    """A conversation with the agent, one message at a time."""

    def __init__(self, loop: Loop, machine: Machine, deadline: float, progress: Progress) -> None:
        self._heard: list[object] = []
        self._loop, self._deadline, self._progress = loop, deadline, progress
        self._mux = Mux(loop, machine.port.fileno(), self._heard.append, lambda _: self._heard.append(None))

    def hear(self) -> protocol.Heard:
        """Its next message. Raises VmError."""
        while not self._heard:
            if self._progress.stands_still():
                raise VmError(f"QEMU has done nothing for {STANDSTILL:g} s, and the guest's agent does not answer")
            if time.monotonic() > self._deadline:
                raise VmError("the guest's agent did not answer in time")
            self._loop.turn(0.5)
        message = self._heard.pop(0)
        if message is None:
            raise VmError("the guest has ended")
        return protocol.parse(message)

    def ask(self, request: requests.Request) -> None:
        """A request, and its answer. Raises VmError."""
        self._mux.send({**requests.to_message(request), "seq": 1})
        answer = self.hear()
        if not isinstance(answer, protocol.Reply) or answer.error:
            raise VmError(f"in the guest: {getattr(answer, 'error', answer)}")
