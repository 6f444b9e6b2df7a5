"""GET /metrics: what the engine and its containers do, in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

import sampan
from sampan.api import access
from sampan.api.requests import ENGINE, engine_of
from sampan.engine import pools
from sampan.engine.container import Container
from sampan.engine.durations import Durations
from sampan.engine.engine import Engine
from sampan.engine.filters.containers import is_container
from sampan.engine.model import HealthStatus
from sampan.images.store import ImageStore
from sampan.network.networks import Networks
from sampan.runtime.usage import Reading
from sampan.volumes.local import LocalVolumes

if TYPE_CHECKING:
    from prometheus_client import Metric

_ID = ["id", "name", "image", "isolation"]


class _Stores(NamedTuple):
    """What is counted whoever asks."""

    images: ImageStore
    volumes: LocalVolumes
    networks: Networks
    starts: Durations


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics"""
    engine = engine_of(request)
    return await _answer(engine, engine.finding.containers(access.who(request)))


async def _everything(request: web.Request) -> web.Response:
    """The same of all containers: the port is there because the operator wants it for whoever is on this machine."""
    engine = engine_of(request)
    return await _answer(engine, list(engine.containers.values()))


async def _answer(engine: Engine, containers: list[Container]) -> web.Response:
    stores = _Stores(engine.images, engine.volumes, engine.networks, engine.runs.durations)
    samples = await engine.usage.readings()
    processes = await engine.usage.own_processes()
    text = await pools.run("look", _render, stores, containers, samples, processes)
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def application(engine: Engine) -> web.Application:
    """Nothing but /metrics, for a port that anybody on this machine can read."""
    app = web.Application()
    app[ENGINE] = engine
    app.router.add_get("/metrics", _everything)
    return app


def _render(
    stores: _Stores, shown: list[Container], samples: dict[str, Reading], processes: dict[str, dict[str, float]]
) -> bytes:
    # Loaded by the first who asks for metrics: most engines are never asked.
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _counts(stores, shown)
            yield from _processes(processes)
            yield from _starts(stores.starts)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    containers = list(filter(is_container, shown))
    return generate_latest(registry) + "".join(_containers(containers, samples)).encode()


def _counts(stores: _Stores, shown: list[Container]) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily  # see _render

    build = GaugeMetricFamily("sampan_build_info", "The engine's version.", labels=["version"])
    build.add_metric([sampan.__version__], 1)
    yield build
    states = Counter((c.state.status, c.isolation) for c in shown)
    family = GaugeMetricFamily(
        "sampan_containers", "Containers and virtual machines by state.", labels=["state", "isolation"]
    )
    for key, count in sorted(states.items()):
        family.add_metric(list(key), count)
    yield family
    images = stores.images.index.all()
    yield GaugeMetricFamily("sampan_images", "Images in the store.", len(images))
    layers = {layer.digest: layer.size for image in images for layer in image.layers}
    yield GaugeMetricFamily("sampan_image_bytes", "Bytes of all layers as they are stored.", sum(layers.values()))
    yield GaugeMetricFamily("sampan_volumes", "Volumes.", len(stores.volumes.all()))
    yield GaugeMetricFamily("sampan_networks", "Networks.", len(stores.networks.all))


def _processes(processes: dict[str, dict[str, float]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # see _render

    cpu = CounterMetricFamily(
        "sampan_process_cpu_seconds", "CPU time of the engine's own processes.", labels=["process"]
    )
    memory = GaugeMetricFamily(
        "sampan_process_memory_bytes", "Their memory (proportional set size).", labels=["process"]
    )
    descriptors = GaugeMetricFamily("sampan_process_open_fds", "Their open descriptors.", labels=["process"])
    for name, found in processes.items():
        if found:
            cpu.add_metric([name], found["cpu"])
            memory.add_metric([name], found["memory"])
            descriptors.add_metric([name], found["descriptors"])
    yield from (cpu, memory, descriptors)


def _starts(starts: Durations) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily  # see _render

    family = HistogramMetricFamily(
        "sampan_start_seconds", "From the request to start to a running process.", labels=["isolation"]
    )
    for kind, buckets in starts.buckets().items():
        family.add_metric([kind], buckets, starts.sums[kind])
    yield family
    failures = CounterMetricFamily("sampan_start_failures", "Starts that failed.", labels=["isolation"])
    for kind, count in starts.failures.items():
        failures.add_metric([kind], count)
    yield failures


# Of each container: name, kind, what it says, and its value; None where there is none.
_Value = Callable[[Container, Reading | None], float | None]
_FAMILIES: list[tuple[str, str, str, _Value]] = [
    ("restarts_total", "counter", "Restarts by the restart policy.", lambda c, r: c.restart_count),
    ("oom_killed", "gauge", "Whether its last end was for want of memory.", lambda c, r: float(c.state.oom_killed)),
    ("healthy", "gauge", "Whether its health check passes.", lambda c, r: float(c.health.status is HealthStatus.HEALTHY) if c.health else None),
    ("cpu_seconds_total", "counter", "CPU time.", lambda c, r: None if r is None else r.cpu / 1e9),
    ("memory_bytes", "gauge", "Memory in use, with its page cache.", lambda c, r: None if r is None else r.memory),
    ("memory_limit_bytes", "gauge", "Memory it may use.", lambda c, r: None if r is None else r.limit),
    ("processes", "gauge", "Processes and threads.", lambda c, r: None if r is None else r.processes),
]  # fmt: skip


def _containers(containers: list[Container], samples: dict[str, Reading]) -> Iterator[str]:
    """Lines of text: a thousand containers have ten thousand samples, for each of which the library sorts and escapes the labels anew."""
    rows = [(container, samples.get(container.id), _labels(container)) for container in containers]
    for name, kind, text, value_of in _FAMILIES:
        yield f"# HELP sampan_container_{name} {text}\n# TYPE sampan_container_{name} {kind}\n"
        for container, reading, labels in rows:
            value = value_of(container, reading)
            if value is not None:
                yield f"sampan_container_{name}{{{labels}}} {float(value)!r}\n"
    for index, (name, text) in enumerate((("receive", "Bytes received."), ("transmit", "Bytes sent."))):
        full = f"sampan_container_network_{name}_bytes_total"
        yield f"# HELP {full} {text}\n# TYPE {full} counter\n"
        for _, reading, labels in rows:
            for interface, both in reading.networks.items() if reading else ():
                yield f'{full}{{{labels},interface="{_escaped(interface)}"}} {float(both[index])!r}\n'


def _labels(container: Container) -> str:
    values = zip(_ID, (container.id, container.name, container.image_name, container.isolation), strict=True)
    return ",".join(f'{key}="{_escaped(value)}"' for key, value in values)


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
