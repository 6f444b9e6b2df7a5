"""GET /metrics: what the engine and its containers do, in Prometheus's text format."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aiohttp import web

import sampan
from sampan.api.requests import ENGINE, engine_of
from sampan.engine import pools, sampling
from sampan.engine.container import Container
from sampan.engine.engine import Engine
from sampan.runtime.usage import Reading

if TYPE_CHECKING:
    from prometheus_client import Metric

_ID = ["id", "name", "image", "isolation"]


async def metrics(request: web.Request) -> web.Response:
    """GET /metrics"""
    engine = engine_of(request)
    samples = await sampling.readings(engine)
    processes = await sampling.own_processes(engine)
    text = await pools.run("look", _render, engine, samples, processes)
    return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def application(engine: Engine) -> web.Application:
    """Nothing but /metrics, for a port that anybody on this machine can read."""
    app = web.Application()
    app[ENGINE] = engine
    app.router.add_get("/metrics", metrics)
    return app


def _render(engine: Engine, samples: dict[str, Reading], processes: dict[str, dict[str, float]]) -> bytes:
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.registry import Collector

    class Found(Collector):
        def collect(self) -> Iterator[Metric]:
            yield from _engine(engine)
            yield from _processes(processes)
            yield from _starts(engine)
            yield from _containers([c for c in engine.containers.values() if not c.system], samples)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Found())
    return generate_latest(registry)


def _engine(engine: Engine) -> Iterator[Metric]:
    from prometheus_client.core import GaugeMetricFamily

    build = GaugeMetricFamily("sampan_build_info", "The engine's version.", labels=["version"])
    build.add_metric([sampan.__version__], 1)
    yield build
    states = Counter((c.state["Status"], c.isolation) for c in engine.containers.values())
    family = GaugeMetricFamily(
        "sampan_containers", "Containers and virtual machines by state.", labels=["state", "isolation"]
    )
    for key, count in sorted(states.items()):
        family.add_metric(list(key), count)
    yield family
    images = engine.images.all()
    yield GaugeMetricFamily("sampan_images", "Images in the store.", len(images))
    layers = {layer.digest: layer.size for image in images for layer in image.layers}
    yield GaugeMetricFamily("sampan_image_bytes", "Bytes of all layers as they are stored.", sum(layers.values()))
    yield GaugeMetricFamily("sampan_volumes", "Volumes.", len(engine.volumes.all()))
    yield GaugeMetricFamily("sampan_networks", "Networks.", len(engine.networking.networks.all))


def _processes(processes: dict[str, dict[str, float]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

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


def _starts(engine: Engine) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily

    family = HistogramMetricFamily(
        "sampan_start_seconds", "From the request to start to a running process.", labels=["isolation"]
    )
    for kind, buckets in engine.starts.buckets().items():
        family.add_metric([kind], buckets, engine.starts.sums[kind])
    yield family
    failures = CounterMetricFamily("sampan_start_failures", "Starts that failed.", labels=["isolation"])
    for kind, count in engine.starts.failures.items():
        failures.add_metric([kind], count)
    yield failures


def _containers(containers: list[Container], samples: dict[str, Reading]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

    restarts = CounterMetricFamily("sampan_container_restarts", "Restarts by the restart policy.", labels=_ID)
    killed = GaugeMetricFamily(
        "sampan_container_oom_killed", "Whether its last end was for want of memory.", labels=_ID
    )
    cpu = CounterMetricFamily("sampan_container_cpu_seconds", "CPU time.", labels=_ID)
    memory = GaugeMetricFamily("sampan_container_memory_bytes", "Memory in use, with its page cache.", labels=_ID)
    limit = GaugeMetricFamily("sampan_container_memory_limit_bytes", "Memory it may use.", labels=_ID)
    pids = GaugeMetricFamily("sampan_container_processes", "Processes and threads.", labels=_ID)
    healthy = GaugeMetricFamily("sampan_container_healthy", "Whether its health check passes.", labels=_ID)
    received = CounterMetricFamily(
        "sampan_container_network_receive_bytes", "Bytes received.", labels=[*_ID, "interface"]
    )
    sent = CounterMetricFamily("sampan_container_network_transmit_bytes", "Bytes sent.", labels=[*_ID, "interface"])
    for container in containers:
        who = [container.id, container.name, container.image_name, container.isolation]
        restarts.add_metric(who, container.restart_count)
        killed.add_metric(who, float(container.state["OOMKilled"]))
        if container.health:
            healthy.add_metric(who, float(container.health["Status"] == "healthy"))
        found = samples.get(container.id)
        if found is None:
            continue
        cpu.add_metric(who, found.cpu / 1e9)
        memory.add_metric(who, found.memory)
        limit.add_metric(who, found.limit)
        pids.add_metric(who, found.processes)
        for interface, (got, given) in found.networks.items():
            received.add_metric([*who, interface], got)
            sent.add_metric([*who, interface], given)
    yield from (restarts, killed, cpu, memory, limit, pids, healthy, received, sent)
