"""The order of the measurements: in rounds over all kinds, so that a machine that gets slower does so for each of them."""

from __future__ import annotations

import contextlib
import datetime
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sampan.client.http import APIError, at
from sampan.client.sync import Client
from sampan.compare import bundle, network
from sampan.compare.advice import advise
from sampan.compare.kinds import Instance, Kind, Native, Sandboxed, System
from sampan.compare.model import NATIVE, SYSTEM, VM, CompareError, Result
from sampan.linux import meminfo

_SETTLE = 0.5  # seconds until what ran before is quiet
_FIRST = 3  # times that a single instance is made for its memory
_BATCHES = 3
_LIGHT = 5  # times as many instances of what costs little, since a page more or less counts there
Say = Callable[[str, float], object]  # what is being done, and how much of all is done (0 to 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rounds: int = 5
    starts: int = 10
    cold_starts: int = 3
    instances: int = 4
    system: bool = False


class Progress:
    """Counts steps for whoever wants to show them."""

    def __init__(self, say: Say, steps: int) -> None:
        self._say, self._steps, self._done = say, steps, 0

    def step(self, text: str) -> None:
        """Begins the next step."""
        self._say(text, min(self._done / self._steps, 1.0))
        self._done += 1


def compare(client: Client, image: str, command: list[str], plan: Plan, say: Say) -> Result:
    """Measures an image in all kinds. Raises CompareError, APIError."""
    with _probed(client, image) as probed:
        words, own = _command(client, image, command)
        result = Result(image, words, {}, [])
        kinds: list[Kind] = [
            Native(),
            Sandboxed(client, "container", image, probed),
            Sandboxed(client, "vm", image, probed),
        ]
        for kind in kinds:
            if isinstance(kind, Sandboxed):
                kind.keeps_entrypoint = own
        progress = Progress(say, _steps(plan))
        with contextlib.ExitStack() as stack:
            progress.step("preparing virtual machines")
            _prepare(client)
            result.machine = _machine(client)
            usable = _startable(kinds, words, result)
            if plan.system:
                progress.step("making a disk for the system VM")
                kinds.append(system := System(client, probed))
                stack.callback(system.close)
            result.kinds = [kind.name for kind in kinds]
            if plan.cold_starts:
                _forget_files()  # how files lie in memory (by page or in larger pieces) is then the same for every comparison
            _memory(client, kinds, plan, result, progress)
            _starts(usable, kinds, words, plan, result, progress)
            _rounds(client, kinds, plan, result, progress)
    result.advice = advise(result)
    return result


def _steps(plan: Plan) -> int:
    kinds = 3 + plan.system
    memory = (1 + 2 * _LIGHT) * plan.instances + 3 * (_FIRST - 1) + (_boots(plan) if plan.system else 0)
    rounds = plan.rounds * kinds + kinds * min(_BATCHES, plan.rounds)
    cold = 3 * plan.cold_starts + (max(plan.cold_starts - _boots(plan), 0) if plan.system else 0)
    return 1 + plan.system + memory + 3 * plan.starts + cold + rounds


def _boots(plan: Plan) -> int:
    """How often a system VM is started for its memory: as often as from cold, since each start of one is that."""
    return min(_FIRST, max(plan.cold_starts, 1))


@contextlib.contextmanager
def _probed(client: Client, image: str) -> Iterator[str]:
    """The image with the probe in it, while this lasts."""
    name = f"sampan-compare:{os.getpid()}"
    container = client.containers.create(image, ["true"], network="none", labels={"sampan.compare": "1"})
    try:
        container.put_archive("/", bundle.archive())
        settings = {"Cmd": bundle.pause(), "Entrypoint": []}
        client.call("POST", f"/commit?container={container.id}&repo=sampan-compare&tag={os.getpid()}", settings)
    finally:
        container.remove(force=True, volumes=True)
    try:
        yield name
    finally:
        client.call("DELETE", at("/images/{}?force=1", name))


def _command(client: Client, image: str, command: list[str]) -> tuple[list[str], bool]:
    """What is started, and whether it is the user's own: `true`, where the image has it, else one that we bring along."""
    if command:
        return command, True
    try:
        found = (
            client.containers.run(image, ["true"], network="none", entrypoint=[], isolation="container").exit_code == 0
        )
    except APIError:
        found = False
    return (["true"] if found else bundle.true()), False


def _prepare(client: Client) -> None:
    try:
        client.finish("POST", "/sampan/vm/prepare?quiet=1")
    except APIError as error:
        raise CompareError(f"virtual machines can't run here: {error}") from None


def _machine(client: Client) -> dict[str, object]:
    info = client.info()
    return {
        "when": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cpus": info["NCPU"],
        "memory": info["MemTotal"],
        "free": meminfo.read()["MemAvailable"],
        "kernel": info["KernelVersion"],
        "system": info["OperatingSystem"],
        "accelerator": (info.get("VirtualMachines") or {}).get("Accelerator") or "not tried",
        "engine": info["ServerVersion"],
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return next(
            (line.partition(":")[2].strip() for line in file if line.startswith("model name")), os.uname().machine
        )


def engine_memory(client: Client) -> float:
    """Bytes (PSS) of the engine's own processes."""
    lines = client.stream("GET", "/metrics").read().decode().splitlines()
    return sum(float(line.split()[1]) for line in lines if line.startswith("sampan_process_memory_bytes{"))


def _most_processes() -> float:
    """What the kernel can number, whatever the memory."""
    found = []
    for name in ("pid_max", "threads-max"):
        with open(f"/proc/sys/kernel/{name}", encoding="ascii") as file:
            found.append(float(file.read()))
    return min(found)


def kernel_memory() -> float:
    """Bytes that the kernel has for itself and can't give back (/proc/meminfo, proc(5)): namespaces, mounts, sockets, page tables."""
    rows = meminfo.read()
    return float(sum(rows[name] for name in ("SUnreclaim", "KernelStack", "PageTables", "Percpu")))


def _memory(client: Client, kinds: list[Kind], plan: Plan, result: Result, progress: Progress) -> None:
    """An application that does nothing: one instance, several times, and then more of them at once.

    What the engine and the kernel grow by is counted too.
    """
    for _ in range(3):
        engine_memory(client)  # what it imports for this once
    for kind in kinds:
        if kind.name != SYSTEM:
            with kind.idle():  # what is made once, and then kept
                pass
        times = _boots(plan) if kind.name == SYSTEM else _FIRST
        for number in range(times - 1):
            progress.step(f"{kind.name}: memory, one instance, {number + 1} of {times}")
            cold = _cold(kind, plan)
            before = engine_memory(client) + kernel_memory()
            with _idle(kind, cold, result) as instance:
                result.add("memory.first", kind.name, _held(client, [instance]) - before)
        _instances(client, kind, plan, result, progress)
        free = float(meminfo.read()["MemAvailable"])
        further = "memory.next" if kind.name in result.found.get("memory.next", {}) else "memory.first"
        for value in list(result.found[further][kind.name].values):
            result.add("memory.density", kind.name, min(free // max(value, 4096), _most_processes()))


def _cold(kind: Kind, plan: Plan) -> bool:
    """Whether the next idle instance is a start from cold, too: a boot of a whole system can take a minute, so one is for both.

    The kernel's caches are dropped for it.
    """
    return kind.name == SYSTEM and plan.cold_starts > 0 and _forget_files()


@contextlib.contextmanager
def _idle(kind: Kind, cold: bool, result: Result) -> Iterator[Any]:
    """An instance of an application that does nothing. `cold`: the seconds until it answers count as a start."""
    began = time.perf_counter()
    instance: Any
    with kind.idle() as instance:
        if cold:
            instance.probe("memory")
            result.add("start.cold", kind.name, time.perf_counter() - began)
        yield instance


def _held(client: Client, instances: list[Any]) -> float:
    return engine_memory(client) + kernel_memory() + sum(float(each.footprint()["pss"]) for each in instances)


def _instances(client: Client, kind: Kind, plan: Plan, result: Result, progress: Progress) -> None:
    """One instance more each time; the last has its disk looked at."""
    count = 1 if kind.name == SYSTEM else plan.instances if kind.name == VM else plan.instances * _LIGHT
    with contextlib.ExitStack() as stack:
        cold = _cold(kind, plan)
        before = engine_memory(client) + kernel_memory()
        instances: list[Any] = []
        for number in range(count):
            progress.step(f"{kind.name}: memory, instance {number + 1} of {count}")
            instances.append(stack.enter_context(_idle(kind, cold, result)))
            total = _held(client, instances)
            result.add("memory.next" if number else "memory.first", kind.name, total - before)
            before = total
        found = instances[-1].footprint()
        result.add("disk.own", kind.name, found["own"])
        result.add("disk.shared", kind.name, sum(found["shared"].values()))


def _startable(kinds: list[Kind], command: list[str], result: Result) -> list[Kind]:
    """The kinds whose start is measured. Raises CompareError for a command that fails, before a minute is spent on the rest.

    The first start also pays for what is made once.
    """
    usable = list(kinds)
    for kind in kinds:
        try:
            kind.start(command, cold=False)
        except CompareError as error:
            if kind.name != NATIVE:
                raise
            result.notes.append(f"native: {error}, so nothing is started there")
            usable.remove(kind)
    return usable


def _starts(
    usable: list[Kind], kinds: list[Kind], command: list[str], plan: Plan, result: Result, progress: Progress
) -> None:
    for number in range(plan.starts):
        for kind in usable:
            progress.step(f"{kind.name}: warm start {number + 1} of {plan.starts}")
            result.add("start.warm", kind.name, kind.start(command, cold=False))
    for number in range(plan.cold_starts):
        systems = [kind for kind in kinds if kind.name == SYSTEM and number >= _boots(plan)]  # else with its memory
        for kind in [*usable, *systems]:
            progress.step(f"{kind.name}: cold start {number + 1} of {plan.cold_starts}")
            if not _forget_files():
                result.notes.append("starts from cold are left out: only root can drop the kernel's caches")
                return
            result.add("start.cold", kind.name, kind.start(command, cold=True))


def _forget_files() -> bool:
    """Drops all that the kernel has read from disks (/proc/sys/vm/drop_caches, proc(5))."""
    os.sync()
    try:
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write("3")
    except OSError:
        return False
    return True


def _rounds(client: Client, kinds: list[Kind], plan: Plan, result: Result, progress: Progress) -> None:
    """All rounds, in batches with new instances: one instance differs from another, and not only from itself."""
    rounds = list(range(plan.rounds))
    batch = -(-plan.rounds // _BATCHES)
    for begin in range(0, plan.rounds, batch):
        with contextlib.ExitStack() as stack:
            instances: dict[str, Instance] = {}
            for kind in kinds:
                progress.step(f"{kind.name}: an instance for rounds")
                instances[kind.name] = stack.enter_context(kind.open())
                if kind.name != SYSTEM:
                    network.wait_for(instances[kind.name].address())
            if not begin:
                _layers(client, instances, result)  # before the rounds fill caches in the guests and the emulator
            for number in rounds[begin : begin + batch]:
                _round(kinds, instances, number, plan, result, progress)


def _round(
    kinds: list[Kind], instances: dict[str, Instance], number: int, plan: Plan, result: Result, progress: Progress
) -> None:
    first = number % len(kinds)  # nobody always comes after the same
    for kind in kinds[first:] + kinds[:first]:
        progress.step(f"{kind.name}: round {number + 1} of {plan.rounds}")
        instance = instances[kind.name]
        time.sleep(_SETTLE)
        for key, value in instance.probe("measure", "DIRECTORY").items():
            result.add(key, kind.name, value)
        if kind.name != SYSTEM:
            result.add("net.latency", kind.name, network.latency(instance.address()))
            result.add("net.throughput", kind.name, network.throughput(instance.address()))


def _layers(client: Client, instances: dict[str, Instance], result: Result) -> None:
    """Who holds how much memory while the probe's server runs: the two stacks of the picture, measured."""
    feet = {name: instance.footprint() for name, instance in instances.items()}
    engine = engine_memory(client)
    host = (
        result.machine["memory"] - meminfo.read()["MemAvailable"] - engine - sum(each["pss"] for each in feet.values())
    )
    for name, instance in instances.items():
        inside, foot = instance.probe("memory"), feet[name]
        stack = [("host OS", max(float(host), 0.0))]
        if name != NATIVE:
            stack.append(("engine", engine))
        if name in (VM, SYSTEM):
            stack.append(("hypervisor", float(foot["pss"] - foot["guest"])))
            stack.append(("guest OS", max(float(foot["guest"]) - inside["files"] - inside["own"], 0.0)))
        stack += [("libraries", float(inside["files"])), ("application", float(inside["own"]))]
        result.layers[name] = stack
