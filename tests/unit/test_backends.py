"""Backends: which one a container has, and what a system VM refuses by name."""

from __future__ import annotations

import asyncio
import io
import os
from types import SimpleNamespace
from typing import Any

import pytest

from sampan.engine.backends.backend import Backends
from sampan.engine.backends.microvm import MicroVM
from sampan.engine.backends.system_vm import SystemVM
from sampan.engine.container import Container
from sampan.engine.errors import BadRequest, Conflict, EngineError
from sampan.engine.model import Config, HostConfig, SystemVm
from sampan.engine.process import Process
from sampan.engine.tasks import Tasks
from sampan.keeper.protocol import Handover, LogOptions
from sampan.network.model import Network
from sampan.vm import requests

NOTHING: Any = None


def _container(isolation: str, name: str = "box") -> Container:
    return Container("a" * 64, name, 0, "", "", Config(system_vm=SystemVm()), HostConfig(isolation=isolation))


def _machines(answer: Any = None, failure: EngineError | None = None) -> Any:
    asked: list[tuple[str, dict[str, Any]]] = []

    async def ask(_container: Container, operation: str, **arguments: Any) -> Any:
        asked.append((operation, arguments))
        if failure is not None:
            raise failure
        return answer

    return SimpleNamespace(ask=ask, asked=asked, ended=lambda _: (True, "why"))


def _system_vm(machines: Any = NOTHING) -> SystemVM:
    return SystemVM(machines, NOTHING, Tasks(), NOTHING)


@pytest.mark.parametrize(
    ("asked", "which"),
    [("", 0), ("default", 0), ("container", 0), ("process", 0), ("vm", 1), ("machine", 2)],
)
def test_a_container_has_the_backend_of_its_isolation(asked: str, which: int) -> None:
    kinds: list[Any] = [SimpleNamespace(), SimpleNamespace(), SimpleNamespace()]
    backends, container = Backends(*kinds), _container(asked)
    assert backends.of(container) is kinds[which]
    split = dict(zip("abc", (some for _, some in backends.split([container])), strict=True))
    assert split["abc"[which]] == [container]
    assert sum(map(len, split.values())) == 1


@pytest.mark.parametrize(
    ("what", "does"),
    [
        ("cp", lambda files, vm: files.stat(vm, "/etc")),
        ("cp", lambda files, vm: files.get(vm, "/etc", io.BytesIO(), "etc")),
        ("cp", lambda files, vm: files.put(vm, "/etc", io.BytesIO(), False, "", False)),
        ("export", lambda files, vm: files.export(vm, io.BytesIO())),
        ("diff", lambda files, vm: files.changes(vm)),
        ("commit", lambda files, vm: files.layer(vm, io.BytesIO())),
    ],
)
def test_files_of_a_system_vm_are_refused_by_name(what: str, does: Any) -> None:
    with pytest.raises(BadRequest, match=f"{what} is not possible with the system VM web"):
        does(_system_vm().files, _container("machine", "web"))


def test_limits_of_a_system_vm_are_those_it_was_made_with() -> None:
    backend, vm = _system_vm(), _container("machine", "web")
    backend.check_update(vm, ["restart_policy"])
    with pytest.raises(BadRequest, match="memory of the system VM web can't be changed"):
        backend.check_update(vm, ["restart_policy", "memory"])


def test_a_system_vm_that_runs_gets_no_further_interface() -> None:
    network = Network("n" * 64, "back", "bridge", 0, [])
    with pytest.raises(Conflict, match="stop it before it is connected to back"):
        asyncio.run(_system_vm().plug(_container("machine", "web"), network, NOTHING, -1))


@pytest.mark.parametrize(("frozen", "request_"), [(True, requests.Pause()), (False, requests.Resume())])
def test_a_system_vm_is_paused_whole(frozen: bool, request_: requests.Request) -> None:
    machines = _machines()
    asyncio.run(_system_vm(machines).freeze(_container("machine"), frozen))
    assert machines.asked == [(request_, {})]


def test_a_guest_that_was_not_to_be_frozen_goes_on() -> None:
    machines = _machines()
    backend = MicroVM(machines, NOTHING, Tasks(), NOTHING)
    assert asyncio.run(backend.settle_pause(_container("vm"), True))
    assert machines.asked == []
    assert not asyncio.run(backend.settle_pause(_container("vm"), False))
    assert machines.asked == [(requests.Freeze(False), {})]


def test_a_guest_that_does_not_say_what_it_uses_is_left_out() -> None:
    backend = MicroVM(_machines(failure=EngineError("it is busy")), NOTHING, Tasks(), NOTHING)
    assert asyncio.run(backend.readings([_container("vm")])) == {}
    times = {"total_usage": 5, "usage_in_usermode": 2, "usage_in_kernelmode": 3}
    cpu = {"cpu_usage": times, "system_cpu_usage": 9, "online_cpus": 1, "throttling_data": {}}
    said = {"cpu_stats": cpu, "pids_stats": {"current": 2, "limit": 9}, "memory_stats": {"usage": 7}, "networks": {}}
    backend = MicroVM(_machines(said), NOTHING, Tasks(), NOTHING)
    reading = asyncio.run(backend.readings([_container("vm")]))["a" * 64]
    assert (reading.cpu, reading.memory, reading.processes, reading.networks) == (5, 7, 2, {})
    backend = MicroVM(_machines({**said, "pids_stats": {"current": "many"}}), NOTHING, Tasks(), NOTHING)
    assert asyncio.run(backend.readings([_container("vm")])) == {}


def test_an_exec_in_a_guest_is_signalled_by_its_relay() -> None:
    async def run() -> None:
        child = await asyncio.create_subprocess_exec("sleep", "60")
        task = Handover("e" * 64, child.pid, 1, "", False, LogOptions(), [], False)
        process = Process(NOTHING, task, {"process": os.pidfd_open(child.pid)}, [])
        assert not process.ending
        MicroVM(NOTHING, NOTHING, Tasks(), NOTHING).signal_exec(_container("vm"), process, 15)
        assert await child.wait() == -15
        assert process.ending
        process.signal(15)  # it has ended, which is fine
        process.close()

    asyncio.run(run())
