"""What the figures mean for somebody who has to choose, in plain words."""

from __future__ import annotations

from sampan.compare.model import BY_KEY, CONTAINER, NATIVE, VM, Result

_FAST_START, _CHEAP, _NEAR = 1.0, 128 << 20, 1.3  # seconds, bytes, times


def advise(result: Result) -> dict[str, object]:
    """{"choice": "container" | "vm" | "either", "headline", "reasons"}."""
    reasons = [
        text
        for text in (
            _start(result),
            _memory(result),
            _processor(result),
            _kernel(result),
            _files(result),
            _network(result),
        )
        if text
    ]
    costs = _costs(result)
    if not costs:
        choice = "vm"
        headline = (
            "Take the microVM: here it costs next to nothing more than a container, and what breaks out of the application "
            "is then still behind a kernel of its own."
        )
    elif len(costs) <= 2 and "processor" not in costs:
        choice = "either"
        headline = (
            f"Either will do. The microVM costs more in {_and(costs)}; it is worth that for code or users you do not trust, "
            "and not for your own."
        )
    else:
        choice = CONTAINER
        headline = (
            f"Take the container, if you trust the image and those who use it: the microVM costs much in {_and(costs)} on this machine. "
            "For tenants who do not trust each other nothing but the microVM keeps their kernels apart."
        )
    reasons.append(_emulation(result))
    return {"choice": choice, "headline": headline, "costs": costs, "reasons": [text for text in reasons if text]}


def _costs(result: Result) -> list[str]:
    """In what a microVM is clearly dearer than a container."""
    found = []
    if (result.median("start.warm", VM) or 0) > _FAST_START:
        found.append("start time")
    if (result.median("memory.next", VM) or 0) > _CHEAP:
        found.append("memory")
    if max(_slower(result, "cpu.integer"), _slower(result, "cpu.float")) > _NEAR:
        found.append("processor")
    if max(_slower(result, "file.write"), _slower(result, "file.read"), _slower(result, "file.fsync")) > 2 * _NEAR:
        found.append("files")
    if max(_slower(result, "net.latency"), _slower(result, "net.throughput")) > 4 * _NEAR:
        found.append("network")
    return found


def _slower(result: Result, key: str, kind: str = VM, beside: str = CONTAINER) -> float:
    """How many times worse a kind is than another; 1 where one of them was not measured."""
    one, other = result.median(key, kind), result.median(key, beside)
    if not one or not other:
        return 1.0
    return other / one if BY_KEY[key].more_is_better else one / other


def _times(value: float) -> str:
    return f"{value:.0f} times" if value >= 10 else f"{value:.1f} times"


def _start(result: Result) -> str:
    one, other = result.median("start.warm", CONTAINER), result.median("start.warm", VM)
    if one is None or other is None:
        return ""
    text = f"A container starts and ends in {one * 1e3:.0f} ms, a microVM in {other * 1e3:.0f} ms"
    cold = result.median("start.cold", VM)
    return text + (f" ({cold:.1f} s when nothing is cached)." if cold else ".")


def _memory(result: Result) -> str:
    one, other = result.median("memory.next", CONTAINER), result.median("memory.next", VM)
    if one is None or other is None:
        return ""
    fits = result.median("memory.density", VM) or 0
    return (
        f"Each further container takes {max(one, 0) / 2**20:.1f} MiB besides its application, each microVM {other / 2**20:.0f} MiB; "
        f"the memory that is free now holds some {fits:.0f} microVMs."
    )


def _processor(result: Result) -> str:
    native, vm = _slower(result, "cpu.integer", CONTAINER, NATIVE), _slower(result, "cpu.integer")
    container = "about as fast as on the host" if native < _NEAR else f"{_times(native)} slower than on the host"
    if vm < 1.1:
        return f"Computing is as fast in a microVM as in a container, which is {container}."
    return f"Computing in a container is {container}; in the microVM it is {_times(vm)} slower than there."


def _kernel(result: Result) -> str:
    call, switch = result.median("kernel.call", CONTAINER), result.median("kernel.call", VM)
    if not call or not switch:
        return ""
    return f"A system call takes {call * 1e6:.2f} µs in a container and {switch * 1e6:.2f} µs in the microVM, which asks its own kernel."


def _files(result: Result) -> str:
    write, sync = _slower(result, "file.write"), _slower(result, "file.fsync")
    own = result.median("disk.own", VM) or 0
    return f"Writing files is {_times(write)} and an fsync {_times(sync)} as slow in the microVM as in a container; its own disk begins with {own / 2**20:.1f} MiB."


def _network(result: Result) -> str:
    one, other = result.median("net.latency", CONTAINER), result.median("net.latency", VM)
    if not one or not other:
        return ""
    return f"A packet's way there and back is {one * 1e6:.0f} µs to a container, {other * 1e6:.0f} µs to the microVM."


def _emulation(result: Result) -> str:
    if result.machine.get("accelerator") != "tcg":
        return ""
    return (
        "Virtual machines run under software emulation here. On a machine with hardware virtualization (KVM) a microVM computes about as "
        "fast as the host: measure there before you decide by these figures."
    )


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
